//! The links, which attach programs to devices. They are pinned, so that they outlive the daemon.
//!
//! Input: devices and programs. Output: pinned links, each the first of its chain. The name of a link's pin holds the
//! ifindex. A pinned link outlives its device, so the daemon takes it over only if the kernel says that it is attached to
//! that device.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use enforcer_common::id::Ifindex;
use enforcer_common::side::Side;

use crate::kernel::error::{KernelError, at, on_device};
use crate::kernel::hooks::netfilter;
use crate::kernel::hooks::own::OwnLinks;
use crate::kernel::hooks::programs::Programs;
use crate::kernel::hooks::tcx;
use crate::kernel::pins::layout::{self, Layout, incoming};
use crate::kernel::sys;

/// A link that is not as it should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LinkDrift {
    /// Not attached.
    Gone,
    /// Attached, but its pin is not there.
    Unpinned,
    /// Another program runs.
    OtherProgram,
    /// Another program comes first.
    NotFirst,
}

/// Every link, held open so that enforcement stays even if somebody removes the pins.
#[derive(Debug)]
pub(crate) struct Links {
    directory: PathBuf,
    held: BTreeMap<(Ifindex, Side), OwnedFd>,
    own: OwnLinks,
}

impl Links {
    /// Takes over the links that are attached; removes the pins of those whose device is gone.
    pub(crate) fn open(layout: &Layout) -> Result<Self, KernelError> {
        let directory = layout.links();
        let names = layout::names(&directory)?;
        for name in names.iter().filter(|name| !name.starts_with(netfilter::PREFIX)) {
            if let Some(settled) = name.strip_suffix(layout::NEW) {
                settle(&directory, settled)?;
            }
        }
        let (mut held, own) = (BTreeMap::new(), OwnLinks::default());
        for name in layout::names(&directory)?.into_iter().filter(|name| !name.starts_with(netfilter::PREFIX)) {
            let path = directory.join(&name);
            let (ifindex, side) = parse(&name).ok_or_else(|| KernelError::Foreign { path: path.clone() })?;
            let (link, info) = tcx::pinned(&path)?;
            if info.ifindex == 0 {
                layout::unpin(&path)?;
            } else if tcx::is_at(&info, ifindex, side) {
                held.insert((ifindex, side), link);
                own.ids().insert((ifindex, side), info.id);
            } else {
                return Err(KernelError::Foreign { path });
            }
        }
        Ok(Self { directory, held, own })
    }

    /// The ids of these links, now and from now on.
    pub(crate) fn own(&self) -> OwnLinks {
        self.own.clone()
    }

    /// Veths of workloads with at least one link.
    pub(crate) fn devices(&self) -> BTreeSet<Ifindex> {
        let of_veths = self.held.keys().filter(|(_, side)| *side != Side::Guard);
        of_veths.map(|(ifindex, _)| *ifindex).collect()
    }

    /// Devices with a guard.
    pub(crate) fn guards(&self) -> BTreeSet<Ifindex> {
        let guards = self.held.keys().filter(|(_, side)| *side == Side::Guard);
        guards.map(|(ifindex, _)| *ifindex).collect()
    }

    /// Veths of workloads of which a link runs another program than these.
    pub(crate) fn devices_of_others(&self, programs: &Programs) -> Result<BTreeSet<Ifindex>, KernelError> {
        let mut devices = BTreeSet::new();
        for ((ifindex, side), link) in self.held.iter().filter(|((_, side), _)| *side != Side::Guard) {
            let info = tcx::info(link, *ifindex)?;
            if Ifindex(info.ifindex) == *ifindex && info.program != programs.of(*side).1 {
                devices.insert(*ifindex);
            }
        }
        Ok(devices)
    }

    /// Attaches what is missing on these sides of a device, and puts programs in the place of others. `program` gives that of
    /// a side, with its id.
    pub(crate) fn attach<'a>(
        &mut self,
        ifindex: Ifindex,
        sides: &[Side],
        program: impl Fn(Side) -> (BorrowedFd<'a>, u32),
    ) -> Result<(), KernelError> {
        for side in sides.iter().copied() {
            let (program, id) = program(side);
            if let Some(link) = self.held.get(&(ifindex, side)) {
                let info = tcx::info(link, ifindex)?;
                if Ifindex(info.ifindex) == ifindex {
                    if info.program != id {
                        tcx::replace(link, program, ifindex)?;
                    }
                    continue;
                }
            }
            let link = self.own.attach(program, ifindex, side)?;
            self.pin(ifindex, side, link)?;
            if self.check(ifindex, side, Some(id))? == Some(LinkDrift::NotFirst) {
                return Err(KernelError::NotFirst { ifindex });
            }
        }
        Ok(())
    }

