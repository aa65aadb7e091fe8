//! What to do about the errors of a policy file.
//!
//! Input: a [`Problem`]. Output: one sentence, if there is more to say than what is wrong.

use super::error::{Problem, READ, one_of};

const MOVE_IT: &str = "write a NetworkPolicy or a FlowPolicy, or move the document out of the policy directory";

impl Problem {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::UnknownField { field, expected } => {
                return near_name(field, expected.iter().copied()).map(meant).or_else(|| lost_indent(field, expected));
            }
            Self::QuotedPort { text } => return Some(format!("write `{text}` without quotes")),
            Self::NotUtf8 { encoding } => return Some(encoding.help()),
            Self::Syntax { message } => return syntax_help(message).map(str::to_owned),
            Self::Template => "put the result into the policy directory, for example that of `helm template`",
            Self::GenerateName => "write `name` with the whole name of the policy",
            Self::UnknownKind { kind } => match near_name(kind, READ) {
                Some(near) => return Some(meant(near)),
                None => MOVE_IT,
            },
            Self::MissingKind => {
                "add `kind: NetworkPolicy` or `kind: FlowPolicy`, or move a file without policies out of the policy \
                 directory"
            }
            Self::OtherPolicyKind { .. } | Self::LikeAPolicy { .. } => MOVE_IT,
            Self::ItemKind { .. } => "write `kind: List` and `apiVersion: v1` for a list of several kinds",
            Self::ListInList => "move the items of the inner list into the outer one",
            Self::NoValueBesideOpenRule => {
                "give it a value, or write `{}` if everybody is meant to reach every pod of the namespace"
            }
            Self::UnknownWord { expected: [only], .. } => return Some(meant(only)),
            Self::UnknownWord { word, expected, .. } => return near_name(word, expected.iter().copied()).map(meant),
            Self::Cidr { meant: Some(text), .. }
            | Self::Port { meant: Some(text), .. }
            | Self::PortName { meant: Some(text), .. } => return Some(meant(text)),
            Self::MissingField { field } => return Some(format!("add `{field}`")),
            Self::HostBits { network, .. } => return Some(format!("write `{network}` if you mean the whole network")),
            Self::UnknownVersion { found, expected, .. } => match found.split_once('/') {
                // Of another project, with fields of its own.
                Some((group, _))
                    if group.contains('.') && !group.ends_with("k8s.io") && !expected.starts_with(group) =>
                {
                    MOVE_IT
                }
                _ => return Some(format!("write `apiVersion: {expected}`")),
            },
            Self::NeedsQuotes { value } => return Some(format!("write `\"{value}\"`")),
            Self::EmptyPeer { fields } => return Some(format!("add {}", one_of(fields))),
            Self::EmptyList { help, .. } | Self::Character { help, .. } => help,
            Self::NotRegular => {
                "move it out of the policy directory, or rename it so that it does not end in .yaml, .yml or .json"
            }
            Self::NotADirectory => "name the directory that holds the policies",
            Self::LinkLoop => "remove the link, or let its name begin with a dot",
            Self::FileName => "rename the file: use printable UTF-8 without control characters",
            Self::FileTooLarge { .. } | Self::FileNodes { .. } => "split the file into several files",
            Self::DocumentNodes { .. } => "split the policy into several policies: the policies of a workload add up",
            Self::FileRequirements { .. } => "split the file, or select by fewer labels",
            Self::BeingWritten => "close the file, or end the program that has it open (`fuser -v FILE` names it)",
            Self::Unprintable { code: 0 } => "save the file as UTF-8 text: this may be UTF-16",
            Self::Unprintable { code: 0xfeff } => "remove it: a byte order mark may only stand where a document begins",
            Self::Unprintable { .. } => "remove it",
            Self::TooDeep { .. } => {
                "no policy needs so many levels: look for an extra bracket or indent, or move a file without policies \
                 out of the policy directory"
            }
            Self::BrokenRule { .. } => "the definition of FlowPolicy asks for more: correct it before you apply it",
            Self::AliasBomb => "write the values out instead of using anchors and aliases",
            Self::MergeKey => "write the fields out in each place",
            Self::DuplicateField { .. } => "remove one of the two fields",
            Self::NoValue => "give it a value, or remove the field: an empty one is never read as \"everything\"",
            Self::InvalidName { .. } => {
                "a name has lower case letters, digits, `-` and `.`, begins and ends with a letter or digit, \
                 and has at most 253 characters"
            }
            Self::InvalidNamespace { is_name: true, .. } => {
                "no NetworkPolicy can name this namespace: write a FlowPolicy for it, or put the workloads into another \
                 one by the container label `enforcer.dev/namespace` or the field `namespace` of the inventory"
            }
            Self::InvalidNamespace { is_name: false, .. } => {
                "a namespace has letters, digits, `-`, `_` and `.`, and at most 253 characters; a NetworkPolicy takes \
                 only lower case letters, digits and `-`, and at most 63 characters"
            }
            Self::Duplicate { .. } => "rename or remove one of the two policies",
            Self::LabelKey { .. } => {
                "a key is `NAME` or `DNS-PREFIX/NAME`; a name has letters, digits, `-`, `_` and `.`, begins and ends \
                 with a letter or digit, and has at most 63 characters"
            }
            Self::LabelValue { is_name: true, .. } => {
                "no NetworkPolicy can ask for this value: write a FlowPolicy, which takes every name of a workload"
            }
            Self::LabelValue { is_name: false, .. } => {
                "a value has letters, digits, `-`, `_` and `.`, begins and ends with a letter or digit, \
                 and has at most 63 characters"
            }
            Self::MixedSelector { .. } => "write the label under `matchLabels`",
            Self::ValuesMissing { .. } => "list them under `values`",
            Self::ValuesForbidden { .. } => "remove `values`",
            Self::MixedPeer { .. } => "write two items: the list matches a peer if any of its items does",
            Self::ExceptAlone => "add `cidr`",
            Self::Cidr { meant: None, .. } => "write an address and a prefix length, such as 10.0.0.0/8 or fd00::/8",
            Self::Except { .. } => {
                "remove the entries of `except` that lie outside; to leave out the whole range, remove the peer"
            }
            Self::PortRange { .. } => "write a number from 1 to 65535",
            Self::Port { meant: None, .. } => {
                "write `5432/tcp`, `8000-8010/udp`, `any/sctp`, `icmp`, or the name of a port such as `http` \
                 (lower case letters, digits and `-`, at least one letter, at most 15 characters)"
            }
            Self::PortName { meant: None, .. } => {
                "write a number from 1 to 65535, or a name such as `http` (lower case letters, digits and `-`, \
                 at least one letter, at most 15 characters)"
            }
            Self::PortOrder { .. } => "write the lower port first",
            Self::EndPortAlone => "write the first port of the range as a number in `port`",
            Self::DirectionTwice { .. } => "write each direction once",
            Self::NoEffect => "add `isolate: [ingress]` to deny all incoming connections, or add a rule under `allow`",
            Self::OneDirection => "`from` says who may connect to the workloads, `to` whom they may connect to",
            Self::NotIsolated { .. } => {
                "add the direction to `isolate`, or remove the rule, which would have no effect"
            }
            Self::Rest => "correct the errors above first",
            Self::Unreadable { .. } | Self::WrongType { .. } | Self::More { .. } => return None,
        };
        Some(text.to_owned())
    }
}

