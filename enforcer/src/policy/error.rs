//! The errors of a policy file.
//!
//! Input: facts from the reader, the parser and the loader. Output: a sentence on what is wrong (`Display`). `help` adds one
//! on what to do, and [`PolicyFinding`](super::PolicyFinding) the place.

use std::io;

use ipnetwork::IpNetwork;

use super::encoding::Encoding;
use super::origin::Origin;

/// Something for which a policy file is refused.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file, or a directory on the way to it, could not be read.
    #[error("the file or directory cannot be read: {cause}")]
    Unreadable {
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A policy file that is a pipe, a device or a socket.
    #[error("this path is not a regular file")]
    NotRegular,
    /// The path given as the policy directory is something else.
    #[error("this path is not a directory")]
    NotADirectory,
    /// A symbolic link that leads back to a directory that holds it.
    #[error("this symbolic link leads back to a directory above it")]
    LinkLoop,
    /// A file name that no log line can carry.
    #[error("the file name is not plain text")]
    FileName,
    /// A file over the size limit.
    #[error("the file is larger than {limit} bytes")]
    FileTooLarge {
        /// The limit.
        limit: u64,
    },
    /// A file that somebody may be writing.
    #[error("the file is open for writing, so it may be half written")]
    BeingWritten,
    /// Bytes that are not UTF-8.
    #[error("the file is not UTF-8: {encoding}")]
    NotUtf8 {
        /// What they look like.
        encoding: Encoding,
    },
    /// A character that YAML does not take.
    #[error("the character U+{code:04X} is not allowed in YAML")]
    Unprintable {
        /// Its code point.
        code: u32,
    },

    /// A character that no name and no number has, or that YAML does not take for a space.
    #[error("the character U+{code:04X} ({shown}) cannot be here")]
    Character {
        /// Its code point.
        code: u32,
        /// What a person sees of it, or its name.
        shown: String,
        /// What to do.
        help: &'static str,
    },

    /// A template that is no YAML before it is filled in.
    #[error("this is a template, and its result would be YAML")]
    Template,
    /// Text that is not YAML.
    #[error("this is not valid YAML: {message}")]
    Syntax {
        /// What the YAML reader said.
        message: String,
    },
    /// A file with too many nodes.
    #[error("the file has more than {limit} YAML nodes")]
    FileNodes {
        /// The limit.
        limit: usize,
    },
    /// A document with too many nodes.
    #[error("the document has more than {limit} YAML nodes")]
    DocumentNodes {
        /// The limit.
        limit: usize,
    },
    /// A file with too many label requirements.
    #[error("the file has more than {limit} labels and expressions in its selectors")]
    FileRequirements {
        /// The limit.
        limit: usize,
    },
    /// Nesting beyond the limit.
    #[error("the document is nested more than {limit} levels deep")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Aliases that grow into more than the limit.
    #[error("the aliases of this document expand to too many YAML nodes")]
    AliasBomb,
    /// A merge key.
    #[error("merge keys (`<<`) are not supported")]
    MergeKey,
    /// A field that the kind does not have.
    #[error("unknown field `{field}`, expected {}", one_of(.expected))]
    UnknownField {
        /// The field.
        field: String,
        /// The fields that it has.
        expected: Vec<&'static str>,
    },
    /// A field that must be there.
    #[error("the field `{field}` is missing")]
    MissingField {
        /// The field.
        field: &'static str,
    },
    /// A field twice in one map.
    #[error("the field `{field}` appears here a second time")]
    DuplicateField {
        /// The field.
        field: String,
    },
    /// A value of another type.
    #[error("wrong type: expected {expected}")]
    WrongType {
        /// What is taken here.
        expected: String,
    },
    /// Text that YAML could read as a number or a truth value.
    #[error("`{value}` is a text here, but without quotes YAML may read it as a number or a truth value")]
    NeedsQuotes {
        /// The value.
        value: String,
    },
    /// A field whose value is null.
    #[error("this field has no value")]
    NoValue,

    /// A field without a value in the selector of a policy that lets everybody in or out (D9).
    #[error("this field has no value, and a rule of the policy is for everybody")]
    NoValueBesideOpenRule,

    /// A document that does not say what it is.
    #[error("the field `kind` is missing")]
    MissingKind,
    /// A kind that is not ours, but looks like ours.
    #[error("unknown kind `{kind}`, expected {}", one_of(&KINDS))]
    UnknownKind {
        /// The kind.
        kind: String,
    },
    /// A known kind of an unknown version.
    #[error("{kind} has the version `{expected}`, but the document says `{found}`")]
    UnknownVersion {
        /// The kind.
        kind: &'static str,
        /// The version that is there.
        found: String,
        /// The version that is read.
        expected: &'static str,
    },
    /// A kind of policy that another project reads.
    #[error("Enforcer does not read policies of the kind `{kind}`")]
    OtherPolicyKind {
        /// The kind.
        kind: String,
    },
    /// A document of an unknown kind that may be meant as a policy.
    #[error("unknown kind `{kind}`, but its `spec` has the field `{field}` like a policy")]
    LikeAPolicy {
        /// The kind.
        kind: String,
        /// The field.
        field: &'static str,
    },
    /// An item of a typed list that has another kind.
    #[error("this list holds objects of the kind `{kind}`, but the item is of the kind `{found}`")]
    ItemKind {
        /// The kind of the item.
        found: String,
        /// The kind of the list's items.
        kind: String,
    },
    /// A list as the item of a list.
    #[error("a list cannot be an item of a list")]
    ListInList,
    /// A policy that is named only when an API server takes it.
    #[error("`generateName` gives the policy no name, because no API server completes it")]
    GenerateName,
    /// A name that Kubernetes would refuse.
    #[error("`{name}` is not a valid name of a policy")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// A namespace that Kubernetes would refuse.
    #[error("`{name}` is not a valid name of a namespace")]
    InvalidNamespace {
        /// The name.
        name: String,
        /// A workload can be in such a namespace, but only a FlowPolicy can name it.
        is_name: bool,
    },
    /// Two policies of one kind, namespace and name.
    #[error("{kind} `{namespace}/{name}` is already declared at {first}")]
    Duplicate {
        /// The kind of both.
        kind: &'static str,
        /// The namespace of both.
        namespace: String,
        /// The name of both.
        name: String,
        /// The place of the first.
        first: Origin,
    },
    /// A label key that Kubernetes would refuse.
    #[error("`{key}` is not a valid label key")]
    LabelKey {
        /// The key.
        key: String,
    },
    /// A label value that Kubernetes would refuse.
    #[error("`{value}` is not a valid label value")]
    LabelValue {
        /// The value.
        value: String,
        /// A workload can have such a name as a value, but only a FlowPolicy can ask for it.
        is_name: bool,
    },
    /// Plain labels beside the fields of a `LabelSelector`.
    #[error("the label `{key}` cannot be beside `matchLabels` or `matchExpressions`")]
    MixedSelector {
        /// The label's key.
        key: String,
    },
    /// A word where only certain words have a meaning.
    #[error("unknown {what} `{word}`, expected {}", one_of(.expected))]
    UnknownWord {
        /// What the word stands for.
        what: &'static str,
        /// The word.
        word: String,
        /// The words with a meaning.
        expected: &'static [&'static str],
    },
    /// `In` or `NotIn` without values.
    #[error("the operator `{operator}` needs at least one value")]
    ValuesMissing {
        /// The operator.
        operator: &'static str,
    },
    /// `Exists` or `DoesNotExist` with values.
    #[error("the operator `{operator}` takes no values")]
    ValuesForbidden {
        /// The operator.
        operator: &'static str,
    },
    /// A peer without a condition.
    #[error("this peer has no condition, so it would match nobody")]
    EmptyPeer {
        /// The fields of which it needs one.
        fields: &'static [&'static str],
    },
    /// A peer that is an address range and something else.
    #[error("a peer with `{cidr}` cannot have other conditions")]
    MixedPeer {
        /// The field of the address range.
        cidr: &'static str,
    },
    /// `except` of a FlowPolicy without its `cidr`.
    #[error("`except` needs a `cidr` in the same peer")]
    ExceptAlone,
    /// Text that is not a CIDR.
    #[error("`{text}` is not an address range (CIDR)")]
    Cidr {
        /// The text.
        text: String,
        /// What was probably meant.
        meant: Option<String>,
    },
    /// A CIDR with host bits, in a FlowPolicy.
    #[error("`{text}` has bits set after its prefix")]
    HostBits {
        /// The text.
        text: String,
        /// The network it lies in.
        network: IpNetwork,
    },
    /// An `except` that is not a smaller part of its CIDR.
    #[error("`{except}` is not a smaller part of `{cidr}`")]
    Except {
        /// The exception.
        except: IpNetwork,
        /// What it should be a part of.
        cidr: IpNetwork,
    },
    /// A port number out of range.
    #[error("{} is out of range", port(*.number))]
    PortRange {
        /// The number.
        number: i64,
    },
    /// What a NetworkPolicy takes neither for a port number nor for a port name.
    #[error("`{text}` is neither a port number nor the name of a port")]
    PortName {
        /// The text.
        text: String,
        /// What was probably meant.
        meant: Option<String>,
    },
    /// The number of a port in quotes.
    #[error("`{text}` is a text here because of its quotes, and a text of digits is no name of a port")]
    QuotedPort {
        /// The text without the quotes.
        text: String,
    },
    /// What a FlowPolicy does not take for a port.
    #[error("`{text}` is not a port")]
    Port {
        /// The text.
        text: String,
        /// What was probably meant.
        meant: Option<String>,
    },
    /// A range of ports that ends before it begins.
    #[error("the port range {first}-{last} ends before it begins")]
    PortOrder {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// `endPort` without a number in `port`.
    #[error("`endPort` needs a number in `port`")]
    EndPortAlone,
    /// A list that must not be empty.
    #[error("`{field}` is an empty list")]
    EmptyList {
        /// The field.
        field: &'static str,
        /// What to do.
        help: &'static str,
    },
    /// More than two `policyTypes`, or one direction twice in `isolate`.
    #[error("`{field}` names a direction twice")]
    DirectionTwice {
        /// The field.
        field: &'static str,
    },
    /// A FlowPolicy that does nothing.
    #[error("the policy has neither `isolate` nor `allow`")]
    NoEffect,
    /// A rule of a FlowPolicy with both or neither of `from` and `to`.
    #[error("a rule needs exactly one of `from` and `to`")]
    OneDirection,
    /// A rule of a FlowPolicy in a direction that the policy leaves open.
    #[error("`{field}` allows {direction}, but `isolate` does not list `{direction}`")]
    NotIsolated {
        /// `from` or `to`.
        field: &'static str,
        /// Its direction.
        direction: &'static str,
    },
    /// A rule of the definition of FlowPolicy that the parser knows nothing of.
    #[error("an API server refuses this: {message}")]
    BrokenRule {
        /// What the API server says.
        message: String,
    },
    /// Findings that are not shown.
    #[error("the document has {count} more errors")]
    More {
        /// How many.
        count: usize,
    },
    /// Documents that were not read.
    #[error("the rest of the file was not read, because it has too many errors")]
    Rest,
}

/// The kinds of policy that are read.
pub(super) const KINDS: [&str; 2] = ["NetworkPolicy", "FlowPolicy"];
/// All kinds that are read.
pub(super) const READ: [&str; 5] = ["NetworkPolicy", "FlowPolicy", "List", "NetworkPolicyList", "FlowPolicyList"];

/// `port 70000`; a number that was too big to be kept is not shown.
fn port(number: i64) -> String {
    if number == i64::MAX { "the port".to_owned() } else { format!("port {number}") }
}

/// `a`, or `a` and `b` joined by "or".
pub(super) fn one_of(names: &[&str]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [name] => format!("`{name}`"),
        [names @ .., last] => {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            format!("{} or `{last}`", names.join(", "))
        }
    }
}
