//! What is in `deploy` in several forms says the same in each: the base, the one file, the chart, the overlays, and the examples
//! for GitOps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::{Value, json};

use crate::{
    deploy::root,
    rig::{errors, is_privileged, of_xtask, said},
};

const CHART: &str = "deploy/helm/enforcer";

/// Objects by their kind, namespace and name.
type Objects = BTreeMap<String, Value>;

fn objects(text: &str) -> Objects {
    let all: Vec<Value> = serde_yaml::from_multiple(text).unwrap();
    let mut found = Objects::new();
    for object in all.into_iter().filter(|object| !object.is_null()) {
        let metadata = &object["metadata"];
        let key = [&object["apiVersion"], &object["kind"], &metadata["namespace"], &metadata["name"]];
        let key = key.map(|word| word.as_str().unwrap_or("-")).join(" ");
        assert!(found.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    found
}

/// What kustomize or Helm makes of a directory.
fn rendered(directory: &str, arguments: &[&str]) -> Objects {
    objects(&shown(directory, arguments).unwrap())
}

fn shown(directory: &str, arguments: &[&str]) -> Result<String, String> {
    let place = root().join(directory);
    let mut command = of_xtask(&["render", "--show", place.to_str().unwrap(), "--"]);
    let output = command.args(arguments).output().unwrap();
    if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(errors(&output)) }
}

/// Fails at the first object that differs, and shows this one alone.
fn same(one: &Objects, other: &Objects, names: &str) {
    let keys = |objects: &Objects| objects.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(one), keys(other), "{names}");
    for (key, object) in one {
        assert_eq!(Some(object), other.get(key), "{names}: {key}");
    }
}

fn parsed(path: &str) -> Value {
    serde_yaml::from_str(&fs::read_to_string(root().join(path)).unwrap()).unwrap()
}

#[test]
fn the_base_the_one_file_and_the_chart_hold_the_same_objects() {
    if !is_privileged() {
        return;
    }
    said(of_xtask(&["render", "--check"]));
    let base = rendered("deploy/base", &[]);
    assert!(base.len() > 5, "{:?}", base.keys());
    same(&objects(&fs::read_to_string(root().join("deploy/install.yaml")).unwrap()), &base, "install.yaml and base");
    same(&rendered(CHART, &[]), &base, "chart and base");
}

#[test]
fn each_overlay_is_the_chart_with_a_value() {
    if !is_privileged() {
        return;
    }
    let base = rendered("deploy/base", &[]);
    let settings: Value = parsed("deploy/overlays/settings/config.yaml");
    let settings = format!("settings={settings}");
    let table: &[(&str, &[&str])] = &[
        ("container-nodes", &["--set", "uplinks={eth0}"]),
        ("settings", &["--set-json", &settings]),
        ("stdout", &["--set", "flowLog=stdout"]),
        ("unknown-open", &["--set", "unknown=open"]),
    ];
    let overlays = fs::read_dir(root().join("deploy/overlays")).unwrap();
    let overlays: BTreeSet<String> = overlays.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(overlays, table.iter().map(|(name, _)| (*name).to_owned()).collect());
    for (name, values) in table {
        let overlay = plain(&rendered(&format!("deploy/overlays/{name}"), &[]));
        assert_ne!(overlay, base, "{name} changes nothing");
        same(&overlay, &plain(&rendered(CHART, values)), name);
    }
}

/// The objects without what starts the agents again when the settings change: kustomize has a hash of them in the name of the
/// `ConfigMap`, and the chart has one at the pods.
fn plain(objects: &Objects) -> Objects {
    let mut text = serde_json::to_string(objects).unwrap();
    let hashed = objects.values().filter(|object| object["kind"] == "ConfigMap");
    for name in hashed.filter_map(|object| object["metadata"]["name"].as_str()) {
        text = text.replace(name, "enforcer-settings");
    }
    let mut objects: Objects = serde_json::from_str(&text).unwrap();
    for object in objects.values_mut().filter(|object| object["kind"] == "DaemonSet") {
        let metadata = object["spec"]["template"]["metadata"].as_object_mut().unwrap();
        if let Some(Value::Object(hash)) = metadata.remove("annotations") {
            assert_eq!(hash.keys().collect::<Vec<_>>(), ["enforcer.dev/settings"]);
        }
    }
    objects
}

