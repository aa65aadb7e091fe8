//! Formats the state as text for people.
//!
//! Input: what is pinned, and the daemon's last report. Output: the text. This module reads and prints nothing itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use comfy_table::{ContentArrangement, Table, presets};
use enforcer_common::id::{Address, Direction, Ifindex, Row};
use enforcer_common::image::Header;
use enforcer_common::limits;

use super::plain::plain;
use super::{direction_name, names};
use crate::agent::report::{Report, WorkloadLine};
use crate::compile;
use crate::flow::text::{continued, printable};
use crate::kernel::status::StatusView;
use crate::policy::source::{Version, Versioned};

/// The policies of the Kubernetes API that are in force.
pub(super) fn policies(report: Option<&Report>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["KIND", "NAMESPACE", "NAME", "VERSION", "STATE"]);
    for policy in report.into_iter().flat_map(|report| report.versions.iter()) {
        let Versioned { kind, namespace, name, version, stands_in } = policy;
        let Version { resource_version, uid: _, generation } = version;
        // A NetworkPolicy has both, and its resourceVersion tells more.
        let version = match (resource_version, generation) {
            (Some(version), _) => version.clone(),
            (None, Some(generation)) => format!("generation {generation}"),
            (None, None) => "not known".to_owned(),
        };
        let state = if *stands_in { "refused; what it selects is isolated" } else { "in force" };
        let cells = [kind.as_str(), namespace, name, &version, state];
        table.add_row(cells.map(printable));
    }
    let count = report.map_or(0, |report| report.policy_count);
    let places = report.map_or("", |report| report.policies.as_str());
    format!("{table}\n\n{count} policies in force from {}", printable(places))
}

/// All of it.
pub(super) fn as_text(view: &StatusView, report: Option<&Report>, troubles: &[String]) -> String {
    let report = report.map(plain);
    let report = report.as_ref();
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
        let skipped = report.policies_skipped.iter().map(|skipped| format!("; skipped {skipped}"));
        let skipped = skipped.collect::<String>();
        let waits =
            if report.opening_waits { "; what the newest ones open waits until their files are quiet" } else { "" };
        line("policies", format!("{} from {}{skipped}{waits}", report.policy_count, report.policies));
        line("discovery", report.discovery.clone());
        line("unknown", unknown(report));
        let over = match report.flow_log_over_limit {
            0 => String::new(),
            count => format!(", {count} more over the limit of their workload"),
        };
        let (lines, merged) = (report.flow_log_lines, report.flow_log_merged);
        line("flow log", format!("{lines} lines written, {merged} records merged{over}"));
    }
    // Repairs and refused claims are shown only if there are any.
    if let Some(report) = report.filter(|report| report.repaired > 0) {
        line("repaired", format!("{} parts of the kernel state that something else had changed", report.repaired));
    }
    if let Some(report) = report.filter(|report| report.refused_claims > 0) {
        line("refused", format!("{} claims of workloads to addresses that are not theirs", report.refused_claims));
    }
    line("uplinks", uplinks(view, report));
    line("guards", guards(view, report));
    let room = u64::from(limits::ENDPOINTS + limits::ENDPOINTS_MORE);
    let more = format!("{} of them in the second table of {}", view.endpoints_more, limits::ENDPOINTS_MORE);
    line("endpoints", format!("{}, {more}", fill(view.endpoints.len() as u64, room)));
    line("workloads", fill(view.flows.workloads as u64, u64::from(limits::WORKLOADS)));
    let flows = fill(view.flows.flows, u64::from(view.flow_room));
    let shared = fill(u64::from(view.flows.shared), u64::from(view.flows.shared_room));
    line("flows", format!("{flows}, {} of them half open; beyond the reserves {shared}", view.flows.half_open));
    if let Some(image) = &view.image {
        line("image", tables(image));
    }

    let (names, unnamed) = (names(report), WorkloadLine::default());
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["WORKLOAD", "VETH", "IFINDEX", "PROGRAMS", "INGRESS", "EGRESS", "ADDRESSES"]);
    for endpoint in &view.endpoints {
        let (line, device) = names.get(&endpoint.ifindex.0).copied().unwrap_or((&unnamed, ""));
        let (name, policies) = (line.name.as_str(), line.policies);
        let [ingress, egress] = [Direction::Ingress, Direction::Egress].map(|direction| {
            let count = policies[direction as usize];
            match endpoint.rows[direction as usize] {
                _ if endpoint.unknown => "closed".to_owned(),
                Row::NOT_ISOLATED => "open".to_owned(),
                _ => format!("{count} {}", if count == 1 { "policy" } else { "policies" }),
            }
        });
        let vouched = |address: &Address| {
            let address = IpAddr::from(*address).to_string();
            match line.vouchers.get(&address) {
                Some(voucher) => format!("{address} ({voucher})"),
                None => address,
            }
        };
        let addresses: Vec<String> = endpoint.addresses.iter().map(vouched).collect();
        table.add_row([
            if name.is_empty() { "(unknown)" } else { name },
            device,
            &endpoint.ifindex.to_string(),
            match endpoint.is_attached() {
                false => "MISSING",
                true if !line.foreign.is_empty() => "partly enforced",
                true => "attached",
            },
            &ingress,
            &egress,
            &addresses.join(" "),
        ]);
    }
    for ifindex in &view.closed {
        let device = names.get(&ifindex.0).map_or("", |(_, device)| *device);
        table.add_row(["(no room)", device, &ifindex.to_string(), "attached", "closed", "closed", ""]);
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
    let notes = report.iter().flat_map(|report| [&report.findings, &report.no_ops, &report.missing_sources]);
    for finding in notes.flatten() {
        text.push_str(&format!("note: {finding}\n"));
    }
    for trouble in troubles {
        text.push_str(&format!("TROUBLE: {}\n", continued(trouble)));
    }
    if troubles.is_empty() {
        text.push_str("healthy\n");
    }
    text
}

