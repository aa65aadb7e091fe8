//! What a start makes of maps with another layout: the image and the denials are replaced, the flows stay.

#![allow(clippy::unwrap_used, reason = "part of tests, though the lint cannot tell")]

mod kernel_support;

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use enforcer::kernel::{Kernel, KernelConfig, KernelError, status};
use enforcer::plan::Plan;
use enforcer_common::id::{Ifindex, Row};
use enforcer_common::image::Cell;
use enforcer_common::limits;
use enforcer_common::schema::Group;
use kernel_support::{B_ADDRESS, ISOLATED, Rig, TestImage, apply, chain, with_rig};

/// A flow from A to B whose sockets stay.
struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Flow {
    fn new(rig: &Rig, port: u16) -> Self {
        let receiver = rig.receiver(port);
        receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let sender = rig.sender();
        sender.connect((B_ADDRESS, port)).unwrap();
        Self { sender, receiver }
    }

    fn arrives(&self) -> bool {
        self.sender.send(b"x").unwrap();
        self.receiver.recv(&mut [0; 8]).is_ok()
    }
}

/// Makes what is in force one of another layout, as a start finds it.
fn rename_policy(rig: &Rig) -> PathBuf {
    let other = rig.config.pin_dir.join("policy-999");
    fs::rename(rig.group(Group::Policy), &other).unwrap();
    other
}

/// Brings a plan as far as it comes before the word: there is no room for its uplink.
fn stop_before_the_word(rig: &Rig, kernel: &mut Kernel, plan: &Plan<'_>) {
    let uplinks = MapData::from_pin(rig.pins().join("maps/UPLINKS")).unwrap();
    let mut uplinks = HashMap::<_, u32, u32>::try_from(Map::HashMap(uplinks)).unwrap();
    let strangers = (1..=limits::UPLINKS).map(|number| 1_000_000 + number);
    strangers.clone().for_each(|stranger| uplinks.insert(stranger, 1, 0).unwrap());
    let error = kernel.apply(&Plan { uplinks: vec![Ifindex(1)], ..plan.clone() }).unwrap_err();
    assert!(matches!(&error, KernelError::MapCall { name, .. } if name == "UPLINKS"), "{}", chain(&error));
    strangers.for_each(|stranger| uplinks.remove(&stranger).unwrap());
}

#[test]
fn another_layout_of_the_image_keeps_live_flows_and_closes_what_is_new() {
    with_rig(|rig| {
        let allow = TestImage::new(Cell::Allow);
        let plan = allow.plan(ISOLATED);
        let mut kernel = rig.open();
        let first = apply(&mut kernel, &plan);
        let before = status::read(&rig.config.pin_dir).unwrap();
        let live = Flow::new(rig, 80);
        assert!(live.arrives());
        drop(kernel);

        let other = rename_policy(rig);
        let between = status::read(&rig.config.pin_dir).unwrap();
        assert_eq!((between.word, between.image), (first.word, None), "its image is in no form that is known here");
        let mut kernel = rig.open();
        assert_eq!((kernel.revision(), kernel.is_first_run()), (first.word, false));
        assert_eq!(kernel.verify().unwrap(), [], "the older programs are left alone until there is a plan");
        assert!(live.arrives() && rig.arrive(81, 1) == 1, "they judge by their own image");

        stop_before_the_word(rig, &mut kernel, &plan);
        assert_eq!(kernel.revision(), first.word);
        assert!(live.arrives(), "while the programs are replaced");
        assert_eq!(rig.arrive(82, 2), 0, "nothing new while no image is in force");
        drop(kernel);
        let mut kernel = rig.open();
        assert!(live.arrives() && rig.arrive(83, 2) == 0, "nor when the next daemon has come");

        let second = apply(&mut kernel, &plan);
        assert!(second.ids.values().eq(first.ids.values()));
        assert!(live.arrives() && rig.arrive(84, 1) == 1);
        assert!(!other.exists(), "nothing uses it any more");
        assert_eq!(kernel.verify().unwrap(), []);
        let after = status::read(&rig.config.pin_dir).unwrap();
        for (old, new) in before.endpoints.iter().zip(&after.endpoints) {
            assert_eq!((old.from, old.to, &old.addresses), (new.from, new.to, &new.addresses));
        }
        assert!(after.flows.flows >= between.flows.flows, "{:?}", after.flows);

        // A plan that denies cuts the flow as it always does.
        let deny = TestImage::new(Cell::Deny);
        drop(kernel);
        rename_policy(rig);
        let mut kernel = rig.open();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        assert!(!live.arrives());
    });
}

