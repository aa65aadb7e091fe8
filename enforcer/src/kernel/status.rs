//! Reads what is pinned, for `enforcer status`.
//!
//! Input: the pin directory. Output: a view. Nothing is changed. The lock is shared only for the moment in which it is asked
//! for, so the command works with a running daemon and without one.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;

use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::{Address, Ifindex, IncarnationId, PolicyWord, Revision, Row, Slot};
use enforcer_common::image::Header;
use enforcer_common::limits::map;
use enforcer_common::schema::{self, Group};
use enforcer_common::side::Side;

use crate::kernel::denials::{Totals, read_totals};
use crate::kernel::error::{KernelError, at};
use crate::kernel::hooks::attach::{name, parse};
use crate::kernel::hooks::tcx;
use crate::kernel::pins::layout::{Layout, names};
use crate::kernel::pins::{FlowMaps, is_locked, pinned};
use crate::kernel::preflight;
use crate::kernel::sys::{self, Map};
use crate::kernel::tables::EndpointTable;
use crate::kernel::tables::Globals;
use crate::kernel::tables::{FlowFill, Quotas};
use crate::kernel::tables::{Uplinks, read_header};
use crate::plan::owned;

/// The view.
#[derive(Clone, Debug)]
pub struct StatusView {
    /// A daemon holds the lock.
    pub daemon: bool,
    /// Revision and epoch in force.
    pub word: PolicyWord,
    /// Header of the image in force, if there is one.
    pub image: Option<Header>,
    /// Endpoints, by ifindex.
    pub endpoints: Vec<EndpointView>,
    /// Veths that are closed because there is no endpoint for them.
    pub closed: BTreeSet<Ifindex>,
    /// The guards of devices that lead to no workload, by ifindex.
    pub guards: BTreeMap<Ifindex, LinkView>,
    /// How many of the endpoints are in `ENDPOINTS_MORE`.
    pub endpoints_more: usize,
    /// Devices towards the outside.
    pub uplinks: BTreeSet<Ifindex>,
    /// Flows and places of workloads in use.
    pub flows: FlowFill,
    /// Flows that the table holds.
    pub flow_room: u32,
    /// Denied packets.
    pub denied: Totals,
}

/// One endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointView {
    /// Host side of the veth.
    pub ifindex: Ifindex,
    /// Id of the workload in denial records.
    pub id: IncarnationId,
    /// The workload is closed, because no source has named it.
    pub unknown: bool,
    /// Forwards for others.
    pub routes: bool,
    /// Rows in force.
    pub rows: [Row; 2],
    /// Its own addresses.
    pub addresses: Vec<Address>,
    /// The link for packets that the workload sends.
    pub from: LinkView,
    /// The link for packets that the workload receives.
    pub to: LinkView,
}

impl EndpointView {
    /// Both programs are attached to its device.
    pub fn is_attached(&self) -> bool {
        [self.from, self.to].iter().all(|link| link.is_on(self.ifindex))
    }
}

impl LinkView {
    /// It is attached to this device.
    pub fn is_on(&self, ifindex: Ifindex) -> bool {
        self.id != 0 && self.ifindex == ifindex
    }
}

/// One link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinkView {
    /// Id in the kernel; 0: no link is pinned.
    pub id: u32,
    /// Device that the kernel says it is attached to; 0: none.
    pub ifindex: Ifindex,
    /// It is the first of the device's chain in the network namespace of the caller.
    pub first: bool,
}

/// Reads what is pinned.
pub fn read(pin_dir: &Path) -> Result<StatusView, KernelError> {
    preflight::check(pin_dir)?;
    let layout = Layout::of(pin_dir);
    if !layout.exists() {
        return Err(KernelError::NothingPinned { path: pin_dir.to_path_buf() });
    }
    let maps = FlowMaps::pinned(&layout)?;
    let word = Globals::open(&maps, false)?.word();
    let table = EndpointTable::open(&maps, false)?;
    let endpoints = table.iter().map(|endpoint| view(&layout, endpoint, word.slot()));
    let pins: Vec<(Ifindex, Side)> = names(&layout.links())?.iter().filter_map(|name| parse(name)).collect();
    let (guards, of_veths): (Vec<_>, Vec<_>) = pins.into_iter().partition(|(_, side)| *side == Side::Guard);
    let guard = |(ifindex, side)| Ok((ifindex, link(&layout, ifindex, side)?));
    let mut closed = BTreeSet::new();
    for (ifindex, side) in of_veths {
        if table.get(ifindex).is_none() && link(&layout, ifindex, side)?.ifindex == ifindex {
            closed.insert(ifindex);
        }
    }
    Ok(StatusView {
        closed,
        guards: guards.into_iter().map(guard).collect::<Result<_, KernelError>>()?,
        daemon: is_locked(pin_dir),
        word,
        image: header(&layout, word)?,
        endpoints: endpoints.collect::<Result<_, _>>()?,
        endpoints_more: table.in_more(),
        uplinks: Uplinks::open(&maps)?.devices().clone(),
        flows: Quotas::open(&maps, 0, false)?.fill(),
        flow_room: maps.flows.attributes().entries,
        denied: denied(&layout)?,
    })
}

/// Nothing where the daemon that makes these maps has not come yet: an older layout is another directory's. A daemon that was
/// killed early has left the directory without the map.
fn denied(layout: &Layout) -> Result<Totals, KernelError> {
    if layout.map(&schema::DENIED).exists() {
        read_totals(&*pinned(layout, &schema::DENIED)?)
    } else {
        Ok(Totals::default())
    }
}

/// The header of the image in force. `None`: there is no image, or it is one of another layout.
fn header(layout: &Layout, word: PolicyWord) -> Result<Option<Header>, KernelError> {
    if word.revision == Revision::NONE || !layout.has(Group::Policy) {
        return Ok(None);
    }
    let path = layout.image(word.slot());
    match Map::pinned(&path) {
        Ok(lines) => read_header(&lines),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && layout.has_other_policy() => Ok(None),
        Err(error) => Err(at(&path, map::IMAGES)(error)),
    }
}

fn view(layout: &Layout, endpoint: &Endpoint, slot: Slot) -> Result<EndpointView, KernelError> {
    let [from, to] = Side::OF_VETH.map(|side| link(layout, endpoint.ifindex, side));
    Ok(EndpointView {
        ifindex: endpoint.ifindex,
        id: endpoint.id,
        unknown: endpoint.flags[slot.index()] & Endpoint::UNKNOWN != 0,
        routes: endpoint.flags[slot.index()] & Endpoint::ROUTES != 0,
        rows: endpoint.rows[slot.index()],
        addresses: owned(endpoint).map(|(address, _)| address).collect(),
        from: from?,
        to: to?,
    })
}

fn link(layout: &Layout, ifindex: Ifindex, side: Side) -> Result<LinkView, KernelError> {
    const NONE: LinkView = LinkView { id: 0, ifindex: Ifindex::NONE, first: false };
    let path = layout.links().join(name(ifindex, side));
    let link = match sys::object_get(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(NONE),
        Err(error) => return Err(at(&path, "open pin")(error)),
    };
    let info = sys::link_info(link.as_fd()).map_err(at(&path, "read the link"))?;
    let place = tcx::place(info.id, ifindex, side).unwrap_or_default();
    Ok(LinkView { id: info.id, ifindex: Ifindex(info.ifindex), first: place == Some(0) })
}
