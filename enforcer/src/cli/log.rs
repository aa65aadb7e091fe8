//! The daemon's log lines on stderr, which end in a terminal or in the journal.
//!
//! Input: events. Output: a line for each, in which no value steers a terminal and no line break begins a line of its own.

use std::error::Error;
use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::causes::with_causes;
use crate::flow::text::{continued, printable};

/// Sends events to stderr from now on. `verbose`: how often `-v` was given.
pub(super) fn to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    // The client of the Kubernetes API logs an error at each attempt; `kubernetes` tells it once.
    let filter = EnvFilter::try_from_env("ENFORCER_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,kube_client=off,enforcer={level}")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .fmt_fields(PlainFields)
        .init();
}

/// Writes the message, then the other fields as `name=value`.
struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Fields { writer, is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Fields<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: &str) {
        let gap = if std::mem::take(&mut self.is_first) { "" } else { " " };
        self.result = self.result.and_then(|()| match field.name() {
            // A message may have several lines: a policy's error shows its source line.
            "message" => write!(self.writer, "{gap}{}", continued(value)),
            name => write!(self.writer, "{gap}{name}={}", printable(value)),
        });
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.write(field, &with_causes(value));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;
    use crate::flow::text::misleads;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("outer {0}")]
    struct Outer(&'static str, #[source] io::Error);

    #[test]
    fn no_value_of_a_log_line_steers_a_terminal_or_begins_a_line() {
        const NAME: &str = "a\u{1b}[2J\u{9b}1m\u{202e}b\n2026-01-01T00:00:00Z  INFO all is well";
        let lines = Lines::default();
        let made = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || made.clone())
            .with_ansi(false)
            .with_target(false)
            .fmt_fields(PlainFields)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let error = Outer(NAME, io::Error::other("the cause"));
            tracing::warn!(name = NAME, shown = %NAME, debugged = ?NAME, error = &error as &dyn Error, "message {NAME}");
            tracing::info!(count = 3, "and a plain one");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(text.lines().all(|line| !line.chars().any(misleads)), "{text:?}");
        let begins: Vec<&str> = text.lines().filter(|line| !line.starts_with("  ")).collect();
        assert_eq!(begins.len(), 2, "{text}");
        assert!(begins[1].ends_with("and a plain one count=3"), "{text}");
        assert!(text.contains("message a\\u{1b}[2J\\u{9b}1m\\u{202e}b\n  2026-01-01"), "{text}");
        assert!(text.contains("shown=a\\u{1b}[2J") && text.contains("all is well: the cause"), "{text}");
    }
}
