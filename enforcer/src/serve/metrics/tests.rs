use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use enforcer_common::verdict::REASONS;

use super::*;
use crate::serve::{Endpoints, Who};

struct Fixed(Result<KernelNumbers, String>);

impl Numbers for Fixed {
    fn read(&self) -> Result<KernelNumbers, String> {
        self.0.clone()
    }
}

fn kernel() -> KernelNumbers {
    let all = [Direction::Ingress, Direction::Egress].into_iter();
    let all = all.flat_map(|direction| REASONS.map(|(reason, ..)| DeniedPackets { direction, reason, packets: 3 }));
    KernelNumbers {
        revision: 7,
        denied: all.collect(),
        lost: 2,
        flows: 11,
        maps: vec![MapFill { map: "FLOWS", entries: 11, capacity: 1024 }],
    }
}

fn workload(name: &str) -> Who {
    Who::Workload { namespace: "t".to_owned(), name: name.to_owned() }
}

fn board() -> Board {
    let board = Board::default();
    board.facts(Facts {
        endpoints: Endpoints { enforced: 3, unmanaged: 2, failed: 1 },
        stale: BTreeMap::from([("runtime", SystemTime::UNIX_EPOCH + Duration::from_millis(1_500))]),
    });
    board.failed(Stage::Apply);
    board.merged(4);
    board.applied(Duration::from_millis(3));
    board.denied(workload("a"), Who::World, Direction::Egress, Reason::NoRule);
    board
}

fn served(board: &Board) -> String {
    text(board, &Fixed(Ok(kernel()))).unwrap()
}

/// Type, unit and labels of each metric, under the name by which it is queried.
fn families(text: &str) -> BTreeMap<String, (String, String, BTreeSet<String>)> {
    let words = |prefix: &'static str| text.lines().filter_map(move |line| line.strip_prefix(prefix)?.split_once(' '));
    let units: BTreeMap<&str, &str> = words("# UNIT ").collect();
    let mut families = BTreeMap::new();
    for (family, kind) in words("# TYPE ") {
        let name = match kind {
            "counter" => format!("{family}_total"),
            "info" => format!("{family}_info"),
            _ => family.to_owned(),
        };
        let series = if kind == "histogram" { format!("{name}_bucket") } else { name.clone() };
        let of_family = |line: &&str| line.split(['{', ' ']).next() == Some(series.as_str());
        let labels = text.lines().filter(of_family).filter_map(|line| line.split_once('{')?.1.rsplit_once('}'));
        let labels = labels.flat_map(|(labels, _)| labels.split(','));
        let labels = labels.filter_map(|label| Some(label.split_once('=')?.0.to_owned())).collect();
        let unit = units.get(family).copied().unwrap_or("none");
        families.insert(name, (kind.to_owned(), unit.to_owned(), labels));
    }
    families
}

#[test]
fn the_page_has_every_metric_that_is_served() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `enforcer_"));
    let shown: BTreeMap<String, (String, String, BTreeSet<String>)> = rows
        .map(|row| {
            let cells: Vec<String> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
            let labels = cells[3].split(", ").filter(|label| *label != "none").map(str::to_owned).collect();
            (format!("enforcer_{}", cells[0]), (cells[1].clone(), cells[2].clone(), labels))
        })
        .collect();
    assert_eq!(shown, families(&served(&board())), "docs/metrics.md is not what enforcer/src/serve/metrics has");
}

#[test]
fn what_the_board_and_the_kernel_say_is_served() {
    let text = served(&board());
    for line in [
        "enforcer_packets_total{direction=\"egress\",verdict=\"denied\",reason=\"no-rule\"} 3",
        "enforcer_denied_flows_total{src_workload=\"t/a\",dst_workload=\"world\",direction=\"egress\",reason=\"no-rule\"} 1",
        "enforcer_flow_events_lost_total{source=\"ringbuf\"} 2",
        "enforcer_flow_events_lost_total{source=\"queue\"} 4",
        "enforcer_policy_revision 7",
        "enforcer_policy_apply_duration_seconds_bucket{le=\"0.005\"} 1",
        "enforcer_policy_apply_duration_seconds_bucket{le=\"0.0025\"} 0",
        "enforcer_policy_errors_total{stage=\"apply\"} 1",
        "enforcer_policy_errors_total{stage=\"read\"} 0",
        "enforcer_config_reload_success 0",
        "enforcer_source_stale_since_timestamp_seconds{source=\"runtime\"} 1.5",
        "enforcer_endpoints{state=\"failed\"} 1",
        "enforcer_bpf_map_capacity{map=\"FLOWS\"} 1024",
        "enforcer_conntrack_entries 11",
    ] {
        assert!(text.lines().any(|served| served == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_hostile_name_stays_in_its_label() {
    let board = board();
    board.denied(workload("\"} 1\nenforcer_x 1\\"), Who::Host, Direction::Ingress, Reason::NoRule);
    let text = served(&board);
    assert!(text.contains("src_workload=\"t/\\\"} 1\\nenforcer_x 1\\\\\",dst_workload=\"host\""), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("enforcer_x")), "{text}");
}

#[test]
fn the_length_is_bounded_whatever_is_denied() {
    let board = board();
    for number in 0..10_000 {
        let name = |side: &str| workload(&format!("{side}{number}-{}", "n".repeat(250)));
        board.denied(name("a"), name("b"), Direction::Ingress, Reason::NoRule);
    }
    let text = served(&board);
    assert!(text.len() < 256 << 10, "{} bytes", text.len());
    assert!(text.contains("src_workload=\"other\""));
}

#[test]
fn counters_that_cannot_be_read_give_an_error_and_no_zeros() {
    assert_eq!(text(&board(), &Fixed(Err("no map".to_owned()))), Err("no map".to_owned()));
}
