//! What outlives the daemon, what the next one makes of it, and what a purge leaves.

#![allow(clippy::unwrap_used, reason = "part of tests, though the lint cannot tell")]

mod kernel_support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::process::Command;

use aya::EbpfLoader;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use enforcer::kernel::{Drift, Kernel, KernelConfig, KernelError, purge, status};
use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::{Ifindex, Revision, Row};
use enforcer_common::image::Cell;
use enforcer_common::limits;
use enforcer_common::schema::{self, Group};
use enforcer_common::side::Side;
use enforcer_tests::net::{inside, sh};
use kernel_support::{A, B, ISOLATED, KEY_A, KEY_B, Rig, TestImage, address, apply, chain, tree, with_rig};

#[test]
fn a_restart_takes_over_everything_and_enforcement_never_stops() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        assert_eq!(kernel.adopted(), []);
        let first = apply(&mut kernel, &deny.plan(ISOLATED));
        let before = status::read(&rig.config.pin_dir).unwrap();
        assert!(before.daemon);
        let pins = tree(&rig.config.pin_dir);
        drop(kernel);

        assert_eq!(rig.arrive(80, 2), 0, "no daemon, still enforced");
        let between = status::read(&rig.config.pin_dir).unwrap();
        assert!(!between.daemon);
        assert_eq!(between.endpoints, before.endpoints);

        let mut kernel = rig.open();
        assert_eq!(kernel.revision(), first.word);
        let adopted: Vec<Ifindex> = kernel.adopted().iter().map(|endpoint| endpoint.ifindex).collect();
        assert_eq!(adopted, [A, B]);
        assert_eq!(kernel.verify().unwrap(), []);
        let mut plan = deny.plan(ISOLATED);
        for workload in &mut plan.workloads {
            workload.key.0 += 1000;
        }
        let second = apply(&mut kernel, &plan);
        assert_eq!(second.word.revision, Revision(first.word.revision.0 + 1));
        assert!(first.ids.values().eq(second.ids.values()), "workloads keep their ids by their veths");
        let after = status::read(&rig.config.pin_dir).unwrap();
        let links = |view: &status::StatusView| -> Vec<_> {
            view.endpoints.iter().map(|endpoint| (endpoint.from, endpoint.to)).collect()
        };
        assert_eq!(links(&after), links(&before));
        assert!(after.endpoints.iter().all(|endpoint| endpoint.from.first && endpoint.to.first));
        let mut expected = pins;
        let policy = rig.group(Group::Policy);
        expected.extend([policy.join("addresses/0"), policy.join("image/0")]);
        expected.sort();
        assert_eq!(tree(&rig.config.pin_dir), expected, "nothing but the second slot has come");
        assert_eq!(rig.arrive(80, 2), 0);

        // Another configured size: the pinned table stays, with its flows.
        drop(kernel);
        let larger = KernelConfig { flows: 8192, ..rig.config.clone() };
        drop(Kernel::open(&larger).unwrap());
        assert_eq!(status::read(&rig.config.pin_dir).unwrap().flow_room, 4096);
    });
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_stays_enforced() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        let second = Kernel::open(&rig.config).unwrap_err();
        assert!(matches!(second, KernelError::Busy { .. }), "{second}");
        let busy = purge(&rig.config.pin_dir).unwrap_err();
        assert!(matches!(busy[..], [KernelError::Busy { .. }]), "{busy:?}");
        drop(kernel);

        let refused = |what: &str| {
            let error = Kernel::open(&rig.config).unwrap_err();
            assert!(error.to_string().contains(what), "{what}: {}", chain(&error));
            assert_eq!(rig.arrive(80, 1), 0, "{what}");
        };
        let maps = rig.pins().join("maps");
        fs::rename(maps.join("UPLINKS"), maps.join("aside")).unwrap();
        fs::rename(maps.join("QUOTAS"), maps.join("UPLINKS")).unwrap();
        refused("pinned map UPLINKS: type is 2, expected 1");
        fs::rename(maps.join("UPLINKS"), maps.join("QUOTAS")).unwrap();
        fs::rename(maps.join("aside"), maps.join("UPLINKS")).unwrap();

        for other in ["abi-2", "flows-999"] {
            fs::create_dir(rig.config.pin_dir.join(other)).unwrap();
            refused(&format!("holds pins of {other}"));
            fs::remove_dir(rig.config.pin_dir.join(other)).unwrap();
        }

        let image = rig.group(Group::Policy).join("image");
        fs::rename(image.join("1"), image.join("kept")).unwrap();
        refused("the image of revision 1 in slot 1 is damaged");
        fs::rename(image.join("kept"), image.join("1")).unwrap();

        let maps = rig.group(Group::Policy).join("maps");
        fs::rename(maps.join("IMAGE_STARTS"), maps.join("aside")).unwrap();
        refused("the copy of its first lines is another image's");
        fs::rename(maps.join("aside"), maps.join("IMAGE_STARTS")).unwrap();

        let stub = KernelConfig { object: Some(Vec::new()), ..rig.config.clone() };
        assert!(matches!(Kernel::open(&stub), Err(KernelError::NoObject)));
        let elsewhere = tempfile::tempdir().unwrap();
        let no_bpffs = KernelConfig { pin_dir: elsewhere.path().join("pins"), ..rig.config.clone() };
        let error = Kernel::open(&no_bpffs).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        inside(&rig.a, || {
            let error = Kernel::open(&rig.config).unwrap_err();
            assert!(matches!(error, KernelError::OtherNamespace { .. }), "{error}");
        });
        drop(rig.open());
    });
}

