//! Compares two images of one snapshot, and makes the image of what both allow.
//!
//! Input: the image in force, and the one that shall come after it. Output: whether the second allows anything that the first
//! denies, and the image that allows what both allow. Pure. A change of the policies that opens something waits, and what it
//! closes does not (D15): while it waits, that image is in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::rc::Rc;

use enforcer_common::id::{PeerClass, PortClass, Row};
use enforcer_common::image::{AddressEntry, Cell, Line, PortKey, cell_of_class, port_class, range_class};

use super::image::Image;
use super::ports::PortClasses;
use super::rows::Rows;
use super::states::Unique;
use super::walk::Found;
use super::write::write;
use crate::workload::model::WorkloadKey;

/// Cells that are compared at most: about half a second. Larger pairs of images are not compared.
const MOST: usize = 16_000_000;
/// Classes of ports that a u16 can number.
const PORT_CLASSES: usize = 1 << 16;

/// What becomes of the flows of one image under the next one.
#[derive(Debug)]
pub enum Change {
    /// Nothing that was denied is allowed.
    OpensNothing,
    /// Something that was denied is allowed. The image allows what both allow; `None`: that image cannot be made, because it
    /// or the comparison would be too large.
    Opens(Option<Image>),
}

/// Compares two images of the same snapshot.
pub fn change(before: &Image, after: &Image) -> Change {
    let (Some(first), Some(second)) = (before.lines.first(), after.lines.first()) else {
        return Change::Opens(None);
    };
    let (ports, port_pairs) = ports([(before, first), (after, second)]);
    let mut peers = Pairs::default();
    let ranges = [true, false].map(|v4| ranges(before, after, v4, &mut peers));
    let addresses = addresses(before, after, &mut peers);
    let (of_workload, row_pairs) = rows(before, after);
    let cells = row_pairs.values.len() * peers.values.len() * port_pairs.values.len();
    if cells > MOST || port_pairs.values.len() > PORT_CLASSES {
        return Change::Opens(None);
    }
    let mut opens = false;
    let mut vectors: Unique<[u8]> = Unique::new();
    let mut cells = vec![0; port_pairs.values.len()];
    let classes = peers.values.iter().map(|peer| {
        let vector = row_pairs.values.iter().map(|row| {
            for (cell, port) in cells.iter_mut().zip(&port_pairs.values) {
                let [old, new] =
                    [cell_of(before, first, row.0, peer.0, port.0), cell_of(after, second, row.1, peer.1, port.1)];
                opens |= old != Cell::Allow && new == Cell::Allow;
                *cell = if new == Cell::Allow { old } else { new } as u8;
            }
            vectors.intern(cells.clone())
        });
        vector.collect::<Rc<[u32]>>()
    });
    let classes: Vec<Rc<[u32]>> = classes.collect();
    if !opens {
        return Change::OpensNothing;
    }
    let rows = Rows { effects: vec![Vec::new(); row_pairs.values.len()], of_workload };
    Change::Opens(write(&rows, &ports, Found { ranges, addresses, classes, vectors }).ok())
}

/// Pairs of what two images say, numbered as they occur.
struct Pairs<T> {
    values: Vec<(T, T)>,
    numbers: HashMap<(T, T), u32>,
}

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Self { values: Vec::new(), numbers: HashMap::new() }
    }
}

impl<T: Copy + Eq + Hash> Pairs<T> {
    fn number(&mut self, pair: (T, T)) -> u32 {
        *self.numbers.entry(pair).or_insert_with(|| {
            self.values.push(pair);
            self.values.len() as u32 - 1
        })
    }
}

/// What a row says; what cannot be read is denied.
fn cell_of(image: &Image, line: &Line, row: Row, peer: PeerClass, port: PortClass) -> Cell {
    if row == Row::NOT_ISOLATED {
        return Cell::Allow;
    }
    cell_of_class(image, line, row, peer, port).unwrap_or(Cell::Deny)
}

fn ports(images: [(&Image, &Line); 2]) -> (PortClasses, Pairs<PortClass>) {
    let mut pairs = Pairs::default();
    let mut intervals: Vec<(u32, u16)> = Vec::new();
    for index in 0..PortKey::COUNT {
        let key = PortKey::from_index(index);
        let [old, new] = images.map(|(image, line)| port_class(image, line, key).unwrap_or(PortClass(u16::MAX)));
        // A number that does not fit is one of too many: nothing is made of it.
        let number = pairs.number((old, new)) as u16;
        if intervals.last().is_none_or(|(_, last)| *last != number) {
            intervals.push((index, number));
        }
    }
    (PortClasses::of_intervals(pairs.values.len(), intervals), pairs)
}

/// Where the ranges of either image begin, with the classes of both.
fn ranges(before: &Image, after: &Image, v4: bool, pairs: &mut Pairs<PeerClass>) -> Vec<(u128, PeerClass)> {
    let sides = [before, after].map(|image| image.ranges(v4));
    let starts: BTreeSet<u128> = sides.iter().flatten().map(|(start, _)| *start).collect();
    let at = |side: &[(u128, PeerClass)], start: u128| {
        let place = side.partition_point(|(first, _)| *first <= start);
        place.checked_sub(1).map_or(PeerClass(u32::MAX), |place| side[place].1)
    };
    let mut ranges: Vec<(u128, PeerClass)> = Vec::new();
    for start in starts {
        let class = PeerClass(pairs.number((at(&sides[0], start), at(&sides[1], start))));
        if ranges.last().is_none_or(|(_, last)| *last != class) {
            ranges.push((start, class));
        }
    }
    ranges
}

/// The exact addresses, which both images have of the snapshot.
fn addresses(
    before: &Image,
    after: &Image,
    pairs: &mut Pairs<PeerClass>,
) -> Vec<(enforcer_common::id::Address, AddressEntry)> {
    use enforcer_common::image::ReadImage as _;
    let entries = after.addresses.iter().map(|(address, entry)| {
        let old = before.address(address).map(AddressEntry::class).or_else(|| range_class(before, address));
        let class = pairs.number((old.unwrap_or(PeerClass(u32::MAX)), entry.class()));
        (*address, entry.with_class(PeerClass(class)))
    });
    entries.collect()
}

fn rows(before: &Image, after: &Image) -> (BTreeMap<WorkloadKey, [Row; 2]>, Pairs<Row>) {
    let mut pairs = Pairs::default();
    let of_workload = after.rows.iter().map(|(workload, new)| {
        let old = before.rows.get(workload).copied().unwrap_or([Row::NONE; 2]);
        let mut side = |side: usize| match (old[side], new[side]) {
            (Row::NOT_ISOLATED, Row::NOT_ISOLATED) => Row::NOT_ISOLATED,
            pair => Row(pairs.number(pair)),
        };
        (*workload, [side(0), side(1)])
    });
    (of_workload.collect(), pairs)
}