    /// Makes our program the first of a chain again, with no moment without it: a second link with a copy of the program
    /// goes in front, then the first is let go. (The kernel takes a program only once into a chain.)
    pub(crate) fn put_first(&mut self, ifindex: Ifindex, side: Side, copy: &Programs) -> Result<(), KernelError> {
        let (program, _) = copy.of(side);
        let link = self.own.attach(program, ifindex, side)?;
        self.pin(ifindex, side, link)
    }

    /// Pins a held link again whose pin was removed.
    pub(crate) fn pin_again(&mut self, ifindex: Ifindex, side: Side) -> Result<(), KernelError> {
        let path = self.directory.join(name(ifindex, side));
        match self.held.get(&(ifindex, side)) {
            Some(link) => sys::object_pin(link.as_fd(), &path).map_err(at(&path, "pin")),
            None => Ok(()),
        }
    }

    /// The worst fault of a link. `program` is the id of the program that it should run; with `None` it may run any.
    pub(crate) fn check(
        &self,
        ifindex: Ifindex,
        side: Side,
        program: Option<u32>,
    ) -> Result<Option<LinkDrift>, KernelError> {
        let Some(link) = self.held.get(&(ifindex, side)) else {
            return Ok(Some(LinkDrift::Gone));
        };
        let info = tcx::info(link, ifindex)?;
        let place = tcx::place(info.id, ifindex, side).map_err(on_device(ifindex, "read the chain"))?;
        let Some(place) = place else {
            return Ok(Some(LinkDrift::Gone));
        };
        Ok(if program.is_some_and(|program| info.program != program) {
            Some(LinkDrift::OtherProgram)
        } else if place != 0 {
            Some(LinkDrift::NotFirst)
        } else if !self.directory.join(name(ifindex, side)).exists() {
            Some(LinkDrift::Unpinned)
        } else {
            None
        })
    }

    /// Detaches these sides of a device, or forgets one that is gone.
    pub(crate) fn detach(&mut self, ifindex: Ifindex, sides: &[Side]) -> Result<(), KernelError> {
        for side in sides.iter().copied() {
            if let Some(link) = self.held.remove(&(ifindex, side)) {
                tcx::detach(&link, ifindex)?;
            }
            self.own.ids().remove(&(ifindex, side));
            layout::unpin(&self.directory.join(name(ifindex, side)))?;
        }
        Ok(())
    }

    /// Whether a veth still has its links.
    pub(crate) fn is_attached(&self, ifindex: Ifindex) -> bool {
        Side::OF_VETH.into_iter().all(|side| self.reports(ifindex, side))
    }

    /// Whether no link reports the veth any more.
    pub(crate) fn is_gone(&self, ifindex: Ifindex) -> bool {
        !Side::OF_VETH.into_iter().any(|side| self.reports(ifindex, side))
    }

    fn reports(&self, ifindex: Ifindex, side: Side) -> bool {
        let link = self.held.get(&(ifindex, side));
        let info = link.map(|link| tcx::info(link, ifindex));
        matches!(info, Some(Ok(info)) if Ifindex(info.ifindex) == ifindex)
    }

    fn pin(&mut self, ifindex: Ifindex, side: Side, link: OwnedFd) -> Result<(), KernelError> {
        let path = self.directory.join(name(ifindex, side));
        let new = incoming(&path);
        layout::unpin(&new)?;
        sys::object_pin(link.as_fd(), &new).map_err(at(&new, "pin"))?;
        layout::replace(&new, &path)?;
        self.held.insert((ifindex, side), link);
        Ok(())
    }
}

/// Ends a replacement that was cut short: the new pin counts if its link is attached.
fn settle(directory: &Path, settled: &str) -> Result<(), KernelError> {
    let path = directory.join(settled);
    let new = incoming(&path);
    let (_, info) = tcx::pinned(&new)?;
    if info.ifindex == 0 { layout::unpin(&new) } else { layout::replace(&new, &path) }
}

/// Name of a link's pin.
pub(crate) fn name(ifindex: Ifindex, side: Side) -> String {
    format!("{ifindex}-{}", side.pin())
}

/// What a pin's name says.
pub(crate) fn parse(name: &str) -> Option<(Ifindex, Side)> {
    let (ifindex, end) = name.split_once('-')?;
    let side = Side::ALL.into_iter().find(|side| side.pin() == end)?;
    Some((Ifindex(ifindex.parse().ok()?), side))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pins_name_says_which_link_it_is() {
        for side in Side::ALL {
            assert_eq!(parse(&name(Ifindex(12), side)), Some((Ifindex(12), side)));
        }
        for stranger in ["12", "12-", "x-from", "12-from-new", "12-both"] {
            assert_eq!(parse(stranger), None, "{stranger}");
        }
    }
}
