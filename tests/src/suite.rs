//! The traffic rows of the public NetworkPolicy suite. Input: the policies of each row, in both kinds, from the fixture beside the
//! policy tests. Output: the suite's own matrix, which is written down here by row.

#![allow(clippy::unwrap_used, reason = "a test without its fixture has to stop")]

use std::fs;
use std::path::Path;

use serde::Deserialize;

/// A row: one policy, or several after each other.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    /// Its place in the suite.
    pub number: u32,
    /// What it is called there.
    pub title: String,
    /// Policy sets, each in force instead of the one before.
    pub steps: Vec<Step>,
}

/// A policy set as documents of YAML.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// As objects of the kind NetworkPolicy.
    pub network_policies: String,
    /// As objects of the kind FlowPolicy.
    pub flow_policies: String,
}

/// A probe of all pairs: row and step, port, who is denied, and who of those is not. `*` stands for any name. Loopback is
/// not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Probe(pub u32, pub usize, pub &'static str, pub &'static [&'static str], pub &'static [&'static str]);

impl Probe {
    /// Whether a pod, as `NAMESPACE/NAME`, reaches another.
    pub fn passes(&self, from: &str, to: &str) -> bool {
        let any = |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern, from, to));
        !any(self.3) || any(self.4)
    }
}

