//! Turns documents into the model: parse, don't validate.
//!
//! Input: the text of one file. Output: its policies, or every problem in it with its place. A document with a problem gives no
//! policy, because a part of a policy could allow what the whole does not.

mod context;
mod flow_policy;
mod network_policy;
mod peer;
mod selector;

use std::sync::Arc;

use serde::de::DeserializeOwned;

use self::context::Context;
use super::document::{HeaderDoc, MetadataDoc, PolicyDoc};
use super::error::{KINDS, Problem};
use super::finding::{Place, PolicyFinding};
use super::model::{LabelSelector, Policy, PolicyKind, Priority, Rule, Tier};
use super::names::{is_dns_label, is_dns_subdomain};
use super::position::{At, Position};
use super::yaml::{self, Document, shown};
use super::{PolicyError, PolicyWarning};

/// Label requirements of one file: each costs some hundred bytes in the model.
const FILE_REQUIREMENTS: usize = 50_000;
/// Errors of one file after which the rest of it is not read.
const FILE_ERRORS: usize = 100;
/// The namespace of a policy that names none, as in Kubernetes.
const DEFAULT_NAMESPACE: &str = "default";

/// What one file says.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Its policies, in their order.
    pub policies: Vec<Policy>,
    /// What may not be what its author meant.
    pub warnings: Vec<PolicyWarning>,
    /// Why it is refused; then `policies` is of no use.
    pub errors: Vec<PolicyError>,
    /// Where in the file each policy has its name, for a later error about that place.
    pub(super) names: Vec<Position>,
}

/// Reads the documents of one file.
pub fn parse(file: &Arc<str>, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some((problem, position)) = yaml::unprintable(text) {
        parsed.errors.push(PolicyFinding {
            file: Arc::clone(file),
            place: Place::new(text, position, 0),
            what: problem,
        });
        return parsed;
    }
    let (mut nodes_left, mut requirements_left) = (yaml::FILE_NODES, FILE_REQUIREMENTS);
    for document in yaml::documents(text) {
        if parsed.errors.len() >= FILE_ERRORS {
            parsed.errors.push(PolicyFinding { file: Arc::clone(file), place: None, what: Problem::Rest });
            return parsed;
        }
        let mut context = Context::new(file, document, &mut requirements_left);
        let policy = read_document(&mut context, document, &mut nodes_left);
        let (errors, warnings) = context.finish();
        let is_full = errors.iter().any(|error| matches!(error.what, Problem::FileNodes { .. }));
        if errors.is_empty()
            && let Some((policy, name)) = policy
        {
            parsed.policies.push(policy);
            parsed.names.push(Position { line: document.lines_before + name.line, ..name });
        }
        parsed.errors.extend(errors);
        parsed.warnings.extend(warnings);
        if is_full {
            break;
        }
    }
    parsed
}

/// The policy of one document and the place of its name; `None` if it is empty, or refused by the context.
fn read_document(
    context: &mut Context<'_>,
    document: Document<'_>,
    nodes_left: &mut usize,
) -> Option<(Policy, Position)> {
    let (header, nodes) = yaml::read::<At<HeaderDoc>>(document, *nodes_left);
    *nodes_left = nodes_left.saturating_sub(nodes);
    let At { value: HeaderDoc { api_version, kind }, at: start } = context.take(header)??;
    let Some(At { value: kind, at }) = kind else {
        return context.refuse(start, Problem::MissingField { field: "kind" });
    };
    let kind = match kind.as_str() {
        "NetworkPolicy" => PolicyKind::NetworkPolicy,
        "FlowPolicy" => PolicyKind::FlowPolicy,
        _ => return context.refuse(at, Problem::UnknownKind { kind: shown(&kind) }),
    };
    let expected = match kind {
        PolicyKind::NetworkPolicy => "networking.k8s.io/v1",
        PolicyKind::FlowPolicy => "enforcer.dev/v1alpha1",
    };
    let Some(At { value: version, at }) = api_version else {
        return context.refuse(start, Problem::MissingField { field: "apiVersion" });
    };
    if version != expected {
        let found = shown(&version);
        return context.refuse(at, Problem::UnknownVersion { kind: kind.as_str(), found, expected });
    }
    match kind {
        PolicyKind::NetworkPolicy => whole(context, document, kind, network_policy::read),
        PolicyKind::FlowPolicy => whole(context, document, kind, flow_policy::read),
    }
}

/// What `spec` says about one policy.
struct Spec {
    subject: LabelSelector,
    isolates_ingress: bool,
    isolates_egress: bool,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

fn whole<Doc: DeserializeOwned>(
    context: &mut Context<'_>,
    document: Document<'_>,
    kind: PolicyKind,
    read_spec: impl FnOnce(&mut Context<'_>, At<Doc>) -> Option<Spec>,
) -> Option<(Policy, Position)> {
    // The header pass has counted these nodes.
    let (doc, _) = yaml::read::<PolicyDoc<Doc>>(document, yaml::DOCUMENT_NODES);
    let PolicyDoc { metadata, spec, .. } = context.take(doc)??;
    let MetadataDoc { name, namespace } = metadata.value;
    if !is_dns_subdomain(&name.value) {
        context.error(name.at, Problem::InvalidName { name: shown(&name.value) });
    }
    let namespace = match namespace {
        Some(namespace) if !is_dns_label(&namespace.value) => {
            return context.refuse(namespace.at, Problem::InvalidNamespace { name: shown(&namespace.value) });
        }
        Some(namespace) => namespace.value,
        None => DEFAULT_NAMESPACE.to_owned(),
    };
    let Spec { subject, isolates_ingress, isolates_egress, ingress, egress } = read_spec(context, spec)?;
    let policy = Policy {
        kind,
        namespace,
        at: context.location(name.at),
        name: name.value,
        // Both kinds belong to this tier and state no priority: none of their policies stands before another.
        tier: Tier::NetworkPolicy,
        priority: Priority::HIGHEST,
        subject,
        isolates_ingress,
        isolates_egress,
        ingress,
        egress,
    };
    Some((policy, name.at))
}

/// All of `docs`, or none if one of them is refused; the others are read all the same, for their errors.
fn each<Doc, Out>(docs: Vec<Doc>, mut read: impl FnMut(Doc) -> Option<Out>) -> Option<Vec<Out>> {
    let count = docs.len();
    // Allocated anew: collecting in place would keep the larger shapes' memory.
    let mut items = Vec::with_capacity(count);
    for doc in docs {
        items.extend(read(doc));
    }
    (items.len() == count).then_some(items)
}

const _: () = assert!(KINDS.len() == 2, "a kind is added in `read_document`, in `PolicyKind` and in `KINDS` together");
