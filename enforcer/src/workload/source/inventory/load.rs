//! What the parser has to do for a text. It refuses a text that is too much.

#![forbid(unsafe_code)]

use std::ops::Add;

use serde_yaml::budget::Budget;

/// What a document with a list has beside the items: its map, the key, and the list.
const LIST_NODES: usize = 3;

/// What the parser counts of a text that has no anchors.
#[derive(Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) nodes: usize,
    pub(super) events: usize,
}

impl Load {
    /// Of an item of the list by itself: without the document, the key and the list.
    pub(super) fn within_list(self) -> Self {
        Self { nodes: self.nodes.saturating_sub(LIST_NODES), ..self }
    }

    /// Whether the parser takes a text of items with this load.
    pub(super) fn is_allowed(self) -> bool {
        let Budget { max_nodes, max_events, .. } = Budget::default();
        self.nodes + LIST_NODES <= max_nodes && self.events <= max_events
    }
}

impl Add for Load {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { nodes: self.nodes + other.nodes, events: self.events + other.events }
    }
}
