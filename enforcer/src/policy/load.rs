//! The texts of files to a policy set, as a whole or not at all.
//!
//! Input: texts that a source has read, with what it could not read. Output: the policy set with its warnings and the
//! texts it came from, or every error found. There is no set with a part missing: it would isolate less.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use super::caution::Caution;
use super::error::Problem;
use super::finding::{Place, PolicyFinding};
use super::model::{Policy, PolicyKind, PolicySet};
use super::origin::Origin;
use super::parse::{Parsed, parse};
use super::position::Position;
use super::skipped::Skipped;
use super::yaml::{STACK, without_marks};
use super::{PolicyError, PolicyWarning};

/// A policy file as it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceFile {
    /// Its path, relative to the policy directory.
    pub path: Arc<str>,
    /// Its text. Readings of one source share that of a file that has not changed.
    pub text: Arc<str>,
}

/// A policy set and what it was made of.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// All policies.
    pub set: Arc<PolicySet>,
    /// What may not be what its author meant.
    pub warnings: Vec<PolicyWarning>,
    /// The documents that are no policies.
    pub skipped: Skipped,
    /// The files that were read, in order: enough to make the same set again with [`from_sources`].
    pub sources: Arc<[SourceFile]>,
    /// Whether the policies stand in for one that is refused: they isolate and allow nothing.
    pub stands_in: bool,
}

/// Why there is no policy set. Never empty.
#[derive(Debug)]
pub struct PolicyErrors {
    errors: Vec<PolicyError>,
    warnings: Vec<PolicyWarning>,
    skipped: Skipped,
}

impl Loaded {
    /// Adds what another set says.
    pub(super) fn join(&mut self, other: &Self) {
        let Self { set, warnings, skipped, sources, stands_in: _ } = other;
        self.set = Arc::new(PolicySet { policies: [&*self.set.policies, &*set.policies].concat() });
        self.sources = [&*self.sources, &**sources].concat().into();
        self.warnings.extend(warnings.iter().cloned());
        self.skipped.add(skipped);
    }

    /// Warns of a directory or a file from which no policy was read; `files` are those of it.
    pub(super) fn warn_if_empty(&mut self, path: &str, files: &BTreeSet<Arc<str>>) {
        let is_of_it = |at: &Origin| matches!(at, Origin::File { path, .. } if files.contains(path));
        if !self.set.policies.iter().any(|policy| is_of_it(&policy.at)) {
            self.warnings.push(PolicyFinding { file: Arc::from(path), place: None, what: Caution::NoPolicies });
        }
    }
}

impl PolicyErrors {
    /// Errors, of which there must be one, and the warnings beside them.
    pub(super) fn new(errors: Vec<PolicyError>, warnings: Vec<PolicyWarning>) -> Self {
        Self { errors, warnings, skipped: Skipped::default() }
    }

    /// All errors, in the order of files and lines.
    pub fn errors(&self) -> &[PolicyError] {
        &self.errors
    }

    /// Whether a file was not read because somebody may be writing it.
    pub fn is_being_written(&self) -> bool {
        self.errors.iter().any(|error| matches!(error.what, Problem::BeingWritten))
    }

    /// The warnings beside them.
    pub fn warnings(&self) -> &[PolicyWarning] {
        &self.warnings
    }

    /// The documents beside them that are no policies.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{error}")?;
        }
        Ok(())
    }
}

impl Error for PolicyErrors {}

/// A warning about the line of a policy or a rule of `sources`.
pub fn warning_at(sources: &[SourceFile], at: &Origin, what: Caution) -> PolicyWarning {
    let (file, line) = match at {
        Origin::File { path, line } => (Arc::clone(path), Some(*line)),
        Origin::Object { .. } => (Arc::from(at.to_string()), None),
    };
    let source = sources.iter().find(|source| source.path == file);
    let place = source.zip(line).and_then(|(source, line)| {
        let text = without_marks(&source.text);
        let written = text.split('\n').nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
        let indent = written.chars().take_while(|c| c.is_whitespace()).count();
        let length = u32::try_from(written.trim().chars().count()).unwrap_or(u32::MAX);
        Place::new(&text, Position { line, column: u32::try_from(indent + 1).ok()?, length }, 0)
    });
    PolicyFinding { file, place, what }
}

/// Makes the set again from the texts of an earlier reading.
pub fn from_sources(sources: Vec<SourceFile>) -> Result<Loaded, PolicyErrors> {
    assemble(sources, Vec::new(), &mut LastReading::default())
}