#[test]
fn a_pin_directory_that_another_user_made_is_refused_by_its_owner() {
    const NOBODY: u32 = 65_534;
    with_rig(|rig| {
        let pins = &rig.config.pin_dir;
        let parent = pins.parent().unwrap();
        assert_eq!(fs::metadata(parent).unwrap().mode() & 0o002, 0o002, "as it is mounted, anybody can make one");
        fs::create_dir(pins).unwrap();
        chown(pins, Some(NOBODY), None).unwrap();
        let error = Kernel::open(&rig.config).unwrap_err();
        assert!(matches!(error, KernelError::ForeignOwner { owner: NOBODY, .. }), "{error}");
        let message = error.to_string();
        for part in
            ["user 65534 (nobody)", &pins.display().to_string(), "rm -r", &format!("write to {}", parent.display())]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
        let errors = purge(pins).unwrap_err();
        assert!(matches!(&errors[..], [KernelError::ForeignOwner { .. }]), "{errors:?}");
        fs::remove_dir(pins).unwrap();
        drop(rig.open());
    });
}

#[test]
fn a_plan_that_cannot_be_leaves_the_last_one_in_force() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let first = apply(&mut kernel, &deny.plan(ISOLATED));
        let mut allow = TestImage::new(Cell::Allow);
        let error = kernel.apply(&allow.plan(Row(9))).unwrap_err();
        assert!(matches!(error, KernelError::InvalidImage { .. }), "{error}");
        let mut plan = allow.plan(ISOLATED);
        plan.uplinks = (1..=257).map(Ifindex).collect();
        let error = kernel.apply(&plan).unwrap_err();
        assert!(matches!(error, KernelError::NoRoom { what: "uplinks", .. }), "{error}");
        let _ = allow.addresses.pop();
        let error = kernel.apply(&allow.plan(ISOLATED)).unwrap_err();
        assert!(matches!(error, KernelError::InvalidImage { .. }), "{error}");
        assert_eq!(kernel.revision(), first.word);
        assert_eq!(rig.arrive(80, 2), 0);
        assert_eq!(kernel.verify().unwrap(), []);
    });
}

#[test]
fn another_object_replaces_the_programs_under_the_same_links() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let first = apply(&mut kernel, &deny.plan(ISOLATED));
        let before = status::read(&rig.config.pin_dir).unwrap();
        let programs = tree(&rig.pins().join("programs"));
        drop(kernel);
        let mut object = fs::read(env!("ENFORCER_BPF_OBJECT")).unwrap();
        object.push(0);
        let upgrade = KernelConfig { object: Some(object), ..rig.config.clone() };
        let mut kernel = Kernel::open(&upgrade).unwrap();
        assert_eq!(kernel.revision(), first.word);
        assert_eq!(rig.arrive(80, 1), 0, "the old programs run on until the first plan");
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        assert_eq!(kernel.verify().unwrap(), []);
        let after = status::read(&rig.config.pin_dir).unwrap();
        for (old, new) in before.endpoints.iter().zip(&after.endpoints) {
            assert_eq!((old.from, old.to), (new.from, new.to));
        }
        let now = tree(&rig.pins().join("programs"));
        assert_eq!(now.len(), programs.len());
        assert!(now.iter().all(|path| !programs.contains(path)), "{now:?}");
        assert_eq!(rig.arrive(80, 1), 0);
    });
}

