//! Writes the rows, classes, ranges and vectors that were found into the lines of an image.

use std::collections::HashMap;

use enforcer_common::id::PeerClass;
use enforcer_common::image::{Header, Line, PortKey, RangeTable};

use super::budget::{CompileError, Sizes};
use super::image::Image;
use super::ports::PortClasses;
use super::ranges::{self, Buckets};
use super::rows::Rows;
use super::walk::Found;

pub(super) fn write(rows: &Rows, ports: &PortClasses, found: Found) -> Result<Image, CompileError> {
    let words = [ranges::words(true, &found.ranges[0]), ranges::words(false, &found.ranges[1])];
    let buckets = [Buckets::choose(&words[0]), Buckets::choose(&words[1])];
    let used = Used::of(rows.effects.len(), &found);
    let sizes = Sizes {
        rows: rows.effects.len(),
        peer_classes: found.classes.len(),
        port_classes: ports.count,
        vectors: used.vectors.len(),
        ranges: [found.ranges[0].len(), found.ranges[1].len()],
        buckets: buckets.map(|buckets| buckets.count),
        addresses: found.addresses.len(),
    };
    sizes.check()?;

    let mut lines: Vec<Line> = Vec::with_capacity(sizes.lines() as usize);
    lines.resize(3, Line::ZERO);
    let ports_at = write_ports(&mut lines, ports, sizes.wide_ports());
    let cells = (0..rows.effects.len()).flat_map(|row| found.classes.iter().map(move |class| class[row]));
    let numbers = cells.map(|vector| used.numbers[&vector]);
    let rows_at = if sizes.wide_vectors() {
        append(&mut lines, numbers.map(u32::to_ne_bytes))
    } else {
        append(&mut lines, numbers.map(|vector| (vector as u16).to_ne_bytes()))
    };
    let vectors = used.vectors.iter().map(|vector| &found.vectors.values[*vector as usize]);
    let vectors_at = append(&mut lines, vectors.flat_map(|cells| cells.iter().map(|cell| [*cell])));
    for family in [0, 1] {
        let table = write_ranges(&mut lines, family == 0, &found.ranges[family], buckets[family], &words[family]);
        lines[Header::RANGES_AT as usize + family] = table.to_line();
    }
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    lines[0] = Header {
        magic: Header::MAGIC,
        lines: lines.len() as u32,
        flags: flag(sizes.wide_ports(), Header::WIDE_PORTS) | flag(sizes.wide_vectors(), Header::WIDE_VECTORS),
        port_classes: sizes.port_classes as u32,
        peer_classes: sizes.peer_classes as u32,
        rows: sizes.rows as u32,
        vectors: sizes.vectors as u32,
        ports_at,
        rows_at,
        vectors_at,
        addresses: sizes.addresses as u32,
    }
    .to_line();
    let mut addresses = found.addresses;
    addresses.sort_unstable();
    Ok(Image { lines, addresses, rows: rows.of_workload.clone(), sizes })
}

/// The vectors that some class has in some row, numbered as they are written.
struct Used {
    vectors: Vec<u32>,
    numbers: HashMap<u32, u32>,
}

impl Used {
    fn of(rows: usize, found: &Found) -> Self {
        let mut used = Self { vectors: Vec::new(), numbers: HashMap::new() };
        for row in 0..rows {
            for class in &found.classes {
                let next = used.vectors.len() as u32;
                if *used.numbers.entry(class[row]).or_insert(next) == next {
                    used.vectors.push(class[row]);
                }
            }
        }
        used
    }
}

fn write_ports(lines: &mut Vec<Line>, ports: &PortClasses, wide: bool) -> u32 {
    let ends = ports.intervals.iter().skip(1).map(|(start, _)| *start).chain([PortKey::COUNT]);
    let classes = ports
        .intervals
        .iter()
        .zip(ends)
        .flat_map(|((start, class), end)| std::iter::repeat_n(*class, (end - start) as usize));
    if wide { append(lines, classes.map(u16::to_ne_bytes)) } else { append(lines, classes.map(|class| [class as u8])) }
}

fn write_ranges(
    lines: &mut Vec<Line>,
    v4: bool,
    ranges: &[(u128, PeerClass)],
    buckets: Buckets,
    words: &[u64],
) -> RangeTable {
    let index_at = append(lines, buckets.index(words).into_iter().map(u32::to_ne_bytes));
    let starts = ranges.iter().map(|(start, _)| *start);
    let starts_at = if v4 {
        append(lines, starts.map(|start| (start as u32).to_ne_bytes()))
    } else {
        append(lines, starts.flat_map(|start| [(start >> 64) as u64, start as u64].map(u64::to_ne_bytes)))
    };
    let classes_at = append(lines, ranges.iter().map(|(_, class)| class.0.to_ne_bytes()));
    RangeTable {
        base: buckets.base,
        shift: buckets.shift,
        buckets: buckets.count as u32,
        count: ranges.len() as u32,
        index_at,
        starts_at,
        classes_at,
    }
}

/// Appends a section and returns its first line. `N` divides a line.
fn append<const N: usize>(lines: &mut Vec<Line>, values: impl Iterator<Item = [u8; N]>) -> u32 {
    let at = lines.len() as u32;
    let mut line = [0; 64];
    let mut filled = 0;
    for value in values {
        line[filled..filled + N].copy_from_slice(&value);
        filled += N;
        if filled == line.len() {
            lines.push(Line::from_bytes(&line));
            (line, filled) = ([0; 64], 0);
        }
    }
    if filled != 0 {
        lines.push(Line::from_bytes(&line));
    }
    at
}
