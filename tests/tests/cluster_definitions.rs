//! A real API server with the definitions of our kinds, beside the parser of the agents.
//!
//! What the parser takes, the API server takes. What the parser refuses, the API server refuses, or it keeps all of it, so that
//! the parser still has it to refuse.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::fs;
use std::path::{Path, PathBuf};

use enforcer::policy::parse::parse;
use enforcer_tests::cluster::{Cluster, is_privileged};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A cluster of one node that has our kinds.
struct Ground {
    cluster: Cluster,
    directory: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let ground = Self { cluster: Cluster::named("definitions"), directory: tempfile::tempdir().unwrap() };
        ground.cluster.up(&["--nodes", "1", "--cni", "ptp"]);
        for plural in ["flowpolicies", "enforcernodes"] {
            let file = root().join(format!("deploy/base/crds/{plural}.yaml"));
            ground.kubectl(&["apply", "--filename", file.to_str().unwrap()]);
            let established = "--for=condition=Established";
            ground.kubectl(&["wait", established, &format!("crd/{plural}.enforcer.dev")]);
        }
        ground
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(arguments)
    }

    /// What the API server would keep of an object, or why it refuses it. The client helps with nothing.
    fn would_keep(&self, object: &Value) -> Result<Value, String> {
        let file = self.directory.path().join("object.json");
        fs::write(&file, object.to_string()).unwrap();
        let trial = ["create", "--dry-run=server", "--validate=false", "--output=json", "--filename"];
        let kept = self.cluster.try_kubectl(&[&trial[..], &[file.to_str().unwrap()]].concat());
        kept.map(|kept| serde_json::from_str(&kept).unwrap())
    }
}

/// Why the parser refuses an object.
fn errors(object: &Value) -> Vec<String> {
    let parsed = parse(&"object.json".into(), &object.to_string());
    parsed.errors.iter().map(ToString::to_string).collect()
}

fn flow_policy(spec: &Value) -> Value {
    let metadata = json!({"name": "flow", "namespace": "default"});
    json!({"apiVersion": "enforcer.dev/v1alpha1", "kind": "FlowPolicy", "metadata": metadata, "spec": spec})
}

