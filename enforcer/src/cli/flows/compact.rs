//! Formats a flow as one line for people, like Hubble's compact output.
//!
//! Input: an envelope. Output: a line without characters that steer the terminal, whoever wrote the log.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::flow::hubble::{Endpoint, Flow, GetFlowsResponse, Layer4};
use crate::flow::text::printable;

/// The line.
pub(super) fn line(response: &GetFlowsResponse) -> String {
    let what = match (&response.flow, &response.lost_events) {
        (Some(flow), _) => flow_text(flow),
        (None, Some(lost)) => format!("EVENTS LOST: {} {}", lost.source, lost.num_events_lost),
        (None, None) => String::new(),
    };
    printable(&format!("{}: {what}", time(&response.time))).into_owned()
}

fn time(text: &str) -> String {
    text.parse::<Timestamp>().map_or_else(
        |_| text.to_owned(),
        |time| time.to_zoned(TimeZone::UTC).strftime("%b %d %H:%M:%S%.3f").to_string(),
    )
}

fn flow_text(flow: &Flow) -> String {
    let (source_port, destination_port) = ports(flow.l4.as_ref());
    let (source_ip, destination_ip) =
        flow.ip.as_ref().map_or((None, None), |ip| (Some(&*ip.source), Some(&*ip.destination)));
    let source = party(flow.source.as_ref(), source_ip, source_port);
    let destination = party(flow.destination.as_ref(), destination_ip, destination_port);
    // The arrow shows who opened the flow.
    let (left, arrow, right) = match flow.is_reply {
        Some(false) => (source, "->", destination),
        Some(true) => (destination, "<-", source),
        None => (source, "<>", destination),
    };
    format!("{left} {arrow} {right} {} ({})", verdict(flow), flow.summary)
}

fn ports(layer4: Option<&Layer4>) -> (u16, u16) {
    let Some(layer4) = layer4 else { return (0, 0) };
    let tcp = layer4.tcp.map(|tcp| tcp.ports);
    tcp.or(layer4.udp).or(layer4.sctp).map_or((0, 0), |ports| (ports.source, ports.destination))
}

fn party(endpoint: Option<&Endpoint>, address: Option<&str>, port: u16) -> String {
    let name = endpoint.filter(|endpoint| !endpoint.pod_name.is_empty());
    let text = match (name, address) {
        (Some(name), _) => format!("{}/{}", name.namespace, name.pod_name),
        (None, Some(address)) if port != 0 && address.contains(':') => format!("[{address}]"),
        (None, Some(address)) => address.to_owned(),
        (None, None) => "?".to_owned(),
    };
    let text = if port == 0 { text } else { format!("{text}:{port}") };
    match endpoint.map(|endpoint| endpoint.identity) {
        None => text,
        Some(0) => text + " (unknown)",
        Some(1) => text + " (host)",
        Some(2) => text + " (world)",
        Some(identity) => format!("{text} (ID:{identity})"),
    }
}

/// The numbers are message types of Cilium's monitor.
fn verdict(flow: &Flow) -> String {
    match flow.event_type.kind {
        5 => {
            let verdict = match &*flow.verdict {
                "DROPPED" | "ERROR" => "DENIED",
                "FORWARDED" | "REDIRECTED" => "ALLOWED",
                "AUDIT" => "AUDITED",
                other => other,
            };
            format!("policy-verdict {} {verdict}", flow.traffic_direction)
        }
        1 => format!("{} {} {}", flow.drop_reason_desc, flow.traffic_direction, flow.verdict),
        _ => format!("{} {}", flow.traffic_direction, flow.verdict),
    }
}