#[test]
fn another_layout_of_the_image_never_opens_what_was_denied() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let plan = deny.plan(ISOLATED);
        let mut kernel = rig.open();
        // Both slots of the older image are in use, and the one that is not in force allows.
        let _ = apply(&mut kernel, &TestImage::new(Cell::Allow).plan(ISOLATED));
        let _ = apply(&mut kernel, &plan);
        drop(kernel);
        let other = rename_policy(rig);
        let rows = || status::read(&rig.config.pin_dir).unwrap().endpoints.into_iter().map(|endpoint| endpoint.rows);
        let mut kernel = rig.open();
        assert_eq!(rig.arrive(80, 1), 0);
        assert!(rows().eq([[Row::NOT_ISOLATED; 2], [ISOLATED; 2]]), "the older image's, until there is a plan");
        stop_before_the_word(rig, &mut kernel, &plan);
        assert!(rows().eq([[Row::NONE; 2]; 2]), "numbers of an image that is no more");
        assert_eq!(rig.arrive(80, 1), 0);
        drop(kernel);

        // The older build starts again, and is replaced again.
        let own = rig.group(Group::Policy);
        let newer = rig.config.pin_dir.join("policy-998");
        fs::rename(&own, &newer).unwrap();
        fs::rename(&other, &own).unwrap();
        let mut kernel = rig.open();
        assert_eq!(rig.arrive(80, 1), 0);
        stop_before_the_word(rig, &mut kernel, &plan);
        assert_eq!(rig.arrive(80, 1), 0);
        let _ = apply(&mut kernel, &plan);
        assert_eq!(rig.arrive(80, 2), 0);
        assert!(rows().eq([[Row::NOT_ISOLATED; 2], [ISOLATED; 2]]));
        assert!(!newer.exists());
        assert_eq!(kernel.verify().unwrap(), []);
    });
}

/// A start of another layout that failed has left its directory, and then another build of the layout in force comes.
#[test]
fn an_image_that_programs_read_is_not_replaced_under_the_rows_in_force() {
    with_rig(|rig| {
        let (deny, allow) = (TestImage::new(Cell::Deny), TestImage::new(Cell::Allow));
        let mut kernel = rig.open();
        let first = apply(&mut kernel, &deny.plan(ISOLATED));
        let live = Flow::new(rig, 80);
        assert!(!live.arrives());
        drop(kernel);
        let other = rig.config.pin_dir.join("policy-998");
        fs::create_dir(&other).unwrap();
        let mut object = fs::read(env!("ENFORCER_BPF_OBJECT")).unwrap();
        object.push(0);
        let mut kernel = Kernel::open(&KernelConfig { object: Some(object), ..rig.config.clone() }).unwrap();
        assert_eq!(rig.arrive(81, 1), 0, "the older programs judge by the image in force");

        // The plan stops where the image is in the slot in force, and B's row in force would be allowed by it.
        let pin = rig.group(Group::Policy).join("image").join(first.word.slot().to_string());
        fs::remove_file(&pin).unwrap();
        fs::create_dir(&pin).unwrap();
        let plan = allow.plan(Row::NONE);
        let error = kernel.apply(&plan).unwrap_err();
        assert!(chain(&error).contains(&pin.display().to_string()), "{}", chain(&error));
        assert_eq!(rig.arrive(82, 2), 0, "what was denied stays denied");

        fs::remove_dir(&pin).unwrap();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        assert!(!other.exists());
        assert_eq!((kernel.verify().unwrap(), rig.arrive(83, 1)), (Vec::new(), 0));
        let _ = apply(&mut kernel, &allow.plan(ISOLATED));
        assert_eq!(rig.arrive(84, 1), 1);
    });
}

/// Somebody has removed one of two directories of other versions, so only the other is left to remove.
#[test]
fn a_directory_of_another_version_that_is_gone_is_no_failure() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let others = ["denials-998", "policy-998"].map(|name| rig.config.pin_dir.join(name));
        drop(rig.open());
        for other in &others {
            fs::create_dir(other).unwrap();
        }
        let mut kernel = rig.open();
        fs::remove_dir(&others[0]).unwrap();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        assert!(!others[1].exists());
    });
}

#[test]
fn another_layout_of_the_denials_is_left_behind() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        drop(kernel);
        let other = rig.config.pin_dir.join("denials-999");
        fs::rename(rig.group(Group::Denials), &other).unwrap();
        assert!(status::read(&rig.config.pin_dir).unwrap().denied.is_empty());
        let mut kernel = rig.open();
        assert_eq!(rig.arrive(80, 1), 0);
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        assert!(!other.exists());
        let denied =
            || -> u64 { kernel.denials().unwrap().totals().unwrap().values().map(|counts| counts.logged).sum() };
        let counted = denied();
        assert_eq!(rig.arrive(81, 1), 0);
        assert_eq!(denied(), counted + 1, "the programs count in the new maps");
    });
}
