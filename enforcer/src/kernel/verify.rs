//! Whether the kernel still holds what was put there, and putting it right. Input: what this process last stored. Output:
//! differences, in a fixed order.

use std::fmt;

use crate::kernel::control::Kernel;
use crate::kernel::error::KernelError;
use crate::kernel::hooks::attach::{HOOKS, LinkDrift};
use crate::kernel::hooks::programs::Programs;
use crate::kernel::pins::layout::{incoming, replace, unpin};
use crate::kernel::sys::{self, Hook, Map};

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
        ifindex: u32,
    },
    /// No link on a hook of a device: what passes there is not judged.
    NotAttached {
        /// Device.
        ifindex: u32,
        /// What the workload gets, and not what it sends.
        to_workload: bool,
    },
    /// The link is attached and its pin is gone: it would not outlive the daemon.
    LinkPin {
        /// Device.
        ifindex: u32,
        /// What the workload gets, and not what it sends.
        to_workload: bool,
    },
    /// The link runs another program.
    Program {
        /// Device.
        ifindex: u32,
        /// What the workload gets, and not what it sends.
        to_workload: bool,
    },
    /// Another program comes first and could let packets past ours.
    NotFirst {
        /// Device.
        ifindex: u32,
        /// What the workload gets, and not what it sends.
        to_workload: bool,
    },
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |to_workload: &bool| if *to_workload { "to" } else { "from" };
        match self {
            Self::Word => f.write_str("the policy word was changed"),
            Self::Image => f.write_str("the image in force is damaged"),
            Self::MapPin { name } => write!(f, "the pin of map {name} was removed"),
            Self::Endpoint { ifindex } => write!(f, "the endpoint of device {ifindex} was changed"),
            Self::NotAttached { ifindex, to_workload } => {
                write!(f, "device {ifindex} is not attached ({} its workload)", side(to_workload))
            }
            Self::LinkPin { ifindex, to_workload } => {
                write!(f, "a pin of device {ifindex} was removed ({} its workload)", side(to_workload))
            }
            Self::Program { ifindex, to_workload } => {
                write!(f, "device {ifindex} runs another program ({} its workload)", side(to_workload))
            }
            Self::NotFirst { ifindex, to_workload } => {
                write!(f, "another program comes first on device {ifindex} ({} its workload)", side(to_workload))
            }
        }
    }
}

impl Kernel {
    /// Compares the kernel with what this process last stored.
    pub fn verify(&self) -> Result<Vec<Drift>, KernelError> {
        let mut drifts = Vec::new();
        if self.globals.word() != self.word {
            drifts.push(Drift::Word);
        }
        if self.word.revision != 0 && self.slots.check(self.word).is_err() {
            drifts.push(Drift::Image);
        }
        for (name, map) in self.maps.all() {
            let pinned = Map::pinned(&self.layout.map(name));
            if !pinned.is_ok_and(|pinned| pinned.id() == map.id()) {
                drifts.push(Drift::MapPin { name });
            }
        }
        let changed = self.endpoints.drift()?;
        drifts.extend(changed.into_iter().map(|ifindex| Drift::Endpoint { ifindex }));
        for endpoint in self.endpoints.iter() {
            for hook in HOOKS {
                let (_, program) = self.programs.of(hook);
                let found = self.links.check(endpoint.ifindex, hook, program)?;
                drifts.extend(found.map(|found| name(found, endpoint.ifindex, hook)));
            }
        }
        Ok(drifts)
    }

    /// Puts differences right; gives those that it could not, with the reason.
    pub fn repair(&mut self, drifts: &[Drift]) -> Vec<(Drift, KernelError)> {
        let mut left = Vec::new();
        let mut copy = None;
        for drift in drifts {
            if let Err(error) = self.repair_one(drift, &mut copy) {
                left.push((drift.clone(), error));
            }
        }
        left
    }

    fn repair_one(&mut self, drift: &Drift, copy: &mut Option<Programs>) -> Result<(), KernelError> {
        match drift {
            Drift::Word => self.globals.set_word(self.word),
            Drift::Image => {
                self.slots.check(self.word)?;
            }
            Drift::MapPin { name } => {
                let path = self.layout.map(name);
                let new = incoming(&path);
                let held = self.maps.all().find(|(held, _)| held == name);
                if let Some((_, map)) = held {
                    unpin(&new)?;
                    sys::object_pin(map.fd(), &new).map_err(crate::kernel::error::at(&new, "pin"))?;
                    replace(&new, &path)?;
                }
            }
            Drift::Endpoint { ifindex } => self.endpoints.restore(*ifindex)?,
            Drift::NotAttached { ifindex, .. } | Drift::Program { ifindex, .. } => {
                self.links.attach(*ifindex, &self.programs)?;
            }
            Drift::LinkPin { ifindex, to_workload } => self.links.pin_again(*ifindex, hook(*to_workload))?,
            Drift::NotFirst { ifindex, to_workload } => {
                if copy.is_none() {
                    *copy = Some(Programs::load(&self.layout, &self.maps, &self.object)?);
                }
                if let Some(copy) = copy {
                    self.links.put_first(*ifindex, hook(*to_workload), copy)?;
                }
                self.links.attach(*ifindex, &self.programs)?;
            }
        }
        Ok(())
    }
}

fn hook(to_workload: bool) -> Hook {
    if to_workload { Hook::Egress } else { Hook::Ingress }
}

fn name(drift: LinkDrift, ifindex: u32, hook: Hook) -> Drift {
    let to_workload = hook == Hook::Egress;
    match drift {
        LinkDrift::Gone => Drift::NotAttached { ifindex, to_workload },
        LinkDrift::Unpinned => Drift::LinkPin { ifindex, to_workload },
        LinkDrift::OtherProgram => Drift::Program { ifindex, to_workload },
        LinkDrift::NotFirst => Drift::NotFirst { ifindex, to_workload },
    }
}