#[test]
fn a_device_that_took_a_gone_ones_number_is_not_taken_over() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let first = apply(&mut kernel, &deny.plan(ISOLATED));
        drop(kernel);
        sh("ip link del va");
        rig.plug_a();
        let mut kernel = rig.open();
        let adopted: Vec<Ifindex> = kernel.adopted().iter().map(|endpoint| endpoint.ifindex).collect();
        assert_eq!(adopted, [B]);
        assert!(!rig.pins().join(format!("links/{A}-from")).exists());
        let second = apply(&mut kernel, &deny.plan(ISOLATED));
        assert_ne!(second.ids[&kernel_support::KEY_A], first.ids[&kernel_support::KEY_A]);
        assert_eq!(second.ids[&kernel_support::KEY_B], first.ids[&kernel_support::KEY_B]);
        assert_eq!(kernel.verify().unwrap(), []);
        assert_eq!(rig.arrive(80, 1), 0);
    });
}

#[test]
fn lost_pins_are_made_again_under_the_same_links() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let first = apply(&mut kernel, &deny.plan(ISOLATED));
        let before = status::read(&rig.config.pin_dir).unwrap().endpoints;
        drop(kernel);
        for row in [schema::GLOBALS, schema::ENDPOINTS, schema::IMAGES] {
            fs::remove_file(rig.group(row.group).join("maps").join(row.name)).unwrap();
        }
        assert_eq!(rig.arrive(80, 1), 0, "the programs hold the maps");
        let mut kernel = rig.open();
        let adopted: Vec<Ifindex> = kernel.adopted().iter().map(|endpoint| endpoint.ifindex).collect();
        assert_eq!(adopted, [B], "A stood in the array that was lost");
        assert_eq!(rig.arrive(80, 1), 0);
        let second = apply(&mut kernel, &deny.plan(ISOLATED));
        let highest = first.ids.values().max().unwrap();
        assert!(second.ids[&kernel_support::KEY_A] > *highest, "no id is given twice");
        assert_eq!(kernel.verify().unwrap(), []);
        let after = status::read(&rig.config.pin_dir).unwrap().endpoints;
        for (old, new) in before.iter().zip(&after) {
            assert_eq!((old.from, old.to), (new.from, new.to));
        }
        assert_eq!(rig.arrive(80, 1), 0);
        // B is found in the hash, though nothing stood in its place of the new array.
        drop(kernel);
        fs::remove_file(rig.pins().join("maps/ENDPOINTS")).unwrap();
        sh("ip link del va");
        let mut kernel = rig.open();
        // Nobody has A's address any more.
        let deny = deny.without("10.0.1.2");
        let mut plan = deny.plan(Row::NOT_ISOLATED);
        plan.workloads.remove(0);
        let _ = apply(&mut kernel, &plan);
        rig.plug_a();
        assert!((0..50).any(|_| rig.arrive(80, 1) == 1));
    });
}

#[test]
fn drift_is_seen_and_repaired() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        let object = fs::read(env!("ENFORCER_BPF_OBJECT")).unwrap_or_default();
        assert!(!object.is_empty(), "no bpf object");
        fs::remove_file(rig.pins().join(format!("links/{A}-from"))).unwrap();
        fs::remove_file(rig.pins().join("maps/FLOWS")).unwrap();
        let endpoints = Map::Array(MapData::from_pin(rig.pins().join("maps/ENDPOINTS")).unwrap());
        let mut endpoints = Array::<_, Endpoint>::try_from(endpoints).unwrap();
        endpoints.set(A.0, Endpoint::FREE, 0).unwrap();
        let mut stranger = EbpfLoader::new().map_max_entries("FLOWS", 16).load(&object).unwrap();
        let program: &mut SchedClassifier = stranger.program_mut("to_workload").unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach_with_options("vb", TcAttachType::Egress, TcAttachOptions::TcxOrder(LinkOrder::first())).unwrap();

        let drifts = kernel.verify().unwrap();
        assert_eq!(
            drifts,
            [
                Drift::MapPin { name: "FLOWS" },
                Drift::Endpoint { ifindex: A },
                Drift::LinkPin { ifindex: A, side: Side::FromWorkload },
                Drift::NotFirst { ifindex: B, side: Side::ToWorkload },
            ]
        );
        let left = kernel.repair(&drifts);
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(kernel.verify().unwrap(), []);
        assert_eq!(rig.arrive(80, 2), 0);
    });
}