/// A `spec` that is refused, and who refuses it.
enum Refuses {
    /// The API server, with this text.
    Api(&'static str),
    /// The agents: no schema can say it.
    Agent,
}

fn refused() -> Vec<(&'static str, Value, Refuses)> {
    use Refuses::{Agent, Api};
    let anywhere = |ports: Value| json!({"allow": [{"from": "anywhere", "ports": ports}]});
    let from = |peer: Value| json!({"allow": [{"from": [peer]}]});
    let of = |workloads: Value| json!({"workloads": workloads, "isolate": ["ingress"]});
    let expression = |expression: Value| of(json!({"matchExpressions": [expression]}));
    vec![
        ("nothing in it", json!({}), Api("spec.isolate: Required value")),
        (
            "no rule and no direction",
            json!({"allow": []}),
            Api("the policy has neither `isolate` nor a rule in `allow`"),
        ),
        ("a field more", json!({"isolate": ["ingress"], "isolated": ["egress"]}), Api("spec: Too many: 2")),
        ("another direction", json!({"isolate": ["both"]}), Api("supported values: \"ingress\", \"egress\"")),
        ("a direction twice", json!({"isolate": ["ingress", "ingress"]}), Api("`isolate` names a direction twice")),
        ("no direction", json!({"isolate": []}), Api("spec.isolate in body should have at least 1 items")),
        ("no list", json!({"isolate": "ingress"}), Api("spec.isolate in body must be of type array")),
        (
            "a rule for a direction that is open",
            json!({"isolate": ["egress"], "allow": [{"from": "anywhere"}]}),
            Api("\"spec\" must validate at least one schema (anyOf)"),
        ),
        ("neither of both", json!({"allow": [{"ports": ["80/tcp"]}]}), Api("spec.allow[0].from: Required value")),
        ("both of them", json!({"allow": [{"from": "anywhere", "to": "anywhere"}]}), Api("spec.allow[0]: Too many: 2")),
        ("a misspelt field", json!({"allow": [{"form": "anywhere"}]}), Api("spec.allow[0].from: Required value")),
        (
            "misspelt ports",
            json!({"allow": [{"from": "anywhere", "port": ["80/tcp"]}]}),
            Api("spec.allow[0]: Too many: 2"),
        ),
        ("another word", json!({"allow": [{"from": "somewhere"}]}), Api("should match '^anywhere$'")),
        ("a number as peers", json!({"allow": [{"from": 5}]}), Api("spec.allow[0].from: Invalid value: 5")),
        ("a truth value as peers", json!({"allow": [{"from": true}]}), Api("\"spec.allow[0].from\" must not validate")),
        (
            "a map as peers",
            json!({"allow": [{"from": {"cidr": "10.0.0.0/8"}}]}),
            Api("spec.allow[0].from: Too many: 1"),
        ),
        ("an empty map as peers", json!({"allow": [{"from": {}}]}), Api("spec.allow[0].from.a list: Required value")),
        ("no peers", json!({"allow": [{"from": []}]}), Api("should have at least 1 items")),
        ("null as peers", json!({"allow": [{"from": null}]}), Api("spec.allow[0].from: Required value")),
        ("a text as peer", from(json!("anywhere")), Api("spec.allow[0].from[0] in body must be of type object")),
        ("an empty peer", from(json!({})), Api("spec.allow[0].from[0].workloads: Required value")),
        (
            "a misspelt except",
            from(json!({"cidr": "10.0.0.0/8", "exept": ["10.0.0.0/9"]})),
            Api("from[0]: Too many: 2"),
        ),
        ("an except alone", from(json!({"except": ["10.0.0.0/8"]})), Api("from[0].workloads: Required value")),
        (
            "no exception",
            from(json!({"cidr": "10.0.0.0/8", "except": []})),
            Api("except in body should have at least 1"),
        ),
        ("a network and workloads", from(json!({"cidr": "10.0.0.0/8", "workloads": {}})), Api("from[0]: Too many: 2")),
        ("an address", from(json!({"cidr": "10.0.0.1"})), Api("from[0].cidr in body must be of type cidr")),
        ("a long prefix", from(json!({"cidr": "10.0.0.0/33"})), Api("from[0].cidr in body must be of type cidr")),
        ("a zero before a prefix", from(json!({"cidr": "10.0.0.0/08"})), Api("from[0].cidr in body should match")),
        ("host bits", from(json!({"cidr": "10.1.0.0/8"})), Agent),
        ("IPv4 as IPv6", from(json!({"cidr": "::ffff:10.0.0.0/104"})), Agent),
        ("an exception elsewhere", from(json!({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]})), Agent),
        ("no exceptions by null", from(json!({"cidr": "10.0.0.0/8", "except": null})), Agent),
        ("no ports", anywhere(json!([])), Api("ports in body should have at least 1 items")),
        ("no ports by null", anywhere(Value::Null), Agent),
        ("a number", anywhere(json!([80])), Api("ports[0] in body must be of type string")),
        ("a number as text", anywhere(json!(["80"])), Api("a number and the name of a protocol say no port alone")),
        ("a protocol", anywhere(json!(["tcp"])), Api("a number and the name of a protocol say no port alone")),
        ("any", anywhere(json!(["any"])), Api("a number and the name of a protocol say no port alone")),
        ("port 0", anywhere(json!(["0/tcp"])), Api("a number of a port is from 1 to 65535")),
        ("port 65536", anywhere(json!(["65536/tcp"])), Api("a number of a port is from 1 to 65535")),
        ("a range up to 65536", anywhere(json!(["1-65536/tcp"])), Api("a number of a port is from 1 to 65535")),
        ("a zero before a port", anywhere(json!(["080/tcp"])), Api("without leading zeros")),
        ("a range backwards", anywhere(json!(["90-80/tcp"])), Api("the range of ports ends before it begins")),
        ("a protocol in capitals", anywhere(json!(["80/TCP"])), Api("should match")),
        ("another protocol", anywhere(json!(["80/gre"])), Api("a port is written as")),
        ("a name in capitals", anywhere(json!(["Http"])), Api("a port is written as")),
        ("two hyphens", anywhere(json!(["a--b"])), Api("a port is written as")),
        ("a name of 16 letters", anywhere(json!(["sixteen-letters1"])), Api("should match")),
        (
            "a number as label",
            of(json!({"app": 5})),
            Api("spec.workloads.app in body should be less than or equal to 0"),
        ),
        ("a truth value as label", of(json!({"app": true})), Api("\"spec.workloads.app\" must not validate")),
        ("a space in a label", of(json!({"app": "a b"})), Api("spec.workloads.app in body should match")),
        ("null as label", of(json!({"app": null})), Agent),
        ("null as one of the labels", of(json!({"matchLabels": {"app": null}})), Agent),
        ("null as selector", of(Value::Null), Agent),
        ("null as direction", json!({"isolate": null, "allow": [{"from": "anywhere"}]}), Agent),
        ("a space in a key", of(json!({"a b": "c"})), Agent),
        ("a map as label", of(json!({"app": {"a": "b"}})), Agent),
        ("a misspelt field of a selector", of(json!({"matchlabels": {"app": "db"}})), Agent),
        ("labels beside a selector", of(json!({"matchLabels": {}, "app": "db"})), Api("spec.workloads: Too many: 2")),
        ("no operator", expression(json!({"key": "a"})), Api("matchExpressions[0].operator: Required value")),
        (
            "another operator",
            expression(json!({"key": "a", "operator": "in", "values": ["b"]})),
            Api("Unsupported value: \"in\""),
        ),
        ("In without values", expression(json!({"key": "a", "operator": "In"})), Api("values: Required value")),
        (
            "In with no value",
            expression(json!({"key": "a", "operator": "In", "values": []})),
            Api("values in body should have at least 1"),
        ),
        (
            "Exists with a value",
            expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            Api("matchExpressions[0]\" must validate"),
        ),
        (
            "a misspelt value",
            expression(json!({"key": "a", "operator": "Exists", "value": "b"})),
            Api("matchExpressions[0]\" must validate"),
        ),
    ]
}

