//! Values with their place in the YAML text.
//!
//! Input: what the YAML reader knows of a node. Output: [`At`], which is small enough to keep for every node of a big file.

use serde::{Deserialize, Deserializer, de};
use serde_yaml::{Location, Spanned};

/// A place in one document: line and column are counted from 1, in characters.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: u32,
    /// Characters to underline.
    pub(super) length: u32,
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        Self {
            line: u32::try_from(location.line()).unwrap_or(u32::MAX),
            column: u32::try_from(location.column()).unwrap_or(u32::MAX),
            length: u32::try_from(location.span().len()).unwrap_or(u32::MAX),
        }
    }
}

/// A value and the place where it is written.
#[derive(Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: Position,
}

/// The message by which `yaml` knows that a field is there without a value.
pub(super) const NO_VALUE: &str = "a field without a value";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    /// Refuses null: YAML reads a field whose value was commented out as null, and "absent" often means "everything".
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Option<T>>::deserialize(deserializer)?;
        let value = value.ok_or_else(|| de::Error::custom(NO_VALUE))?;
        Ok(Self { value, at: referenced.into() })
    }
}

/// An optional field that may also be there without a value. Whether that is refused is for its reader to say.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    /// It is not there.
    #[default]
    Absent,
    /// It has no value.
    Null(Position),
    /// It has one.
    Given(At<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Option<T>>::deserialize(deserializer)?;
        let at = referenced.into();
        Ok(value.map_or(Self::Null(at), |value| Self::Given(At { value, at })))
    }
}

/// An optional field that may be absent, but not null: `T` is an [`At`], or a box of one.
pub(super) fn given<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
