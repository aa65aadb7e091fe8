//! Reads the cases beside each example policy. All test tiers use this one table of cases.
//!
//! Input: `policies/NAME.yaml` with `NAME.inventory.yaml` and `NAME.cases.yaml`. Output: [`Example`]s and [`Case`]s.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use enforcer_common::id::Direction;
use enforcer_common::verdict::{REASONS, Reason};
use serde::Deserialize;

/// An example policy with what belongs to it.
#[derive(Clone, Debug)]
pub struct Example {
    /// `NAME`.
    pub name: String,
    /// The policy file.
    pub policy: PathBuf,
    /// The inventory file.
    pub inventory: PathBuf,
    /// What must be allowed and what denied.
    pub cases: Vec<Case>,
}

/// One flow and what has to become of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The case in words.
    pub why: String,
    /// Who opens the flow.
    pub from: Place,
    /// To whom.
    pub to: Place,
    /// Asking for what.
    pub port: Port,
    /// The verdict.
    pub expect: Expect,
}

/// One end of a flow.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// `namespace/name` of the inventory.
    Workload(String),
    /// Outside: an address of each family.
    Outside(Vec<IpAddr>),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Port {
    /// `5432/tcp`.
    Tcp(u16),
    /// `53/udp`.
    Udp(u16),
    /// `3868/sctp`.
    Sctp(u16),
    /// An ICMP or ICMPv6 echo request.
    Icmp,
}

/// The verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expect {
    /// It arrives.
    Allow,
    /// It does not.
    Deny {
        /// Why.
        reason: Reason,
        /// At which end: `egress` of the one that sends, or `ingress` of the one that is asked.
        at: Direction,
    },
}

/// Directory of the example policies.
pub fn policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

/// Every example, by name. An example without cases or inventory is an error: it would be tested by nobody.
pub fn examples() -> anyhow::Result<Vec<Example>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(policies())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".yaml").filter(|stem| !stem.contains('.')) {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "{} holds no example", policies().display());
    names.iter().map(|name| example(name)).collect()
}

