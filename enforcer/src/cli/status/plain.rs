//! Makes the names in a report safe to print. Workloads, devices and labels have names that others chose.
//!
//! Input: the daemon's report. Output: the same report, with one printable line in each text. The errors are no part of this:
//! they become troubles, whose further lines are indented.

use std::sync::Arc;

use crate::agent::report::{Report, WorkloadLine};
use crate::flow::text::printable;

fn text(name: &str) -> String {
    printable(name).into_owned()
}

fn texts(names: &[String]) -> Vec<String> {
    names.iter().map(|name| text(name)).collect()
}

/// The report as people see it.
pub(super) fn plain(report: &Report) -> Report {
    // Taken apart whole: a new field does not compile until somebody has thought of the names in it.
    let Report {
        pid,
        policies,
        policy_count,
        versions,
        policies_skipped,
        no_ops,
        stale_sources,
        missing_sources,
        policy_error,
        opening_waits,
        refused_sources,
        apply_error,
        awaits_sources,
        unfinished,
        findings,
        partly_enforced,
        refused_claims,
        discovery,
        uplinks,
        workloads,
        unknown_open,
        unknown_workloads,
        unknown_veths,
        flow_log_lines,
        flow_log_merged,
        flow_log_over_limit,
        disagreements,
        repaired,
        closed,
        others,
    } = report;
    Report {
        pid: *pid,
        policies: text(policies),
        policy_count: *policy_count,
        // Names that the API server takes are plain.
        versions: Arc::clone(versions),
        policies_skipped: policies_skipped.as_deref().map(text),
        no_ops: texts(no_ops),
        stale_sources: stale_sources.clone(),
        missing_sources: texts(missing_sources),
        policy_error: policy_error.clone(),
        opening_waits: *opening_waits,
        refused_sources: refused_sources.clone(),
        apply_error: apply_error.clone(),
        awaits_sources: *awaits_sources,
        unfinished: unfinished.clone(),
        findings: texts(findings),
        partly_enforced: texts(partly_enforced),
        refused_claims: *refused_claims,
        discovery: text(discovery),
        uplinks: texts(uplinks),
        workloads: workloads.iter().map(workload).collect(),
        unknown_open: *unknown_open,
        unknown_workloads: *unknown_workloads,
        unknown_veths: texts(unknown_veths),
        flow_log_lines: *flow_log_lines,
        flow_log_merged: *flow_log_merged,
        flow_log_over_limit: *flow_log_over_limit,
        disagreements: *disagreements,
        repaired: *repaired,
        closed: texts(closed),
        others: others.iter().map(|(ifindex, device)| (*ifindex, text(device))).collect(),
    }
}

fn workload(line: &WorkloadLine) -> WorkloadLine {
    let WorkloadLine { name, endpoints, addresses, foreign, vouchers, policies } = line;
    WorkloadLine {
        name: text(name),
        endpoints: endpoints.iter().map(|(ifindex, device)| (*ifindex, text(device))).collect(),
        addresses: texts(addresses),
        foreign: texts(foreign),
        vouchers: vouchers.iter().map(|(address, by)| (text(address), text(by))).collect(),
        policies: *policies,
    }
}
