//! What is allowed goes on, and what is forbidden does not arrive, while policies, labels and pods change. The evidence is what the
//! servers have logged, by the nonce of each attempt.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::spawn,
};

use enforcer_tests::cluster::{Cluster, pod, until};
use serde_json::{Value, json};

use crate::{
    PORT,
    agent::db_policy,
    deploy::NAMESPACE,
    live::{ENOUGH, arrived, enough, go_on, nonces},
    traffic::{ATTEMPTS, CONNECTION, CONNECTIONS, Running},
};

/// Namespace of a pod that `db` lets in by a label of this namespace.
const FRIENDS: &str = "friends";

/// The pods `web`, `guest`, `near` and `db` are there, and `db` lets in `web` alone.
pub(crate) fn open_nothing_and_cut_nothing(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", FRIENDS]);
    cluster.kubectl(&["label", "namespace", FRIENDS, "team=shop"]);
    cluster.apply(&pod(cluster, FRIENDS, "friend", "friend", "node1", PORT));
    cluster.apply(&friends_policy());
    cluster.wait_for_pods(FRIENDS);
    let db = cluster.addresses("default", "db");
    let [web, guest, near] = ["web", "guest", "near"].map(|name| cluster.addresses("default", name).remove(0));
    let friend = cluster.addresses(FRIENDS, "friend").remove(0);
    for address in &db {
        until("a friend", || cluster.ask_from(FRIENDS, "friend", address, PORT), Option::is_some);
    }

    let each = |node: &str, from: &str, script: &str, tag: &str| -> Vec<Running> {
        let numbered = db.iter().enumerate();
        numbered
            .map(|(family, to)| Running::script(cluster, node, from, script, to, &format!("{tag}-{family}")))
            .collect()
    };
    let mut allowed = each("node1", &web, CONNECTION, "changes-kept");
    allowed.extend(each("node1", &web, CONNECTIONS, "changes-new"));
    let mut friendly = each("node1", &friend, CONNECTION, "friend-kept");
    let attempts = each("node1", &friend, ATTEMPTS, "friend-new");
    let mut forbidden = each("node1", &guest, ATTEMPTS, "changes-forbidden-guest");
    forbidden.extend(each("node2", &near, ATTEMPTS, "changes-forbidden-near"));
    enough(&allowed);
    enough(&friendly);

    refused(cluster, &mut allowed);
    let is_cut = |change: &dyn Fn()| {
        change();
        for address in &db {
            until("the cut", || cluster.ask_from(FRIENDS, "friend", address, PORT), Option::is_none);
        }
        let (heard, begin) = (arrived(cluster, "friend-"), steps(&attempts));
        until("attempts", || steps(&attempts), |now| *now >= begin + ENOUGH);
        assert_eq!(arrived(cluster, "friend-"), heard, "what is not allowed any more has arrived");
    };
    let label = |value: &str| {
        cluster.kubectl(&["label", "namespace", FRIENDS, value, "--overwrite"]);
    };
    label("floor=3");
    go_on(&mut friendly);
    is_cut(&|| label("team=other"));
    label("team=shop");
    go_on(&mut friendly);
    println!("a namespace was relabelled");
    is_cut(&|| drop(cluster.kubectl(&["delete", "networkpolicy", "friends"])));
    cluster.apply(&friends_policy());
    go_on(&mut friendly);
    println!("a policy was deleted");
    go_on(&mut allowed);
    enough(&forbidden);
    println!("steps of what is allowed: {:?}", allowed.iter().map(Running::lines).collect::<Vec<_>>());
    assert_eq!(arrived(cluster, "changes-forbidden-"), [].into(), "attempts that the policy forbids have arrived");
    drop((allowed, friendly, attempts, forbidden));
    rolling_update(cluster, &web, [("node1", &guest), ("node2", &near)]);
}

fn steps(traffic: &[Running]) -> usize {
    traffic.iter().map(Running::lines).min().unwrap()
}

/// `db` lets in whoever is in a namespace with the label.
fn friends_policy() -> Value {
    let mut policy = db_policy();
    policy["metadata"]["name"] = "friends".into();
    policy["spec"]["ingress"][0]["from"] = json!([{"namespaceSelector": {"matchLabels": {"team": "shop"}}}]);
    policy
}

/// A FlowPolicy beside the others: refused after it was valid, refused from the start, and deleted each time.
fn refused(cluster: &Cluster, allowed: &mut [Running]) {
    let policy = |from: Value| {
        json!({
            "apiVersion": "enforcer.dev/v1alpha1",
            "kind": "FlowPolicy",
            "metadata": {"name": "extra"},
            "spec": {"workloads": {"app": "db"}, "isolate": ["ingress"], "allow": [{"from": [from]}]},
        })
    };
    // No schema sees that the network has host bits.
    let wrong = policy(json!({"cidr": "10.1.2.3/8"}));
    let is_refused = |report: &Value| report["policy_error"].to_string().contains("flowpolicy/default/extra");
    let own = |report: &Value| {
        let all = report["versions"].as_array().into_iter().flatten();
        all.filter(|one| one["name"] == "extra").cloned().collect::<Vec<_>>()
    };
    let delete = || {
        cluster.kubectl(&["delete", "flowpolicy", "extra"]);
        until("no policy", || report(cluster), |report| own(report).is_empty() && !is_refused(report));
    };

    cluster.apply(&policy(json!({"workloads": {"app": "web"}})));
    until("the policy", || report(cluster), |report| own(report).len() == 1);
    cluster.apply(&wrong);
    let last_good = until("the refusal", || report(cluster), is_refused);
    assert_eq!(own(&last_good)[0]["stands_in"], false, "the last good version is in force");
    go_on(allowed);
    delete();
    go_on(allowed);
    cluster.apply(&wrong);
    let isolated = until("the refusal", || report(cluster), is_refused);
    assert_eq!(own(&isolated)[0]["stands_in"], true, "there is no good version");
    go_on(allowed);
    delete();
    go_on(allowed);
    println!("a policy was refused and deleted");
}