/// One example.
pub fn example(name: &str) -> anyhow::Result<Example> {
    let file = |suffix: &str| policies().join(format!("{name}{suffix}"));
    let path = file(".cases.yaml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let cases = parse(&text).with_context(|| path.display().to_string())?;
    let inventory = file(".inventory.yaml");
    ensure!(inventory.exists(), "{} is not there", inventory.display());
    Ok(Example { name: name.to_owned(), policy: file(".yaml"), inventory, cases })
}

/// Reads the text of a cases file.
pub fn parse(text: &str) -> anyhow::Result<Vec<Case>> {
    let documents: Vec<CaseDoc> = serde_yaml::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(!documents.is_empty(), "there is no case");
    documents.into_iter().map(Case::try_from).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseDoc {
    why: String,
    from: PlaceDoc,
    to: PlaceDoc,
    port: String,
    expect: ExpectDoc,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PlaceDoc {
    Workload(String),
    Outside(Vec<IpAddr>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ExpectDoc {
    Word(String),
    Deny(DenyDoc),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DenyDoc {
    deny: String,
    at: String,
}

impl TryFrom<CaseDoc> for Case {
    type Error = anyhow::Error;

    fn try_from(document: CaseDoc) -> anyhow::Result<Self> {
        let CaseDoc { why, from, to, port, expect } = document;
        let case = || format!("case `{why}`");
        let (from, to) = (Place::try_from(from).with_context(case)?, Place::try_from(to).with_context(case)?);
        let (port, expect) = (port.parse().with_context(case)?, Expect::try_from(expect).with_context(case)?);
        ensure!(matches!(from, Place::Workload(_)) || matches!(to, Place::Workload(_)), "{}: nobody judges it", case());
        Ok(Self { why, from, to, port, expect })
    }
}

impl TryFrom<PlaceDoc> for Place {
    type Error = anyhow::Error;

    fn try_from(document: PlaceDoc) -> anyhow::Result<Self> {
        match document {
            PlaceDoc::Workload(name) => {
                ensure!(name.split('/').filter(|part| !part.is_empty()).count() == 2, "`{name}` is no namespace/name");
                Ok(Self::Workload(name))
            }
            PlaceDoc::Outside(addresses) => {
                let families = [true, false].map(|v4| addresses.iter().filter(|own| own.is_ipv4() == v4).count());
                ensure!(families == [1, 1], "{addresses:?}: one address of each family is needed");
                Ok(Self::Outside(addresses))
            }
        }
    }
}

impl std::str::FromStr for Port {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text == "icmp" {
            return Ok(Self::Icmp);
        }
        let (number, protocol) = text.split_once('/').with_context(|| format!("`{text}` is no port"))?;
        let number: u16 = number.parse().with_context(|| format!("`{text}` is no port"))?;
        match protocol {
            "tcp" => Ok(Self::Tcp(number)),
            "udp" => Ok(Self::Udp(number)),
            "sctp" => Ok(Self::Sctp(number)),
            _ => anyhow::bail!("`{text}`: a port is of tcp, udp or sctp"),
        }
    }
}

impl TryFrom<ExpectDoc> for Expect {
    type Error = anyhow::Error;

    fn try_from(document: ExpectDoc) -> anyhow::Result<Self> {
        match document {
            ExpectDoc::Word(word) => {
                ensure!(word == "allow", "`{word}`: expected `allow` or `{{ deny: REASON, at: DIRECTION }}`");
                Ok(Self::Allow)
            }
            ExpectDoc::Deny(DenyDoc { deny, at }) => {
                let row = REASONS.iter().find(|row| row.1 == deny);
                let reason = row.map(|row| row.0).with_context(|| format!("`{deny}` is no reason"))?;
                let at = match at.as_str() {
                    "ingress" => Direction::Ingress,
                    "egress" => Direction::Egress,
                    _ => anyhow::bail!("`{at}` is no direction"),
                };
                Ok(Self::Deny { reason, at })
            }
        }
    }
}

impl Port {
    /// The number; 0 for ICMP.
    pub fn number(self) -> u16 {
        match self {
            Self::Tcp(number) | Self::Udp(number) | Self::Sctp(number) => number,
            Self::Icmp => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_cases_of_both_verdicts() {
        for example in examples().unwrap() {
            let allowed = example.cases.iter().filter(|case| case.expect == Expect::Allow).count();
            assert!(allowed > 0 && allowed < example.cases.len(), "{}", example.name);
        }
    }

    #[test]
    fn a_case_is_read_as_it_is_meant() {
        let text = "- { why: w, from: a/b, to: [192.0.2.7, \"2001:db8::7\"], port: 53/udp, \
                    expect: { deny: no-rule, at: egress } }\n";
        let [case] = &parse(text).unwrap()[..] else { panic!("one case") };
        assert_eq!(case.from, Place::Workload("a/b".to_owned()));
        assert_eq!(case.port, Port::Udp(53));
        assert_eq!(case.expect, Expect::Deny { reason: Reason::NoRule, at: Direction::Egress });
    }

    #[test]
    fn what_is_no_case_is_refused() {
        let good = "{ why: w, from: a/b, to: c/d, port: 1/tcp, expect: allow }";
        assert!(parse(&format!("- {good}\n")).is_ok());
        for (from, to) in [
            ("why: w", "why: w, hwy: x"),
            ("a/b", "ab"),
            ("a/b", "[192.0.2.7]"),
            ("1/tcp", "1/tpc"),
            ("1/tcp", "70000/tcp"),
            ("1/tcp", "http"),
            ("allow", "deny"),
            ("allow", "{ deny: because, at: ingress }"),
            ("allow", "{ deny: no-rule, at: both }"),
            ("allow", "{ deny: no-rule }"),
            ("allow", "{ deny: no-rule, at: ingress, by: me }"),
        ] {
            let text = format!("- {}\n", good.replacen(from, to, 1));
            assert!(parse(&text).is_err(), "{text}");
        }
        assert!(parse("[]\n").is_err(), "no case at all");
    }
}
