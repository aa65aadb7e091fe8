//! Policies of the kind FlowPolicy at the borders of what an API server takes and what the parser takes.
//!
//! Input: none. Output: a `spec` for each, good or wrong, and who refuses it. A test on a cluster asks a real API server, and tests
//! without one ask the rules of the schema and `enforcer validate`.

use serde_json::{Value, json};

/// A FlowPolicy with this `spec`.
pub fn flow_policy(spec: &Value) -> Value {
    let metadata = json!({"name": "flow", "namespace": "default"});
    json!({"apiVersion": "enforcer.dev/v1alpha1", "kind": "FlowPolicy", "metadata": metadata, "spec": spec})
}

/// Who refuses a `spec`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refuses {
    /// The API server by the shape of it, with this text.
    Shape(&'static str),
    /// The API server by a rule in CEL, with this text.
    Rule(&'static str),
    /// The agents alone: no schema can say it.
    Agent,
}

/// What each is, its `spec`, and who refuses it. The parser of the agents refuses them all.
pub fn refused() -> Vec<(&'static str, Value, Refuses)> {
    use Refuses::{Agent, Rule, Shape};
    let anywhere = |ports: Value| json!({"allow": [{"from": "anywhere", "ports": ports}]});
    let from = |peer: Value| json!({"allow": [{"from": [peer]}]});
    let of = |workloads: Value| json!({"workloads": workloads, "isolate": ["ingress"]});
    let expression = |expression: Value| of(json!({"matchExpressions": [expression]}));
    vec![
        ("nothing in it", json!({}), Shape("spec.isolate: Required value")),
        (
            "no rule and no direction",
            json!({"allow": []}),
            Rule("the policy has neither `isolate` nor a rule in `allow`"),
        ),
        ("a field more", json!({"isolate": ["ingress"], "isolated": ["egress"]}), Shape("spec: Too many: 2")),
        ("another direction", json!({"isolate": ["both"]}), Shape("supported values: \"ingress\", \"egress\"")),
        ("a direction twice", json!({"isolate": ["ingress", "ingress"]}), Rule("`isolate` names a direction twice")),
        ("no direction", json!({"isolate": []}), Shape("spec.isolate in body should have at least 1 items")),
        ("no list", json!({"isolate": "ingress"}), Shape("spec.isolate in body must be of type array")),
        (
            "a rule for a direction that is open",
            json!({"isolate": ["egress"], "allow": [{"from": "anywhere"}]}),
            Shape("\"spec\" must validate at least one schema (anyOf)"),
        ),
        ("neither of both", json!({"allow": [{"ports": ["80/tcp"]}]}), Shape("spec.allow[0].from: Required value")),
        (
            "both of them",
            json!({"allow": [{"from": "anywhere", "to": "anywhere"}]}),
            Shape("spec.allow[0]: Too many: 2"),
        ),
        ("a misspelt field", json!({"allow": [{"form": "anywhere"}]}), Shape("spec.allow[0].from: Required value")),
        (
            "misspelt ports",
            json!({"allow": [{"from": "anywhere", "port": ["80/tcp"]}]}),
            Shape("spec.allow[0]: Too many: 2"),
        ),
        ("another word", json!({"allow": [{"from": "somewhere"}]}), Shape("should match '^anywhere$'")),
        ("a number as peers", json!({"allow": [{"from": 5}]}), Shape("spec.allow[0].from: Invalid value: 5")),
        (
            "a truth value as peers",
            json!({"allow": [{"from": true}]}),
            Shape("\"spec.allow[0].from\" must not validate"),
        ),
        (
            "a map as peers",
            json!({"allow": [{"from": {"cidr": "10.0.0.0/8"}}]}),
            Shape("spec.allow[0].from: Too many: 1"),
        ),
        ("an empty map as peers", json!({"allow": [{"from": {}}]}), Shape("spec.allow[0].from.a list: Required value")),
        ("no peers", json!({"allow": [{"from": []}]}), Shape("should have at least 1 items")),
        ("null as peers", json!({"allow": [{"from": null}]}), Shape("spec.allow[0].from: Required value")),
        ("a text as peer", from(json!("anywhere")), Shape("spec.allow[0].from[0] in body must be of type object")),
        ("an empty peer", from(json!({})), Shape("spec.allow[0].from[0].workloads: Required value")),
        (
            "a misspelt except",
            from(json!({"cidr": "10.0.0.0/8", "exept": ["10.0.0.0/9"]})),
            Shape("from[0]: Too many: 2"),
        ),
        ("an except alone", from(json!({"except": ["10.0.0.0/8"]})), Shape("from[0].workloads: Required value")),
        (
            "no exception",
            from(json!({"cidr": "10.0.0.0/8", "except": []})),
            Shape("except in body should have at least 1"),
        ),
        (
            "a network and workloads",
            from(json!({"cidr": "10.0.0.0/8", "workloads": {}})),
            Shape("from[0]: Too many: 2"),
        ),
        ("an address", from(json!({"cidr": "10.0.0.1"})), Shape("from[0].cidr in body must be of type cidr")),
        ("a long prefix", from(json!({"cidr": "10.0.0.0/33"})), Shape("from[0].cidr in body must be of type cidr")),
        ("a zero before a prefix", from(json!({"cidr": "10.0.0.0/08"})), Shape("from[0].cidr in body should match")),
        ("host bits", from(json!({"cidr": "10.1.0.0/8"})), Agent),
        ("IPv4 as IPv6", from(json!({"cidr": "::ffff:10.0.0.0/104"})), Agent),
        ("an exception elsewhere", from(json!({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]})), Agent),
        ("no exceptions by null", from(json!({"cidr": "10.0.0.0/8", "except": null})), Agent),
        ("no ports", anywhere(json!([])), Shape("ports in body should have at least 1 items")),
        ("no ports by null", anywhere(Value::Null), Agent),
        ("a number", anywhere(json!([80])), Shape("ports[0] in body must be of type string")),
        ("a number as text", anywhere(json!(["80"])), Rule("a number and the name of a protocol say no port alone")),
        ("a protocol", anywhere(json!(["tcp"])), Rule("a number and the name of a protocol say no port alone")),
        ("any", anywhere(json!(["any"])), Rule("a number and the name of a protocol say no port alone")),
        ("port 0", anywhere(json!(["0/tcp"])), Rule("a number of a port is from 1 to 65535")),
        ("port 65536", anywhere(json!(["65536/tcp"])), Rule("a number of a port is from 1 to 65535")),
        ("a range up to 65536", anywhere(json!(["1-65536/tcp"])), Rule("a number of a port is from 1 to 65535")),
        ("a zero before a port", anywhere(json!(["080/tcp"])), Rule("without leading zeros")),
        ("a range backwards", anywhere(json!(["90-80/tcp"])), Rule("the range of ports ends before it begins")),
        ("a protocol in capitals", anywhere(json!(["80/TCP"])), Shape("should match")),
        ("another protocol", anywhere(json!(["80/gre"])), Rule("a port is written as")),
        ("a name in capitals", anywhere(json!(["Http"])), Rule("a port is written as")),
        ("two hyphens", anywhere(json!(["a--b"])), Rule("a port is written as")),
        ("a name of 16 letters", anywhere(json!(["sixteen-letters1"])), Shape("should match")),
        (
            "a number as label",
            of(json!({"app": 5})),
            Shape("spec.workloads.app in body should be less than or equal to 0"),
        ),
        ("a truth value as label", of(json!({"app": true})), Shape("\"spec.workloads.app\" must not validate")),
        ("a space in a label", of(json!({"app": "a b"})), Shape("spec.workloads.app in body should match")),
        ("null as label", of(json!({"app": null})), Agent),
        ("null as one of the labels", of(json!({"matchLabels": {"app": null}})), Agent),
        ("null as selector", of(Value::Null), Agent),
        ("null as direction", json!({"isolate": null, "allow": [{"from": "anywhere"}]}), Agent),
        ("a space in a key", of(json!({"a b": "c"})), Agent),
        ("a map as label", of(json!({"app": {"a": "b"}})), Agent),
        ("a misspelt field of a selector", of(json!({"matchlabels": {"app": "db"}})), Agent),
        ("labels beside a selector", of(json!({"matchLabels": {}, "app": "db"})), Shape("spec.workloads: Too many: 2")),
        ("no operator", expression(json!({"key": "a"})), Shape("matchExpressions[0].operator: Required value")),
        (
            "another operator",
            expression(json!({"key": "a", "operator": "in", "values": ["b"]})),
            Shape("Unsupported value: \"in\""),
        ),
        ("In without values", expression(json!({"key": "a", "operator": "In"})), Shape("values: Required value")),
        (
            "In with no value",
            expression(json!({"key": "a", "operator": "In", "values": []})),
            Shape("values in body should have at least 1"),
        ),
        (
            "Exists with a value",
            expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            Shape("matchExpressions[0]\" must validate"),
        ),
        (
            "a misspelt value",
            expression(json!({"key": "a", "operator": "Exists", "value": "b"})),
            Shape("matchExpressions[0]\" must validate"),
        ),
    ]
}

