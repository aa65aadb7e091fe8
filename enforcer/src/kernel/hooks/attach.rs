//! Links: which program is attached to which device, pinned so that they outlive the daemon.
//!
//! Input: devices and programs. Output: pinned tcx links, each the first of its chain. A link's pin carries the ifindex,
//! and it is taken over only while the kernel says that it is attached to that device: a pinned link outlives its device.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use enforcer_common::id::Ifindex;

use crate::kernel::error::{KernelError, at, on_device};
use crate::kernel::hooks::programs::Programs;
use crate::kernel::pins::layout::{self, Layout, incoming};
use crate::kernel::sys::{self, Hook};

/// Both hooks of a device: what the workload sends first, since that is what harms others.
pub(crate) const HOOKS: [Hook; 2] = [Hook::Ingress, Hook::Egress];

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
    held: BTreeMap<(Ifindex, Hook), OwnedFd>,
}

impl Links {
    /// Takes over the links that are attached; removes the pins of those whose device is gone.
    pub(crate) fn open(layout: &Layout) -> Result<Self, KernelError> {
        let directory = layout.links();
        let names = layout::names(&directory)?;
        for name in &names {
            if let Some(settled) = name.strip_suffix(layout::NEW) {
                settle(&directory, settled)?;
            }
        }
        let mut held = BTreeMap::new();
        for name in layout::names(&directory)? {
            let path = directory.join(&name);
            let (ifindex, hook) = parse(&name).ok_or_else(|| KernelError::Foreign { path: path.clone() })?;
            let link = sys::object_get(&path).map_err(at(&path, "open pin"))?;
            let info = sys::link_info(link.as_fd()).map_err(|_| KernelError::Foreign { path: path.clone() })?;
            if info.ifindex == 0 {
                layout::unpin(&path)?;
            } else if Ifindex(info.ifindex) == ifindex && info.hook == hook as u32 {
                held.insert((ifindex, hook), link);
            } else {
                return Err(KernelError::Foreign { path });
            }
        }
        Ok(Self { directory, held })
    }

    /// Devices with at least one link.
    pub(crate) fn devices(&self) -> BTreeSet<Ifindex> {
        self.held.keys().map(|(ifindex, _)| *ifindex).collect()
    }

    /// Attaches what is missing on a device, and puts these programs in the place of others.
    pub(crate) fn attach(&mut self, ifindex: Ifindex, programs: &Programs) -> Result<(), KernelError> {
        for hook in HOOKS {
            let (program, id) = programs.of(hook);
            if let Some(link) = self.held.get(&(ifindex, hook)) {
                let info = sys::link_info(link.as_fd()).map_err(on_device(ifindex, "read the link"))?;
                if Ifindex(info.ifindex) == ifindex {
                    if info.program != id {
                        sys::link_update(link.as_fd(), program).map_err(on_device(ifindex, "replace the program"))?;
                    }
                    continue;
                }
            }
            let link = sys::link_create(program, ifindex.0, hook).map_err(on_device(ifindex, "attach"))?;
            self.pin(ifindex, hook, link)?;
            if self.check(ifindex, hook, id)? == Some(LinkDrift::NotFirst) {
                return Err(KernelError::NotFirst { ifindex });
            }
        }
        Ok(())
    }

    /// Makes our program the first of a chain again, with no moment without it: a second link with a copy of the program
    /// goes in front, then the first is let go. (The kernel takes a program only once into a chain.)
    pub(crate) fn put_first(&mut self, ifindex: Ifindex, hook: Hook, copy: &Programs) -> Result<(), KernelError> {
        let (program, _) = copy.of(hook);
        let link = sys::link_create(program, ifindex.0, hook).map_err(on_device(ifindex, "attach"))?;
        self.pin(ifindex, hook, link)
    }

    /// Pins a held link again whose pin was removed.
    pub(crate) fn pin_again(&mut self, ifindex: Ifindex, hook: Hook) -> Result<(), KernelError> {
        let path = self.directory.join(name(ifindex, hook));
        match self.held.get(&(ifindex, hook)) {
            Some(link) => sys::object_pin(link.as_fd(), &path).map_err(at(&path, "pin")),
            None => Ok(()),
        }
    }

