//! The program behind the node's translation of destinations, and its links in netfilter (D5).
//!
//! Input: the object, the maps and the kernel's types. Output: the program, attached in both families where packets are
//! forwarded and where they reach the node itself. There the node has chosen the backend of a Service, and has not yet hidden
//! the sender. A kernel without netfilter links, or with other structures than the program knows, has no such program: then no
//! image names a Service, and a packet to one is judged by its address.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::kernel::btf::KernelTypes;
use crate::kernel::error::{KernelError, at};
use crate::kernel::hooks::other;
use crate::kernel::pins::layout::{self, Layout, incoming};
use crate::kernel::sys::{self, NetfilterHook, ProgramType};

/// Name of the program in the object.
pub(super) const NAME: &str = "translated";
/// First part of the name of each of its links.
pub(super) const PREFIX: &str = "netfilter-";

/// Behind the filters of the node (0), before anybody translates sources (100) and before IPVS takes a packet (98). Two, because
/// the kernel replaces no program of a netfilter link: the next one is attached beside the last, which then goes.
const PRIORITIES: [i32; 2] = [71, 72];

/// Where it is attached: name of the pin, family and hook.
const PLACES: [(&str, u32, u32); 4] = [
    ("netfilter-v4-forward", NFPROTO_IPV4, FORWARD),
    ("netfilter-v4-input", NFPROTO_IPV4, LOCAL_IN),
    ("netfilter-v6-forward", NFPROTO_IPV6, FORWARD),
    ("netfilter-v6-input", NFPROTO_IPV6, LOCAL_IN),
];
const NFPROTO_IPV4: u32 = 2;
const NFPROTO_IPV6: u32 = 10;
const LOCAL_IN: u32 = 1;
const FORWARD: u32 = 2;

/// Bytes of `struct nf_conntrack_tuple_hash`, as the program reads it.
const TUPLE_HASH: u32 = 56;
/// Offset of the tuple in it.
const TUPLE_AT: u32 = 16;
/// Bytes of the tuple, of which the destination starts at [`DESTINATION_AT`].
const TUPLE: u32 = 40;
const DESTINATION_AT: u32 = 20;

/// Loads the program. An error: this kernel cannot run it.
pub(super) fn load(
    object: &[u8],
    maps: &BTreeMap<&str, BorrowedFd<'_>>,
    tick_shift: u32,
) -> Result<OwnedFd, KernelError> {
    let [a, b, c, d] = constants(&KernelTypes::read("nf_conntrack")?)?;
    other::load(object, NAME, ProgramType::Netfilter, maps, &[a, b, c, d, ("TICK_SHIFT", tick_shift)])
}

