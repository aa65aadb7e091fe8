//! `enforcer status`: how enforcement on this node is, with the daemon or without.

#![allow(clippy::print_stdout, reason = "the state is what the command is for")]

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use enforcer_common::id::{Direction, Row};

use super::in_force::Place;
use crate::agent::report::Report;
use crate::kernel::KernelError;
use crate::kernel::status::{self, StatusView};

/// Say how enforcement on this node is.
///
/// Works beside a running daemon and without one: what is attached and what was denied is read from the kernel, who is
/// who from the daemon's last report.
///
/// Exit codes: 0 healthy, 1 something needs a look (no daemon, refused policies, a veth without programs), 2 nothing is
/// enforced here, or it cannot be read.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to look.
    #[command(flatten)]
    pub place: Place,
    /// Everything as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let view = match status::read(&args.place.pin_dir) {
        Ok(view) => view,
        Err(error @ KernelError::NothingPinned { .. }) => {
            println!("{error}");
            return Ok(ExitCode::from(super::USAGE));
        }
        Err(error) => return Err(error.into()),
    };
    let report: Option<Report> =
        fs::read_to_string(args.place.states()?.report()).ok().and_then(|text| serde_json::from_str(&text).ok());
    let troubles = troubles(&view, report.as_ref());
    if args.json {
        println!("{:#}", as_json(&view, report.as_ref(), &troubles));
    } else {
        print!("{}", as_text(&view, report.as_ref(), &troubles));
    }
    Ok(ExitCode::from(u8::from(!troubles.is_empty())))
}

fn troubles(view: &StatusView, report: Option<&Report>) -> Vec<String> {
    let mut troubles = Vec::new();
    if !view.daemon {
        troubles.push("no daemon runs: what is attached stays enforced, a new veth is unprotected".to_owned());
    }
    if view.word.revision == 0 {
        troubles.push("no policy is in force yet".to_owned());
    }
    for endpoint in view.endpoints.iter().filter(|endpoint| !endpoint.is_attached()) {
        troubles.push(format!("ifindex {} has no program, or not as the first of its chain", endpoint.ifindex));
    }
    troubles.extend(report.iter().flat_map(|report| report.troubles()));
    troubles
}

/// Workloads by ifindex, from the report.
fn names(report: Option<&Report>) -> BTreeMap<u32, (&str, &str, [usize; 2])> {
    let mut names = BTreeMap::new();
    for line in report.iter().flat_map(|report| &report.workloads) {
        for (ifindex, device) in &line.endpoints {
            names.insert(*ifindex, (line.name.as_str(), device.as_str(), line.policies));
        }
    }
    names
}

fn as_text(view: &StatusView, report: Option<&Report>, troubles: &[String]) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<12}{value}\n"));
    let daemon = match (view.daemon, report) {
        (true, Some(report)) => format!("running, pid {}", report.pid),
        (true, None) => "running".to_owned(),
        (false, _) => "not running".to_owned(),
    };
    line("daemon", daemon);
    line("revision", format!("{} (epoch {})", view.word.revision, view.word.epoch));
    if let Some(report) = report {
        line("policies", format!("{} from {}", report.policy_count, report.policies));
        line("uplinks", or_none(&report.uplinks));
        line("discovery", report.discovery.clone());
        let unknown = if report.unknown_open { "open" } else { "strict (closed)" };
        line("unknown", unknown.to_owned());
        line("flow log", format!("{} lines, {} records merged", report.flow_log_lines, report.flow_log_merged));
    }
    if let Some(image) = &view.image {
        let tables = format!(
            "{} KiB: {} rows, {} peer classes, {} port classes, {} vectors, {} addresses",
            u64::from(image.lines) * 64 / 1024,
            image.rows,
            image.peer_classes,
            image.port_classes,
            image.vectors,
            image.addresses,
        );
        line("image", tables);
    }
    let share = view.flows.flows * 100 / u64::from(view.flow_room.max(1));
    line("flows", format!("{} of {} ({share}%)", view.flows.flows, view.flow_room));

    let names = names(report);
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["WORKLOAD", "VETH", "IFINDEX", "PROGRAMS", "INGRESS", "EGRESS", "ADDRESSES"]);
    for endpoint in &view.endpoints {
        let (name, device, policies) = names.get(&endpoint.ifindex).copied().unwrap_or(("", "", [0; 2]));
        let [ingress, egress] = [Direction::Ingress, Direction::Egress].map(|direction| {
            let count = policies[direction as usize];
            match endpoint.rows[direction as usize] {
                _ if endpoint.unknown => "closed".to_owned(),
                Row::NOT_ISOLATED => "open".to_owned(),
                _ => format!("{count} {}", if count == 1 { "policy" } else { "policies" }),
            }
        });
        let addresses: Vec<String> =
            endpoint.addresses.iter().map(|address| IpAddr::from(*address).to_string()).collect();
        table.add_row([
            if name.is_empty() { "(unknown)" } else { name },
            device,
            &endpoint.ifindex.to_string(),
            if endpoint.is_attached() { "attached" } else { "MISSING" },
            &ingress,
            &egress,
            &addresses.join(" "),
        ]);
    }
    text.push_str(&format!("\n{table}\n\n"));

    let mut denied = Table::new();
    denied.load_style(presets::NOTHING).set_header(["DENIED", "REASON", "PACKETS", "LOGGED", "SUPPRESSED", "LOST"]);
    for ((direction, reason), counts) in &view.denied {
        let total = counts.logged + counts.suppressed + counts.lost;
        let counts = [total, counts.logged, counts.suppressed, counts.lost].map(|count| count.to_string());
        let [total, logged, suppressed, lost] = &counts;
        denied.add_row([direction_name(*direction), reason.name(), total, logged, suppressed, lost]);
    }
    if !view.denied.is_empty() {
        text.push_str(&format!("{denied}\n\n"));
    }
    for finding in report.iter().flat_map(|report| &report.findings) {
        text.push_str(&format!("note: {finding}\n"));
    }
    for trouble in troubles {
        text.push_str(&format!("TROUBLE: {trouble}\n"));
    }
    if troubles.is_empty() {
        text.push_str("healthy\n");
    }
    text
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn as_json(view: &StatusView, report: Option<&Report>, troubles: &[String]) -> serde_json::Value {
    let names = names(report);
    let endpoints: Vec<serde_json::Value> = view
        .endpoints
        .iter()
        .map(|endpoint| {
            let (name, device, _) = names.get(&endpoint.ifindex).copied().unwrap_or(("", "", [0; 2]));
            serde_json::json!({
                "ifindex": endpoint.ifindex,
                "device": device,
                "workload": name,
                "id": endpoint.id.0,
                "attached": endpoint.is_attached(),
                "links": [endpoint.from.id, endpoint.to.id],
                "unknown": endpoint.unknown,
                "routes": endpoint.routes,
                "addresses": endpoint.addresses.iter().map(|own| IpAddr::from(*own)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let denied: Vec<serde_json::Value> = view
        .denied
        .iter()
        .map(|((direction, reason), counts)| {
            serde_json::json!({
                "direction": direction_name(*direction),
                "reason": reason.name(),
                "logged": counts.logged,
                "suppressed": counts.suppressed,
                "lost": counts.lost,
            })
        })
        .collect();
    serde_json::json!({
        "daemon": view.daemon,
        "abi": view.abi,
        "revision": view.word.revision,
        "epoch": view.word.epoch,
        "flows": view.flows.flows,
        "flow_room": view.flow_room,
        "endpoints": endpoints,
        "denied": denied,
        "report": report,
        "troubles": troubles,
    })
}
