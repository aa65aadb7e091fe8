//! Shows the end of a log in an error.
//!
//! Input: a file. Output: its last lines, behind its path.

use std::{collections::VecDeque, fs, path::Path};

/// How many lines of a log an error shows.
const SHOWN: usize = 15;

/// The end of a log with its path, for an error.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines = VecDeque::new();
    for line in text.lines() {
        if lines.len() == SHOWN {
            lines.pop_front();
        }
        lines.push_back(format!("  {line}"));
    }
    if lines.is_empty() {
        return format!("{} is empty", log.display());
    }
    format!("the end of {}:\n{}", log.display(), Vec::from(lines).join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_end_of_a_log_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("a.log");
        assert_eq!(tail(&log), format!("{} is empty", log.display()));
        let lines: Vec<String> = (1..=100).map(|number| format!("line {number}")).collect();
        fs::write(&log, lines.join("\n")).unwrap();
        let shown = tail(&log);
        assert!(shown.ends_with("line 100") && shown.contains("line 86") && !shown.contains("line 85"), "{shown}");
    }
}
