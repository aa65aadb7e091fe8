//! `enforcer status`: how enforcement on this node is, with the daemon or without.

#![allow(clippy::print_stdout, reason = "the state is what the command is for")]

mod text;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;

use enforcer_common::id::Direction;
use enforcer_common::schema::Group;

use self::text::as_text;
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
        "abi": abi(),
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

/// Versions of the layouts that this build pins, by group.
fn abi() -> serde_json::Map<String, serde_json::Value> {
    Group::ALL.into_iter().map(|group| (group.name().to_owned(), group.abi().into())).collect()
}