/// What a schema with so many unions may lose. All take each `spec` here.
pub fn good() -> Vec<Value> {
    let ports =
        json!(["5432/tcp", "8000-8010/udp", "any/sctp", "http", "http/tcp", "icmp", "tcp/tcp", "8a", "1-65535/tcp"]);
    vec![
        json!({"isolate": ["ingress"]}),
        json!({"isolate": ["egress", "ingress"], "allow": []}),
        json!({"isolate": ["egress", "ingress"], "allow": [{"from": "anywhere"}, {"to": "anywhere"}]}),
        json!({"isolate": ["egress"], "allow": [{"to": "anywhere"}]}),
        json!({"workloads": {}, "allow": [{"from": "anywhere", "ports": ports}]}),
        json!({"workloads": {"app": "", "a.b/c": "db_", "e": "_".repeat(253)}, "isolate": ["ingress"]}),
        json!({"workloads": {"matchLabels": {"app": "db"}}, "isolate": ["ingress"]}),
        json!({"workloads": {"matchLabels": {}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["b", ""]}, {"key": "a", "operator": "NotIn", "values": ["c"]},
            {"key": "a", "operator": "Exists"}, {"key": "b", "operator": "DoesNotExist", "values": []},
        ]}, "isolate": ["ingress"]}),
        json!({"allow": [{"from": [
            {"workloads": {"app": "a"}}, {"namespaces": {}}, {"namespaces": {"matchLabels": {"team": "ops"}}, "workloads": {}},
            {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/32"]}, {"cidr": "::/0"}, {"cidr": "fd00::/128"},
        ]}]}),
    ]
}
