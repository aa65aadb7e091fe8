//! Where a policy, or one rule of it, was declared.
//!
//! Input: a file with a line, or an object of an API with a field. Output: the text by which a person finds it again.

use std::fmt;
use std::sync::Arc;

/// The place of a declaration, as a user would name it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Origin {
    /// A line of a file: `shop.yaml:12`.
    File {
        /// The path, relative to the policy directory.
        path: Arc<str>,
        /// The line, counted from 1.
        line: u32,
    },
    /// A field of an object that an API holds: `networkpolicy/shop/db spec.ingress[0]`.
    Object {
        /// The object.
        object: Arc<ObjectName>,
        /// The path of the field inside the object; empty: the object as a whole.
        field: Arc<str>,
        /// Where the object says that it was taken from: plain text of bounded length, which nobody has checked.
        declared: Option<Arc<str>>,
    },
}

/// The name by which an API holds a policy object. No two objects have the same one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectName {
    /// The kind of the object, as documents write it.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Origin {
    /// A line of a file.
    pub fn line(path: impl Into<Arc<str>>, line: u32) -> Self {
        Self::File { path: path.into(), line }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Object { object, field, declared } => {
                write!(f, "{object}")?;
                if !field.is_empty() {
                    write!(f, " {field}")?;
                }
                declared.iter().try_for_each(|declared| write!(f, " (from \"{declared}\")"))
            }
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        write!(f, "{}/{namespace}/{name}", kind.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_its_line_and_an_object_by_its_field() {
        assert_eq!(Origin::line("shop/db.yaml", 12).to_string(), "shop/db.yaml:12");
        let name = |kind| ObjectName { kind, namespace: "shop".to_owned(), name: "db".to_owned() };
        for (kind, field, declared, shown) in [
            ("NetworkPolicy", "spec.ingress[0]", None, "networkpolicy/shop/db spec.ingress[0]"),
            ("FlowPolicy", "metadata.name", None, "flowpolicy/shop/db metadata.name"),
            ("FlowPolicy", "spec", Some("db.yaml"), "flowpolicy/shop/db spec (from \"db.yaml\")"),
            ("FlowPolicy", "", None, "flowpolicy/shop/db"),
        ] {
            let declared = declared.map(Arc::from);
            let origin = Origin::Object { object: Arc::new(name(kind)), field: field.into(), declared };
            assert_eq!(origin.to_string(), shown);
        }
    }
}
