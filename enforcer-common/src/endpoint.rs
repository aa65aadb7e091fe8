//! Endpoint ABI: what the programs know about the veth to which they are attached.
//!
//! Only user space writes an endpoint. It writes word by word into the mapped array, and a program may read at the same
//! time. So the tag is stored last and cleared first, and an address is never changed while its id is live
//! (docs/architecture.md, "Maps").

use crate::id::{Address, Direction, Ifindex, IncarnationId, OwnerId, QuotaPlace, Row, Slot};
use crate::limits::OWN_ADDRESSES;
use crate::opaque::opaque;

/// One veth of a local workload. Key: `ifindex & (ENDPOINTS - 1)` in the array, ifindex in the hash for the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// The host side; [`Ifindex::NONE`]: the place is free.
    pub ifindex: Ifindex,
    /// Place of its workload in `QUOTAS`.
    pub quota: QuotaPlace,
    /// This incarnation of the workload.
    pub id: IncarnationId,
    /// Number of places of `owners` that may be in use. All later places are free.
    pub owned: u32,
    /// Per slot of the image: [`Endpoint::UNKNOWN`], [`Endpoint::ROUTES`].
    pub flags: [u32; 2],
    /// Per slot and [`Direction`]: the row. A row of a slot that is in force is not changed.
    pub rows: [[Row; 2]; 2],
    /// Until when (CLOCK_BOOTTIME, ns) a segment of an older connection is accepted as one (D10); 0: never.
    pub window_end: u64,
    /// Owner ids of `addresses`, place by place; [`OwnerId::NONE`] marks a free place.
    pub owners: [OwnerId; OWN_ADDRESSES],
    /// The workload's own addresses, IPv4 first.
    pub addresses: [Address; OWN_ADDRESSES],
}
const _: () = assert!(size_of::<Endpoint>() == 48 + 20 * OWN_ADDRESSES && align_of::<Endpoint>() == 8);

impl Endpoint {
    /// The workload is closed, because no source has named it: only ARP, discovery and membership of groups
    /// pass.
    pub const UNKNOWN: u32 = 1;
    /// The workload may send from, and receive for, addresses that belong to no local workload and not to the node.
    pub const ROUTES: u32 = 2;

    /// A free place.
    pub const FREE: Self = Self {
        ifindex: Ifindex::NONE,
        quota: QuotaPlace(0),
        id: IncarnationId::NONE,
        owned: 0,
        flags: [Self::UNKNOWN; 2],
        rows: [[Row::NONE; 2]; 2],
        window_end: 0,
        owners: [OwnerId::NONE; OWN_ADDRESSES],
        addresses: [Address::UNSPECIFIED; OWN_ADDRESSES],
    };

    /// The owner id of one of the workload's own addresses.
    #[inline(always)]
    pub fn owner_of(&self, address: &Address) -> Option<OwnerId> {
        let mut found = OwnerId::NONE.0;
        for place in 0..OWN_ADDRESSES {
            // A copy each time: what the verifier learns of it here would tell its states apart for ever.
            if place as u64 >= opaque(u64::from(self.owned)) {
                break;
            }
            if self.addresses[place] == *address && self.owners[place] != OwnerId::NONE {
                // The id, and not its place, is what the ways out of this loop have in common.
                found = opaque(u64::from(self.owners[place].0)) as u32;
                break;
            }
        }
        (found != OwnerId::NONE.0).then_some(OwnerId(found))
    }

    /// The row of a direction in a slot.
    #[inline(always)]
    pub fn row(&self, slot: Slot, direction: Direction) -> Row {
        // The mask must survive: the verifier does not know that a direction has two values.
        self.rows[slot.index()][opaque(direction as u64) as usize & 1]
    }
}