/// Where the fields lie that the program reads.
fn constants(types: &KernelTypes) -> Result<[(&'static str, u32); 4], KernelError> {
    let names = ["sk_buff", "nf_conn", "nf_conntrack_tuple_hash", "nf_conntrack_tuple"];
    let found = types.structures(names);
    let [Some(buffer), Some(connection), Some(hash), Some(tuple)] = found else {
        let missing = names.into_iter().zip(&found).find(|(_, structure)| structure.is_none());
        return Err(KernelError::UnknownStructure { name: missing.map_or("nf_conn", |(name, _)| name) });
    };
    let of_buffer = |field| buffer.offset(field).ok_or(KernelError::UnknownStructure { name: "sk_buff" });
    let tuples = connection.offset("tuplehash");
    let is_known = hash.size == TUPLE_HASH
        && hash.offset("tuple") == Some(TUPLE_AT)
        && tuple.size == TUPLE
        && tuple.offset("dst") == Some(DESTINATION_AT)
        && tuples.is_some_and(|tuples| connection.offset("status") == Some(tuples + 2 * TUPLE_HASH));
    let (true, Some(tuples)) = (is_known, tuples) else {
        return Err(KernelError::UnknownStructure { name: "nf_conn" });
    };
    Ok([
        ("SKB_NFCT", of_buffer("_nfct")?),
        ("SKB_HEAD", of_buffer("head")?),
        ("SKB_NETWORK_HEADER", of_buffer("network_header")?),
        ("CONN_TUPLES", tuples),
    ])
}

/// The links, held open so that they stay even if somebody removes the pins.
#[derive(Debug)]
pub(super) struct NetfilterLinks {
    directory: PathBuf,
    held: BTreeMap<&'static str, OwnedFd>,
}

impl NetfilterLinks {
    /// Takes over the links that are pinned.
    pub(super) fn open(layout: &Layout) -> Result<Self, KernelError> {
        let directory = layout.links();
        let mut held = BTreeMap::new();
        for (name, ..) in PLACES {
            let path = directory.join(name);
            layout::unpin(&incoming(&path))?;
            match sys::object_get(&path) {
                Ok(link) => {
                    held.insert(name, link);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(at(&path, "open pin")(error)),
            }
        }
        Ok(Self { directory, held })
    }

    /// Attaches the program wherever it is not, and takes off the program of another object.
    pub(super) fn attach(&mut self, program: BorrowedFd<'_>, id: u32) -> Result<(), KernelError> {
        for (name, family, hook) in PLACES {
            let priority = match self.held.get(name).map(|link| sys::netfilter_info(link.as_fd())) {
                // A link that was detached by force does not say so, but the kernel lets nobody in where one still is.
                Some(Ok((place, found))) if found == id => place.priority,
                Some(Ok((place, _))) => {
                    PRIORITIES.into_iter().find(|other| *other != place.priority).unwrap_or_default()
                }
                Some(Err(source)) => return Err(KernelError::System { call: "read a netfilter link", source }),
                None => PRIORITIES[0],
            };
            match sys::netfilter_create(program, NetfilterHook { family, hook, priority }) {
                Ok(link) => self.pin(name, link)?,
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && self.runs(name, id) => {
                    self.pin_again(name)?;
                }
                Err(error) => return Err(attach_failed(error)),
            }
        }
        Ok(())
    }

    /// Whether there is a link.
    pub(super) fn is_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether the program is attached everywhere, and every link is pinned.
    pub(super) fn is_whole(&self, program: BorrowedFd<'_>, id: u32) -> Result<bool, KernelError> {
        for (name, ..) in PLACES {
            let Some(link) = self.held.get(name) else { return Ok(false) };
            let (place, found) = sys::netfilter_info(link.as_fd())
                .map_err(|source| KernelError::System { call: "read a netfilter link", source })?;
            if found != id || !self.directory.join(name).exists() {
                return Ok(false);
            }
            match sys::netfilter_create(program, place) {
                // It is let go at once. For a moment it judges what the lost one would have.
                Ok(_) => return Ok(false),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(attach_failed(error)),
            }
        }
        Ok(true)
    }

    /// Whether the link that is held for a place runs this program.
    fn runs(&self, name: &str, id: u32) -> bool {
        let info = self.held.get(name).map(|link| sys::netfilter_info(link.as_fd()));
        matches!(info, Some(Ok((_, program))) if program == id)
    }

    fn pin_again(&self, name: &str) -> Result<(), KernelError> {
        let path = self.directory.join(name);
        match self.held.get(name) {
            Some(link) if !path.exists() => sys::object_pin(link.as_fd(), &path).map_err(at(&path, "pin")),
            Some(_) | None => Ok(()),
        }
    }

    fn pin(&mut self, name: &'static str, link: OwnedFd) -> Result<(), KernelError> {
        let path = self.directory.join(name);
        let new = incoming(&path);
        layout::unpin(&new)?;
        sys::object_pin(link.as_fd(), &new).map_err(at(&new, "pin"))?;
        layout::replace(&new, &path)?;
        if let Some(before) = self.held.insert(name, link) {
            sys::link_detach(before.as_fd()).map_err(attach_failed)?;
        }
        Ok(())
    }
}

fn attach_failed(source: std::io::Error) -> KernelError {
    KernelError::System { call: "attach to netfilter", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_the_structures_that_the_program_reads() {
        let constants = constants(&KernelTypes::read("nf_conntrack").unwrap()).unwrap();
        let places: std::collections::BTreeSet<u32> = constants.iter().map(|(_, offset)| *offset).collect();
        assert_eq!(places.len(), constants.len(), "four fields at four places: {constants:?}");
    }

    #[test]
    fn each_pin_has_the_prefix_by_which_other_links_are_told_from_it() {
        assert!(PLACES.iter().all(|(name, ..)| name.starts_with(PREFIX)));
    }
}
