use crate::id::{Address, PortClass, Row};

use super::*;

struct Lines(Vec<Line>);

impl ReadImage for Lines {
    fn line(&self, index: u32) -> Option<&Line> {
        self.0.get(index as usize)
    }

    fn address(&self, _: &Address) -> Option<AddressEntry> {
        None
    }
}

/// Numbers that look random (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Among few values, so that starts share buckets and upper halves.
    fn address(&mut self, v4: bool) -> u128 {
        let bits = self.below(33) as u32;
        let value = u128::from(self.next() >> 32) >> bits;
        if v4 { value } else { value << (8 * self.below(13)) | u128::from(self.below(3)) }
    }
}

fn address(v4: bool, value: u128) -> Address {
    if v4 { Address::v4((value as u32).to_be()) } else { core::net::IpAddr::from(value.to_be_bytes()).into() }
}

fn class_of(range: usize) -> u32 {
    range as u32 * 7 + 3
}

/// An image of one family's ranges, by the words of [`RangeTable`].
fn image(v4: bool, starts: &[u128], base: u64, shift: u32, buckets: u32) -> Lines {
    let x = |start: u128| if v4 { start as u64 } else { (start >> 64) as u64 };
    let mut lines = vec![Line::ZERO; 3];
    let mut section = |bytes: Vec<u8>| {
        let at = lines.len() as u32;
        for part in bytes.chunks(64) {
            let mut line = Line::ZERO;
            line.write(0, part);
            lines.push(line);
        }
        at
    };
    let bucket = |start: &u128| RangeTable::bucket(base, shift, buckets, x(*start));
    let index = (0..=buckets).map(|of| starts.partition_point(|start| bucket(start) < of) as u32);
    let index_at = section(index.flat_map(u32::to_ne_bytes).collect());
    let starts_at = section(if v4 {
        starts.iter().flat_map(|start| (*start as u32).to_ne_bytes()).collect()
    } else {
        starts.iter().flat_map(|start| [(start >> 64) as u64, *start as u64]).flat_map(u64::to_ne_bytes).collect()
    });
    let classes_at = section((0..starts.len()).flat_map(|range| class_of(range).to_ne_bytes()).collect());
    let table = RangeTable { base, shift, buckets, count: starts.len() as u32, index_at, starts_at, classes_at };
    lines[if v4 { 1 } else { 2 }] = table.to_line();
    Lines(lines)
}

