//! Prints an image as text that people can compare: what each row allows to which peers.
//!
//! Input: the lines, addresses and rows of an image. Output: sorted text, without the positions of the sections.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::id::{Direction, PeerClass, PortClass, Row};
use enforcer_common::image::{Cell, Header, Line, PortKey, cell_of_class, port_class};

use super::image::Image;

/// The image as text.
pub fn dump(image: &Image) -> String {
    let mut text = String::new();
    let Some((header, line)) = image.header().zip(image.lines.first()) else {
        return "not an image\n".to_owned();
    };
    // Writing to a string cannot fail.
    let _ = write_all(&mut text, image, &header, line);
    text
}

fn write_all(text: &mut String, image: &Image, header: &Header, line: &Line) -> std::fmt::Result {
    writeln!(
        text,
        "{} rows, {} peer classes, {} port classes, {} vectors",
        header.rows, header.peer_classes, header.port_classes, header.vectors
    )?;
    writeln!(text, "\nworkloads")?;
    for (workload, rows) in &image.rows {
        write!(text, "  {}:", workload.0)?;
        for direction in [Direction::Ingress, Direction::Egress] {
            let name = match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            match rows[direction as usize] {
                Row::NOT_ISOLATED => write!(text, " {name} open")?,
                Row(row) => write!(text, " {name} row {row}")?,
            }
        }
        writeln!(text)?;
    }
    writeln!(text, "\naddresses")?;
    for (address, entry) in &image.addresses {
        let local = if entry.is_local() { ", local" } else { "" };
        let node = if entry.is_node() { ", node" } else { "" };
        let shown = if entry.is_shown() { ", merely shown" } else { "" };
        writeln!(text, "  {}: class {}{local}{shown}{node}", IpAddr::from(*address), entry.class().0)?;
    }
    for (v4, name) in [(true, "IPv4"), (false, "IPv6")] {
        writeln!(text, "\n{name} ranges")?;
        for (start, class) in image.ranges(v4) {
            let start =
                if v4 { IpAddr::from(Ipv4Addr::from(start as u32)) } else { IpAddr::from(Ipv6Addr::from(start)) };
            writeln!(text, "  from {start}: class {}", class.0)?;
        }
    }
    let classes = port_classes(image, line);
    for row in 0..header.rows {
        writeln!(text, "\nrow {row}")?;
        for peer in 0..header.peer_classes {
            let allowed = allowed(image, line, &classes, Row(row), PeerClass(peer));
            writeln!(text, "  class {peer}: {allowed}")?;
        }
    }
    Ok(())
}

/// Runs of keys with one class: first key, key after the last, class.
fn port_classes(image: &Image, line: &Line) -> Vec<(u32, u32, PortClass)> {
    let mut runs: Vec<(u32, u32, PortClass)> = Vec::new();
    for key in keys() {
        let (index, class) = (key.index(), port_class(image, line, key));
        match (runs.last_mut(), class) {
            (_, None) => {}
            (Some((_, end, last)), Some(class)) if *last == class => *end = index + 1,
            (_, Some(class)) => runs.push((index, index + 1, class)),
        }
    }
    runs
}

/// Every port key, in the order of the index.
fn keys() -> impl Iterator<Item = PortKey> {
    let ports = [PortKey::tcp, PortKey::udp, PortKey::sctp];
    let types = [PortKey::icmp, PortKey::icmpv6, PortKey::other];
    let ports = ports.into_iter().flat_map(|key| (0..=u16::MAX).map(key));
    ports.chain(types.into_iter().flat_map(|key| (0..=u8::MAX).map(key)))
}

fn allowed(image: &Image, line: &Line, classes: &[(u32, u32, PortClass)], row: Row, peer: PeerClass) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for (first, end, port) in classes {
        if cell_of_class(image, line, row, peer, *port) != Some(Cell::Allow) {
            continue;
        }
        match runs.last_mut() {
            Some((_, last)) if last == first => *last = *end,
            _ => runs.push((*first, *end)),
        }
    }
    match runs.as_slice() {
        [] => "nothing".to_owned(),
        [(0, PortKey::COUNT)] => "everything".to_owned(),
        runs => {
            let names: Vec<String> = runs.iter().flat_map(|(first, end)| spell(*first, *end)).collect();
            names.join(", ")
        }
    }
}

/// Keys `first..end` as people write them; a run that goes on into the next protocol is several.
fn spell(first: u32, end: u32) -> Vec<String> {
    let mut spelt = Vec::new();
    let mut base = 0;
    for (name, size) in
        [("tcp", 65536), ("udp", 65536), ("sctp", 65536), ("icmp", 256), ("icmpv6", 256), ("protocol", 256)]
    {
        let (from, to) = (first.max(base), end.min(base + size));
        if from < to {
            let (from, to) = (from - base, to - base - 1);
            spelt.push(match (from, to) {
                (0, to) if to == size - 1 => format!("any/{name}"),
                (from, to) if from == to => format!("{from}/{name}"),
                (from, to) => format!("{from}-{to}/{name}"),
            });
        }
        base += size;
    }
    spelt
}