/// Makes one set of `sources`; `errors` are those of files that could not be read. Files that are `known` with the same text are
/// not parsed again.
pub(super) fn assemble(
    sources: Vec<SourceFile>,
    mut errors: Vec<PolicyError>,
    known: &mut LastReading,
) -> Result<Loaded, PolicyErrors> {
    if errors.is_empty()
        && let Some(last) = known.last.as_ref().filter(|last| *last.sources == *sources)
    {
        return Ok(last.clone());
    }
    let (mut set, mut warnings, mut skipped) = (PolicySet::default(), Vec::new(), Skipped::default());
    let mut seen = Seen::default();
    let contents = known.parse(&sources, &mut errors);
    for (source, content) in sources.iter().zip(&contents) {
        warnings.extend(content.warnings.iter().cloned());
        skipped.add(&content.skipped);
        for (policy, name) in content.policies.iter().zip(&content.names) {
            errors.extend(seen.note(policy, *name, source));
            set.policies.push(Arc::clone(policy));
        }
    }
    if errors.is_empty() {
        let loaded = Loaded { set: Arc::new(set), warnings, skipped, sources: sources.into(), stands_in: false };
        return Ok(known.last.insert(loaded).clone());
    }
    let line = |error: &PolicyError| error.place.as_ref().map_or(u32::MAX, |place| place.line);
    errors.sort_by(|a, b| a.file.cmp(&b.file).then(line(a).cmp(&line(b))));
    Err(PolicyErrors { errors, warnings, skipped })
}

/// What the files of the last reading said.
#[derive(Debug, Default)]
pub(super) struct LastReading {
    /// By path, with the text that said it.
    contents: HashMap<Arc<str>, (Arc<str>, Arc<Content>)>,
    /// The last set without errors.
    last: Option<Loaded>,
}

/// What one file says, beside its errors.
#[derive(Debug, Default)]
struct Content {
    policies: Vec<Arc<Policy>>,
    warnings: Vec<PolicyWarning>,
    skipped: Skipped,
    /// Where in the file each policy has its name.
    names: Vec<Position>,
}

impl LastReading {
    /// What each file says, in their order. Files with errors are not known afterwards, because an error is told each time.
    fn parse(&mut self, sources: &[SourceFile], errors: &mut Vec<PolicyError>) -> Vec<Arc<Content>> {
        let is_known =
            |source: &&SourceFile| self.contents.get(&source.path).is_some_and(|(text, _)| *text == source.text);
        let news: Vec<&SourceFile> = sources.iter().filter(|source| !is_known(source)).collect();
        let parsed = parse_all(&news).unwrap_or_else(|cause| {
            let what = Problem::Unreadable { cause };
            errors.push(PolicyFinding { file: Arc::from("."), place: None, what });
            Vec::new()
        });
        let mut faulty = BTreeSet::new();
        for (source, parsed) in news.into_iter().zip(parsed) {
            let Parsed { policies, warnings, errors: refused, skipped, names } = parsed;
            if !refused.is_empty() {
                faulty.insert(Arc::clone(&source.path));
            }
            errors.extend(refused);
            let policies = policies.into_iter().map(Arc::new).collect();
            let content = Arc::new(Content { policies, warnings, skipped, names });
            self.contents.insert(Arc::clone(&source.path), (Arc::clone(&source.text), content));
        }
        let content = |source: &SourceFile| self.contents.get(&source.path).map(|(_, content)| Arc::clone(content));
        let all = sources.iter().map(|source| content(source).unwrap_or_default()).collect();
        let present: HashSet<&Arc<str>> = sources.iter().map(|source| &source.path).collect();
        self.contents.retain(|path, _| present.contains(path) && !faulty.contains(path));
        all
    }
}

/// What each file says.
fn parse_all(sources: &[&SourceFile]) -> io::Result<Vec<Parsed>> {
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    on_stack(|| sources.iter().map(|source| parse(&source.path, &source.text)).collect())
}

/// Parses on a thread: the reader calls itself for each level of nesting, so it has a stack of its own.
pub(super) fn on_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let parser = thread::Builder::new().name("parse".to_owned()).stack_size(STACK).spawn_scoped(scope, work)?;
        Ok(parser.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// The policies so far, by what must be unique.
#[derive(Default)]
struct Seen<'a>(HashMap<(PolicyKind, &'a str, &'a str), &'a Origin>);

impl<'a> Seen<'a> {
    /// Notes a policy, or says that there is one of its name.
    fn note(&mut self, policy: &'a Policy, at: Position, source: &SourceFile) -> Option<PolicyError> {
        let Policy { kind, namespace, name, .. } = policy;
        let first = match self.0.entry((*kind, namespace, name)) {
            Entry::Vacant(entry) => {
                entry.insert(&policy.at);
                return None;
            }
            Entry::Occupied(entry) => (*entry.get()).clone(),
        };
        let (kind, namespace, name) = (kind.as_str(), namespace.clone(), name.clone());
        let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let text = without_marks(&source.text);
        let place = Place::new(&text, Position { length, ..at }, 0);
        Some(PolicyFinding {
            file: source.path.clone(),
            place,
            what: Problem::Duplicate { kind, namespace, name, first },
        })
    }
}