    /// What is wrong with a link, the worst first.
    pub(crate) fn check(&self, ifindex: Ifindex, hook: Hook, program: u32) -> Result<Option<LinkDrift>, KernelError> {
        let Some(link) = self.held.get(&(ifindex, hook)) else {
            return Ok(Some(LinkDrift::Gone));
        };
        let info = sys::link_info(link.as_fd()).map_err(on_device(ifindex, "read the link"))?;
        let chain = match sys::chain(ifindex.0, hook) {
            Ok(chain) => chain,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Vec::new(),
            Err(error) => return Err(on_device(ifindex, "read the chain")(error)),
        };
        let Some(place) = chain.iter().position(|attached| attached.link == info.id) else {
            return Ok(Some(LinkDrift::Gone));
        };
        Ok(if info.program != program {
            Some(LinkDrift::OtherProgram)
        } else if place != 0 {
            Some(LinkDrift::NotFirst)
        } else if !self.directory.join(name(ifindex, hook)).exists() {
            Some(LinkDrift::Unpinned)
        } else {
            None
        })
    }

    /// Detaches a device, or forgets one that is gone.
    pub(crate) fn detach(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        for hook in HOOKS {
            if let Some(link) = self.held.remove(&(ifindex, hook)) {
                sys::link_detach(link.as_fd()).map_err(on_device(ifindex, "detach"))?;
            }
            layout::unpin(&self.directory.join(name(ifindex, hook)))?;
        }
        Ok(())
    }

    /// Whether a device still has its links.
    pub(crate) fn is_attached(&self, ifindex: Ifindex) -> bool {
        HOOKS.into_iter().all(|hook| self.reports(ifindex, hook))
    }

    /// Whether no link reports the device any more.
    pub(crate) fn is_gone(&self, ifindex: Ifindex) -> bool {
        !HOOKS.into_iter().any(|hook| self.reports(ifindex, hook))
    }

    fn reports(&self, ifindex: Ifindex, hook: Hook) -> bool {
        let link = self.held.get(&(ifindex, hook));
        let info = link.map(|link| sys::link_info(link.as_fd()));
        matches!(info, Some(Ok(info)) if Ifindex(info.ifindex) == ifindex)
    }

    fn pin(&mut self, ifindex: Ifindex, hook: Hook, link: OwnedFd) -> Result<(), KernelError> {
        let path = self.directory.join(name(ifindex, hook));
        let new = incoming(&path);
        layout::unpin(&new)?;
        sys::object_pin(link.as_fd(), &new).map_err(at(&new, "pin"))?;
        layout::replace(&new, &path)?;
        self.held.insert((ifindex, hook), link);
        Ok(())
    }
}

/// Ends a replacement that was cut short: the new pin counts if its link is attached.
fn settle(directory: &Path, settled: &str) -> Result<(), KernelError> {
    let path = directory.join(settled);
    let new = incoming(&path);
    let link = sys::object_get(&new).map_err(at(&new, "open pin"))?;
    let info = sys::link_info(link.as_fd()).map_err(|_| KernelError::Foreign { path: new.clone() })?;
    if info.ifindex == 0 { layout::unpin(&new) } else { layout::replace(&new, &path) }
}

/// Name of a link's pin.
pub(crate) fn name(ifindex: Ifindex, hook: Hook) -> String {
    match hook {
        Hook::Ingress => format!("{ifindex}-from"),
        Hook::Egress => format!("{ifindex}-to"),
    }
}

/// What a pin's name says.
pub(crate) fn parse(name: &str) -> Option<(Ifindex, Hook)> {
    let (ifindex, side) = name.split_once('-')?;
    let hook = match side {
        "from" => Hook::Ingress,
        "to" => Hook::Egress,
        _ => return None,
    };
    Some((Ifindex(ifindex.parse().ok()?), hook))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pins_name_says_which_link_it_is() {
        for hook in HOOKS {
            assert_eq!(parse(&name(Ifindex(12), hook)), Some((Ifindex(12), hook)));
        }
        for stranger in ["12", "12-", "x-from", "12-from-new", "12-both"] {
            assert_eq!(parse(stranger), None, "{stranger}");
        }
    }
}
