//! The parts of which the schema is made.
//!
//! Input: descriptions and bounds. Output: schemas of lists, objects, selectors, ports and networks.

use serde_json::{Value, json};

use crate::policy::parse::flow_policy::TRANSPORTS;
use crate::policy::parse::selector::OPERATORS;

/// Labels or expressions of a selector, values of an expression, and ports of a rule.
const LABELS: usize = 64;
const VALUES: usize = 256;
const PORTS: usize = 64;
/// Characters of the longest name that a workload can have, which a label may ask for.
const LABEL_VALUE: usize = 253;
/// Characters of the longest key: a DNS name, a slash and a name.
const LABEL_KEY: usize = 253 + 1 + 63;
/// Characters of the longest network.
const CIDR: usize = 49;
/// Characters of the longest port: the longest name with its protocol.
const PORT: usize = 15 + 5;

/// Words that could be names of ports and hardly ever are, so the parser asks for more than the word.
pub(super) const RESERVED: [&str; 7] = ["tcp", "udp", "sctp", "icmpv6", "icmp6", "ping", "any"];

/// An object that has the fields of one of these sets and no other field.
#[expect(clippy::needless_pass_by_value, reason = "a part is made where it is given away")]
pub(super) fn closed(description: &str, sets: &[&[&str]], properties: Value) -> Value {
    let sets: Vec<Value> = sets.iter().map(|set| json!({"required": set, "maxProperties": set.len()})).collect();
    json!({
        "type": "object", "description": description, "properties": properties, "anyOf": sets,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// A list that is not empty.
#[expect(clippy::needless_pass_by_value, reason = "a part is made where it is given away")]
pub(super) fn list(description: &str, most: usize, items: Value) -> Value {
    json!({"type": "array", "description": description, "minItems": 1, "maxItems": most, "items": items})
}

/// A schema without a type, which takes no numbers and no truth values.
pub(super) fn no_scalar(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        fields.remove("type");
    }
    schema["minimum"] = json!(1);
    schema["maximum"] = json!(0);
    schema["not"] = json!({"enum": [true, false]});
    schema["x-kubernetes-preserve-unknown-fields"] = json!(true);
    schema
}

/// Labels, or `matchLabels` and `matchExpressions`. No schema tells the fields of the second form from labels, so each
/// value may be a text, a map or a list; the parser knows which.
pub(super) fn labels(description: &str) -> Value {
    let value = no_scalar(json!({
        "pattern": LABEL_PATTERN, "maxLength": LABEL_VALUE, "nullable": true,
        "additionalProperties": label_value("The value of a label."), "maxProperties": LABELS,
        "items": expression(), "maxItems": LABELS,
    }));
    let sets = [&["matchLabels"] as &[&str], &["matchExpressions"], &["matchLabels", "matchExpressions"]];
    let mut forms: Vec<Value> = sets.iter().map(|set| json!({"required": set, "maxProperties": set.len()})).collect();
    forms.push(json!({"not": {"anyOf": [{"required": ["matchLabels"]}, {"required": ["matchExpressions"]}]}}));
    json!({
        "type": "object", "description": description, "nullable": true, "maxProperties": LABELS,
        "additionalProperties": value, "anyOf": forms,
    })
}

const LABEL_PATTERN: &str = "^[A-Za-z0-9._-]*$";

fn label_value(description: &str) -> Value {
    json!({
        "type": "string", "description": description, "nullable": true, "maxLength": LABEL_VALUE, "pattern": LABEL_PATTERN,
    })
}

/// An item of `matchExpressions`.
fn expression() -> Value {
    let [is_in, is_not_in, exists, does_not_exist] = *OPERATORS else { unreachable!() };
    let mut expression = closed(
        "A requirement on one label, in the list `matchExpressions`.",
        &[],
        json!({
            "key": {"type": "string", "description": "The key of the label.", "minLength": 1, "maxLength": LABEL_KEY},
            "operator": {
                "type": "string", "description": "How the label and `values` have to relate.", "enum": OPERATORS,
            },
            "values": {
                "type": "array", "description": "For `In` and `NotIn` at least one value, and else none.",
                "nullable": true, "maxItems": VALUES, "items": label_value("The value of a label."),
            },
        }),
    );
    expression["anyOf"] = json!([
        {
            "required": ["key", "operator", "values"], "maxProperties": 3,
            "properties": {"operator": {"enum": [is_in, is_not_in]}, "values": {"minItems": 1}},
        },
        {
            "required": ["key", "operator"], "maxProperties": 2,
            "properties": {"operator": {"enum": [exists, does_not_exist]}},
        },
        {
            "required": ["key", "operator", "values"], "maxProperties": 3,
            "properties": {"operator": {"enum": [exists, does_not_exist]}, "values": {"maxItems": 0}},
        },
    ]);
    expression
}

/// A network. That its host bits are zero is for the parser to see.
pub(super) fn cidr(description: &str) -> Value {
    json!({
        "type": "string", "description": description, "maxLength": CIDR, "format": "cidr",
        "pattern": "^[0-9A-Fa-f:.]+/(0|[1-9][0-9]{0,2})$",
    })
}

/// A number from 1 to 65535. The API server allows a rule no more than so much work, so one expression sees all.
const NUMBER: &str = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

/// Ports of a rule.
pub(super) fn ports() -> Value {
    let transports = TRANSPORTS.join("|");
    let reserved = RESERVED.map(|word| format!("'{word}'")).join(", ");
    let port = json!({
        "type": "string",
        "description": "A port: 5432/tcp, 8000-8010/udp, any/sctp, the name of a port as in http or http/tcp, or icmp.",
        "maxLength": PORT,
        "pattern": "^[^/]{1,15}(/[a-z]+)?$",
        "x-kubernetes-validations": [
            {
                "rule": format!("self.matches('^[a-z0-9]+(-[a-z0-9]+)*(/({transports}))?$')"),
                "message": "a port is written as 5432/tcp, 8000-8010/udp, any/sctp, http, http/tcp or icmp",
            },
            {
                "rule": format!("self.contains('/') || self.matches('[a-z]') && !(self in [{reserved}])"),
                "message": "a number and the name of a protocol say no port alone: write 5432/tcp, any/tcp or icmp",
            },
            {
                "rule": format!("self.matches('^[^/]*[a-z]') || !self.contains('/') || self.matches('^{NUMBER}(-{NUMBER})?/')"),
                "message": "a number of a port is from 1 to 65535, without leading zeros",
            },
            {
                "rule": "!self.matches('^[0-9]{1,5}-[0-9]{1,5}/') || \
                    int(self.split('/')[0].split('-')[0]) <= int(self.split('/')[0].split('-')[1])",
                "message": "the range of ports ends before it begins",
            },
        ],
    });
    let mut ports =
        list("The destination ports. If it is absent, every port of every protocol, and ICMP.", PORTS, port);
    ports["nullable"] = json!(true);
    ports
}
