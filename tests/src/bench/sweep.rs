//! Measures the cost of freeing idle flows, and how much it delays packets that arrive meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aya::programs::{TestRun, TestRunOptions};
use serde::Serialize;

use super::{ROUNDS, median, stall::Stream};
use crate::bytecode::{
    node::{self, Node, SWEEP},
    scene::{Scene, WORKLOAD},
};

/// What the sweep costs over a full table.
#[derive(Debug, Serialize)]
pub struct SweepTimes {
    /// ms of a walk that deletes nothing.
    pub walk_ms: f64,
    /// ms of one that stops at its cap.
    pub deleting_its_cap_ms: f64,
    /// How many that are.
    pub cap: u32,
    /// ms until all flows of the table are gone, in runs of the cap.
    pub deleting_all_ms: f64,
    /// The longest that a packet on the same processor took meanwhile; nothing with one processor.
    pub longest_stall: Option<Stalls>,
}

/// How long a packet waited.
#[derive(Debug, Serialize)]
pub struct Stalls {
    /// Beside nothing.
    pub idle: Stall,
    /// Beside the sweep while it walks.
    pub walking: Stall,
    /// Beside the sweep while it deletes its cap.
    pub deleting: Stall,
    /// Beside the same walk as a classifier: softirqs are off then, and the stream of packets must show it.
    pub softirqs_off: Stall,
}

/// The longest stall of a round.
#[derive(Debug, Serialize)]
pub struct Stall {
    /// Median of all rounds: what else runs on the machine is in few of them.
    pub median_ms: f64,
    /// Of all rounds.
    pub worst_ms: f64,
}

impl Stall {
    fn beside(stream: &Stream, rounds: usize, mut work: impl FnMut() -> Result<()>) -> Result<Self> {
        let mut longest = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            longest.push(stream.longest_beside(&mut work)?.as_secs_f64() * 1e3);
        }
        longest.sort_by(f64::total_cmp);
        Ok(Self { median_ms: longest[rounds / 2], worst_ms: longest[rounds - 1] })
    }
}

/// Measures the sweep.
pub fn sweep() -> Result<SweepTimes> {
    let flows = enforcer_common::limits::FLOWS;
    let mut node = Node::new(&Scene { quota: u32::MAX, flows, ..Scene::default() })?;
    node.load("sweep")?;
    let stream = Stream::open()?;
    fill(&mut node, flows)?;
    let walk_ms = median(|| Ok(time(|| walk(&node))?.as_secs_f64() * 1e9))? / 1e6;
    let pause = || {
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    };
    let beside_walks = match &stream {
        Some(stream) => Some([
            Stall::beside(stream, ROUNDS, pause)?,
            Stall::beside(stream, ROUNDS, || walk(&node))?,
            Stall::beside(stream, ROUNDS, || walk_as_classifier(&node))?,
        ]),
        None => None,
    };
    release(&mut node)?;
    let deleting_its_cap_ms = time(|| walk(&node))?.as_secs_f64() * 1e3;
    fill(&mut node, flows)?;
    release(&mut node)?;
    let deleting_all_ms = time(|| {
        while node.sweep(SWEEP)? != 0 {}
        Ok(())
    })?
    .as_secs_f64()
        * 1e3;
    let longest_stall = match (&stream, beside_walks) {
        (Some(stream), Some([idle, walking, softirqs_off])) => {
            fill(&mut node, flows)?;
            release(&mut node)?;
            let deleting = Stall::beside(stream, ROUNDS, || walk(&node))?;
            Some(Stalls { idle, walking, deleting, softirqs_off })
        }
        _ => None,
    };
    Ok(SweepTimes { walk_ms, deleting_its_cap_ms, cap: SWEEP.cap, deleting_all_ms, longest_stall })
}

fn walk(node: &Node) -> Result<()> {
    node.sweep(SWEEP).map(|_| ())
}

/// The workload is gone: its flows may go.
fn release(node: &mut Node) -> Result<()> {
    let (count, limit, _) = node.quota()?;
    node.set_quota(count, limit, 0)
}

/// The walk with softirqs off. The arguments are then the first words of a packet's context: its length; what it is, which
/// is 0 and makes a tick of no length, so that no flow is idle; its mark.
fn walk_as_classifier(node: &Node) -> Result<()> {
    let mut context = node::context(0);
    context[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
    let options = TestRunOptions { data_in: Some(&[0; 64]), ctx_in: Some(&context), ..TestRunOptions::default() };
    let result = node.program("sweep")?.test_run(options)?;
    ensure!(result.return_value == 0, "it has deleted flows");
    Ok(())
}

/// Fills the flow table with flows that are live.
fn fill(node: &mut Node, flows: u32) -> Result<()> {
    let (count, limit, _) = node.quota()?;
    node.set_quota(count, limit, WORKLOAD.0)?;
    node.establish(flows)
}

fn time(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}
