//! The tables of addresses beside the image: what something else has changed in them is seen and put right.

#![allow(clippy::unwrap_used, reason = "part of tests, though the lint cannot tell")]

mod kernel_support;

use std::collections::BTreeMap;
use std::slice;

use aya::maps::{HashMap, Map, MapData};
use enforcer::kernel::{Drift, Kernel};
use enforcer_common::image::Cell;
use kernel_support::{ISOLATED, Rig, TestImage, apply, with_rig};

/// Changes a table of addresses in each way that leaves it another one, and repairs it each time.
fn disturb<const KEY: usize>(rig: &Rig, kernel: &mut Kernel, name: &str, drift: &Drift) {
    let map = Map::HashMap(MapData::from_pin(rig.pins().join("maps").join(name)).unwrap());
    let mut table = HashMap::<_, [u8; KEY], u32>::try_from(map).unwrap();
    let own: BTreeMap<[u8; KEY], u32> = table.iter().map(Result::unwrap).collect();
    let (first, value) = own.first_key_value().map(|(key, value)| (*key, *value)).unwrap();
    let stranger = [7; KEY];
    for (what, missing, more) in [
        ("one more", false, Some(stranger)),
        ("one less", true, None),
        ("one in another one's place", true, Some(stranger)),
    ] {
        if missing {
            table.remove(&first).unwrap();
        }
        if let Some(more) = more {
            table.insert(more, value, 0).unwrap();
        }
        assert_eq!(kernel.verify().unwrap(), slice::from_ref(drift), "{name}: {what}");
        assert_eq!(kernel.repair(slice::from_ref(drift)).len(), 0);
        assert_eq!(table.iter().map(Result::unwrap).collect::<BTreeMap<_, _>>(), own, "{name}: {what}");
        // The second look goes by what the first has found.
        for _ in 0..2 {
            assert_eq!(kernel.verify().unwrap(), [], "{name}: {what}");
        }
    }
}

#[test]
fn a_table_of_addresses_that_something_else_has_changed_is_as_before_again() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        assert_eq!(kernel.verify().unwrap(), []);
        disturb::<20>(rig, &mut kernel, "HOMES", &Drift::Homes);
        disturb::<16>(rig, &mut kernel, "VETHS", &Drift::Veths);
        // An address that leads to another veth.
        let map = Map::HashMap(MapData::from_pin(rig.pins().join("maps/VETHS")).unwrap());
        let mut veths = HashMap::<_, [u8; 16], u32>::try_from(map).unwrap();
        let (address, veth) = veths.iter().next().unwrap().unwrap();
        veths.insert(address, veth + 1, 0).unwrap();
        assert_eq!(kernel.verify().unwrap(), [Drift::Veths]);
        assert_eq!(kernel.repair(&[Drift::Veths]).len(), 0);
        assert_eq!((kernel.verify().unwrap(), veths.get(&address, 0).unwrap()), (vec![], veth));
    });
}