/// What the agent of the second node says of itself.
fn report(cluster: &Cluster) -> Value {
    let of_node = [
        "--namespace",
        NAMESPACE,
        "get",
        "pods",
        "--selector=app.kubernetes.io/component=agent",
        "--field-selector=spec.nodeName=node2",
        "--output=name",
    ];
    let agent = cluster.kubectl(&of_node);
    let status = ["--namespace", NAMESPACE, "exec", agent.trim(), "--", "/enforcer", "status", "--json"];
    // It exits with an error where it tells of one.
    let output = cluster.kubectl_command(&status).output().unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    status["report"].clone()
}

/// All pods of a Deployment are replaced while one that may calls them through their Service, and two that may not do so too.
fn rolling_update(cluster: &Cluster, web: &str, others: [(&str, &String); 2]) {
    let labels = json!({"app": "rolled"});
    let probe = json!({"httpGet": {"path": "/hostname", "port": PORT}, "periodSeconds": 1});
    let container = json!({
        "name": "main",
        "image": cluster.image(),
        "args": ["netexec", format!("--http-port={PORT}")],
        "readinessProbe": probe,
        // A pod that ends serves until every kube-proxy knows.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "3"]}}},
    });
    cluster.apply(&json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "rolled"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }));
    let ports = [("TCP", PORT), ("UDP", PORT + 1)];
    let ports =
        ports.map(|(protocol, port)| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port}));
    cluster.apply(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "rolled"},
        "spec": {"selector": labels, "ipFamilyPolicy": "RequireDualStack", "ports": ports},
    }));
    let rollout = |action: &str| cluster.kubectl(&["rollout", action, "deployment/rolled"]);
    rollout("status");
    let service = crate::list(&cluster.object("service", "rolled")["spec"]["clusterIPs"], "");
    let logs = Logs::of(cluster, "app=rolled");
    let each = |tag: &str| -> Vec<Running> {
        let pairs =
            others.iter().enumerate().flat_map(|(number, other)| service.iter().map(move |to| (number, other, to)));
        let attempts = pairs.enumerate().map(|(place, (number, (node, from), to))| {
            Running::script(cluster, node, from, ATTEMPTS, to, &format!("{tag}-{number}-{place}"))
        });
        attempts.collect()
    };
    let control = each("rolled-control");
    for (sender, place) in [(0, 0), (0, 1), (1, 2), (1, 3)] {
        for kind in ["udp", "tcp"] {
            let tag = format!("rolled-control-{sender}-{place}-{kind}-");
            until(&tag, || logs.nonces(&tag).len(), |count| *count >= 3);
        }
    }
    drop(control);

    let mut policy = db_policy();
    policy["metadata"]["name"] = "rolled".into();
    policy["spec"]["podSelector"]["matchLabels"] = labels;
    cluster.apply(&policy);
    for address in &service {
        until("isolation", || cluster.ask("guest", address, PORT), Option::is_none);
        until("isolation", || cluster.ask("near", address, PORT), Option::is_none);
    }
    let mut allowed: Vec<Running> =
        service.iter().map(|to| Running::script(cluster, "node1", web, CONNECTIONS, to, "rolled-new")).collect();
    let forbidden = each("rolled-forbidden");
    enough(&allowed);
    let before = logs.pods();
    rollout("restart");
    rollout("status");
    until("two pods more", || logs.pods(), |count| *count == before + 2);
    go_on(&mut allowed);
    enough(&forbidden);
    println!("a Deployment was replaced: {:?} connections", allowed.iter().map(Running::lines).collect::<Vec<_>>());
    assert_eq!(logs.nonces("rolled-forbidden-"), [].into(), "attempts that the policy forbids have arrived");
    assert!(logs.nonces("rolled-new-").len() >= ENOUGH, "the positive control");
}

/// Follows the log of each pod of a selector, also of those that come and go. Ends with its input. Arguments: the selector, and
/// the words of kubectl.
const FOLLOW: &str = r#"
selector=$1; shift; seen=
while :; do
  read -r -t 0.3; [ $? -gt 128 ] || break
  for pod in $("$@" get pods --selector="$selector" --field-selector=status.phase=Running --output=name); do
    case " $seen " in *" $pod "*) ;; *) seen="$seen $pod"; echo "POD $pod"; "$@" logs --follow "$pod" & ;; esac
  done
done
kill $(jobs -p)
"#;

/// What all pods of a selector log, also those that end meanwhile.
struct Logs {
    child: Child,
    text: Arc<Mutex<String>>,
}

impl Logs {
    fn of(cluster: &Cluster, selector: &str) -> Self {
        let kubectl = cluster.kubectl_command(&[]);
        let mut command = Command::new("bash");
        command.args(["-c", FOLLOW, "follow", selector]).arg(kubectl.get_program()).args(kubectl.get_args());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let text = Arc::new(Mutex::new(String::new()));
        let (output, kept) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&text));
        spawn(move || output.lines().map_while(Result::ok).for_each(|line| *kept.lock().unwrap() += &(line + "\n")));
        Self { child, text }
    }

    /// Nonces with this beginning that some pod has heard.
    fn nonces(&self, tag: &str) -> BTreeSet<String> {
        nonces(&self.text.lock().unwrap(), tag)
    }

    /// How many pods there have been.
    fn pods(&self) -> usize {
        self.text.lock().unwrap().lines().filter(|line| line.starts_with("POD ")).count()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
