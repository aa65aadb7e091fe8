//! Every `aya::Pod` implementation, for the types that user space reads from maps or writes to them.
#![allow(unsafe_code, reason = "aya's marker for types that are plain bytes is an unsafe trait")]

use crate::denial::{BusyKey, Counts, Way, WaySet};
use crate::endpoint::Endpoint;
use crate::event::DenialEvent;
use crate::flow_key::FlowKey;
use crate::home::HomeKey;
use crate::id::Address;
use crate::image::{AddressEntry, Line};

// SAFETY: all are `repr(C)` or `repr(transparent)` over integers, without padding (sizes are asserted beside them).
unsafe impl aya::Pod for Address {}
// SAFETY: as above.
unsafe impl aya::Pod for AddressEntry {}
// SAFETY: as above.
unsafe impl aya::Pod for BusyKey {}
// SAFETY: as above.
unsafe impl aya::Pod for Counts {}
// SAFETY: as above.
unsafe impl aya::Pod for DenialEvent {}
// SAFETY: as above.
unsafe impl aya::Pod for Endpoint {}
// SAFETY: as above.
unsafe impl aya::Pod for FlowKey {}
// SAFETY: as above.
unsafe impl aya::Pod for HomeKey {}
// SAFETY: as above.
unsafe impl aya::Pod for Line {}
// SAFETY: as above.
unsafe impl aya::Pod for Way {}
// SAFETY: as above.
unsafe impl aya::Pod for WaySet {}
