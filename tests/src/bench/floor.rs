//! The baseline programs of `enforcer-ebpf-floor`, for the benchmarks.

use std::{cell::RefCell, fs, time::Instant};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, ProgramArray},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};

use crate::{
    bytecode::{
        node,
        node::Node,
        object,
        scene::{LO, ip, who},
    },
    packet::{Frame, Transport},
};

/// See the module.
pub(super) struct Floor {
    ebpf: Ebpf,
    table: RefCell<HashMap<MapData, [u32; 6], [u64; 4]>>,
    next: RefCell<ProgramArray<MapData>>,
}

impl Floor {
    pub(super) fn load() -> Result<Self> {
        let bytes = fs::read(object::built("build/bpfel-unknown-none/ebpf/enforcer-ebpf-floor")?)?;
        let mut ebpf = EbpfLoader::new().load(&bytes)?;
        for (_, program) in ebpf.programs_mut() {
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
        }
        let table = ebpf.take_map("FLOOR").context("FLOOR")?.try_into()?;
        let next = ebpf.take_map("NEXT").context("NEXT")?.try_into()?;
        Ok(Self { ebpf, table: RefCell::new(table), next: RefCell::new(next) })
    }

    fn program(&self, name: &str) -> Result<&SchedClassifier> {
        Ok(self.ebpf.program(name).context("no such program")?.try_into()?)
    }

    /// A run of one of the bare programs.
    pub(super) fn run(&self, name: &str, packet: &[u8], repeat: u32) -> Result<f64> {
        run(self.program(name)?, packet, repeat)
    }

    /// A run in which each packet has another port, of the source or of the destination, and goes to a bare program or to
    /// `ours`.
    pub(super) fn run_varied(
        &self,
        name: &str,
        ours: Option<&SchedClassifier>,
        source: bool,
        packet: &[u8],
        repeat: u32,
    ) -> Result<f64> {
        let program = match ours {
            Some(program) => program,
            None => self.program(name)?,
        };
        self.next.borrow_mut().set(0, program.fd()?, 0)?;
        run(self.program(if source { "vary_source" } else { "vary_destination" })?, packet, repeat)
    }

    /// Puts a packet's key into the table.
    pub(super) fn fill(&self, packet: &[u8]) -> Result<()> {
        self.run("insert", packet, 1)?;
        Ok(())
    }

    /// Four flows for every nine places in both tables, so that a lookup leaves the cache.
    pub(super) fn crowd(&self, node: &mut Node) -> Result<()> {
        for peer in 0..4u32 {
            let packet = Frame::new(
                ip(who::WORKLOAD[0]),
                std::net::IpAddr::from((0xc000_0200 + peer).to_be_bytes()),
                Transport::syn(1, 80),
            )
            .bytes();
            self.run_varied("insert", None, true, &packet, super::VARIED)?;
        }
        node.establish(4 * super::VARIED)
    }

    /// Empties the table.
    pub(super) fn clear(&self) -> Result<()> {
        let mut table = self.table.borrow_mut();
        let keys: Vec<[u32; 6]> = table.keys().collect::<Result<_, _>>()?;
        for key in keys {
            table.remove(&key)?;
        }
        Ok(())
    }
}

/// The nanoseconds of a run, on the average.
fn run(program: &SchedClassifier, packet: &[u8], repeat: u32) -> Result<f64> {
    let context = node::context(LO);
    let begin = Instant::now();
    program.test_run(TestRunOptions {
        data_in: Some(packet),
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::default()
    })?;
    // The kernel's own mean is a whole number of nanoseconds.
    Ok(begin.elapsed().as_secs_f64() * 1e9 / f64::from(repeat))
}
