//! What outlives the daemon, what the next one makes of it, and what a purge leaves.

mod kernel_support;

use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::EbpfLoader;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use enforcer::kernel::{Drift, Kernel, KernelConfig, KernelError, purge, status};
use enforcer_common::id::Row;
use enforcer_common::image::Cell;
use kernel_support::{A, B, B_ADDRESS, ISOLATED, TestImage, apply, chain, inside, tree, with_rig};

/// Names the pin directory to the child that is killed.
const CHILD: &str = "ENFORCER_TEST_PIN_DIR";

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
        let adopted: Vec<u32> = kernel.adopted().iter().map(|endpoint| endpoint.ifindex).collect();
        assert_eq!(adopted, [A, B]);
        assert_eq!(kernel.verify().unwrap(), []);
        let mut plan = deny.plan(ISOLATED);
        for workload in &mut plan.workloads {
            workload.key += 1000;
        }
        let second = apply(&mut kernel, &plan);
        assert_eq!(second.word.revision, first.word.revision + 1);
        assert!(
            first.ids.values().eq(second.ids.values()),
            "workloads keep their ids by their veths"
        );
        let after = status::read(&rig.config.pin_dir).unwrap();
        let links = |view: &status::StatusView| -> Vec<_> {
            view.endpoints
                .iter()
                .map(|endpoint| (endpoint.from, endpoint.to))
                .collect()
        };
        assert_eq!(links(&after), links(&before));
        assert!(
            after
                .endpoints
                .iter()
                .all(|endpoint| endpoint.from.first && endpoint.to.first)
        );
        let mut expected = pins;
        expected.extend([rig.pins().join("addresses/0"), rig.pins().join("image/0")]);
        expected.sort();
        assert_eq!(
            tree(&rig.config.pin_dir),
            expected,
            "nothing but the second slot has come"
        );
        assert_eq!(rig.arrive(80, 2), 0);
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
        fs::rename(maps.join("BUSY"), maps.join("UPLINKS")).unwrap();
        refused("pinned map UPLINKS: type is 5, expected 1");
        fs::rename(maps.join("UPLINKS"), maps.join("BUSY")).unwrap();
        fs::rename(maps.join("aside"), maps.join("UPLINKS")).unwrap();

        fs::create_dir(rig.config.pin_dir.join("abi-2")).unwrap();
        refused("holds pins of abi-2");
        fs::remove_dir(rig.config.pin_dir.join("abi-2")).unwrap();

        let image = rig.pins().join("image");
        fs::rename(image.join("1"), image.join("kept")).unwrap();
        refused("the image of revision 1 in slot 1 is damaged");
        fs::rename(image.join("kept"), image.join("1")).unwrap();

        let stub = KernelConfig {
            object: Some(Vec::new()),
            ..rig.config.clone()
        };
        assert!(matches!(Kernel::open(&stub), Err(KernelError::NoObject)));
        let elsewhere = tempfile::tempdir().unwrap();
        let no_bpffs = KernelConfig {
            pin_dir: elsewhere.path().join("pins"),
            ..rig.config.clone()
        };
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
fn a_plan_that_cannot_be_leaves_the_last_one_in_force() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let first = apply(&mut kernel, &deny.plan(ISOLATED));
        let mut allow = TestImage::new(Cell::Allow);
        let error = kernel.apply(&allow.plan(Row(9))).unwrap_err();
        assert!(matches!(error, KernelError::InvalidImage { .. }), "{error}");
        let mut plan = allow.plan(ISOLATED);
        plan.uplinks = (1..=257).collect();
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
        let upgrade = KernelConfig {
            object: Some(object),
            ..rig.config.clone()
        };
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
        kernel_support::ip(&["link", "del", "va"]);
        rig.plug_a();
        let mut kernel = rig.open();
        let adopted: Vec<u32> = kernel.adopted().iter().map(|endpoint| endpoint.ifindex).collect();
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
fn drift_is_seen_and_repaired() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        let object = fs::read(env!("ENFORCER_BPF_OBJECT")).unwrap_or_default();
        assert!(!object.is_empty(), "no bpf object");
        fs::remove_file(rig.pins().join(format!("links/{A}-from"))).unwrap();
        fs::remove_file(rig.pins().join("maps/FLOWS")).unwrap();
        let mut stranger = EbpfLoader::new().map_max_entries("FLOWS", 16).load(&object).unwrap();
        let program: &mut SchedClassifier = stranger.program_mut("to_workload").unwrap().try_into().unwrap();
        program.load().unwrap();
        program
            .attach_with_options(
                "vb",
                TcAttachType::Egress,
                TcAttachOptions::TcxOrder(LinkOrder::first()),
            )
            .unwrap();

        let drifts = kernel.verify().unwrap();
        assert_eq!(
            drifts,
            [
                Drift::MapPin { name: "FLOWS" },
                Drift::LinkPin {
                    ifindex: A,
                    to_workload: false
                },
                Drift::NotFirst {
                    ifindex: B,
                    to_workload: true
                },
            ]
        );
        let left = kernel.repair(&drifts);
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(kernel.verify().unwrap(), []);
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
        assert!(
            matches!(&errors[..], [KernelError::Foreign { path }] if *path == stranger),
            "{errors:?}"
        );
        assert_eq!(tree(&rig.config.pin_dir), [stranger.clone()]);
        assert_eq!(rig.arrive(80, 2), 2);
        fs::remove_dir(stranger).unwrap();
        purge(&rig.config.pin_dir).unwrap();
        assert!(!rig.config.pin_dir.exists());
        purge(&rig.config.pin_dir).unwrap();
        assert!(matches!(
            status::read(&rig.config.pin_dir),
            Err(KernelError::NothingPinned { .. })
        ));

        // Half made.
        fs::create_dir_all(rig.pins().join("maps")).unwrap();
        fs::create_dir_all(rig.config.pin_dir.join("abi-7/links")).unwrap();
        purge(&rig.config.pin_dir).unwrap();
        assert!(!rig.config.pin_dir.exists());
    });
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn child() {
    let Some(pin_dir) = std::env::var_os(CHILD) else { return };
    let config = KernelConfig {
        pin_dir: pin_dir.into(),
        flows: 4096,
        flow_quota: 1024,
        object: None,
    };
    let deny = TestImage::new(Cell::Deny);
    // Ends by itself if its parent is gone.
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let Ok(mut kernel) = Kernel::open(&config) else {
            continue;
        };
        for turn in 0..4 {
            let mut plan = deny.plan(ISOLATED);
            // An address comes and goes, so that every step of a plan is run.
            if turn & 1 == 1 {
                plan.workloads[1].addresses.push(kernel_support::address("10.0.2.9"));
            }
            let _ = apply(&mut kernel, &plan);
        }
        kernel.attach_unknown(A).unwrap();
    }
}