#[test]
fn the_chart_renders_what_its_values_say() {
    if !is_privileged() {
        return;
    }
    let values = [
        "namespace.name=elsewhere",
        "namespace.create=false",
        "image.repository=registry.example/enforcer",
        "image.tag=v7",
        "image.pullSecrets={key}",
        "httpPort=9900",
        "maxUnavailable=10%",
        "controller.replicas=1",
    ];
    // As from a file, where Helm takes every number for a float.
    let number = ["--set-json", "settings.flows=16777216"];
    let arguments: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).chain(number).collect();
    let all = rendered(CHART, &arguments);
    assert!(!all.keys().any(|key| key.contains("enforcer-system") || key.starts_with("v1 Namespace")), "{all:?}");
    let set = &all["apps/v1 DaemonSet elsewhere enforcer-agent"]["spec"];
    assert_eq!(set["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "10%");
    let pod = &set["template"]["spec"];
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "key"}]));
    let agent = &pod["containers"][0];
    assert_eq!(agent["image"], "registry.example/enforcer:v7");
    assert_eq!(agent["livenessProbe"]["httpGet"]["port"], 9900);
    assert!(agent["args"].as_array().unwrap().contains(&json!("--http-listen=127.0.0.1:9900")), "{}", agent["args"]);
    let controller = &all["apps/v1 Deployment elsewhere enforcer-controller"]["spec"];
    assert_eq!(controller["replicas"], 1);
    let controller = &controller["template"]["spec"];
    assert_eq!(controller["imagePullSecrets"], json!([{"name": "key"}]));
    assert_eq!(controller["containers"][0]["image"], agent["image"]);
    let admission = all["admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy - enforcer-agent"].to_string();
    assert!(admission.contains("system:serviceaccount:elsewhere:enforcer-agent"), "{admission}");
    let settings = &all["v1 ConfigMap elsewhere enforcer-settings"]["data"]["config.yaml"];
    assert_eq!(settings, "flows: 16777216\n", "a large number is no float");
    let pinned = format!("image.digest=sha256:{}", "0".repeat(64));
    let pinned = &rendered(CHART, &["--set", &pinned])["apps/v1 DaemonSet enforcer-system enforcer-agent"];
    let image = &pinned["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, &json!(format!("localhost/enforcer:0.1.0@sha256:{}", "0".repeat(64))));
}