/// Detaches both links of B until it has done so `rounds` times.
fn detach_b(rig: &Rig, rounds: usize) {
    for _ in 0..rounds {
        for side in Side::OF_VETH {
            let pin = rig.pins().join("links").join(format!("{B}-{}", side.pin()));
            // The pin is missing while it is made anew.
            let _ = Command::new("bpftool").args(["link", "detach", "pinned"]).arg(pin).output().unwrap();
        }
    }
}

#[test]
fn a_veth_whose_links_are_detached_while_a_plan_comes_into_force_is_attached_again() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        detach_b(rig, 1);
        assert_eq!(rig.arrive(80, 1), 1, "a detached program still judges");
        assert_eq!(kernel.forget_gone().unwrap(), BTreeSet::new());
        std::thread::scope(|scope| {
            let detaching = scope.spawn(|| detach_b(rig, 100));
            while !detaching.is_finished() {
                // A device that loses its links between two steps may make a step fail, but not be forgotten.
                let _ = kernel.apply(&deny.plan(ISOLATED)).unwrap();
                assert_eq!(kernel.endpoints(), [A, B].into());
            }
        });
        let left = kernel.repair(&kernel.verify().unwrap());
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(rig.arrive(80, 2), 0);
    });
}

#[test]
fn a_purge_leaves_nothing_of_ours_and_everything_else() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        drop(kernel);
        let stranger = rig.config.pin_dir.join("stranger");
        fs::create_dir(&stranger).unwrap();
        let errors = purge(&rig.config.pin_dir).unwrap_err();
        assert!(matches!(&errors[..], [KernelError::Foreign { path }] if *path == stranger), "{errors:?}");
        assert_eq!(tree(&rig.config.pin_dir), std::slice::from_ref(&stranger));
        assert_eq!(rig.arrive(80, 2), 2);
        fs::remove_dir(stranger).unwrap();
        purge(&rig.config.pin_dir).unwrap();
        assert!(!rig.config.pin_dir.exists());
        purge(&rig.config.pin_dir).unwrap();
        assert!(matches!(status::read(&rig.config.pin_dir), Err(KernelError::NothingPinned { .. })));

        // Half made.
        fs::create_dir_all(rig.pins().join("maps")).unwrap();
        fs::create_dir_all(rig.config.pin_dir.join("flows-7/links")).unwrap();
        purge(&rig.config.pin_dir).unwrap();
        assert!(!rig.config.pin_dir.exists());
    });
}

#[test]
fn what_fails_of_one_device_keeps_nothing_from_the_others() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let mut plan = deny.plan(ISOLATED);
        let b = plan.workloads.pop().unwrap();
        plan.workloads[0].addresses.push(address("10.0.1.9"));
        plan.uplinks = vec![B];
        let _ = apply(&mut kernel, &plan);
        let own = || status::read(&rig.config.pin_dir).unwrap().endpoints[0].addresses.clone();
        assert_eq!(own(), [address("10.0.1.2"), address("10.0.1.9")]);
        assert_eq!(kernel.pinned_uplinks(), [B].into());

        // B would go into the hash, which is full.
        let more = MapData::from_pin(rig.pins().join("maps/ENDPOINTS_MORE")).unwrap();
        let mut more = HashMap::<_, u32, Endpoint>::try_from(Map::HashMap(more)).unwrap();
        let others = (1..=limits::ENDPOINTS_MORE).map(|number| number << 13 | 1);
        others.clone().for_each(|other| more.insert(other, Endpoint::FREE, 0).unwrap());
        let _ = plan.workloads[0].addresses.pop();
        plan.workloads.push(b);
        plan.uplinks.clear();
        let applied = kernel.apply(&plan).unwrap();
        assert!(
            matches!(applied.failures[..], [KernelError::NoRoom { what: "endpoints", .. }]),
            "{:?}",
            applied.failures
        );
        others.for_each(|other| more.remove(&other).unwrap());
        assert_eq!(own(), [address("10.0.1.2")], "an address that went away");
        assert_eq!(kernel.pinned_uplinks(), BTreeSet::new());
        assert_eq!(kernel.endpoints(), [A].into());

        let _ = apply(&mut kernel, &plan);
        assert_eq!(kernel.endpoints(), [A, B].into());
        assert_eq!(kernel.verify().unwrap(), []);
    });
}

