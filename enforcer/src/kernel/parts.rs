//! The parts of the kernel side, and the order in which they are opened.
//!
//! Input: a configuration. Output: every part, either new or taken over from an earlier daemon. Each part keeps its state
//! private, and other files change it only through its methods.

use std::collections::BTreeSet;
use std::path::PathBuf;

use enforcer_common::id::Ifindex;
use enforcer_common::limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::kernel::error::KernelError;
use crate::kernel::hooks::{Hooks, Links, Object};
use crate::kernel::pins::Pins;
use crate::kernel::preflight;
use crate::kernel::tables::Tables;
use crate::plan::Incarnations;

/// How to open the kernel side.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Where everything is pinned.
    pub pin_dir: PathBuf,
    /// Entries of the flow table, if a new one is made. A pinned table keeps its size.
    pub flows: u32,
    /// Established flows of one workload in each direction.
    pub flow_quota: u32,
    /// Bytes that an ICMP error may have which passes with the flow that it quotes.
    pub icmp_error_bytes: u32,
    /// The programs on veths let packets to Services pass, which are judged behind the node's translation.
    pub judge_services: bool,
    /// An object that replaces the embedded one.
    pub object: Option<Vec<u8>>,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            pin_dir: PathBuf::from("/sys/fs/bpf/enforcer"),
            flows: limits::FLOWS,
            flow_quota: limits::FLOW_QUOTA,
            icmp_error_bytes: limits::ERROR_BYTES,
            judge_services: false,
            object: None,
        }
    }
}

/// Everything that is pinned in one directory, and who has which ids of it.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) pins: Pins,
    pub(super) hooks: Hooks,
    pub(super) tables: Tables,
    pub(super) incarnations: Incarnations,
    /// Packets to Services may pass the programs on veths.
    pub(super) judge_services: bool,
    /// Devices that lead to no workload, as they were last told: each should have a guard.
    pub(super) guarded: BTreeSet<Ifindex>,
}

impl Parts {
    /// Takes over the pins of an earlier daemon, or makes new ones.
    pub(super) fn open(config: &KernelConfig) -> Result<Self, KernelError> {
        preflight::check(&config.pin_dir)?;
        let object = Object::of(config.object.as_ref())?;
        raise_descriptor_limit();
        let pins = Pins::open(&config.pin_dir, preflight::namespace_cookie()?, config.flows)?;
        let links = Links::open(pins.layout())?;
        let mut tables = Tables::open(&pins, config.flow_quota, config.icmp_error_bytes)?;
        let hooks = Hooks::open(&pins, links, object)?;
        tables.keep_only(&hooks.devices())?;
        let mut supply = tables.supply(std::iter::empty());
        let incarnations = Incarnations::adopt(tables.endpoints(), |id| tables.place_of(id), &mut supply)?;
        tables.take(&supply);
        let guarded = hooks.guards();
        let judge_services = config.judge_services;
        Ok(Self { pins, hooks, tables, incarnations, judge_services, guarded })
    }
}

/// Two links of each veth, and one of each other device, are held open.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, limit = soft, "the limit of open files cannot be raised");
    }
}