#[test]
fn the_search_finds_what_a_walk_finds() {
    let mut numbers = Numbers(1);
    for v4 in [true, false] {
        let (last, bits) = if v4 { (u128::from(u32::MAX), 32) } else { (u128::MAX, 64) };
        for size in 1..=300 {
            let mut starts = vec![0];
            while starts.len() < size {
                starts.push(numbers.address(v4));
                starts.sort_unstable();
                starts.dedup();
            }
            let x = |start: u128| if v4 { start as u64 } else { (start >> 64) as u64 };
            let base = if numbers.below(2) == 0 { 0 } else { x(starts[size / 2]) };
            let (shift, buckets) = (numbers.below(bits) as u32, 1 + numbers.below(70) as u32);
            let image = image(v4, &starts, base, shift, buckets);
            let edges = (0..=u64::from(buckets)).map(|bucket| {
                let edge = u128::from(base) + (u128::from(bucket) << shift);
                if v4 { edge } else { edge.checked_shl(64).unwrap_or(0) }
            });
            let mut asked: Vec<u128> = edges.chain(starts.iter().copied()).chain([last]).collect();
            asked.extend((0..20).map(|_| numbers.address(v4)));
            for middle in asked {
                for value in [middle.wrapping_sub(1), middle, middle.wrapping_add(1)].map(|value| value & last) {
                    // A mapped address is one of the other family.
                    if !v4 && value >> 32 == 0xffff {
                        continue;
                    }
                    // A mapped address is one of the other family.
                    if !v4 && value >> 32 == 0xffff {
                        continue;
                    }
                    let walked = starts.iter().rposition(|start| *start <= value).unwrap();
                    let found = range_class(&image, &address(v4, value));
                    assert_eq!(
                        found,
                        Some(PeerClass(class_of(walked))),
                        "{value:#x} of {starts:#x?}, base {base:#x} shift {shift} buckets {buckets}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_image_that_ends_early_has_no_answer() {
    let whole = image(true, &(0..40).map(|start| start << 20).collect::<Vec<_>>(), 0, 24, 4);
    let asked = address(true, 39 << 20);
    assert_eq!(range_class(&whole, &asked), Some(PeerClass(class_of(39))));
    for lines in 0..whole.0.len() {
        let cut = Lines(whole.0[..lines].to_vec());
        assert_eq!(range_class(&cut, &asked), None, "{lines} lines");
    }
}

#[test]
fn a_cell_beyond_the_image_is_none() {
    for wide in [0, Header::WIDE_VECTORS] {
        let header = Header {
            magic: Header::MAGIC,
            flags: wide,
            port_classes: 3,
            peer_classes: 2,
            rows: 2,
            rows_at: 1,
            vectors_at: 2,
            ..Header::default()
        };
        let mut lines = vec![header.to_line(), Line::ZERO, Line::ZERO];
        // Row 1, class 1 has vector 1; of which the last port class is allowed.
        if wide == 0 {
            lines[1].write(6, &1_u16.to_ne_bytes());
        } else {
            lines[1].write(12, &1_u32.to_ne_bytes());
        }
        lines[2].write(5, &[Cell::Allow as u8]);
        let image = Lines(lines);
        let line = image.line(0).unwrap();
        for row in 0..4 {
            for peer in 0..4 {
                for port in 0..5 {
                    let inside = row < 2 && peer < 2 && port < 3;
                    let cell = if (row, peer, port) == (1, 1, 2) { Cell::Allow } else { Cell::Deny };
                    let found = cell_of_class(&image, line, Row(row), PeerClass(peer), PortClass(port));
                    assert_eq!(found, inside.then_some(cell), "row {row} peer {peer} port {port}");
                }
            }
        }
        assert_eq!(cell_of_class(&image, line, Row::NONE, PeerClass(0), PortClass(0)), None);
        assert_eq!(Header::from_line(line), Some(header));
    }
    assert_eq!(Header::from_line(&Line::ZERO), None, "another layout");
}

#[test]
fn port_keys_have_a_place_each() {
    let mut places = vec![false; PortKey::COUNT as usize];
    let ports = [PortKey::tcp, PortKey::udp, PortKey::sctp];
    let ports = ports.iter().flat_map(|key| (0..=u16::MAX).map(key));
    let types = [PortKey::icmp, PortKey::icmpv6, PortKey::other];
    for key in ports.chain(types.iter().flat_map(|key| (0..=u8::MAX).map(key))) {
        let place = &mut places[key.index() as usize];
        assert!(!*place, "place {} twice", key.index());
        *place = true;
    }
    assert!(places.iter().all(|place| *place), "every place is a key's");
}

#[test]
fn an_entry_keeps_class_and_marks_apart() {
    for class in [0, 1, AddressEntry::MAX_CLASS] {
        for (local, node) in [(false, false), (true, false), (false, true), (true, true)] {
            let entry = AddressEntry::new(PeerClass(class), local, node);
            for marked in [entry, entry.shown(), entry.disputed(), entry.shown().disputed()] {
                assert_eq!((marked.class(), marked.is_local(), marked.is_node()), (PeerClass(class), local, node));
            }
            assert_eq!((entry.is_vouched(), entry.is_exempt()), (local, local));
            assert_eq!((entry.disputed().is_vouched(), entry.disputed().is_exempt()), (local, false));
            assert!(entry.shown().is_shown() && !entry.is_shown() && !entry.disputed().is_shown());
            assert!(!entry.shown().is_vouched() && !entry.shown().is_exempt());
        }
    }
}