/// Every probe of the suite.
pub const PROBES: [Probe; 67] = [
    Probe(1, 0, "80/tcp", &["* > x/*"], &[]),
    Probe(2, 0, "80/tcp", &["* > x/*", "x/* > *"], &[]),
    Probe(3, 0, "80/tcp", &["* > x/a"], &["x/b > x/a"]),
    Probe(4, 0, "80/tcp", &["* > x/b", "* > x/c"], &[]),
    Probe(5, 0, "80/tcp", &[], &[]),
    Probe(6, 0, "80/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    Probe(7, 0, "80/tcp", &["* > x/a"], &["x/b > x/a"]),
    Probe(8, 0, "80/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    Probe(9, 0, "80/tcp", &["x/c > x/a"], &[]),
    Probe(10, 0, "80/tcp", &["* > x/a"], &["y/b > x/a", "z/b > x/a"]),
    Probe(11, 0, "80/tcp", &["x/* > x/a", "y/a > x/a", "z/a > x/a"], &[]),
    Probe(12, 0, "80/tcp", &["* > x/a"], &["x/b > x/a", "x/c > x/a"]),
    Probe(13, 0, "80/tcp", &["* > x/a"], &["y/a > x/a"]),
    Probe(14, 0, "81/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    Probe(14, 0, "80/tcp", &["* > x/a"], &[]),
    Probe(15, 0, "81/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    Probe(15, 0, "80/tcp", &["* > x/a"], &[]),
    Probe(15, 1, "81/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    Probe(15, 1, "80/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    Probe(16, 0, "80/tcp", &[], &[]),
    Probe(16, 0, "81/tcp", &[], &[]),
    Probe(17, 0, "81/tcp", &[], &[]),
    Probe(17, 0, "80/tcp", &["* > x/*"], &[]),
    Probe(18, 0, "80/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    Probe(18, 0, "81/tcp", &["* > x/a"], &[]),
    Probe(19, 0, "80/tcp", &[], &[]),
    Probe(19, 0, "81/tcp", &["x/* > *"], &[]),
    Probe(20, 0, "81/tcp", &[], &[]),
    Probe(20, 1, "81/tcp", &["* > x/*"], &[]),
    Probe(21, 0, "80/tcp", &["* > x/a"], &[]),
    Probe(21, 1, "80/tcp", &["* > x/a"], &["y/* > x/a"]),
    Probe(22, 0, "80/tcp", &["* > x/a"], &[]),
    Probe(22, 1, "80/tcp", &["* > x/a"], &["x/b > x/a"]),
    Probe(23, 0, "80/tcp", &["y/* > x/*", "z/* > x/*"], &[]),
    Probe(24, 0, "80/tcp", &[], &[]),
    Probe(24, 1, "80/tcp", &["* > x/a"], &[]),
    Probe(25, 0, "80/tcp", &["x/a > *"], &[]),
    Probe(26, 0, "80/tcp", &["x/* > *"], &[]),
    Probe(27, 0, "80/tcp", &["* > x/a"], &["x/b > x/a"]),
    Probe(27, 0, "81/tcp", &["* > x/a", "x/a > *"], &["x/b > x/a"]),
    Probe(28, 0, "80/tcp", &["x/a > *", "* > y/b", "* > y/a"], &["x/a > y/a"]),
    Probe(29, 0, "80/tcp", &["x/a > *"], &["x/a > y/a"]),
    Probe(30, 0, "80/tcp", &[], &[]),
    Probe(30, 0, "80/udp", &["* > x/a"], &[]),
    Probe(31, 0, "81/tcp", &["* > x/*"], &[]),
    Probe(31, 1, "81/tcp", &[], &[]),
    Probe(32, 0, "81/tcp", &["x/* > *"], &[]),
    Probe(32, 1, "81/tcp", &[], &[]),
    Probe(33, 0, "80/tcp", &["* > x/*", "x/* > *"], &[]),
    Probe(33, 1, "80/tcp", &[], &[]),
    Probe(34, 0, "80/tcp", &["x/a > *"], &["x/a > y/b"]),
    Probe(35, 0, "80/tcp", &["x/a > x/b"], &[]),
    Probe(36, 0, "80/tcp", &["x/a > x/b"], &[]),
    Probe(36, 1, "80/tcp", &["x/a > *"], &["x/a > x/b"]),
    Probe(37, 0, "80/tcp", &[], &[]),
    Probe(37, 1, "80/tcp", &["* > x/a"], &[]),
    Probe(38, 0, "81/tcp", &["* > x/*"], &[]),
    Probe(39, 0, "81/tcp", &["* > x/a"], &[]),
    Probe(40, 0, "81/tcp", &["* > x/a"], &[]),
    Probe(41, 0, "80/tcp", &["x/* > x/a", "z/* > x/a"], &[]),
    Probe(42, 0, "80/tcp", &["x/a > y/*"], &[]),
    Probe(43, 0, "80/udp", &["* > x/*"], &[]),
    Probe(44, 0, "81/udp", &["x/* > x/a", "z/* > x/a"], &[]),
    Probe(45, 0, "80/udp", &["* > x/a"], &["y/a > x/a"]),
    Probe(46, 0, "80/sctp", &["* > x/*"], &[]),
    Probe(47, 0, "81/sctp", &["x/* > x/a", "z/* > x/a"], &[]),
    Probe(48, 0, "80/sctp", &["* > x/a"], &["y/a > x/a"]),
];

/// The suite's namespaces.
pub const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// The pods in each.
pub const PODS: [&str; 3] = ["a", "b", "c"];
/// The ports at which each pod serves.
pub const PORTS: [u16; 2] = [80, 81];

/// A label that a row adds between its probes.
#[derive(Clone, Copy, Debug)]
pub struct Relabelled {
    row: u32,
    /// The step from which it holds.
    step: usize,
    /// Where.
    pub namespace: &'static str,
    /// The pod there; none: the namespace itself.
    pub pod: Option<&'static str>,
    /// The label.
    pub key: &'static str,
    /// Its value.
    pub value: &'static str,
}

const RELABELLED: [Relabelled; 3] = [
    Relabelled { row: 21, step: 1, namespace: "y", pod: None, key: "ns2", value: "updated" },
    Relabelled { row: 22, step: 1, namespace: "x", pod: Some("b"), key: "pod2", value: "updated" },
    Relabelled { row: 24, step: 1, namespace: "x", pod: Some("a"), key: "target", value: "isolated" },
];

/// Labels that are there at a step of a row beside those of the whole suite.
pub fn relabelled(row: u32, step: usize) -> impl Iterator<Item = Relabelled> {
    RELABELLED.into_iter().filter(move |it| it.row == row && it.step <= step)
}

fn matches(pattern: &str, from: &str, to: &str) -> bool {
    let one = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    let (wanted_from, wanted_to) = pattern.split_once(" > ").unwrap();
    one(wanted_from, from) && one(wanted_to, to)
}

/// The rows.
pub fn rows() -> Vec<Row> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../enforcer/tests/conformance_rows.yaml");
    let text = fs::read_to_string(file).unwrap();
    serde_yaml::from_str(&text).unwrap()
}
