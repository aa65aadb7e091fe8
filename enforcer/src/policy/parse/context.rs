//! What the readers of one document share: the document's place in the file, and the findings so far.
//!
//! Input: problems and cautions by position. Output: findings with file, line, column and source line. Their number is bounded,
//! because a hostile document could have one at each of its nodes.

use std::sync::Arc;

use super::super::caution::Caution;
use super::super::character::blamed;
use super::super::error::Problem;
use super::super::finding::{Place, PolicyFinding};
use super::super::origin::Origin;
use super::super::position::Position;
use super::super::yaml::{Document, Reading};
use super::super::{PolicyError, PolicyWarning};
use super::FILE_REQUIREMENTS;

/// Findings of one document that are shown.
const SHOWN: usize = 20;

pub(super) struct Context<'a> {
    file: &'a Arc<str>,
    document: Document<'a>,
    requirements_left: &'a mut usize,
    errors: Vec<PolicyError>,
    warnings: Vec<PolicyWarning>,
    more_errors: usize,
    more_warnings: usize,
}

impl<'a> Context<'a> {
    pub(super) fn new(file: &'a Arc<str>, document: Document<'a>, requirements_left: &'a mut usize) -> Self {
        let (errors, warnings) = (Vec::new(), Vec::new());
        Self { file, document, requirements_left, errors, warnings, more_errors: 0, more_warnings: 0 }
    }

    /// The last part of the file's path.
    pub(super) fn file_name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or_default()
    }

    pub(super) fn location(&self, position: Position) -> Origin {
        Origin::line(Arc::clone(self.file), self.document.lines_before + position.line)
    }

    pub(super) fn error(&mut self, position: Position, problem: Problem) {
        if self.errors.len() < SHOWN {
            self.errors.push(self.blaming(Some(position), problem));
        } else {
            self.more_errors += 1;
        }
    }

    /// `error`, where there is nothing left to return.
    pub(super) fn refuse<T>(&mut self, position: Position, problem: Problem) -> Option<T> {
        self.error(position, problem);
        None
    }

    pub(super) fn warn(&mut self, position: Position, caution: Caution) {
        if self.warnings.len() < SHOWN {
            self.warnings.push(self.finding(Some(position), caution));
        } else {
            self.more_warnings += 1;
        }
    }

    /// The value of a reading, or its error noted.
    pub(super) fn take<T>(&mut self, reading: Reading<T>) -> Option<T> {
        match reading {
            Ok(value) => Some(value),
            Err((problem, position)) => {
                let error = self.blaming(position, problem);
                self.errors.push(error);
                None
            }
        }
    }

    /// Accounts for one label requirement.
    pub(super) fn requirement(&mut self, position: Position) -> Option<()> {
        if let Some(left) = self.requirements_left.checked_sub(1) {
            *self.requirements_left = left;
            return Some(());
        }
        self.refuse(position, Problem::FileRequirements { limit: FILE_REQUIREMENTS })
    }

    pub(super) fn finish(mut self) -> (Vec<PolicyError>, Vec<PolicyWarning>) {
        if self.more_errors > 0 {
            self.errors.push(self.finding(None, Problem::More { count: self.more_errors }));
        }
        if self.more_warnings > 0 {
            self.warnings.push(self.finding(None, Caution::More { count: self.more_warnings }));
        }
        (self.errors, self.warnings)
    }

    /// A problem at its place, or the character that causes it at its own.
    fn blaming(&self, position: Option<Position>, problem: Problem) -> PolicyError {
        match position.and_then(|at| blamed(self.document.text, at, &problem)) {
            Some((character, at)) => self.finding(Some(at), character),
            None => self.finding(position, problem),
        }
    }

    fn finding<What>(&self, position: Option<Position>, what: What) -> PolicyFinding<What> {
        let place = position.and_then(|at| Place::new(self.document.text, at, self.document.lines_before));
        PolicyFinding { file: Arc::clone(self.file), place, what }
    }
}