/// What a schema with so many unions may lose.
fn good() -> Vec<Value> {
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

/// All objects of the kind `FlowPolicy` in the examples and the pages that the parser takes.
fn written() -> Vec<Value> {
    let mut texts = Vec::new();
    for (directory, ending) in [("policies", ".yaml"), ("docs", ".md"), (".", ".md")] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_string_lossy().into_owned();
            if !name.ends_with(ending) || name.ends_with(".cases.yaml") || name.ends_with(".inventory.yaml") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            if ending == ".yaml" {
                texts.push(text);
            } else {
                let blocks = text.split("\n```yaml\n").skip(1);
                texts.extend(blocks.map(|block| block.split("\n```").next().unwrap().to_owned()));
            }
        }
    }
    let documents =
        texts.iter().flat_map(|text| text.split("\n---\n")).filter(|text| text.contains("kind: FlowPolicy"));
    let objects = documents.filter_map(|text| serde_yaml::from_str::<Value>(text).ok());
    objects.filter(|object| object["kind"] == "FlowPolicy" && errors(object).is_empty()).collect()
}

#[test]
fn a_real_api_server_takes_what_the_parser_takes_and_loses_nothing_of_what_it_refuses() {
    if !is_privileged() {
        return;
    }
    let ground = Ground::new();

    let mut all = written();
    assert!(all.len() >= 8, "only {} FlowPolicies are written anywhere", all.len());
    all.extend(good().iter().map(flow_policy));
    for mut object in all {
        assert_eq!(errors(&object), Vec::<String>::new(), "{object}");
        object["metadata"]["namespace"] = json!("default");
        let kept = ground.would_keep(&object).unwrap_or_else(|error| panic!("{object}: {error}"));
        assert_eq!(kept["spec"], object["spec"], "it keeps all of it");
    }

    let (mut by_api, mut by_agent, mut wrong) = (0, 0, Vec::new());
    for (what, spec, who) in refused() {
        let object = flow_policy(&spec);
        assert_ne!(errors(&object), Vec::<String>::new(), "{what}: the parser takes {object}");
        match (who, ground.would_keep(&object)) {
            (Refuses::Api(text), Err(error)) if error.contains(text) => by_api += 1,
            (Refuses::Agent, Ok(kept)) if kept["spec"] == object["spec"] => by_agent += 1,
            (Refuses::Api(text), answer) => wrong.push(format!("{what}: not refused for {text:?}: {answer:?}")),
            (Refuses::Agent, answer) => wrong.push(format!("{what}: the parser has to see all of it: {answer:?}")),
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    println!("refused: {by_api} by the API server, {by_agent} by the parser alone");

    // A field beside `spec`, which would be a wrong indentation, is not lost either, so the parser refuses it.
    let mut beside = flow_policy(&json!({"allow": [{"from": "anywhere"}]}));
    beside["isolate"] = json!(["ingress", "egress"]);
    assert_ne!(errors(&beside), Vec::<String>::new());
    assert_eq!(ground.would_keep(&beside).unwrap()["isolate"], beside["isolate"]);

    // The agents' account may write the object of a node, and nothing that decides.
    for file in ["namespace.yaml", "access.yaml"] {
        let file = root().join("deploy/base").join(file);
        ground.kubectl(&["apply", "--filename", file.to_str().unwrap()]);
    }
    let own = json!({
        "apiVersion": "enforcer.dev/v1alpha1", "kind": "EnforcerNode", "metadata": {"name": "node1"},
        "status": {"version": "1", "ready": true, "revision": 7},
    });
    let as_agent = |object: &Value| {
        let file = ground.directory.path().join("own.json");
        fs::write(&file, object.to_string()).unwrap();
        let agent = "--as=system:serviceaccount:enforcer-system:enforcer-agent";
        let apply = ["apply", "--server-side", "--validate=false", agent, "--filename", file.to_str().unwrap()];
        ground.cluster.try_kubectl(&apply)
    };
    for revision in [7, 8] {
        let mut own = own.clone();
        own["status"]["revision"] = json!(revision);
        as_agent(&own).unwrap();
    }
    let line = ground.kubectl(&["get", "enforcernode", "node1", "--no-headers"]);
    assert_eq!(line.split_whitespace().take(4).collect::<Vec<_>>(), ["node1", "1", "true", "8"], "{line}");
    let denied = as_agent(&flow_policy(&json!({"isolate": ["ingress"]}))).unwrap_err();
    assert!(denied.contains("forbidden"), "{denied}");

    let explained = ground.kubectl(&["explain", "flowpolicy.spec"]);
    for text in ["allow\t<[]Object>", "isolate\t<[]string>", "workloads\t<map", "The directions that are isolated"] {
        assert!(explained.contains(text), "{text}: {explained}");
    }
    let explained = ground.kubectl(&["explain", "flowpolicy.spec.allow.from.cidr"]);
    assert!(explained.contains("such as 10.0.0.0/8"), "{explained}");
    let explained = ground.kubectl(&["explain", "enforcernode.status"]);
    assert!(explained.contains("Revision of the policies in the kernel"), "{explained}");
    ground.kubectl(&["get", "flowpol,enfnode"]);
}
