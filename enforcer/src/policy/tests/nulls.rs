//! Fields without a value: taken where that isolates more, refused anywhere else (D9).

use std::sync::Arc;

use super::{flow_policy, loaded, network_policy};
use crate::policy::load::{SourceFile, from_sources};
use crate::policy::model::{LabelSelector, Policy};

fn refused(text: &str) -> bool {
    let source = SourceFile { path: Arc::from("test.yaml"), text: text.into() };
    let Err(errors) = from_sources(vec![source]) else { return false };
    errors.errors().iter().all(|error| error.what.to_string().starts_with("this field has no value"))
}

/// The policy of a legal spec, and what is warned of.
fn taken(spec: &str) -> (Policy, Vec<String>) {
    let loaded = loaded(&network_policy(spec));
    let warnings = loaded.warnings.iter().map(|warning| warning.what.to_string()).collect();
    ((*loaded.set.policies[0]).clone(), warnings)
}

#[test]
fn d9_null_is_empty_where_that_isolates_more() {
    for (null, empty, field) in [
        ("  podSelector:\n  policyTypes: [Ingress]", "  podSelector: {}\n  policyTypes: [Ingress]", "podSelector"),
        ("  podSelector: ~", "  podSelector: {}", "podSelector"),
        ("  podSelector:\n    matchLabels:", "  podSelector:\n    matchLabels: {}", "matchLabels"),
        ("  podSelector: {matchExpressions: null}", "  podSelector: {matchExpressions: []}", "matchExpressions"),
        (
            "  podSelector: {matchLabels: , matchExpressions: [{key: a, operator: Exists}]}",
            "  podSelector: {matchExpressions: [{key: a, operator: Exists}]}",
            "matchLabels",
        ),
        ("  podSelector: {}\n  ingress:", "  podSelector: {}\n  ingress: []", "ingress"),
        (
            "  podSelector: {}\n  policyTypes: [Ingress, Egress]\n  egress:",
            "  podSelector: {}\n  policyTypes: [Ingress, Egress]\n  egress: []",
            "egress",
        ),
        (
            "  podSelector: {}\n  policyTypes: [Ingress]\n  egress:",
            "  podSelector: {}\n  policyTypes: [Ingress]\n  egress: []",
            "egress",
        ),
        (
            "  podSelector:\n    matchLabels:\n  ingress: [{from: [{podSelector: {}}]}]",
            "  podSelector: {}\n  ingress: [{from: [{podSelector: {}}]}]",
            "matchLabels",
        ),
    ] {
        let ((mut policy, warnings), (expected, others)) = (taken(null), taken(empty));
        for (rule, other) in policy.ingress.iter_mut().zip(&expected.ingress) {
            rule.at = other.at.clone();
        }
        assert_eq!(policy, expected, "{null}");
        assert_eq!((warnings.len(), others.len()), (1, 0), "{null}: {warnings:?}");
        assert!(
            warnings[0].starts_with(&format!("`{field}` has no value, so it is read as `")),
            "{null}: {warnings:?}"
        );
    }
    assert_eq!(taken("  podSelector:").0.subject, LabelSelector::default());
}

#[test]
fn d9_null_that_would_widen_is_refused() {
    for spec in [
        // A peer, a port or an exception that is not there any more.
        "  podSelector: {}\n  ingress: [{from: }]",
        "  podSelector: {}\n  ingress: [{from: [{podSelector: }]}]",
        "  podSelector: {}\n  ingress: [{from: [{podSelector: {matchLabels: }}]}]",
        "  podSelector: {}\n  ingress: [{from: [{podSelector: {matchExpressions: }}]}]",
        "  podSelector: {}\n  ingress: [{from: [{namespaceSelector: }]}]",
        "  podSelector: {}\n  ingress: [{from: [{namespaceSelector: {matchLabels: }}]}]",
        "  podSelector: {}\n  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: }}]}]",
        "  podSelector: {}\n  ingress: [{from: [{podSelector: {}}], ports: }]",
        "  podSelector: {}\n  ingress: [{from: [{podSelector: {}}], ports: [{port: }]}]",
        "  podSelector: {}\n  ingress: [{from: [{podSelector: {}}], ports: [{port: 80, protocol: }]}]",
        "  podSelector: {}\n  ingress: [{from: [{podSelector: {}}], ports: [{port: 80, endPort: }]}]",
        "  podSelector: {}\n  ingress: [~]",
        "  podSelector: {}\n  ingress: [{from: [~]}]",
        "  podSelector: {}\n  policyTypes: [Egress]\n  egress: [{to: }]",
        // Directions that would not be isolated any more.
        "  podSelector: {}\n  policyTypes:",
        "  podSelector: {}\n  egress:",
        "  podSelector: {}\n  policyTypes: []\n  egress:",
        // A selector of fewer workloads.
        "  podSelector: {matchLabels: {app: }}",
        "  podSelector: {matchExpressions: [{key: a, operator: NotIn, values: }]}",
        "  podSelector: {matchExpressions: [~]}",
        // More workloads, and everybody may reach them.
        "  podSelector:\n  ingress: [{}]",
        "  podSelector:\n  ingress: [{ports: [{port: 80}]}]",
        "  podSelector: {matchLabels: }\n  ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]",
        "  podSelector: {matchLabels: }\n  ingress: [{from: [{namespaceSelector: {}}]}]",
        "  podSelector: {matchExpressions: }\n  policyTypes: [Egress]\n  egress: [{}]",
    ] {
        assert!(refused(&network_policy(spec)), "{spec}");
    }
    for text in
        ["spec:\n", "spec: {podSelector: {}}\nmetadata: {name: a, namespace: }\n", "spec: {}\nmetadata: {name: }\n"]
    {
        let text = format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n{text}");
        assert!(refused(&text) || text.ends_with("spec:\n"), "{text}");
    }
    for spec in [
        "  workloads:\n  isolate: [ingress]",
        "  workloads: {matchLabels: }\n  isolate: [ingress]",
        "  isolate: [ingress]\n  allow:",
        "  isolate:",
        "  allow: [{from: }]",
        "  allow: [{from: anywhere, ports: }]",
        "  allow: [{from: [{workloads: {matchExpressions: }}]}]",
    ] {
        assert!(refused(&flow_policy(spec)), "{spec}");
    }
}
