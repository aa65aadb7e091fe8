//! Parses of an inventory only what is new in it, and remembers the rest.
//!
//! Input: YAML text, again and again. Output: what the whole parse of the text says, as inventory and as statements. A piece of
//! the text counts as what the parser has made of the same piece before. Everything that concerns several pieces is looked at
//! again each time. If anything at all is wrong or unclear, the whole text is parsed, and only the result of that counts.

#![forbid(unsafe_code)]

mod split;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use self::split::{KEY, Piece, Split, split};
use super::document::parse_counted;
use super::load::Load;
use super::{Entry, InvalidInventory, Inventory, Match, statement};
use crate::workload::model::Labels;
use crate::workload::statement::Statement;

/// So many new pieces are parsed one by one, also if they are many beside the known ones.
pub(super) const FEW: usize = 64;

/// What is remembered of the text that counted last.
pub(super) struct Pieces {
    few: usize,
    /// What comes before the entries, with its meaning.
    head: (Box<str>, BTreeMap<String, Labels>),
    known: HashMap<Box<str>, Meaning>,
    /// The parser has at most this to do for the whole text.
    load: Load,
    /// Number of the current reading.
    reading: u64,
}

/// What a text says.
pub(super) struct InventoryReading {
    pub(super) inventory: Inventory,
    /// One for each entry.
    pub(super) statements: Vec<Arc<Statement>>,
    /// How many pieces were parsed; `None`: the whole text was.
    #[cfg(test)]
    parsed: Option<usize>,
}

/// What a piece means.
#[derive(Clone)]
struct Meaning {
    entry: Arc<Entry>,
    statement: Arc<Statement>,
    /// Lines of the piece before the entry.
    offset: u64,
    /// The last reading that had the piece.
    reading: u64,
}

impl Pieces {
    pub(super) fn new(few: usize) -> Self {
        Self { few, head: (Box::default(), BTreeMap::new()), known: HashMap::new(), load: Load::default(), reading: 0 }
    }

    /// What `Inventory::parse` says of the text.
    pub(super) fn parse(&mut self, path: &Path, text: &str) -> Result<InventoryReading, InvalidInventory> {
        self.reading += 1;
        let split = split(text);
        if let Some(reading) = split.as_ref().and_then(|split| self.by_pieces(split)) {
            return Ok(reading);
        }
        let (inventory, load) = parse_counted(path, text);
        let inventory = inventory?;
        let statements = inventory.entries.iter().map(|entry| Arc::new(statement(entry))).collect();
        let reading = InventoryReading {
            inventory,
            statements,
            #[cfg(test)]
            parsed: None,
        };
        self.known.clear();
        if let Some(split) = split {
            self.learn(&split, &reading, load);
        }
        Ok(reading)
    }

    /// The pieces together, if that is less work and each of them is valid.
    fn by_pieces(&mut self, split: &Split<'_>) -> Option<InventoryReading> {
        let recalled: Vec<Option<Meaning>> = split.pieces.iter().map(|piece| self.recall(piece)).collect();
        let parsed = recalled.iter().filter(|known| known.is_none()).count();
        if parsed > self.few.max(recalled.len() / 4) {
            return None;
        }
        let (namespaces, of_head) = self.namespaces(split)?;
        let mut load = self.load + of_head;
        let mut inventory =
            Inventory { namespaces, entries: Vec::with_capacity(recalled.len()), ..Inventory::default() };
        let mut statements = Vec::with_capacity(recalled.len());
        let mut news = Vec::new();
        for (piece, known) in split.pieces.iter().zip(recalled) {
            let known = match known {
                Some(known) if known.is_at(piece) => known,
                other => {
                    let known = if let Some(known) = other {
                        known.moved_to(piece)
                    } else {
                        let (known, of_piece) = self.alone(piece)?;
                        load = load + of_piece;
                        known
                    };
                    news.push((piece.text, known.clone()));
                    known
                }
            };
            inventory.entries.push(known.entry);
            statements.push(known.statement);
        }
        if !load.is_allowed() || !are_distinct(&inventory.entries) {
            return None;
        }
        self.known.extend(news.into_iter().map(|(text, known)| (text.into(), known)));
        self.known.retain(|_, known| known.reading == self.reading);
        self.remember_head(split, &inventory);
        self.load = load;
        Some(InventoryReading {
            inventory,
            statements,
            #[cfg(test)]
            parsed: Some(parsed),
        })
    }

