//! What went wrong with a request to the API.
//!
//! Input: errors of the client. Output: what they mean for the view, and one line for people.

use super::view::Cause;
use crate::causes::with_causes;

/// Characters of an error that are kept; an API server may say anything.
const SHOWN: usize = 300;

/// Why a list or a watch has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The API server has answered with an error, or none has answered.
    #[error("{0}")]
    Client(String, Option<Cause>),
    /// The API server has forgotten the version from which the watch should go on.
    #[error("the API server has forgotten the version of the last list")]
    Expired,
    /// Nothing came for too long.
    #[error("the API server did not answer within {0} s")]
    Silent(u64),
    /// A watch that ends as soon as it has begun.
    #[error("the API server ended the watch at once")]
    Ended,
    /// An answer without a version, from which no watch can go on.
    #[error("the API server's answer has no resourceVersion")]
    NoVersion,
}

impl Fault {
    /// An error of the client.
    pub(super) fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            error => Self::Client(one_line(&with_causes(error)), None),
        }
    }

    /// An error that the API server has put into words.
    pub(super) fn of_status(status: &kube::core::Status) -> Self {
        if status.code == 410 || ["Expired", "Gone"].contains(&status.reason.as_str()) {
            return Self::Expired;
        }
        let cause = match status.code {
            401 | 403 => Cause::Forbidden,
            404 => Cause::NoSuchKind,
            _ => Cause::Down,
        };
        let text = if status.message.is_empty() { &status.reason } else { &status.message };
        Self::Client(one_line(&format!("{} ({})", text.trim(), status.code)), Some(cause))
    }

    /// What it means; an answer that is no error of the API server's means that none has answered as it should.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Client(_, Some(cause)) => *cause,
            Self::Client(_, None) | Self::Expired | Self::Silent(_) | Self::Ended | Self::NoVersion => Cause::Down,
        }
    }

    /// Whether the API server has answered and may have no streaming lists. A list in pages says whether it is that.
    pub(super) fn may_lack_streams(&self) -> bool {
        match self {
            Self::Client(_, cause) => *cause == Some(Cause::Down),
            Self::Silent(_) | Self::Ended | Self::Expired | Self::NoVersion => true,
        }
    }
}

fn one_line(text: &str) -> String {
    text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
