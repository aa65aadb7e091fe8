//! Compares the kernel with what this process last stored there, and repairs differences. Input: what was stored. Output: the
//! differences, in a fixed order.

use std::fmt;

use enforcer_common::id::Ifindex;
use enforcer_common::side::Side;

use crate::kernel::error::KernelError;
use crate::kernel::hooks::Spare;
use crate::kernel::hooks::attach::LinkDrift;
use crate::kernel::hooks::tcx::device_exists;
use crate::kernel::parts::Parts;

/// One difference.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Drift {
    /// The word is another one.
    Word,
    /// The image in force is damaged: the next plan replaces it.
    Image,
    /// The pin of a map is gone or another's.
    MapPin {
        /// Map.
        name: &'static str,
    },
    /// An endpoint is not as it was stored.
    Endpoint {
        /// Device.
        ifindex: Ifindex,
    },
    /// The homes of local workloads are not as they were stored.
    Homes,
    /// The veths of addresses of local workloads are not as they were stored.
    Veths,
    /// What a workload sends to a Service is not judged behind the node's translation.
    Backends,
    /// No link on a hook of a device: what passes there is not judged.
    NotAttached {
        /// Device.
        ifindex: Ifindex,
        /// Side.
        side: Side,
    },
    /// The link is attached and its pin is gone: it would not outlive the daemon.
    LinkPin {
        /// Device.
        ifindex: Ifindex,
        /// Side.
        side: Side,
    },
    /// The link runs another program.
    Program {
        /// Device.
        ifindex: Ifindex,
        /// Side.
        side: Side,
    },
    /// Another program comes first and could let packets past ours.
    NotFirst {
        /// Device.
        ifindex: Ifindex,
        /// Side.
        side: Side,
    },
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word => f.write_str("the policy word was changed"),
            Self::Image => f.write_str("the image in force is damaged"),
            Self::MapPin { name } => write!(f, "the pin of map {name} was removed"),
            Self::Endpoint { ifindex } => write!(f, "the endpoint of device {ifindex} was changed"),
            Self::Homes => f.write_str("the devices by which packets of workloads may come in were changed"),
            Self::Veths => f.write_str("the veths by which workloads are judged behind translation were changed"),
            Self::Backends => f.write_str("the program behind the node's translation was detached"),
            Self::NotAttached { ifindex, side } => write!(f, "device {ifindex} has no program {}", packets(*side)),
            Self::LinkPin { ifindex, side } => {
                write!(f, "the pin of device {ifindex} {} was removed", packets(*side))
            }
            Self::Program { ifindex, side } => write!(f, "device {ifindex} runs another program {}", packets(*side)),
            Self::NotFirst { ifindex, side } => {
                write!(f, "another program comes first on device {ifindex}, {}", packets(*side))
            }
        }
    }
}

/// Which packets the program of a side judges.
fn packets(side: Side) -> &'static str {
    match side {
        Side::FromWorkload => "for packets from its workload",
        Side::ToWorkload => "for packets to its workload",
        Side::Guard => "against spoofed packets",
    }
}

impl Parts {
    /// Whether a plan of this build has attached the program behind translation: before the first one it is missing.
    fn has_judged_backends(&self) -> bool {
        self.hooks.has_netfilter_links()
    }

    /// Compares the kernel with what this process last stored.
    pub(super) fn verify(&self) -> Result<Vec<Drift>, KernelError> {
        let mut drifts = Vec::new();
        if self.tables.word_in_force() != self.tables.word() {
            drifts.push(Drift::Word);
        }
        if !self.awaits_image() && self.tables.check_image().is_err() {
            drifts.push(Drift::Image);
        }
        drifts.extend(self.pins.lost().into_iter().map(|name| Drift::MapPin { name }));
        let changed = self.tables.changed_endpoints()?;
        drifts.extend(changed.into_iter().map(|ifindex| Drift::Endpoint { ifindex }));
        if self.tables.changed_homes()? {
            drifts.push(Drift::Homes);
        }
        if self.tables.changed_veths()? {
            drifts.push(Drift::Veths);
        }
        if self.has_judged_backends() && !self.awaits_image() && !self.hooks.is_behind_translation()? {
            drifts.push(Drift::Backends);
        }
        for endpoint in self.tables.endpoints() {
            for side in Side::OF_VETH {
                // Older programs judge by their own image until the first one of this build is in force.
                let found = self.hooks.check(endpoint.ifindex, side, self.awaits_image())?;
                drifts.extend(found.map(|found| name(found, endpoint.ifindex, side)));
            }
        }
        for ifindex in self.closed() {
            for side in Side::OF_VETH {
                let found = self.hooks.check_closed(ifindex, side)?;
                drifts.extend(found.map(|found| name(found, ifindex, side)));
            }
        }
        for ifindex in &self.guarded {
            let found = self.hooks.check(*ifindex, Side::Guard, false)?;
            // A device that is gone needs no guard, and the next snapshot does not name it.
            if let Some(found) = found
                && device_exists(*ifindex)?
            {
                drifts.push(name(found, *ifindex, Side::Guard));
            }
        }
        Ok(drifts)
    }

    /// Repairs differences, and gives each that it could not repair with the error.
    pub(super) fn repair(&mut self, drifts: &[Drift]) -> Vec<(Drift, KernelError)> {
        let mut left = Vec::new();
        let mut spare = Spare::default();
        for drift in drifts {
            if let Err(error) = self.repair_one(drift, &mut spare) {
                left.push((drift.clone(), error));
            }
        }
        left
    }

    fn repair_one(&mut self, drift: &Drift, spare: &mut Spare) -> Result<(), KernelError> {
        match drift {
            Drift::Word => {
                self.tables.restore_word();
                Ok(())
            }
            Drift::Image => self.tables.check_image(),
            Drift::MapPin { name } => self.pins.pin_again(name),
            Drift::Endpoint { ifindex } => self.tables.restore_endpoint(*ifindex),
            Drift::Homes => self.tables.restore_homes(),
            Drift::Veths => self.tables.restore_veths(),
            Drift::Backends => self.judge_backends(),
            Drift::NotAttached { ifindex, side: Side::Guard } | Drift::Program { ifindex, side: Side::Guard } => {
                self.hooks.guard(*ifindex)
            }
            Drift::NotAttached { ifindex, .. } | Drift::Program { ifindex, .. }
                if !self.tables.has_endpoint(*ifindex) =>
            {
                self.hooks.close(*ifindex)
            }
            Drift::NotAttached { ifindex, .. } | Drift::Program { ifindex, .. } => {
                self.close_until_image(*ifindex)?;
                self.hooks.attach(*ifindex)
            }
            Drift::LinkPin { ifindex, side } => self.hooks.pin_again(*ifindex, *side),
            Drift::NotFirst { ifindex, side } => {
                self.close_until_image(*ifindex)?;
                self.hooks.put_first(&self.pins, *ifindex, *side, spare)
            }
        }
    }
}

fn name(drift: LinkDrift, ifindex: Ifindex, side: Side) -> Drift {
    match drift {
        LinkDrift::Gone => Drift::NotAttached { ifindex, side },
        LinkDrift::Unpinned => Drift::LinkPin { ifindex, side },
        LinkDrift::OtherProgram => Drift::Program { ifindex, side },
        LinkDrift::NotFirst => Drift::NotFirst { ifindex, side },
    }
}