#[test]
fn an_address_leaves_its_old_workload_before_another_gets_it() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let mut plan = deny.plan(ISOLATED);
        let moving = address("10.0.2.9");
        plan.workloads[1].addresses.push(moving);
        let first = apply(&mut kernel, &plan);
        let own = |ifindex: Ifindex| {
            let view = status::read(&rig.config.pin_dir).unwrap();
            view.endpoints.into_iter().find(|endpoint| endpoint.ifindex == ifindex).map(|found| found.addresses)
        };
        assert_eq!(own(B), Some(vec![address("10.0.2.2"), moving]));

        // It cannot be taken from B, whose element is lost and finds no room again: A must not have it then.
        let more = MapData::from_pin(rig.pins().join("maps/ENDPOINTS_MORE")).unwrap();
        let mut more = HashMap::<_, u32, Endpoint>::try_from(Map::HashMap(more)).unwrap();
        more.remove(&B.0).unwrap();
        let others = (1..=limits::ENDPOINTS_MORE).map(|number| number << 13 | 1);
        others.clone().for_each(|other| more.insert(other, Endpoint::FREE, 0).unwrap());
        let _ = plan.workloads[1].addresses.pop();
        plan.workloads[0].addresses.push(moving);
        let error = kernel.apply(&plan).unwrap_err();
        assert!(matches!(error, KernelError::NoRoom { what: "endpoints", .. }), "{error}");
        assert_eq!(kernel.revision(), first.word);
        assert_eq!(own(A), Some(vec![address("10.0.1.2")]));

        others.for_each(|other| more.remove(&other).unwrap());
        let _ = apply(&mut kernel, &plan);
        assert_eq!(own(A), Some(vec![address("10.0.1.2"), moving]));
        assert_eq!(own(B), Some(vec![address("10.0.2.2")]));
        assert_eq!(kernel.verify().unwrap(), []);
    });
}

#[test]
fn the_first_run_ends_with_the_first_plan_and_uplinks_are_remembered() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let kernel = rig.open();
        assert!(kernel.is_first_run());
        drop(kernel);
        let mut kernel = rig.open();
        assert!(kernel.is_first_run(), "nothing was put in force");
        let mut plan = deny.plan(ISOLATED);
        plan.uplinks = vec![Ifindex(1)];
        let applied = apply(&mut kernel, &plan);
        assert!(!kernel.is_first_run());
        assert_eq!(kernel.living_ids(), applied.ids.values().copied().collect());
        kernel.detach(A).unwrap();
        kernel.attach_unknown(A).unwrap();
        let living = kernel.living_ids();
        assert_eq!(living.len(), 2, "one that nobody has named lives too");
        assert!(!living.contains(&applied.ids[&KEY_A]) && living.contains(&applied.ids[&KEY_B]));
        drop(kernel);
        let kernel = rig.open();
        assert!(!kernel.is_first_run());
        assert_eq!(kernel.pinned_uplinks(), [Ifindex(1)].into());
        assert_eq!(kernel.living_ids(), living);
        drop(kernel);
        purge(&rig.config.pin_dir).unwrap();
        assert!(rig.open().is_first_run());
    });
}

#[test]
fn a_device_that_went_before_anybody_named_it_is_forgotten() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let mut plan = deny.plan(ISOLATED);
        plan.workloads.remove(0);
        let _ = apply(&mut kernel, &plan);
        kernel.attach_unknown(A).unwrap();
        assert_eq!(kernel.forget_gone().unwrap(), BTreeSet::new());
        sh("ip link del va");
        // Another one gets the number, and is nobody's business.
        rig.plug_a();
        assert_eq!(kernel.forget_gone().unwrap(), [A].into());
        assert_eq!(kernel.endpoints(), [B].into());
        assert!(!rig.pins().join(format!("links/{A}-from")).exists());
        assert_eq!(kernel.verify().unwrap(), []);

        // One that a plan names goes when its device does, and not because somebody took its programs off.
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        for side in ["from", "to"] {
            let pin = rig.pins().join(format!("links/{A}-{side}"));
            let output = std::process::Command::new("bpftool").args(["link", "detach", "pinned"]).arg(pin).output();
            assert!(output.unwrap().status.success());
        }
        assert_eq!(kernel.forget_gone().unwrap(), BTreeSet::new());
        let drifts = kernel.verify().unwrap();
        assert_eq!(drifts.len(), 2, "{drifts:?}");
        assert!(kernel.repair(&drifts).is_empty());
        assert_eq!(kernel.verify().unwrap(), []);
        sh("ip link del va");
        assert_eq!(kernel.forget_gone().unwrap(), [A].into());
    });
}
