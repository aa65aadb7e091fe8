//! The wait between two images: a program run that read the word before a flip never sees the image after the next one.
//!
//! A run is over in less than a microsecond, and two flips take milliseconds: by itself this would not show for years. So a
//! brake is put on the thread that runs the program: a timer that interrupts it anywhere, also between the word and the
//! image, and takes longer than two flips.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "part of tests, though the lint cannot tell")]
#![allow(unsafe_code, reason = "aya offers no breakpoints")]

mod kernel_support;

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use enforcer_common::id::Row;
use enforcer_common::image::{Cell, Header};
use enforcer_tests::packet::{Frame, Transport};
use kernel_support::{A, B_ADDRESS, TestImage, apply, chain, with_rig};

/// Two rows: one denies everything, the other allows everything, and that which denies is taken.
fn denies_by(row: u32) -> (TestImage, Row) {
    let mut image = TestImage::new(Cell::Deny);
    let mut header = Header::from_line(&image.lines[0]).unwrap();
    (header.rows, header.vectors) = (2, 2);
    image.lines[0] = header.to_line();
    image.lines[header.rows_at as usize].write(2, &1_u16.to_ne_bytes());
    let cells = [0, 1].map(|place| if place == row { Cell::Deny } else { Cell::Allow } as u8);
    image.lines[header.vectors_at as usize].write(0, &cells);
    (image, Row(row))
}

/// What A sends to B: a datagram.
fn frame() -> Vec<u8> {
    let [source, destination] = ["10.0.1.2", B_ADDRESS].map(|address| address.parse().unwrap());
    let datagram = Transport::Udp { source: 4096, destination: 80 };
    let mut frame = Frame { payload: b"x", ..Frame::new(source, destination, datagram) }.bytes();
    frame.resize(60, 0);
    frame
}

/// Runs the program on the datagram; the verdict is the last run's.
fn run(program: &SchedClassifier, repeat: u32) {
    /// `ifindex` of `struct __sk_buff`.
    const IFINDEX: usize = 10 * 4;
    let (frame, mut context) = (frame(), [0; 192]);
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&A.0.to_ne_bytes());
    let options = TestRunOptions { data_in: Some(&frame), ctx_in: Some(&context), repeat, ..TestRunOptions::default() };
    program.test_run(options).unwrap();
}

#[test]
fn a_run_that_began_before_a_flip_never_sees_the_image_after_the_next_one() {
    /// Without the wait about one in 40 shows.
    const FLIPS: usize = 200;
    /// Runs a call: it looks at the end only between two calls.
    const RUNS: u32 = 1000;
    /// Calls without the brake.
    const FREE: u32 = 5;
    with_rig(|rig| {
        let mut kernel = rig.open();
        // Both deny the datagram. The row of one in the image of the other allows it.
        let images = [denies_by(0), denies_by(1)];
        let mut flip = |turn: usize| {
            // Those that share a slot, every other one, have to differ.
            let (image, row) = &images[turn / 2 % 2];
            let mut plan = image.plan(Row::NOT_ISOLATED);
            plan.workloads[0].rows = [*row; 2];
            let _ = apply(&mut kernel, &plan);
        };
        flip(0);
        let pin = program_pin(&rig.pins());
        let program = SchedClassifier::from_pin(&pin).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let (stop, (braked, begun)) = (AtomicBool::new(false), mpsc::channel());
        let runs = std::thread::scope(|scope| {
            let (program, stop) = (&program, &stop);
            let runner = scope.spawn(move || {
                // The fastest of some: other work of the machine may interrupt any.
                let free = (0..FREE).map(|_| {
                    let begin = Instant::now();
                    run(program, RUNS);
                    begin.elapsed()
                });
                let free = free.min().unwrap();
                let _brake = Brake::put_on();
                let (begin, mut calls) = (Instant::now(), 0);
                braked.send(()).unwrap();
                while calls == 0 || !stop.load(Ordering::Relaxed) {
                    calls += 1;
                    run(program, RUNS);
                }
                let braked = begin.elapsed() / calls;
                println!("{RUNS} runs: {free:?}, with the brake {braked:?}");
                assert!(braked > 2 * free, "the brake does not work");
                u64::from(RUNS) * u64::from(calls + FREE)
            });
            begun.recv().expect("the brake is on");
            let begin = Instant::now();
            (1..=FLIPS).for_each(&mut flip);
            println!("{FLIPS} flips in {:?}", begin.elapsed());
            stop.store(true, Ordering::Relaxed);
            runner.join().unwrap()
        });
        let denied: u64 = kernel
            .denials()
            .unwrap()
            .totals()
            .unwrap()
            .values()
            .map(|one| one.logged + one.suppressed + one.lost)
            .sum();
        assert_eq!(runs - denied, 0, "of {runs} runs were allowed by the rows of one image and the tables of another");
        assert_eq!(kernel.flow_fill().flows, 0);
    });
}

