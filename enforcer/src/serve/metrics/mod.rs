//! Writes the numbers in the text format of `OpenMetrics`.
//!
//! Input: the board, and what the kernel counts at this moment. Output: a text with every metric of `docs/metrics.md`. Its length
//! is bounded, whatever containers do.

use std::fmt;
use std::time::{Duration, SystemTime};

use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::board::{Board, Facts, Stage};
use super::pairs::Series;

/// Numbers that are read when somebody asks for them, on the server's thread.
pub trait Numbers: Send + Sync + 'static {
    /// Reads them. The error says why they cannot be read.
    fn read(&self) -> Result<KernelNumbers, String>;
}

/// What the kernel counts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KernelNumbers {
    /// The revision in force.
    pub revision: u32,
    /// Denied packets: every direction and reason.
    pub denied: Vec<DeniedPackets>,
    /// Denied packets of which the ring had no room for a record.
    pub lost: u64,
    /// Flows in the flow table.
    pub flows: u64,
    /// How full the tables are that fill with workloads and connections.
    pub maps: Vec<MapFill>,
}

/// Denied packets of a direction and reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeniedPackets {
    /// Seen from the workload.
    pub direction: Direction,
    /// Why.
    pub reason: Reason,
    /// How many.
    pub packets: u64,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MapFill {
    /// Its name.
    pub map: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Entries that it has room for.
    pub capacity: u64,
}

/// All numbers of a moment.
pub(super) fn text(board: &Board, numbers: &dyn Numbers) -> Result<String, String> {
    let scrape = Scrape {
        kernel: numbers.read()?,
        facts: board.read_facts(),
        pairs: board.pairs(),
        errors: board.errors(),
        merged: board.merged_records(),
        applied: board.last_applied(),
        apply_seconds: board.apply_seconds.clone(),
        attach_seconds: board.attach_seconds.clone(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    text::encode(&mut text, &registry).map_err(|error| error.to_string())?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    kernel: KernelNumbers,
    facts: Facts,
    pairs: Vec<Series>,
    errors: [(Stage, u64); Stage::ALL.len()],
    merged: u64,
    applied: Option<SystemTime>,
    apply_seconds: Histogram,
    attach_seconds: Histogram,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        families.info("enforcer_build", "The daemon's build", &[("version", env!("CARGO_PKG_VERSION"))])?;
        self.packets(&mut families)?;
        self.policies(&mut families)?;
        self.state(&mut families)
    }
}

impl Scrape {
    fn packets(&self, families: &mut Families<'_>) -> fmt::Result {
        let mut packets = families.of("enforcer_packets", "Packets that were denied", None, MetricType::Counter)?;
        for denied in &self.kernel.denied {
            let labels =
                [("direction", direction(denied.direction)), ("verdict", "denied"), ("reason", denied.reason.name())];
            counter(&mut packets, &labels, denied.packets)?;
        }
        let help = "Records of denied packets in the flow log, by who sent to whom";
        let mut flows = families.of("enforcer_denied_flows", help, None, MetricType::Counter)?;
        for series in &self.pairs {
            let sides = series.sides.as_ref().map(|(from, to)| [from.to_string(), to.to_string()]);
            let [from, to] = sides.unwrap_or(["other".to_owned(), "other".to_owned()]);
            let labels = [
                ("src_workload", from.as_str()),
                ("dst_workload", &to),
                ("direction", direction(series.direction)),
                ("reason", series.reason.name()),
            ];
            counter(&mut flows, &labels, series.records)?;
        }
        let help = "Records of denied packets that could not be told one by one";
        let mut lost = families.of("enforcer_flow_events_lost", help, None, MetricType::Counter)?;
        counter(&mut lost, &[("source", "ringbuf")], self.kernel.lost)?;
        counter(&mut lost, &[("source", "queue")], self.merged)
    }

    fn policies(&self, families: &mut Families<'_>) -> fmt::Result {
        let help = "Revision of the policies in force";
        let mut revision = families.of("enforcer_policy_revision", help, None, MetricType::Gauge)?;
        gauge(&mut revision, &[], &self.kernel.revision)?;
        let help = "When this daemon last brought policies or workloads into force";
        let mut applied =
            families.of("enforcer_policy_last_applied_timestamp", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        if let Some(time) = self.applied {
            gauge(&mut applied, &[], &seconds(time))?;
        }
        let help = "How long it took to bring policies and workloads into force";
        let duration =
            families.of("enforcer_policy_apply_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        self.apply_seconds.encode(duration)?;
        let help = "Steps on the way of policies into the kernel that failed";
        let mut errors = families.of("enforcer_policy_errors", help, None, MetricType::Counter)?;
        for (stage, count) in self.errors {
            counter(&mut errors, &[("stage", stage.name())], count)?;
        }
        let help = "Whether the newest state of every source is in use";
        let mut success = families.of("enforcer_config_reload_success", help, None, MetricType::Gauge)?;
        gauge(&mut success, &[], &u32::from(self.facts.stale.is_empty()))?;
        let help = "Since when the newest state of a source is not in use; none while it is";
        let unit = Some(&Unit::Seconds);
        let mut stale = families.of("enforcer_source_stale_since_timestamp", help, unit, MetricType::Gauge)?;
        for (source, since) in &self.facts.stale {
            gauge(&mut stale, &[("source", source)], &seconds(*since))?;
        }
        Ok(())
    }

    fn state(&self, families: &mut Families<'_>) -> fmt::Result {
        let help = "Veths of workloads";
        let mut endpoints = families.of("enforcer_endpoints", help, None, MetricType::Gauge)?;
        let counts = self.facts.endpoints;
        for (state, count) in
            [("enforced", counts.enforced), ("unmanaged", counts.unmanaged), ("failed", counts.failed)]
        {
            gauge(&mut endpoints, &[("state", state)], &count)?;
        }
        let help = "How long a new veth was without programs, from the event that told of it";
        let attach = families.of("enforcer_veth_attach_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        self.attach_seconds.encode(attach)?;
        let mut entries = families.of("enforcer_bpf_map_entries", "Entries in use", None, MetricType::Gauge)?;
        for fill in &self.kernel.maps {
            gauge(&mut entries, &[("map", fill.map)], &fill.entries)?;
        }
        let mut capacity = families.of("enforcer_bpf_map_capacity", "Entries at most", None, MetricType::Gauge)?;
        for fill in &self.kernel.maps {
            gauge(&mut capacity, &[("map", fill.map)], &fill.capacity)?;
        }
        let help = "Entries of the flow table, one for each workload of a connection";
        let mut flows = families.of("enforcer_conntrack_entries", help, None, MetricType::Gauge)?;
        gauge(&mut flows, &[], &self.kernel.flows)
    }
}

/// The families of a text, one after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn of<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, kind)
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.of(name, help, None, MetricType::Info)?.encode_info(&labels)
    }
}

fn counter(family: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: u64) -> fmt::Result {
    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn gauge(family: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: &impl EncodeGaugeValue) -> fmt::Result {
    // An empty pair of braces is valid, but nobody writes it.
    if labels.is_empty() {
        return family.encode_gauge(value);
    }
    family.encode_family(&labels)?.encode_gauge(value)
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// Seconds since 1970, as Prometheus counts time.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests;
