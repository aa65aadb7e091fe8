//! Mutated and truncated YAML: an answer, never a panic, and never more than was written.

use std::sync::Arc;

use proptest::prelude::*;

use crate::policy::load::{Loaded, SourceFile, from_sources};
use crate::policy::model::{Peers, Policy};

const SEED: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: FlowPolicy
metadata: {name: db, namespace: shop}
spec:
  workloads: {app: db}
  isolate: [ingress, egress]
  allow:
    - from: [{workloads: {app: web}, namespaces: {team: shop}}, {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]
      ports: [5432/tcp, 8000-8010/udp, http, icmp]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  podSelector:
    matchLabels: {app: web}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
        - namespaceSelector:
            matchExpressions: [{key: team, operator: NotIn, values: [ops]}]
          podSelector: {}
      ports:
        - {port: 80, endPort: 90}
        - {port: http, protocol: UDP}
  egress: []
";

fn answer(text: String) -> Option<Loaded> {
    from_sources(vec![SourceFile { path: Arc::from("test.yaml"), text: text.into() }]).ok()
}

/// Whether the policy has a rule for everybody: the seed has none.
fn is_open(policy: &Policy) -> bool {
    policy.ingress.iter().chain(&policy.egress).any(|rule| rule.peers == Peers::Any)
}

/// What an editor, a merge or a broken disk puts into a file.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "",
        " ",
        "\n",
        "\t",
        "\r",
        "- ",
        ": ",
        "#",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "!t ",
        "|",
        ">",
        "\"",
        "'",
        "---\n",
        "...\n",
        "<<: *a",
        "null",
        "~",
        "\u{0}",
        "\u{feff}",
        "0",
        "-1",
        "99999999999",
        "0x",
        "1e9",
        "é",
        "? ",
        ",",
        "%YAML 1.1\n",
        "@",
    ]);
    prop_oneof![token.prop_map(|token| token.as_bytes().to_vec()), prop::collection::vec(any::<u8>(), 0..4)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_get_an_answer(edits in prop::collection::vec((0..SEED.len(), 0..40_usize, piece()), 1..4)) {
        let mut bytes = SEED.as_bytes().to_vec();
        for (at, removed, piece) in edits {
            let at = at.min(bytes.len());
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, piece);
        }
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = answer(text).map(|loaded| loaded.set);
        }
    }

    #[test]
    fn lines_left_out_give_no_set_or_one_of_their_own(from in 0..33_usize, count in 0..6_usize) {
        let kept: String = SEED.split_inclusive('\n').enumerate()
            .filter(|(line, _)| !(from..from + count).contains(line)).map(|(_, line)| line).collect();
        if let Some(loaded) = answer(kept) {
            prop_assert!(loaded.set.policies.len() <= 2);
        }
    }
}

#[test]
fn a_truncated_file_is_refused_or_a_part_of_the_whole() {
    let whole = answer(SEED.to_owned()).unwrap().set.policies.clone();
    assert!(!whole.iter().any(|policy| is_open(policy)));
    let (mut taken, mut refused) = (0, 0);
    for end in 0..SEED.len() {
        let Some(loaded) = answer(SEED[..end].to_owned()) else {
            refused += 1;
            continue;
        };
        taken += 1;
        for (policy, full) in loaded.set.policies.iter().zip(&whole) {
            // A policy whose `podSelector` or rules are cut off isolates at least as much. No cut
            // opens a rule to everybody; only one at the very line of `ports` takes its ports away.
            assert!(!is_open(policy), "{}", &SEED[..end]);
            assert!(policy.ingress.len() <= full.ingress.len() && policy.isolates_ingress, "{}", &SEED[..end]);
        }
    }
    assert!(taken > 10 && refused > 500, "{taken} taken, {refused} refused");
}
