//! An error with its causes, in one text. Input: an error of any library. Output: what it says and what its causes add to that.

use std::error::Error;

/// What the error says, then what each of its causes says, unless the text has that already: some errors repeat their cause.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: io::Error,
    }

    #[test]
    fn each_cause_is_told_once() {
        let of = |text| with_causes(&Link { text, source: io::Error::other("connection refused") });
        assert_eq!(of("cannot connect"), "cannot connect: connection refused");
        assert_eq!(of("cannot connect: connection refused"), "cannot connect: connection refused");
    }
}