/// How much of a table is in use.
fn fill(used: u64, room: u64) -> String {
    fill_in(used, room, "")
}

fn fill_in(used: u64, room: u64, unit: &str) -> String {
    format!("{used} of {room}{unit} ({}%)", used * 100 / room.max(1))
}

fn tables(image: &Header) -> String {
    format!(
        "{}: {} rows, {} peer classes, {} port classes, {} vectors, {} addresses",
        fill_in(compile::bytes(image), limits::IMAGE_BUDGET, " bytes"),
        image.rows,
        image.peer_classes,
        image.port_classes,
        image.vectors,
        image.addresses,
    )
}

/// The devices by name if the daemon has told their names.
fn uplinks(view: &StatusView, report: Option<&Report>) -> String {
    let names: Vec<String> = match report {
        Some(report) => report.uplinks.clone(),
        None => view.uplinks.iter().map(|ifindex| format!("ifindex {ifindex}")).collect(),
    };
    let fill = fill(view.uplinks.len() as u64, u64::from(limits::UPLINKS));
    if names.is_empty() { format!("{fill}: none") } else { format!("{fill}: {}", names.join(" ")) }
}

/// The devices that lead to no workload, each of which can bring packets to one, and the state of its guard.
fn guards(view: &StatusView, report: Option<&Report>) -> String {
    let mut devices: BTreeMap<Ifindex, String> =
        view.guards.keys().map(|ifindex| (*ifindex, format!("ifindex {ifindex}"))).collect();
    if let Some(report) = report {
        devices =
            report.others.iter().map(|(ifindex, name)| (Ifindex(*ifindex), printable(name).into_owned())).collect();
    }
    let guarded = |ifindex: &Ifindex| view.guards.get(ifindex).is_some_and(|guard| guard.is_on(*ifindex));
    let listed: Vec<String> = devices
        .iter()
        .map(|(ifindex, name)| if guarded(ifindex) { name.clone() } else { format!("{name} (MISSING)") })
        .collect();
    let there = devices.keys().filter(|ifindex| guarded(ifindex)).count();
    let names = if listed.is_empty() { "none".to_owned() } else { listed.join(" ") };
    format!("on {there} of {} devices that lead to no workload: {names}", devices.len())
}

