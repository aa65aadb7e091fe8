//! Measures the cost of a verdict, compared with the least that such a program can do (README.md, "What it costs").
//!
//! Output: nanoseconds a packet, and the ratio to the baseline, which is measured right before it in the same process.

mod cluster;
mod control;
mod floor;
mod stall;
mod sweep;

use anyhow::{Result, ensure};
use enforcer_common::{id::Direction, limits, packet::tcp};
use serde::Serialize;

pub use self::cluster::{Delay, Delays, Ground, Load, Loads, State};
pub use self::control::{Change, Control, Scale, control};
use self::floor::Floor;
pub use self::sweep::{Stall, Stalls, SweepTimes, sweep};
use crate::{
    bytecode::{
        node::Node,
        scene::{LO, Scene, ip, who},
    },
    packet::{Frame, Transport},
};

/// Runs of one measurement; the median counts.
const ROUNDS: usize = 7;
/// Packets of a run whose tuple repeats.
const HOT: u32 = 500_000;
/// Packets of a run whose tuple does not: less than there are ports.
const VARIED: u32 = 60_000;

/// New flows of which none has to give way.
const FEW: u32 = 30_000;
/// Half-open flows that one direction has room for.
const HALF_OPEN: u32 = limits::half_open(limits::FLOWS) / 2;
const _: () = assert!(FEW < HALF_OPEN && HALF_OPEN < VARIED);

/// One line of the table.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What the packets are.
    pub work: &'static str,
    /// Rules in force: ranges, and as many exact addresses.
    pub rules: u32,
    /// ns a packet, without the cost of the run itself.
    pub ns: f64,
    /// The same for the bare program.
    pub floor_ns: f64,
    /// Their ratio.
    pub ratio: f64,
    /// What the design asks of it, if anything.
    pub goal: Option<f64>,
}

fn frame(family: usize, peer: [&str; 2], transport: Transport) -> Vec<u8> {
    Frame {
        // Long enough for the bare program's one bounds check, whatever the transport.
        payload: &[0; 32],
        ..Frame::new(ip(who::WORKLOAD[family]), ip(peer[family]), transport)
    }
    .bytes()
}

fn segment(port: u16, flags: u8) -> Transport {
    Transport::Tcp { source: 40_000, destination: port, flags }
}

