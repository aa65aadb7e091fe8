//! Which devices have tcx programs that are not ours, on the way of workloads to the node's stack.
//!
//! Input: the network view, and the kernel side, which knows its own programs. Output: a set for the store. The kernel tells of
//! no such change, so a device is looked at when it is new and then every few seconds.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enforcer_common::id::Ifindex;

use super::view::NetworkView;

/// How soon a program on a device that is known is noticed. Each look is one call for each device.
const LOOK: Duration = Duration::from_secs(5);

/// Knows the chains of tcx programs at the ingress of the node's devices.
pub trait Chains: fmt::Debug + Send + Sync {
    /// Whether a program is there that is not ours. What cannot be told is: no station depends on a guess.
    fn has_others(&self, device: Ifindex) -> bool;
}

/// What the last looks have found.
#[derive(Debug)]
pub(super) struct Looks {
    chains: Arc<dyn Chains>,
    found: BTreeMap<Ifindex, bool>,
    next: Instant,
}

impl Looks {
    pub(super) fn by(chains: Arc<dyn Chains>, now: Instant) -> Self {
        Self { chains, found: BTreeMap::new(), next: now + LOOK }
    }

    /// Looks at the devices that are new.
    pub(super) fn at_new(&mut self, view: &NetworkView) {
        let entrances = view.entrances();
        self.found.retain(|device, _| entrances.contains(device));
        for device in entrances {
            self.found.entry(device).or_insert_with(|| self.chains.has_others(device));
        }
    }

    /// Looks at all devices again if it is time to; tells whether something has changed.
    pub(super) fn again(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + LOOK;
        let mut news = false;
        for (device, found) in &mut self.found {
            news |= std::mem::replace(found, self.chains.has_others(*device)) != *found;
        }
        news
    }

    pub(super) fn others(&self) -> BTreeSet<Ifindex> {
        self.found.iter().filter(|(_, found)| **found).map(|(device, _)| *device).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::workload::view::{Kind, Link, VethPeer};

    #[derive(Debug, Default)]
    struct Fake {
        others: Mutex<BTreeSet<Ifindex>>,
        asked: Mutex<Vec<u32>>,
    }

    impl Chains for Fake {
        fn has_others(&self, device: Ifindex) -> bool {
            self.asked.lock().unwrap().push(device.0);
            self.others.lock().unwrap().contains(&device)
        }
    }

    fn link(master: Option<u32>, is_veth: bool) -> Link {
        let peer = is_veth.then_some(VethPeer { nsid: Some(1), index: 2, mac: None });
        let (name, kind) = (String::new(), Kind::Plain);
        Link { name, kind, master: master.map(Ifindex), below: None, peer, mac: None, xdp: false }
    }

    #[test]
    fn a_new_device_is_looked_at_at_once_and_all_of_them_every_few_seconds() {
        let fake = Arc::new(Fake::default());
        let start = Instant::now();
        let mut looks = Looks::by(Arc::<Fake>::clone(&fake), start);
        let asked = || std::mem::take(&mut *fake.asked.lock().unwrap());
        let mut view = NetworkView::default();
        view.links.extend([(Ifindex(2), link(None, false)), (Ifindex(3), link(None, false))]);
        view.links.insert(Ifindex(10), link(Some(2), true));
        fake.others.lock().unwrap().insert(Ifindex(2));
        looks.at_new(&view);
        assert_eq!((asked(), looks.others()), (vec![2, 10], [Ifindex(2)].into()), "the veth and its bridge");

        view.links.insert(Ifindex(11), link(None, true));
        fake.others.lock().unwrap().insert(Ifindex(10));
        looks.at_new(&view);
        assert!(!looks.again(start + LOOK / 2), "it is too early");
        assert_eq!((asked(), looks.others()), (vec![11], [Ifindex(2)].into()));

        assert!(looks.again(start + LOOK));
        assert_eq!((asked(), looks.others()), (vec![2, 10, 11], [Ifindex(2), Ifindex(10)].into()));
        assert!(!looks.again(start + 2 * LOOK), "no news");

        view.links.remove(&Ifindex(10));
        looks.at_new(&view);
        assert_eq!(looks.others(), [].into());
    }
}