/// Where a field belongs that stands beside the fields of the map around its own.
fn lost_indent(field: &str, expected: &[&str]) -> Option<String> {
    let (inside, beside) = match field {
        "matchLabels" | "matchExpressions" => ("`podSelector` or `namespaceSelector`", "podSelector"),
        "cidr" | "except" => ("`ipBlock`", "ipBlock"),
        "from" | "ports" => ("an item of `ingress` or `egress`", "ingress"),
        "to" => ("an item of `egress`", "egress"),
        "ipBlock" | "namespaceSelector" | "podSelector" => ("an item of `from` or `to`", "ports"),
        "protocol" | "port" | "endPort" => ("an item of `ports`", "ports"),
        _ => return None,
    };
    expected.contains(&beside).then(|| format!("indent it: `{field}` belongs to {inside}"))
}

/// What mostly leads to a message of the YAML reader.
fn syntax_help(message: &str) -> Option<&'static str> {
    if message.contains("tab") {
        Some("indent with spaces: YAML takes no tabs there")
    } else if message.contains("mapping values are not allowed") || message.contains("simple key") {
        Some("look for a wrong indent, or a missing quote or space after a colon, here and in the line above")
    } else if message.contains("<document start>") {
        Some("begin each document with a line `---`, also in a JSON file")
    } else if message.starts_with("unsupported tag") {
        Some("remove the tag, or move a file without policies out of the policy directory")
    } else {
        None
    }
}

fn meant(name: impl AsRef<str>) -> String {
    format!("did you mean `{}`?", name.as_ref())
}

/// The one of `known` that `name` is most likely a misspelling of.
pub(super) fn near_name(name: &str, known: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    const NEAR: f64 = 0.7;
    // Longer texts are no misspelt names, and the comparison is quadratic.
    if name.len() > 64 {
        return None;
    }
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase());
    known
        .into_iter()
        .map(|known| (known, likeness(known)))
        .filter(|(_, likeness)| *likeness >= NEAR)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(known, _)| known)
}

#[cfg(test)]
mod tests {
    use super::super::error::KINDS;
    use super::*;

    #[test]
    fn misspelt_names_are_found_and_strange_ones_are_not() {
        assert_eq!(near_name("prots", ["from", "ports"]), Some("ports"));
        assert_eq!(near_name("podselector", ["podSelector", "namespaceSelector"]), Some("podSelector"));
        assert_eq!(near_name("networkpolicy", KINDS), Some("NetworkPolicy"));
        assert_eq!(near_name("Deployment", KINDS), None);
        assert_eq!(near_name(&"ports".repeat(1_000_000), ["ports"]), None);
    }
}