    /// Remembers what the whole parse has made of the pieces. It finds an item only at a line where a piece begins, so with as
    /// many entries as pieces each entry is one whole piece.
    fn learn(&mut self, split: &Split<'_>, reading: &InventoryReading, load: Load) {
        let InventoryReading { inventory, statements, .. } = reading;
        let Some((namespaces, of_head)) = self.namespaces(split) else { return };
        let ends = split.pieces.iter().skip(1).map(|piece| piece.line).chain([u64::MAX]);
        let mut entries = inventory.entries.iter().zip(&split.pieces).zip(ends);
        let are_paired = inventory.entries.len() == split.pieces.len()
            && entries.all(|((entry, piece), end)| (piece.line..end).contains(&entry.line));
        if !are_paired || namespaces != inventory.namespaces {
            return;
        }
        for (piece, (entry, statement)) in split.pieces.iter().zip(inventory.entries.iter().zip(statements)) {
            let known = Meaning {
                entry: Arc::clone(entry),
                statement: Arc::clone(statement),
                offset: entry.line - piece.line,
                reading: self.reading,
            };
            self.known.insert(piece.text.into(), known);
        }
        self.remember_head(split, inventory);
        self.load = load.within_list() + of_head;
    }

    fn recall(&mut self, piece: &Piece<'_>) -> Option<Meaning> {
        let known = self.known.get_mut(piece.text)?;
        known.reading = self.reading;
        Some(known.clone())
    }

    /// What the head says by itself, and what the parser had to do for it. A quoted string that goes on after the head is an
    /// error there.
    fn namespaces(&self, split: &Split<'_>) -> Option<(BTreeMap<String, Labels>, Load)> {
        if *self.head.0 == *split.head {
            return Some((self.head.1.clone(), Load::default()));
        }
        if !split.head_speaks {
            return Some((BTreeMap::new(), Load::default()));
        }
        let (inventory, load) = parse_counted(Path::new(""), split.head);
        // The split ends the head at the first key of entries, so it has none.
        Some((inventory.ok()?.namespaces, load))
    }

    fn remember_head(&mut self, split: &Split<'_>, inventory: &Inventory) {
        if *self.head.0 != *split.head {
            self.head = (split.head.into(), inventory.namespaces.clone());
        }
    }

    /// What a piece says by itself, and what the parser had to do for it.
    fn alone(&self, piece: &Piece<'_>) -> Option<(Meaning, Load)> {
        let (inventory, load) = parse_counted(Path::new(""), &format!("{KEY}\n{}", piece.text));
        let [entry] = <[Arc<Entry>; 1]>::try_from(inventory.ok()?.entries).ok()?;
        // The key has the first line.
        let offset = entry.line.checked_sub(2)?;
        let known = Meaning { statement: Arc::new(statement(&entry)), entry, offset, reading: self.reading };
        Some((known.moved_to(piece), load.within_list()))
    }
}

impl Meaning {
    fn is_at(&self, piece: &Piece<'_>) -> bool {
        self.entry.line == piece.line + self.offset
    }

    /// The same in another place.
    fn moved_to(self, piece: &Piece<'_>) -> Self {
        let entry = Entry { line: piece.line + self.offset, ..Arc::unwrap_or_clone(self.entry) };
        Self { statement: Arc::new(statement(&entry)), entry: Arc::new(entry), ..self }
    }
}

/// Whether no entry takes what another has. What an entry takes twice by itself, its own piece does not pass.
fn are_distinct(entries: &[Arc<Entry>]) -> bool {
    let (mut names, mut places) = (HashSet::with_capacity(entries.len()), HashSet::with_capacity(entries.len()));
    let mut own: HashSet<IpAddr> = HashSet::with_capacity(2 * entries.len());
    entries.iter().all(|entry| {
        let place = match &entry.matches {
            Match::Netns(path) => Some(path.to_string_lossy()),
            Match::Interface(name) => Some(Cow::from(name)),
            Match::Address => None,
        };
        names.insert(&entry.name)
            && place.is_none_or(|place| places.insert(place))
            && entry.addresses.iter().all(|address| own.insert(*address))
    }) && entries.iter().flat_map(|entry| &entry.floating).all(|address| !own.contains(address))
}
