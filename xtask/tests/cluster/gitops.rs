//! The examples for Argo CD and Flux: they point at what is there, and the health checks say what an object's status says.

use std::fs;

use serde_json::{Value, json};

use crate::{
    deploy::root,
    rig::{is_privileged, of_xtask, said},
};

fn documents(path: &str) -> Vec<Value> {
    serde_yaml::from_multiple(&fs::read_to_string(root().join(path)).unwrap()).unwrap()
}

#[test]
fn the_examples_lead_to_the_base_and_to_its_daemon_set() {
    let application = &documents("deploy/gitops/argocd/application.yaml")[0];
    let flux = documents("deploy/gitops/flux/enforcer.yaml");
    let flux = flux.iter().find(|object| object["kind"] == "Kustomization").unwrap();
    for path in [&application["spec"]["source"]["path"], &flux["spec"]["path"]] {
        assert!(root().join(path.as_str().unwrap()).join("kustomization.yaml").exists(), "{path}");
    }
    let base = documents("deploy/install.yaml");
    let check = &flux["spec"]["healthChecks"][0];
    let is_checked = |object: &&Value| {
        let metadata = &object["metadata"];
        (&object["apiVersion"], &object["kind"], &metadata["name"], &metadata["namespace"])
            == (&check["apiVersion"], &check["kind"], &check["name"], &check["namespace"])
    };
    assert_eq!(base.iter().filter(is_checked).count(), 1, "{check}");
    assert_eq!(application["spec"]["destination"]["namespace"], check["namespace"]);
}

/// A value as Lua writes it.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(items) => format!("{{{}}}", items.iter().map(lua).collect::<Vec<_>>().join(",")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("[{name:?}]={}", lua(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
    }
}

#[test]
fn argo_cd_shows_the_health_that_a_status_tells() {
    if !is_privileged() {
        return;
    }
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "message": format!("of {kind}")});
    let policy =
        |generation: u32, conditions: Value| json!({"observedGeneration": generation, "conditions": conditions});
    let table = [
        ("FlowPolicy", Value::Null, "Progressing"),
        ("FlowPolicy", policy(2, json!([])), "Progressing"),
        ("FlowPolicy", policy(2, json!([condition("Ready", "True")])), "Healthy"),
        ("FlowPolicy", policy(1, json!([condition("Ready", "True")])), "Progressing"),
        ("FlowPolicy", policy(2, json!([condition("Ready", "False")])), "Progressing"),
        ("FlowPolicy", policy(2, json!([condition("Ready", "Unknown")])), "Progressing"),
        ("FlowPolicy", policy(2, json!([condition("Ready", "False"), condition("Stalled", "True")])), "Degraded"),
        ("FlowPolicy", policy(2, json!([condition("Ready", "True"), condition("Stalled", "False")])), "Healthy"),
        ("FlowPolicy", policy(1, json!([condition("Stalled", "True")])), "Progressing"),
        ("EnforcerNode", Value::Null, "Progressing"),
        ("EnforcerNode", json!({"ready": false}), "Progressing"),
        ("EnforcerNode", json!({"ready": true, "revision": 7}), "Healthy"),
        ("EnforcerNode", json!({"ready": true, "staleSince": "2026-01-02T03:04:05Z"}), "Degraded"),
        ("EnforcerNode", json!({"ready": true, "lastError": "no room"}), "Degraded"),
        ("EnforcerNode", json!({"ready": false, "lastError": "no room"}), "Degraded"),
    ];
    let checks = &documents("deploy/gitops/argocd/health.yaml")[0]["data"];
    let mut script = String::new();
    for (kind, status, _) in &table {
        let check = checks[format!("resource.customizations.health.enforcer.dev_{kind}")].as_str().unwrap();
        let object = lua(&json!({"metadata": {"generation": 2}, "status": status}));
        // As Argo CD runs it: the object is a global, and the check returns a table.
        script += &format!("obj = {object}\nlocal health = (function()\n{check}\nend)()\n");
        script += "print(health.status, type(health.message))\n";
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), script).unwrap();
    let said = said(of_xtask(&["render", "--lua", file.path().to_str().unwrap()]));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), table.len(), "{said}");
    for ((kind, status, expected), line) in table.iter().zip(lines) {
        assert_eq!(line, format!("{expected}\tstring"), "{kind} {status}");
    }
}