#[test]
fn the_schema_refuses_values_that_nobody_would_take() {
    if !is_privileged() {
        return;
    }
    // The value as JSON, and the path that the message has to name.
    let table = [
        ("unknwon=\"open\"", "unknwon"),
        ("unknown=\"allow\"", "/unknown"),
        ("unknown=null", "unknown"),
        ("uplinks=\"eth0\"", "/uplinks"),
        ("uplinks=[\"an-interface-of-sixteen\"]", "/uplinks/0"),
        ("uplinks=[\"eth0 --unknown=open\"]", "/uplinks/0"),
        ("uplinks=[\"eth0\",\"eth0\"]", "/uplinks"),
        ("flowLog=\"/tmp/flows\"", "/flowLog"),
        ("httpPort=\"9847\"", "/httpPort"),
        ("httpPort=0", "/httpPort"),
        ("httpPort=65536", "/httpPort"),
        ("image.tag=7", "/image/tag"),
        ("image.tag=\"a b\"", "/image/tag"),
        ("image.digest=\"sha256:0\"", "/image/digest"),
        ("image.repository=\"\"", "/image/repository"),
        ("image.pullPolicy=\"Sometimes\"", "/image/pullPolicy"),
        ("image.name=\"enforcer\"", "/image"),
        ("namespace.name=\"Enforcer\"", "/namespace/name"),
        ("namespace.name=\"a'||true||'\"", "/namespace/name"),
        ("namespace.create=\"yes\"", "/namespace/create"),
        ("settings.flows=1023", "/settings/flows"),
        ("settings.flows=16777217", "/settings/flows"),
        ("settings.flows=\"many\"", "/settings/flows"),
        ("settings.state_dir=\"/tmp\"", "/settings"),
        ("settings.http_listen=\"off\"", "/settings"),
        ("maxUnavailable=0", "/maxUnavailable"),
        ("maxUnavailable=\"0%\"", "/maxUnavailable"),
        ("tolerations=[{\"effect\":\"Never\"}]", "/tolerations/0/effect"),
        ("controller.replicas=-1", "/controller/replicas"),
        ("controller.replicas=\"two\"", "/controller/replicas"),
        ("controller.args=[]", "/controller"),
        ("uninstall.purge=\"true\"", "/uninstall/purge"),
        ("uninstall.force=true", "/uninstall"),
    ];
    let mut taken = Vec::new();
    for (value, path) in table {
        match shown(CHART, &["--set-json", value]) {
            Ok(_) => taken.push(value),
            Err(said) => {
                assert!(said.contains("don't meet the specifications of the schema"), "{value}: {said}");
                assert!(said.contains(path), "{value}: {said}");
            }
        }
    }
    assert!(taken.is_empty(), "{taken:#?}");
}

#[test]
fn the_chart_knows_every_setting_with_its_range() {
    let page = fs::read_to_string(root().join("docs/settings.md")).unwrap();
    let mut documented = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `") && line.contains("| whole number |")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (least, most) = cells[5].split_once(" to ").unwrap();
        documented.insert(cells[1].trim_matches('`').to_owned(), (least.parse::<i64>().ok(), most.parse::<i64>().ok()));
    }
    assert!(documented.len() > 8, "{documented:?}");
    for line in page.lines().filter(|line| line.starts_with("| `") && line.contains("| true or false |")) {
        documented.insert(line.split('`').nth(1).unwrap().to_owned(), (None, None));
    }
    // The page gives a quota's most by another setting.
    documented.get_mut("flow_quota").unwrap().1 = documented["flows"].1;
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(root().join(CHART).join("values.schema.json")).unwrap()).unwrap();
    let known = schema["properties"]["settings"]["properties"].as_object().unwrap();
    let range = |setting: &Value| (setting["minimum"].as_i64(), setting["maximum"].as_i64());
    let known: BTreeMap<String, _> = known.iter().map(|(name, setting)| (name.clone(), range(setting))).collect();
    assert_eq!(known, documented);
}

#[test]
fn the_chart_purges_as_deploy_uninstall_does_and_only_if_it_is_told_to() {
    if !is_privileged() {
        return;
    }
    let uninstall = rendered("deploy/uninstall", &[]);
    let without = rendered(CHART, &[]);
    assert!(!without.keys().any(|key| uninstall.contains_key(key)), "{:?}", without.keys());
    let mut with = rendered(CHART, &["--set", "uninstall.purge=true"]);
    with.retain(|key, _| !without.contains_key(key));
    for hook in with.values_mut() {
        let annotations = hook["metadata"].as_object_mut().unwrap().remove("annotations").unwrap();
        assert_eq!(annotations["helm.sh/hook"], "post-delete", "{hook}");
    }
    same(&with, &uninstall, "the chart's hook and deploy/uninstall");

    let pod = &uninstall["apps/v1 DaemonSet enforcer-uninstall enforcer-purge"]["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!((&pod["hostPID"], &pod["hostIPC"]), (&Value::Null, &Value::Null));
    let rights = |container: &Value| container["securityContext"]["capabilities"].clone();
    assert_eq!(rights(&pod["initContainers"][0]), json!({"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]}));
    assert_eq!(rights(&pod["containers"][0]), json!({"drop": ["ALL"]}));
    assert_eq!(pod["containers"][0]["volumeMounts"], Value::Null);
}