fn median(mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        times.push(run()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}

/// All lines for a number of rules.
pub fn measure(rules: u32) -> Result<Vec<Line>> {
    let scene = Scene { quota: u32::MAX, flows: enforcer_common::limits::FLOWS, extra: rules, ..Scene::default() };
    let mut node = Node::new(&scene)?;
    let floor = Floor::load()?;
    let mut lines = Vec::new();
    let mut add = |work, goal, ns: f64, floor_ns: f64| {
        lines.push(Line { work, rules, ns, floor_ns, ratio: ns / floor_ns, goal });
    };
    for (family, work) in [(0, "live flow, hot, IPv4"), (1, "live flow, hot, IPv6")] {
        let packet = frame(family, who::FRIEND, segment(80, tcp::ACK));
        connect(&node, family)?;
        floor.fill(&packet)?;
        let (ns, floor_ns) = beside(&node, &floor, &packet, true)?;
        add(work, Some(1.6), ns, floor_ns);
    }
    for (peer, transport, work) in [
        (who::STRANGER, segment(80, tcp::SYN), "denied SYN, repeated"),
        (who::STRANGER, Transport::Udp { source: 5000, destination: 99 }, "denied UDP, repeated"),
    ] {
        let packet = frame(0, peer, transport);
        ensure!(!node.run(Direction::Egress, LO, &packet, 1)?.0, "it must be denied");
        floor.fill(&packet)?;
        let (ns, floor_ns) = beside(&node, &floor, &packet, false)?;
        add(work, None, ns, floor_ns);
    }
    for (family, work) in [(0, "guard, a source of nobody's, IPv4"), (1, "guard, a source of nobody's, IPv6")] {
        let packet = Frame {
            payload: &[0; 32],
            ..Frame::new(ip(who::STRANGER[family]), ip(who::WORKLOAD[family]), segment(80, tcp::ACK))
        }
        .bytes();
        ensure!(node.lets_pass("guard", &packet)?, "the guard must let it pass");
        floor.fill(&packet)?;
        let base = median(|| floor.run("nothing", &packet, HOT))?;
        let floor_ns = median(|| floor.run("look_up", &packet, HOT))? - base;
        let ns = median(|| Ok(node.run_program("guard", LO, &packet, HOT)?.1))? - base;
        add(work, None, ns, floor_ns);
    }
    floor.crowd(&mut node)?;
    for (transport, work, goal) in [
        (segment(80, tcp::SYN), "denied SYN, never the same, log on", Some(0.8)),
        (Transport::Udp { source: 5000, destination: 99 }, "denied UDP, never the same, log on", Some(1.5)),
    ] {
        let mut packet = frame(0, who::STRANGER, transport);
        let base = median(|| floor.run_varied("nothing", None, false, &packet, VARIED))?;
        let floor_ns = median(|| {
            packet[31] = packet[31].wrapping_add(1);
            floor.run_varied("look_up", None, false, &packet, VARIED)
        })? - base;
        let ns = median(|| {
            packet[31] = packet[31].wrapping_add(1);
            node.events()?;
            floor.run_varied("", Some(node.program("from_workload")?), false, &packet, VARIED)
        })? - base;
        add(work, goal, ns, floor_ns);
    }
    node.forget_flows()?;
    floor.clear()?;
    // From port 1 on: behind the last port the address changes.
    let packet = frame(0, who::FRIEND, Transport::syn(1, 80));
    for (count, work, goal) in [
        (FEW, "new allowed flow", Some(1.5)),
        (VARIED, "new allowed flow, half of them in the place of an older one", None),
    ] {
        let base = median(|| floor.run_varied("nothing", None, true, &packet, count))?;
        let floor_ns = median(|| {
            let time = floor.run_varied("insert", None, true, &packet, count)?;
            floor.clear()?;
            Ok(time)
        })? - base;
        let ns = median(|| {
            let time = floor.run_varied("", Some(node.program("from_workload")?), true, &packet, count)?;
            let flows = node.flows()?.len();
            ensure!(flows == count.min(HALF_OPEN) as usize, "{flows} flows of {count} are there");
            node.forget_flows()?;
            node.forget_half_open()?;
            Ok(time)
        })? - base;
        add(work, goal, ns, floor_ns);
    }
    let base = median(|| floor.run_varied("nothing", None, true, &packet, FEW))?;
    let floor_ns = median(|| {
        let time = floor.run_varied("insert", None, true, &packet, FEW)?;
        floor.clear()?;
        Ok(time)
    })? - base;
    let ns = median(|| handshakes(&mut node, &floor))? - 3.0 * base;
    add("whole handshake, three packets", None, ns, floor_ns);
    Ok(lines)
}

/// Connections that the workload opens, packet by packet: the nanoseconds of one.
fn handshakes(node: &mut Node, floor: &Floor) -> Result<f64> {
    let syn = frame(0, who::FRIEND, Transport::syn(1, 80));
    let accept = Transport::Tcp { source: 80, destination: 1, flags: tcp::SYN | tcp::ACK };
    let accept = Frame { payload: &[0; 32], ..Frame::new(ip(who::FRIEND[0]), ip(who::WORKLOAD[0]), accept) }.bytes();
    let ack = frame(0, who::FRIEND, Transport::Tcp { source: 1, destination: 80, flags: tcp::ACK });
    let mut nanoseconds = 0.0;
    for (name, source, packet) in
        [("from_workload", true, &syn), ("to_workload", false, &accept), ("from_workload", true, &ack)]
    {
        nanoseconds += floor.run_varied("", Some(node.program(name)?), source, packet, FEW)?;
    }
    let flows = node.flows()?;
    let established = flows.iter().filter(|(_, flow)| flow.word.share().is_some()).count();
    ensure!(established == FEW as usize, "{established} of {FEW} connections are established");
    node.forget_flows()?;
    node.forget_half_open()?;
    Ok(nanoseconds)
}

/// A connection that the workload has opened. What follows acknowledges what came last.
fn connect(node: &Node, family: usize) -> Result<()> {
    let (own, friend) = (ip(who::WORKLOAD[family]), ip(who::FRIEND[family]));
    let answer = Transport::Tcp { source: 80, destination: 40_000, flags: tcp::SYN | tcp::ACK };
    for (direction, frame) in [
        (Direction::Egress, Frame::new(own, friend, segment(80, tcp::SYN))),
        (Direction::Ingress, Frame::new(friend, own, answer)),
        (Direction::Egress, Frame::new(own, friend, segment(80, tcp::ACK))),
    ] {
        ensure!(node.run(direction, LO, &frame.bytes(), 1)?.0, "the connection is allowed");
    }
    Ok(())
}

/// Ours and the bare program on one packet, without the cost of a run.
fn beside(node: &Node, floor: &Floor, packet: &[u8], allowed: bool) -> Result<(f64, f64)> {
    let base = median(|| floor.run("nothing", packet, HOT))?;
    let floor_ns = median(|| floor.run("look_up", packet, HOT))? - base;
    let ns = median(|| {
        let (passed, time) = node.run(Direction::Egress, LO, packet, HOT)?;
        ensure!(passed == allowed, "another verdict than the one to measure");
        Ok(time)
    })? - base;
    Ok((ns, floor_ns))
}
