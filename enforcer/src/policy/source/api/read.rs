//! Objects to policies.
//!
//! Input: objects. Output: for each its policy, with fields of the object as the places of policy, rules and findings; or
//! why it is refused, and what stands in for it. The parser that reads files reads them, so both are judged alike.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::Arc;

use super::object::Object;
use super::paths::fields;
use crate::policy::error::Problem;
use crate::policy::finding::PolicyFinding;
use crate::policy::load::{Loaded, PolicyErrors, SourceFile, on_stack};
use crate::policy::model::{Policy, PolicySet, Rule};
use crate::policy::origin::Origin;
use crate::policy::parse::{Parsed, parse};
use crate::policy::skipped::Skipped;
use crate::policy::source::shape::{Refusal, Said, Unit};
use crate::policy::yaml::DOCUMENT_NODES;

/// What one object says.
pub(super) type Reading = Result<Loaded, Refusal>;

/// What each object says.
pub(super) fn read_all(objects: &[&Object]) -> io::Result<Vec<Reading>> {
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    on_stack(|| objects.iter().map(|object| read(object)).collect())
}

/// What the kept texts say. A text that cannot be read leaves nothing of them.
#[expect(clippy::needless_pass_by_value, reason = "all sources restore in the same way, and others keep the files")]
pub(in crate::policy::source) fn restore(files: Vec<SourceFile>) -> Said {
    let whole = |problem, file: &SourceFile| {
        let error = PolicyFinding { file: Arc::clone(&file.path), place: None, what: problem };
        Said::from([(Unit::Whole, Err(Refusal::from(PolicyErrors::new(vec![error], Vec::new()))))])
    };
    let mut objects = Vec::with_capacity(files.len());
    for file in &files {
        let Some(object) = Object::kept(file) else {
            let message = "it is not the text of an object that a daemon has kept".to_owned();
            return whole(Problem::Syntax { message }, file);
        };
        objects.push(object);
    }
    let readings = match read_all(&objects.iter().collect::<Vec<_>>()) {
        Ok(readings) => readings,
        Err(cause) => return files.first().map_or_else(Said::new, |file| whole(Problem::Unreadable { cause }, file)),
    };
    let mut said = Said::new();
    for (object, reading) in objects.iter().zip(readings) {
        match said.entry(Unit::Object((*object.name).clone())) {
            Entry::Vacant(entry) => drop(entry.insert(reading)),
            // Several may stand in for one object.
            Entry::Occupied(mut entry) => {
                if let (Ok(before), Ok(reading)) = (entry.get_mut(), reading) {
                    before.join(&reading);
                }
            }
        }
    }
    said
}

fn read(object: &Object) -> Reading {
    let policy = if object.too_large { Err(too_large(object)) } else { one(object) };
    policy.map_err(|errors| {
        let stand_in = object.stand_in().and_then(|stand_in| one(&stand_in).ok());
        // What may not be meant in it was told with the errors.
        let stand_in = stand_in.map(|loaded| Loaded { warnings: Vec::new(), ..loaded });
        Refusal { errors: Arc::new(errors), object: Some(object.of_version().into()), stand_in }
    })
}

fn too_large(object: &Object) -> PolicyErrors {
    let what = Problem::DocumentNodes { limit: DOCUMENT_NODES };
    PolicyErrors::new(vec![PolicyFinding { file: object.name.to_string().into(), place: None, what }], Vec::new())
}

/// The one policy of an object.
fn one(object: &Object) -> Result<Loaded, PolicyErrors> {
    let file = object.file();
    let Parsed { mut policies, warnings, mut errors, .. } = parse(&file.path, &file.text);
    let policy = policies.pop();
    let lines = lines(policy.as_ref(), &warnings, &errors);
    let places = Places { object, fields: fields(&object.value, &lines) };
    let warnings = warnings.into_iter().map(|warning| places.finding(warning)).collect();
    let Some(policy) = policy.filter(|_| errors.is_empty() && policies.is_empty()) else {
        if errors.is_empty() {
            errors.push(PolicyFinding { file: file.path, place: None, what: Problem::MissingField { field: "spec" } });
        }
        let errors = errors.into_iter().map(|error| places.finding(error)).collect();
        return Err(PolicyErrors::new(errors, warnings));
    };
    let set = Arc::new(PolicySet::from_iter([places.policy(policy)]));
    let sources = Arc::new([file]);
    Ok(Loaded { set, warnings, skipped: Skipped::default(), sources, stands_in: object.stands_in })
}

/// The lines of which a place is asked.
fn lines<W, E>(policy: Option<&Policy>, warnings: &[PolicyFinding<W>], errors: &[PolicyFinding<E>]) -> BTreeSet<u32> {
    let line = |at: &Origin| match at {
        Origin::File { line, .. } => Some(*line),
        Origin::Object { .. } => None,
    };
    let found = warnings.iter().map(|warning| &warning.place).chain(errors.iter().map(|error| &error.place));
    let mut lines: BTreeSet<u32> = found.filter_map(|place| place.as_ref().map(|place| place.line)).collect();
    if let Some(policy) = policy {
        lines.extend(line(&policy.at));
        lines.extend(policy.ingress.iter().chain(&policy.egress).filter_map(|rule| line(&rule.at)));
    }
    lines
}

/// The fields of an object by the lines of its text.
struct Places<'a> {
    object: &'a Object,
    fields: std::collections::BTreeMap<u32, String>,
}

impl Places<'_> {
    fn at(&self, line: u32) -> Origin {
        let Object { name, declared, .. } = self.object;
        let field = self.fields.get(&line).map_or("", String::as_str).into();
        Origin::Object { object: Arc::clone(name), field, declared: declared.clone() }
    }

    fn of(&self, origin: Origin) -> Origin {
        match origin {
            Origin::File { line, .. } => self.at(line),
            object @ Origin::Object { .. } => object,
        }
    }

    fn policy(&self, policy: Policy) -> Policy {
        let rules = |rules: Vec<Rule>| rules.into_iter().map(|rule| Rule { at: self.of(rule.at), ..rule }).collect();
        let Policy { at, ingress, egress, .. } = policy;
        Policy { at: self.of(at), ingress: rules(ingress), egress: rules(egress), ..policy }
    }

    /// A finding whose place is a field.
    fn finding<What>(&self, finding: PolicyFinding<What>) -> PolicyFinding<What> {
        let line = finding.place.map_or(0, |place| place.line);
        PolicyFinding { file: self.at(line).to_string().into(), place: None, what: finding.what }
    }
}

/// An object for whose reading the system has no room.
pub(super) fn unread(object: &Object, cause: &io::Error) -> Refusal {
    let what = Problem::Unreadable { cause: io::Error::new(cause.kind(), cause.to_string()) };
    let error = PolicyFinding { file: object.name.to_string().into(), place: None, what };
    Refusal { object: Some(object.of_version().into()), ..PolicyErrors::new(vec![error], Vec::new()).into() }
}
