//! Label selectors.

use std::collections::BTreeSet;

use super::super::caution::Caution;
use super::super::document::selector::{
    ExpressionDoc, LabelDoc, LabelMapDoc, LabelSelectorDoc, LabelsDoc, SELECTOR_FIELDS,
};
use super::super::error::Problem;
use super::super::model::{LabelSelector, Requirement};
use super::super::names::{is_any_name, is_label_key, is_label_value};
use super::super::position::{At, Field};
use super::super::yaml::shown;
use super::context::Context;

pub(in crate::policy) const OPERATORS: &[&str] = &["In", "NotIn", "Exists", "DoesNotExist"];

/// Whose selector is read. It says what a field without a value is, and which values a label can have.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Selects {
    /// The pods of a NetworkPolicy. A null requires nothing, as in Kubernetes: the policy isolates more.
    Pods,
    /// A peer of a NetworkPolicy. A null is refused: the peer would match more than its author thinks of.
    Peers,
    /// Workloads or namespaces of a FlowPolicy. A null is refused, and a value may be any name that a workload can have.
    Any,
}

/// Labels, or a `LabelSelector`.
pub(super) fn labels(context: &mut Context<'_>, doc: LabelsDoc) -> Option<LabelSelector> {
    let LabelsDoc { labels, selector, misspelt } = doc;
    if let Some(key) = misspelt {
        let expected = SELECTOR_FIELDS.to_vec();
        return context.refuse(key.at, Problem::UnknownField { field: shown(&key.value), expected });
    }
    if let (Field::Absent, Field::Absent) = (&selector.match_labels, &selector.match_expressions) {
        let mut requirements = Vec::with_capacity(labels.len());
        all_labels(context, labels, Selects::Any, &mut requirements)?;
        return Some(LabelSelector { requirements });
    }
    if let Some((key, _)) = labels.into_iter().next() {
        return context.refuse(key.at, Problem::MixedSelector { key: shown(&key.value) });
    }
    label_selector(context, selector, Selects::Any)
}

/// A `LabelSelector`.
pub(super) fn label_selector(
    context: &mut Context<'_>,
    doc: LabelSelectorDoc,
    whose: Selects,
) -> Option<LabelSelector> {
    let LabelSelectorDoc { match_labels, match_expressions } = doc;
    let LabelMapDoc(labels) = value_of(context, match_labels, whose, ("matchLabels", "{}"))?;
    let expressions = value_of(context, match_expressions, whose, ("matchExpressions", "[]"))?;
    let mut requirements = Vec::with_capacity(labels.len() + expressions.len());
    let mut legal = all_labels(context, labels, whose, &mut requirements).is_some();
    for expression in expressions {
        match requirement(context, expression, whose) {
            Some(requirement) => requirements.push(requirement),
            None => legal = false,
        }
    }
    legal.then_some(LabelSelector { requirements })
}

fn value_of<T: Default>(
    context: &mut Context<'_>,
    field: Field<T>,
    whose: Selects,
    (name, empty): (&'static str, &'static str),
) -> Option<T> {
    match (field, whose) {
        (Field::Absent, _) => Some(T::default()),
        (Field::Given(given), _) => Some(given.value),
        (Field::Null(at), Selects::Peers | Selects::Any) => context.refuse(at, Problem::NoValue),
        (Field::Null(at), Selects::Pods) => {
            context.warn(at, Caution::NullIsEmpty { field: name, empty });
            Some(T::default())
        }
    }
}

fn all_labels(
    context: &mut Context<'_>,
    labels: Vec<LabelDoc>,
    whose: Selects,
    requirements: &mut Vec<Requirement>,
) -> Option<()> {
    let mut legal = Some(());
    for (key, value) in labels {
        context.requirement(key.at)?;
        match (label_key(context, key), label_value(context, value, whose)) {
            (Some(key), Some(value)) => requirements.push(Requirement::In(key, BTreeSet::from([value]))),
            _ => legal = None,
        }
    }
    legal
}

fn requirement(context: &mut Context<'_>, doc: At<ExpressionDoc>, whose: Selects) -> Option<Requirement> {
    let At { value: ExpressionDoc { key, operator, values }, at } = doc;
    context.requirement(at)?;
    let key = label_key(context, key);
    let values_at = values.as_ref().map(|values| values.at);
    let values = values.map_or_else(Vec::new, |values| values.value);
    let has_values = !values.is_empty();
    let mut set = BTreeSet::new();
    let mut legal = true;
    for value in values {
        // Only legal values are kept, so that none is lost without an error.
        legal &= label_value(context, value, whose).map(|value| set.insert(value)).is_some();
    }
    let requirement = match operator.value.as_str() {
        name @ ("In" | "NotIn") if !has_values => {
            let operator = if name == "In" { "In" } else { "NotIn" };
            return context.refuse(values_at.unwrap_or(at), Problem::ValuesMissing { operator });
        }
        name @ ("Exists" | "DoesNotExist") if has_values => {
            let operator = if name == "Exists" { "Exists" } else { "DoesNotExist" };
            return context.refuse(values_at.unwrap_or(at), Problem::ValuesForbidden { operator });
        }
        "In" => Requirement::In(key?, set),
        "NotIn" => Requirement::NotIn(key?, set),
        "Exists" => Requirement::Exists(key?),
        "DoesNotExist" => Requirement::DoesNotExist(key?),
        word => {
            let word = shown(word);
            return context.refuse(operator.at, Problem::UnknownWord { what: "operator", word, expected: OPERATORS });
        }
    };
    legal.then_some(requirement)
}

fn label_key(context: &mut Context<'_>, key: At<String>) -> Option<String> {
    if is_label_key(&key.value) {
        return Some(key.value);
    }
    context.refuse(key.at, Problem::LabelKey { key: shown(&key.value) })
}

fn label_value(context: &mut Context<'_>, value: At<String>, whose: Selects) -> Option<String> {
    let is_name = is_any_name(&value.value);
    if is_label_value(&value.value) || whose == Selects::Any && is_name {
        return Some(value.value);
    }
    context.refuse(value.at, Problem::LabelValue { value: shown(&value.value), is_name })
}