fn program_pin(pins: &Path) -> PathBuf {
    let mut objects = fs::read_dir(pins.join("programs")).unwrap();
    objects.next().unwrap().unwrap().path().join("from_workload")
}

/// Stops this thread in the kernel, again and again.
struct Brake {
    _event: OwnedFd,
    _code: OwnedFd,
}

impl Brake {
    fn put_on() -> Self {
        /// Calls of a clock of about 40 ns. The verifier goes round as often, and gives up at a million instructions.
        const ROUNDS: i32 = 320_000;
        const CLOCK: i32 = 5;
        let code = [
            instruction(0xb7, 6, 0, ROUNDS), // r6 = ROUNDS
            instruction(0x85, 0, 0, CLOCK),  // call
            instruction(0x07, 6, 0, -1),     // r6 -= 1
            instruction(0x55, 6, -3, 0),     // if r6 != 0: back to the call
            instruction(0xb7, 0, 0, 0),      // r0 = 0
            instruction(0x95, 0, 0, 0),      // return
        ];
        let load = Load {
            kind: 7, // BPF_PROG_TYPE_PERF_EVENT
            count: code.len() as u32,
            code: code.as_ptr().expose_provenance() as u64,
            license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
            ..Load::default()
        };
        // SAFETY: the layout is that of BPF_PROG_LOAD, and what it points to outlives the call.
        let loaded = unsafe { libc::syscall(libc::SYS_bpf, 5, &raw const load, size_of::<Load>()) };
        let code = owned("load the brake", loaded);
        let attributes = Timer {
            kind: 1, // PERF_TYPE_SOFTWARE
            size: size_of::<Timer>() as u32,
            config: 0,         // PERF_COUNT_SW_CPU_CLOCK
            period: 200_000,   // ns
            flags: 1 | 1 << 4, // made disabled; not in user space
            ..Timer::default()
        };
        // SAFETY: the layout is that of the first version of `struct perf_event_attr`, and `size` says so. This thread, any
        // CPU, no group, no flags.
        let opened = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attributes, 0, -1, -1, 0) };
        let event = owned("start a timer", opened);
        for (request, argument) in [(0x4004_2408, code.as_raw_fd()), (0x2400, 0)] {
            // PERF_EVENT_IOC_SET_BPF, PERF_EVENT_IOC_ENABLE.
            // SAFETY: both take a number.
            let done = unsafe { libc::ioctl(event.as_raw_fd(), request, argument) };
            assert_eq!(done, 0, "{request:#x}: {}", io::Error::last_os_error());
        }
        Self { _event: event, _code: code }
    }
}

fn instruction(code: u8, register: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_ne_bytes();
    let [a, b, c, d] = value.to_ne_bytes();
    u64::from_ne_bytes([code, register, low, high, a, b, c, d])
}

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log: [u32; 4],
    version: u32,
    flags: u32,
}

/// `struct perf_event_attr`, its first version.
#[repr(C)]
#[derive(Default)]
struct Timer {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample: u64,
    format: u64,
    flags: u64,
    wakeup: u32,
    on: u32,
    address: u64,
}

fn owned(what: &str, fd: libc::c_long) -> OwnedFd {
    assert!(fd >= 0, "{what}: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just made this descriptor for the call that gave it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}