/// How many workloads nobody has named, and where they are.
fn unknown(report: &Report) -> String {
    let mode = if report.unknown_open { "open" } else { "strict (closed)" };
    match report.unknown_workloads {
        0 => format!("{mode}: none"),
        1 => format!("{mode}: 1 workload, {}", report.unknown_veths.join(" ")),
        count => format!("{mode}: {count} workloads, {}", report.unknown_veths.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use enforcer_common::denial::Counts;
    use enforcer_common::id::{IncarnationId, PolicyWord, Revision};
    use enforcer_common::verdict::Reason;

    use super::*;
    use crate::flow::text::{json_lines, misleads};
    use crate::kernel::FlowFill;
    use crate::kernel::status::{EndpointView, LinkView};

    const HEADER: Header = Header {
        magic: Header::MAGIC,
        lines: 5_000,
        flags: 0,
        port_classes: 12,
        peer_classes: 40,
        rows: 3,
        vectors: 17,
        ports_at: 3,
        rows_at: 1_030,
        vectors_at: 1_040,
        addresses: 6,
    };

    fn endpoint(ifindex: Ifindex, unknown: bool, rows: [Row; 2], attached: bool) -> EndpointView {
        let link = LinkView { id: if attached { ifindex.0 } else { 0 }, ifindex, first: true };
        let addresses = vec![Address::from(std::net::IpAddr::from([10, 88, 0, ifindex.0 as u8]))];
        EndpointView {
            ifindex,
            id: IncarnationId(ifindex.0),
            unknown,
            routes: false,
            rows,
            addresses,
            from: link,
            to: link,
        }
    }

    fn view() -> StatusView {
        StatusView {
            daemon: true,
            word: PolicyWord { revision: Revision(7), epoch: 9 },
            image: Some(HEADER),
            endpoints: vec![
                endpoint(Ifindex(10), false, [Row(1), Row::NOT_ISOLATED], true),
                endpoint(Ifindex(11), false, [Row(1), Row(2)], false),
                endpoint(Ifindex(12), true, [Row::NONE; 2], true),
            ],
            closed: BTreeSet::from([Ifindex(13)]),
            guards: BTreeMap::from([
                (Ifindex(2), LinkView { id: 20, ifindex: Ifindex(2), first: true }),
                (Ifindex(3), LinkView { id: 21, ifindex: Ifindex::NONE, first: false }),
            ]),
            endpoints_more: 1,
            uplinks: BTreeSet::from([Ifindex(2)]),
            flows: FlowFill {
                flows: 4_096,
                half_open: 96,
                shared: 1_000,
                shared_room: 12_000,
                workloads: 83,
                full: Vec::new(),
            },
            flow_room: 16_384,
            denied: BTreeMap::from([(
                (Direction::Ingress, Reason::NoRule),
                Counts { logged: 3, suppressed: 40, lost: 1 },
            )]),
        }
    }

    fn report() -> Report {
        let workload = |name: &str, ifindex: Ifindex, policies| WorkloadLine {
            name: name.to_owned(),
            endpoints: vec![(ifindex.0, format!("veth{ifindex}"))],
            addresses: Vec::new(),
            foreign: if ifindex.0 == 10 { vec!["mac0 (macvlan)".to_owned()] } else { Vec::new() },
            vouchers: [(format!("10.88.0.{ifindex}"), "inventory".to_owned())].into(),
            policies,
        };
        Report {
            pid: 4711,
            policies: "/etc/enforcer/policies".to_owned(),
            policy_count: 4,
            policies_skipped: Some("1 document of another kind (1 Deployment)".to_owned()),
            findings: vec!["ADDRESS_CONFLICT: shop/web shows 10.88.0.1".to_owned()],
            no_ops: vec!["deny.yaml:4: FlowPolicy `default/deny` selects nobody".to_owned()],
            refused_claims: 2,
            discovery: "by events".to_owned(),
            uplinks: vec!["eth0".to_owned()],
            others: vec![(2, "eth0".to_owned()), (3, "tap0".to_owned()), (4, "br0\u{1b}[2J".to_owned())],
            workloads: vec![
                workload("shop/web", Ifindex(10), [1, 0]),
                workload("shop/db", Ifindex(11), [2, 1]),
                workload("", Ifindex(12), [0; 2]),
            ],
            unknown_workloads: 1,
            unknown_veths: vec!["veth12".to_owned()],
            flow_log_lines: 44,
            repaired: 5,
            ..Report::default()
        }
    }

    #[test]
    fn everything_is_shown() {
        insta::assert_snapshot!(as_text(&view(), Some(&report()), &["ifindex 11 has no program".to_owned()]));
    }

    #[test]
    fn without_a_report_and_with_nothing_to_tell_it_is_short() {
        let view = StatusView {
            daemon: false,
            word: PolicyWord::default(),
            image: None,
            endpoints: Vec::new(),
            closed: BTreeSet::new(),
            guards: BTreeMap::new(),
            endpoints_more: 0,
            flows: FlowFill::default(),
            denied: BTreeMap::new(),
            ..view()
        };
        insta::assert_snapshot!(as_text(&view, None, &[]));
    }

    #[test]
    fn no_name_steers_a_terminal_or_passes_for_a_line_of_its_own() {
        const NAME: &str = "a\u{1b}[2J\u{9b}1m\u{202e}b\nTROUBLE: c\nhealthy";
        let name = || NAME.to_owned();
        let hostile = Report {
            policies: name(),
            policies_skipped: Some(name()),
            no_ops: vec![name()],
            policy_error: Some(name()),
            refused_sources: vec![name()],
            apply_error: Some(name()),
            unfinished: vec![name()],
            findings: vec![name()],
            partly_enforced: vec![name()],
            discovery: name(),
            uplinks: vec![name()],
            workloads: vec![WorkloadLine {
                name: name(),
                endpoints: vec![(10, name())],
                addresses: vec![name()],
                foreign: vec![name()],
                vouchers: [(name(), name())].into(),
                policies: [1, 1],
            }],
            unknown_workloads: 1,
            unknown_veths: vec![name()],
            ..Report::default()
        };
        let troubles: Vec<String> =
            super::super::Trouble::all(&view(), Some(&hostile)).iter().map(ToString::to_string).collect();
        let text = as_text(&view(), Some(&hostile), &troubles);
        for line in text.lines() {
            assert!(!line.chars().any(misleads), "{line:?}");
            assert!(!line.starts_with("TROUBLE: c") && line != "healthy", "{text}");
        }
        assert!(text.contains("a\\u{1b}[2J"), "{text}");
        let json = json_lines(&format!("{:#}", super::super::as_json(&view(), Some(&hostile), &troubles)));
        assert!(json.lines().all(|line| !line.chars().any(misleads)), "{json}");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["report"]["workloads"][0]["name"], NAME, "programs get the name as it is");
    }

    #[test]
    fn unknown_workloads_are_counted_in_both_modes() {
        let of = |unknown_open, names: &[&str]| {
            let unknown_veths = names.iter().map(|name| (*name).to_owned()).collect();
            unknown(&Report { unknown_open, unknown_workloads: names.len(), unknown_veths, ..Report::default() })
        };
        assert_eq!(of(false, &[]), "strict (closed): none");
        assert_eq!(of(true, &["va"]), "open: 1 workload, va");
        assert_eq!(of(true, &["va", "vb"]), "open: 2 workloads, va vb");
    }
}
