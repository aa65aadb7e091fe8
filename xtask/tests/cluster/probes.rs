//! The kubelet and the API server reach pods that may do nothing: probes of every kind go on, and so do `kubectl logs`, `exec` and
//! `port-forward`.

use enforcer_tests::cluster::{Cluster, pod, said, until};
use serde_json::{Value, json};

use crate::{PORT, traffic::Running};

const NAMESPACE: &str = "probed";
/// Port of `kubectl port-forward` in the network of the control plane.
const FORWARDED: u16 = 18_080;

/// `web` is a pod of another namespace.
pub(crate) fn pass_where_everything_is_denied(cluster: &Cluster) {
    let kubectl = |arguments: &[&str]| cluster.kubectl(&[&["--namespace", NAMESPACE], arguments].concat());
    cluster.kubectl(&["create", "namespace", NAMESPACE]);
    let probes = [
        ("http", json!({"httpGet": {"path": "/echo?msg=probe", "port": PORT}})),
        ("tcp", json!({"tcpSocket": {"port": PORT}})),
        ("exec", json!({"exec": {"command": ["true"]}})),
        // The control: a probe that fails is noticed.
        ("closed", json!({"tcpSocket": {"port": PORT + 10}})),
    ];
    for (name, probe) in &probes {
        let mut object = pod(cluster, NAMESPACE, name, name, "node1", PORT);
        let container = &mut object["spec"]["containers"][0];
        let mut often = probe.clone();
        // A busy machine may answer late.
        (often["periodSeconds"], often["timeoutSeconds"]) = (1.into(), 5.into());
        if *name != "closed" {
            container["livenessProbe"] = often.clone();
        }
        often["failureThreshold"] = 1.into();
        container["readinessProbe"] = often;
        cluster.apply(&object);
    }
    let names = ["http", "tcp", "exec"];
    for name in names {
        kubectl(&["wait", "--for=condition=Ready", "pod", name, "--timeout=120s"]);
    }
    let addresses = cluster.addresses(NAMESPACE, "http");
    for address in &addresses {
        cluster.ask_until("web", address, PORT, "http");
    }
    let session = |arguments: &[&str]| {
        let command = cluster.kubectl_command(&[&["--namespace", NAMESPACE], arguments].concat());
        Running::start(format!("kubectl {}", arguments.join(" ")), command)
    };
    let mut forward = session(&["port-forward", "pod/http", &format!("{FORWARDED}:{PORT}")]);
    let mut exec = session(&["exec", "tcp", "--", "sh", "-c", "while echo on; do sleep 1; done"]);
    until("a forwarded port", || forward.lines(), |lines| *lines > 0);
    assert_eq!(forwarded(cluster), "http", "the positive control");

    cluster.apply(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "nothing", "namespace": NAMESPACE},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    }));
    for address in &addresses {
        until("isolation", || cluster.ask("web", address, PORT), Option::is_none);
        until("isolation", || cluster.ask_from(NAMESPACE, "tcp", address, PORT), Option::is_none);
    }

    let is_ready = |name: &str| {
        let status = serde_json::from_str::<Value>(&kubectl(&["get", "pod", name, "--output=json"])).unwrap();
        let status = &status["status"];
        let conditions = status["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
        (
            ready["status"].clone(),
            ready["lastTransitionTime"].clone(),
            status["containerStatuses"][0]["restartCount"].clone(),
        )
    };
    let before = names.map(is_ready);
    // Two each second, one of either kind.
    let heard = || kubectl(&["logs", "http"]).matches("GET /echo?msg=probe").count();
    let (first, said_on) = (heard(), exec.lines());
    until("twenty probes that arrive", heard, |now| *now >= first + 20);
    assert_eq!(names.map(is_ready), before, "no probe has failed meanwhile");
    assert!(before.iter().all(|(ready, ..)| ready == "True"), "{before:?}");
    assert_eq!(is_ready("closed").0, "False", "the control");

    until("an exec that goes on", || exec.lines(), |now| *now > said_on + 3);
    assert_eq!(forwarded(cluster), "http");
    assert_eq!(kubectl(&["exec", "http", "--", "echo", "new"]).trim(), "new");
    forward.assert_goes_on();
    exec.assert_goes_on();
    kubectl(&["delete", "pod", "--all", "--wait=false"]);
}

/// Who answers at the forwarded port.
fn forwarded(cluster: &Cluster) -> String {
    let ask = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{FORWARDED}; printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' >&3; timeout 10 tail -n1 <&3"
    );
    said(cluster.on("control", &["bash", "-c", &ask]))
}