#[test]
fn killed_at_any_moment_the_next_start_converges_and_nothing_gets_through() {
    const KILLS: u64 = 20;
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut kernel = rig.open();
        let _ = apply(&mut kernel, &deny.plan(ISOLATED));
        let links = |view: status::StatusView| -> Vec<_> {
            view.endpoints
                .into_iter()
                .map(|endpoint| (endpoint.from, endpoint.to))
                .collect()
        };
        let before = links(status::read(&rig.config.pin_dir).unwrap());
        drop(kernel);
        let receiver = rig.receiver(80);
        receiver.set_nonblocking(true).unwrap();
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let socket = inside(&rig.a, || UdpSocket::bind("0.0.0.0:0").unwrap());
                while !stop.load(Ordering::Relaxed) {
                    let _ = socket.send_to(b"nonce", (B_ADDRESS, 80));
                    sent.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(500));
                }
            });
            let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
            println!("seed {random:#x}");
            for _ in 0..KILLS {
                let mut child = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "child", "--nocapture"])
                    .env(CHILD, &rig.config.pin_dir)
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap();
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                std::thread::sleep(Duration::from_micros(5_000 + random % 250_000));
                child.kill().unwrap();
                child.wait().unwrap();
                let mut kernel = rig.open();
                assert_eq!(kernel.adopted().len(), 2);
                let _ = apply(&mut kernel, &deny.plan(ISOLATED));
                assert_eq!(kernel.verify().unwrap(), []);
                let waiting: Vec<_> = tree(&rig.pins())
                    .into_iter()
                    .filter(|path| path.to_string_lossy().ends_with("-new"))
                    .collect();
                assert_eq!(waiting, [""; 0].map(std::path::PathBuf::from), "left behind");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(sent.load(Ordering::Relaxed) > 1000);
        let mut buffer = [0; 8];
        assert!(receiver.recv(&mut buffer).is_err(), "a denied packet came through");
        assert_eq!(links(status::read(&rig.config.pin_dir).unwrap()), before);
        // The sender was heard all the time: once allowed, its packets arrive.
        let mut kernel = rig.open();
        let _ = apply(&mut kernel, &deny.plan(Row::NOT_ISOLATED));
        drop(receiver);
        assert_eq!(rig.arrive(80, 2), 2);
    });
}

#[test]
fn a_first_start_that_is_killed_anywhere_is_finished_by_the_next() {
    with_rig(|rig| {
        let deny = TestImage::new(Cell::Deny);
        let mut wait = 1_000;
        for _ in 0..12 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child", "--nocapture"])
                .env(CHILD, &rig.config.pin_dir)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_micros(wait));
            wait = wait * 8 / 5;
            child.kill().unwrap();
            child.wait().unwrap();
            let mut kernel = rig.open();
            let _ = apply(&mut kernel, &deny.plan(ISOLATED));
            assert_eq!(kernel.verify().unwrap(), []);
            assert_eq!(rig.arrive(80, 1), 0);
            drop(kernel);
            purge(&rig.config.pin_dir).unwrap();
        }
    });
}
