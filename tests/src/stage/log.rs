//! Reads the flow log with code of its own, independent of the code that writes it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;

use crate::cases::Port;

/// One line about a denied flow.
#[derive(Clone, Debug)]
pub struct Record {
    /// The whole line.
    pub line: Value,
    /// Source in the packet.
    pub source: Option<IpAddr>,
    /// Destination in the packet.
    pub destination: Option<IpAddr>,
    /// What was asked for, where that can be said.
    pub port: Option<Port>,
    /// `reason=` of `policy_log`.
    pub reason: String,
    /// `count=` of `policy_log`.
    pub count: u64,
    /// `INGRESS` or `EGRESS`.
    pub direction: String,
    /// The policies in `policy_log`: `namespace/name file:line`.
    pub policies: Vec<String>,
    /// The policies in `egress_denied_by` or `ingress_denied_by`: `namespace/name`.
    pub denied_by: Vec<String>,
    /// `namespace/name` of the source; empty: none.
    pub from: String,
    /// `namespace/name` of the destination; empty: none.
    pub to: String,
}

/// Everything that is in a log. A last line that is being written is left out.
pub fn read(path: &Path) -> Vec<Record> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(record).collect()
}

/// Denied packets that the log says are missing in it.
pub fn lost(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lost = lines.filter_map(|line| line.get("lost_events")?["num_events_lost"].as_str()?.parse::<u64>().ok());
    lost.sum()
}

fn record(line: &str) -> Option<Record> {
    let line: Value = match serde_json::from_str(line) {
        Ok(line) => line,
        Err(error) => panic!("the flow log holds a line that is no JSON: {error}: {line}"),
    };
    let flow = line.get("flow")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let address = |side: &str| flow["IP"][side].as_str().and_then(|text| text.parse().ok());
    let parts: Vec<String> = flow["policy_log"].as_array().into_iter().flatten().filter_map(text).collect();
    let field = |key: &str| parts.iter().find_map(|part| part.strip_prefix(key)).unwrap_or_default().to_owned();
    let direction = flow["traffic_direction"].as_str().unwrap_or_default().to_owned();
    let by = if direction == "EGRESS" { "egress_denied_by" } else { "ingress_denied_by" };
    let denied_by = flow[by].as_array().into_iter().flatten().map(named("name")).collect();
    let port = flow["l4"].as_object().and_then(|l4| {
        let (protocol, fields) = l4.iter().next()?;
        let number = fields["destination_port"].as_u64().and_then(|number| u16::try_from(number).ok());
        match protocol.as_str() {
            "TCP" => Some(Port::Tcp(number?)),
            "UDP" => Some(Port::Udp(number?)),
            "SCTP" => Some(Port::Sctp(number?)),
            "ICMPv4" => (fields["type"] == 8).then_some(Port::Icmp),
            "ICMPv6" => (fields["type"] == 128).then_some(Port::Icmp),
            _ => None,
        }
    });
    Some(Record {
        source: address("source"),
        destination: address("destination"),
        port,
        reason: field("reason="),
        count: field("count=").parse().ok()?,
        policies: parts.iter().filter(|part| part.contains(".yaml:")).cloned().collect(),
        denied_by,
        from: named("pod_name")(&flow["source"]),
        to: named("pod_name")(&flow["destination"]),
        direction,
        line: line.clone(),
    })
}

/// `namespace/name` of an object whose name stands under `key`.
fn named(key: &'static str) -> impl Fn(&Value) -> String {
    move |value| match (value["namespace"].as_str(), value[key].as_str()) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => String::new(),
    }
}
