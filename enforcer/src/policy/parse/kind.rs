//! Decides what a document is by its header: a policy, a list, or something of another kind that is skipped.
//!
//! Input: headers. Output: [`Found`], or a problem. A document that is meant as a policy must never be skipped, because
//! that would open what the policy closes. So whatever looks like one is refused (D9).

use super::super::document::header::HeaderDoc;
use super::super::error::{Problem, READ};
use super::super::help::near_name;
use super::super::model::PolicyKind;
use super::super::position::{At, Position};
use super::super::yaml::shown;
use super::context::Context;

/// What a document holds.
pub(super) enum Found {
    /// One policy.
    Policy(PolicyKind),
    /// The items of a list, each of which is a policy or to be skipped.
    List(Vec<Item>),
    /// A document to be skipped, by its kind.
    Other(String),
}

/// What an item of a list is.
pub(super) enum Item {
    Policy(PolicyKind),
    Other(String),
}

/// The kinds of [`READ`], with their versions.
const KNOWN: [(&str, &str, What); READ.len()] = [
    ("NetworkPolicy", NETWORK_POLICY, What::Policy(PolicyKind::NetworkPolicy)),
    ("FlowPolicy", FLOW_POLICY, What::Policy(PolicyKind::FlowPolicy)),
    ("List", "v1", What::List),
    ("NetworkPolicyList", NETWORK_POLICY, What::List),
    ("FlowPolicyList", FLOW_POLICY, What::List),
];
const NETWORK_POLICY: &str = PolicyKind::NetworkPolicy.api_version();
const FLOW_POLICY: &str = PolicyKind::FlowPolicy.api_version();

#[derive(Clone, Copy)]
enum What {
    Policy(PolicyKind),
    List,
    /// Nothing that is read.
    Other,
}

/// API groups whose kinds may be policies, with those of their kinds that are none.
const GROUPS: [(&str, &[&str]); 2] =
    [("networking.k8s.io", &["Ingress", "IngressClass", "IPAddress", "ServiceCIDR"]), ("enforcer.dev", &[])];

/// Files of kustomize, which may leave out kind and version.
const KUSTOMIZATION: [&str; 2] = ["kustomization.yaml", "kustomization.yml"];

/// What a document is; `None`: the context has refused it.
pub(super) fn of_document(context: &mut Context<'_>, header: &At<HeaderDoc>) -> Option<Found> {
    let is_bare = |header: &HeaderDoc| {
        let HeaderDoc { api_version, kind, metadata, spec, items } = header;
        api_version.is_none() && kind.is_none() && metadata.is_none() && spec.is_none() && items.is_none()
    };
    if is_bare(&header.value) && KUSTOMIZATION.contains(&context.file_name()) {
        return Some(Found::Other("Kustomization".to_owned()));
    }
    let names = StatedKind::of(context, header, None)?;
    match names.what(context)? {
        What::Policy(kind) => Some(Found::Policy(kind)),
        What::Other if !names.kind.value.ends_with("List") => {
            names.other(context, &header.value)?;
            if header.value.items.is_some() {
                // A list by another name may hold policies.
                return names.unknown(context);
            }
            Some(Found::Other(shown(names.kind.value)))
        }
        what @ (What::List | What::Other) => {
            let is_other = matches!(what, What::Other);
            if is_other {
                names.other(context, &header.value)?;
            }
            let Some(items) = &header.value.items else {
                if is_other {
                    return Some(Found::Other(shown(names.kind.value)));
                }
                return context.refuse(header.at, Problem::MissingField { field: "items" });
            };
            let list = names.kind.value.strip_suffix("List").filter(|kind| !kind.is_empty());
            let default = list.map(|kind| (kind, names.version.value));
            // All are looked at, for their errors.
            let count = items.value.len();
            let found: Vec<Item> = items.value.iter().filter_map(|item| of_item(context, item, default)).collect();
            (found.len() == count).then_some(Found::List(found))
        }
    }
}

