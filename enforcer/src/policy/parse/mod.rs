//! Turns documents into the model: parse, don't validate.
//!
//! Input: the text of one file. Output: its policies, or every problem in it with its place. A document with a problem gives no
//! policy, because a part of a policy could allow what the whole does not.

mod context;
pub(super) mod flow_policy;
mod kind;
mod network_policy;
mod peer;
pub(super) mod selector;

use std::sync::Arc;

use self::context::Context;
use self::kind::{Found, Item};
use super::document::header::HeaderDoc;
use super::document::list::{ItemDoc, ListOf};
use super::document::{MetadataDoc, PolicyDoc};
use super::error::Problem;
use super::finding::{Place, PolicyFinding};
use super::model::{LabelSelector, Policy, PolicyKind, Priority, Rule, Tier};
use super::names::{is_any_name, is_dns_label, is_dns_subdomain};
use super::position::{At, Field, Position};
use super::skipped::Skipped;
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
    /// Its documents that are no policies.
    pub skipped: Skipped,
    /// Where in the file each policy has its name, for a later error about that place.
    pub(super) names: Vec<Position>,
}

/// Reads the documents of one file.
pub fn parse(file: &Arc<str>, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let text = yaml::without_marks(text);
    if let Some((problem, position)) = yaml::unprintable(&text) {
        parsed.errors.push(PolicyFinding {
            file: Arc::clone(file),
            place: Place::new(&text, position, 0),
            what: problem,
        });
        return parsed;
    }
    let (mut nodes_left, mut requirements_left) = (yaml::FILE_NODES, FILE_REQUIREMENTS);
    for document in yaml::documents(&text) {
        if parsed.errors.len() >= FILE_ERRORS {
            parsed.errors.push(PolicyFinding { file: Arc::clone(file), place: None, what: Problem::Rest });
            return parsed;
        }
        let mut context = Context::new(file, document, &mut requirements_left);
        let mut skipped = Skipped::default();
        let policies = read_document(&mut context, document, &mut nodes_left, &mut skipped);
        let (errors, warnings) = context.finish();
        let is_full = errors.iter().any(|error| matches!(error.what, Problem::FileNodes { .. }));
        if errors.is_empty() {
            for (policy, name) in policies.unwrap_or_default() {
                parsed.policies.push(policy);
                parsed.names.push(Position { line: document.lines_before + name.line, ..name });
            }
        }
        parsed.skipped.add(&skipped);
        parsed.errors.extend(errors);
        parsed.warnings.extend(warnings);
        if is_full {
            break;
        }
    }
    parsed
}

/// A policy and the place of its name.
type Named = (Policy, Position);

/// The policies of one document; `None` if it is refused by the context, or empty.
fn read_document(
    context: &mut Context<'_>,
    document: Document<'_>,
    nodes_left: &mut usize,
    skipped: &mut Skipped,
) -> Option<Vec<Named>> {
    let (header, nodes) = yaml::read_header::<At<HeaderDoc>>(document, *nodes_left);
    *nodes_left = nodes_left.saturating_sub(nodes);
    let header = context.take(header)??;
    // The header pass has counted the nodes of what is read now.
    let policy = match kind::of_document(context, &header)? {
        Found::Policy(PolicyKind::NetworkPolicy) => {
            let doc = context.take(yaml::read(document))??;
            whole(context, doc, PolicyKind::NetworkPolicy, network_policy::read)
        }
        Found::Policy(PolicyKind::FlowPolicy) => {
            let doc = context.take(yaml::read(document))??;
            whole(context, doc, PolicyKind::FlowPolicy, flow_policy::read)
        }
        Found::List(items) => return list(context, document, items, skipped),
        Found::Other(kind) => {
            skipped.note(kind);
            return None;
        }
    };
    policy.map(|policy| vec![policy])
}

/// The policies of a list.
fn list(
    context: &mut Context<'_>,
    document: Document<'_>,
    items: Vec<Item>,
    skipped: &mut Skipped,
) -> Option<Vec<Named>> {
    let mut kinds = Vec::with_capacity(items.len());
    for item in items {
        kinds.push(match item {
            Item::Policy(kind) => Some(kind),
            Item::Other(kind) => {
                skipped.note(kind);
                None
            }
        });
    }
    let docs = context.take(yaml::read_with(document, ListOf(&kinds)))?;
    each(docs, |doc| match doc {
        ItemDoc::NetworkPolicy(doc) => whole(context, *doc, PolicyKind::NetworkPolicy, network_policy::read),
        ItemDoc::FlowPolicy(doc) => whole(context, *doc, PolicyKind::FlowPolicy, flow_policy::read),
    })
}

/// What `spec` says about one policy.
struct Spec {
    subject: LabelSelector,
    isolates_ingress: bool,
    isolates_egress: bool,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

fn whole<Doc>(
    context: &mut Context<'_>,
    doc: PolicyDoc<Doc>,
    kind: PolicyKind,
    read_spec: impl FnOnce(&mut Context<'_>, At<Doc>) -> Option<Spec>,
) -> Option<Named> {
    let PolicyDoc { metadata, spec, .. } = doc;
    let MetadataDoc { name, generate_name, namespace } = metadata.value;
    let name = match (name, generate_name) {
        (Some(name), _) => name,
        (None, Field::Given(At { at, .. })) => return context.refuse(at, Problem::GenerateName),
        (None, Field::Absent | Field::Null(_)) => {
            return context.refuse(metadata.at, Problem::MissingField { field: "name" });
        }
    };
    if !is_dns_subdomain(&name.value) {
        context.error(name.at, Problem::InvalidName { name: shown(&name.value) });
    }
    let namespace = match namespace {
        Some(namespace) if !is_namespace(kind, &namespace.value) => {
            let is_name = is_any_name(&namespace.value);
            return context.refuse(namespace.at, Problem::InvalidNamespace { name: shown(&namespace.value), is_name });
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

/// Whether policies of a kind can be in a namespace: a FlowPolicy can be in every one that a workload can be in.
fn is_namespace(kind: PolicyKind, name: &str) -> bool {
    match kind {
        PolicyKind::NetworkPolicy => is_dns_label(name),
        PolicyKind::FlowPolicy => is_any_name(name),
    }
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
