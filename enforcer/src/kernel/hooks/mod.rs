//! The programs that judge packets, and the links that attach them to devices.
//!
//! Input: the object and the pins. Output: every veth of the plan with both programs, and every other device with its guard,
//! each the first of its chain.

pub(crate) mod attach;
mod netfilter;
mod other;
mod own;
mod programs;
mod refused;
mod sweep;
pub(crate) mod tcx;

use std::borrow::Cow;
use std::collections::BTreeSet;

use enforcer_common::id::Ifindex;
use enforcer_common::side::Side;
use enforcer_common::sweep::SweepArguments;

pub use sweep::{Sweep, Swept};

pub use own::OwnLinks;

pub(crate) use attach::Links;

use attach::LinkDrift;
use netfilter::NetfilterLinks;
use programs::{EMBEDDED, Programs, Tick};

use crate::kernel::error::KernelError;
use crate::kernel::pins::Pins;

/// Flows that one run of the sweep deletes at most: where the kernel does not preempt itself, a run keeps every other task
/// off its CPU.
pub const SWEEP_CAP: u32 = 16_384;

/// The bpf object of this build; empty if it was built without a bpf compiler.
pub fn embedded_object() -> &'static [u8] {
    EMBEDDED
}

/// A bpf object, from which programs can be loaded.
#[derive(Debug)]
pub(crate) struct Object(Cow<'static, [u8]>);

impl Object {
    /// The embedded object, or another one in its place.
    pub(crate) fn of(other: Option<&Vec<u8>>) -> Result<Self, KernelError> {
        let object = match other {
            Some(object) => Cow::Owned(object.clone()),
            None => Cow::Borrowed(EMBEDDED),
        };
        if object.is_empty() { Err(KernelError::NoObject) } else { Ok(Self(object)) }
    }
}

/// Programs and links of one object.
#[derive(Debug)]
pub(crate) struct Hooks {
    links: Links,
    netfilter: NetfilterLinks,
    programs: Programs,
    object: Object,
}

/// The programs once more, loaded but not pinned, for a chain in which ours have lost their place.
#[derive(Debug, Default)]
pub(crate) struct Spare(Option<Programs>);

impl Hooks {
    /// Takes over the programs of this object, or loads and pins them.
    pub(crate) fn open(pins: &Pins, links: Links, object: Object) -> Result<Self, KernelError> {
        let netfilter = NetfilterLinks::open(pins.layout())?;
        let programs = Programs::open(pins.layout(), pins.maps(), &object.0)?;
        Ok(Self { links, netfilter, programs, object })
    }

    /// Which links are ours.
    pub(crate) fn own(&self) -> OwnLinks {
        self.links.own()
    }

    /// Veths of workloads with at least one link.
    pub(crate) fn devices(&self) -> BTreeSet<Ifindex> {
        self.links.devices()
    }

    /// Devices with a guard.
    pub(crate) fn guards(&self) -> BTreeSet<Ifindex> {
        self.links.guards()
    }

    /// Whether a veth still has its links.
    pub(crate) fn is_attached(&self, ifindex: Ifindex) -> bool {
        self.links.is_attached(ifindex)
    }

    /// Whether no link reports the veth any more.
    pub(crate) fn is_gone(&self, ifindex: Ifindex) -> bool {
        self.links.is_gone(ifindex)
    }

    /// Devices whose packets are judged by programs of another object, or over other maps.
    pub(crate) fn devices_of_others(&self) -> Result<BTreeSet<Ifindex>, KernelError> {
        self.links.devices_of_others(&self.programs)
    }

    /// Attaches what is missing on a veth, and puts these programs in the place of others.
    pub(crate) fn attach(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        self.links.attach(ifindex, &Side::OF_VETH, |side| self.programs.of(side))
    }

    /// Closes a veth for which there is no endpoint: both of its sides drop all but ARP, by a program that needs no map.
    pub(crate) fn close(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        self.links.attach(ifindex, &Side::OF_VETH, |_| self.programs.closed())
    }

    /// Attaches the guard to a device that leads to no workload, unless it is there.
    pub(crate) fn guard(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        self.links.attach(ifindex, &[Side::Guard], |side| self.programs.of(side))
    }

    /// Whether this kernel can judge packets behind the node's translation.
    pub(crate) fn can_judge_backends(&self) -> bool {
        self.programs.translated().is_some()
    }

    /// Whether the program behind the node's translation was attached anywhere.
    pub(crate) fn has_netfilter_links(&self) -> bool {
        self.netfilter.is_any()
    }

    /// Whether the program behind the node's translation is where it should be, if this kernel has one.
    pub(crate) fn is_behind_translation(&self) -> Result<bool, KernelError> {
        self.programs.translated().map_or(Ok(true), |(program, id)| self.netfilter.is_whole(program, id))
    }

    /// Attaches the program behind the node's translation wherever it is not. False: this kernel has none.
    pub(crate) fn attach_behind_translation(&mut self) -> Result<bool, KernelError> {
        let Some((program, id)) = self.programs.translated() else {
            return Ok(false);
        };
        self.netfilter.attach(program, id).map(|()| true)
    }

    /// Detaches a veth, or forgets one that is gone.
    pub(crate) fn detach(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        self.links.detach(ifindex, &Side::OF_VETH)
    }

    /// Takes the guard off a device, or forgets one that is gone.
    pub(crate) fn detach_guard(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        self.links.detach(ifindex, &[Side::Guard])
    }

    /// The worst fault of a link. With `any_program`, a link that runs another program than ours has no fault by that.
    pub(crate) fn check(
        &self,
        ifindex: Ifindex,
        side: Side,
        any_program: bool,
    ) -> Result<Option<LinkDrift>, KernelError> {
        let (_, program) = self.programs.of(side);
        self.links.check(ifindex, side, (!any_program).then_some(program))
    }

    /// The worst fault of a link of a veth that is closed.
    pub(crate) fn check_closed(&self, ifindex: Ifindex, side: Side) -> Result<Option<LinkDrift>, KernelError> {
        self.links.check(ifindex, side, Some(self.programs.closed().1))
    }

    /// Pins a link again whose pin was removed.
    pub(crate) fn pin_again(&mut self, ifindex: Ifindex, side: Side) -> Result<(), KernelError> {
        self.links.pin_again(ifindex, side)
    }

    /// Makes our program the first of a chain again. `spare` is loaded at the first need.
    pub(crate) fn put_first(
        &mut self,
        pins: &Pins,
        ifindex: Ifindex,
        side: Side,
        spare: &mut Spare,
    ) -> Result<(), KernelError> {
        let loaded = match spare.0.take() {
            Some(loaded) => loaded,
            None => Programs::load(pins.layout(), pins.maps(), &self.object.0)?,
        };
        self.links.put_first(ifindex, side, spare.0.insert(loaded))?;
        match side {
            Side::FromWorkload | Side::ToWorkload => self.attach(ifindex),
            Side::Guard => self.guard(ifindex),
        }
    }

    /// Removes the pins of other objects' programs.
    pub(crate) fn remove_other_programs(&self, pins: &Pins) -> Result<(), KernelError> {
        Programs::remove_others(pins.layout(), pins.maps(), &self.object.0)
    }

    /// Deletes idle flows and those of workloads that are gone, [`SWEEP_CAP`] at most.
    pub(crate) fn sweep(&self) -> Result<Swept, KernelError> {
        let tick = Tick::of_kernel()?;
        let arguments = SweepArguments {
            tick_shift: tick.shift,
            tick_ms: tick.milliseconds,
            cap: SWEEP_CAP,
            left_ms: SweepArguments::NEVER,
        };
        self.programs.sweep().run(arguments)
    }
}
