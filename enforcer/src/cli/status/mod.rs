//! `enforcer status`: shows the state of enforcement on this node, with or without a running daemon.
//!
//! Input: what is pinned, and the daemon's last report. Output: text or JSON on stdout, and the exit code.

mod plain;
mod text;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;

use enforcer_common::id::{Direction, Ifindex};
use enforcer_common::schema::Group;

use self::text::{as_text, policies};
use self::trouble::Trouble;
use super::in_force::Place;
use super::out;
use crate::agent::report::{Report, WorkloadLine};
use crate::kernel::KernelError;
use crate::kernel::status::{self, StatusView};

/// Show the state of enforcement on this node.
///
/// The command works with and without a running daemon. It reads from the kernel what is attached and how many packets were
/// denied. It reads names and errors from the last report that the daemon wrote.
///
/// Each line that begins with TROUBLE names a problem; docs/troubleshooting.md says what to do about it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 Enforcement is healthy.
            1 There is trouble: for example, no daemon runs or the policies were refused.
            2 Nothing is enforced here, the state cannot be read, or the command line is wrong.")]
pub struct Args {
    /// The daemon's pin directory and settings.
    #[command(flatten)]
    pub place: Place,
    /// Print the state as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Print the policies of the Kubernetes API that are in force, each with the version of its object.
    #[arg(long, conflicts_with = "json")]
    pub policies: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let view = match status::read(&args.place.pin_dir) {
        Ok(view) => view,
        Err(error @ KernelError::NothingPinned { .. }) => {
            out::tell(&error.to_string());
            return Ok(ExitCode::from(super::USAGE));
        }
        Err(error) => return Err(error.into()),
    };
    let report: Option<Report> =
        fs::read_to_string(args.place.states()?.report()).ok().and_then(|text| serde_json::from_str(&text).ok());
    let troubles: Vec<String> = Trouble::all(&view, report.as_ref()).iter().map(ToString::to_string).collect();
    if args.policies {
        out::tell(policies(report.as_ref()).trim_end_matches('\n'));
    } else if args.json {
        out::tell_json(&as_json(&view, report.as_ref(), &troubles));
    } else {
        out::tell(as_text(&view, report.as_ref(), &troubles).trim_end_matches('\n'));
    }
    Ok(ExitCode::from(u8::from(!troubles.is_empty())))
}

/// Workloads by ifindex, with the device, from the report.
fn names(report: Option<&Report>) -> BTreeMap<u32, (&WorkloadLine, &str)> {
    let mut names = BTreeMap::new();
    for line in report.iter().flat_map(|report| &report.workloads) {
        for (ifindex, device) in &line.endpoints {
            names.insert(*ifindex, (line, device.as_str()));
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
            let known = names.get(&endpoint.ifindex.0);
            let (name, device) = known.map_or(("", ""), |(line, device)| (line.name.as_str(), *device));
            let foreign = known.map_or(&[][..], |(line, _)| line.foreign.as_slice());
            serde_json::json!({
                "ifindex": endpoint.ifindex,
                "device": device,
                "workload": name,
                "id": endpoint.id.0,
                "attached": endpoint.is_attached(),
                "links": [endpoint.from.id, endpoint.to.id],
                "foreign_devices": foreign,
                "unknown": endpoint.unknown,
                "routes": endpoint.routes,
                "addresses": endpoint.addresses.iter().map(|own| IpAddr::from(*own)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let devices: BTreeMap<u32, &str> =
        report.iter().flat_map(|report| &report.others).map(|(ifindex, name)| (*ifindex, name.as_str())).collect();
    let known = devices.keys().copied().chain(view.guards.keys().map(|ifindex| ifindex.0));
    let guards: Vec<serde_json::Value> = known
        .collect::<BTreeSet<u32>>()
        .into_iter()
        .map(|ifindex| {
            let guard = view.guards.get(&Ifindex(ifindex));
            serde_json::json!({
                "ifindex": ifindex,
                "device": devices.get(&ifindex).copied().unwrap_or_default(),
                "attached": guard.is_some_and(|guard| guard.is_on(Ifindex(ifindex))),
                "link": guard.map_or(0, |guard| guard.id),
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
        "revision": view.word.revision.0,
        "epoch": view.word.epoch,
        "flows": view.flows.flows,
        "flows_half_open": view.flows.half_open,
        "flow_room": view.flow_room,
        "flows_beyond_reserves": view.flows.shared,
        "room_beyond_reserves": view.flows.shared_room,
        "endpoints": endpoints,
        "closed": view.closed,
        "guards": guards,
        "denied": denied,
        "report": report,
        "troubles": troubles,
    })
}

/// Versions of the layouts that this build pins, by group.
fn abi() -> serde_json::Map<String, serde_json::Value> {
    Group::ALL.into_iter().map(|group| (group.name().to_owned(), group.abi().into())).collect()
}