/// What an item is. `default`: kind and version of the items of a typed list, which need not repeat them.
fn of_item(context: &mut Context<'_>, item: &At<HeaderDoc>, default: Option<(&str, &str)>) -> Option<Item> {
    let names = StatedKind::of(context, item, default)?;
    if let Some((kind, _)) = default
        && names.kind.value != kind
    {
        let (found, kind) = (shown(names.kind.value), shown(kind));
        return context.refuse(names.kind.at, Problem::ItemKind { found, kind });
    }
    match names.what(context)? {
        What::Policy(kind) => Some(Item::Policy(kind)),
        What::List => context.refuse(names.kind.at, Problem::ListInList),
        What::Other => {
            names.other(context, &item.value)?;
            if item.value.items.is_some() {
                return context.refuse(names.kind.at, Problem::ListInList);
            }
            Some(Item::Other(shown(names.kind.value)))
        }
    }
}

/// A text and its place.
#[derive(Clone, Copy)]
struct Name<'a> {
    value: &'a str,
    at: Position,
}

/// Kind and version of a document.
#[derive(Clone, Copy)]
struct StatedKind<'a> {
    kind: Name<'a>,
    version: Name<'a>,
}

impl<'a> StatedKind<'a> {
    fn of(context: &mut Context<'_>, header: &'a At<HeaderDoc>, default: Option<(&'a str, &'a str)>) -> Option<Self> {
        let given = |field: &'a Option<At<String>>, default: Option<&'a str>| match (field, default) {
            (Some(At { value, at }), _) => Some(Name { value, at: *at }),
            (None, default) => default.map(|value| Name { value, at: header.at }),
        };
        let HeaderDoc { api_version, kind, .. } = &header.value;
        let Some(kind) = given(kind, default.map(|(kind, _)| kind)) else {
            return context.refuse(header.at, Problem::MissingKind);
        };
        let Some(version) = given(api_version, default.map(|(_, version)| version)) else {
            return context.refuse(header.at, Problem::MissingField { field: "apiVersion" });
        };
        // Nobody has a kind without a name: it may be what a template has left of a policy.
        match [kind, version].into_iter().find(|name| name.value.trim().is_empty()) {
            Some(empty) => context.refuse(empty.at, Problem::NoValue),
            None => Some(Self { kind, version }),
        }
    }

    /// What a document of this kind is; `None`: the context has refused its version.
    fn what(self, context: &mut Context<'_>) -> Option<What> {
        let Some((kind, expected, what)) = KNOWN.into_iter().find(|(kind, ..)| *kind == self.kind.value) else {
            return Some(What::Other);
        };
        if self.version.value != expected {
            let found = shown(self.version.value);
            return context.refuse(self.version.at, Problem::UnknownVersion { kind, found, expected });
        }
        Some(what)
    }

    /// Whether a document of a kind that is not read may be skipped.
    fn other(self, context: &mut Context<'_>, header: &HeaderDoc) -> Option<()> {
        let kind = self.kind.value;
        let item = kind.strip_suffix("List").unwrap_or(kind);
        let group = self.version.value.split_once('/').map_or("", |(group, _)| group).to_ascii_lowercase();
        let is_of_policies = GROUPS.into_iter().any(|(policies, others)| policies == group && !others.contains(&item));
        if is_of_policies {
            return self.unknown(context);
        }
        let plain: String = kind.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        let names_policies = |name: &&str| plain.contains(*name) && !plain.starts_with(*name);
        if ["networkpolic", "flowpolic"].iter().any(names_policies) {
            return context.refuse(self.kind.at, Problem::OtherPolicyKind { kind: shown(kind) });
        }
        if near_name(kind, READ).is_some() || plain.starts_with("networkpolic") || plain.starts_with("flowpolic") {
            return self.unknown(context);
        }
        if let Some(field) = header.spec.as_ref().and_then(|spec| spec.mark) {
            return context.refuse(self.kind.at, Problem::LikeAPolicy { kind: shown(kind), field });
        }
        Some(())
    }

    fn unknown<T>(self, context: &mut Context<'_>) -> Option<T> {
        context.refuse(self.kind.at, Problem::UnknownKind { kind: shown(self.kind.value) })
    }
}
