//! A real API server with the definitions of our kinds, beside the parser of the agents.
//!
//! What the parser takes, the API server takes. What the parser refuses, the API server refuses, or it keeps all of it, so that
//! the parser still has it to refuse.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::fs;
use std::path::{Path, PathBuf};

use enforcer::policy::parse::parse;
use enforcer_tests::cluster::{Cluster, is_privileged};
use enforcer_tests::flow_policies::{Refuses, flow_policy, good, refused};
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
            (Refuses::Shape(text) | Refuses::Rule(text), Err(error)) if error.contains(text) => by_api += 1,
            (Refuses::Agent, Ok(kept)) if kept["spec"] == object["spec"] => by_agent += 1,
            (Refuses::Shape(text) | Refuses::Rule(text), answer) => {
                wrong.push(format!("{what}: not refused for {text:?}: {answer:?}"));
            }
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
