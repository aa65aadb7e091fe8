//! Agents are killed again and again while pods come and go: what is forbidden does not arrive, and what is allowed is not cut. The
//! evidence is what the servers behind the policies have logged, by the nonce of each attempt.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread::{ScopedJoinHandle, scope, sleep},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use enforcer_tests::cluster::{Cluster, api::Api, until, with_port};
use serde_json::{Value, json};

use crate::{
    PORT,
    agent::db_policy,
    deploy::NAMESPACE,
    live::{enough, go_on, nonces},
    pod,
    told::signal,
    traffic::{ATTEMPTS, CONNECTION, CONNECTIONS, Running},
};

/// Of the agent of each of the two nodes.
const KILLS: usize = 10;
/// An agent lives no longer than this. It starts in less, so some are killed before they are ready, and others at work.
const LATEST: Duration = Duration::from_secs(3);
/// A pod comes and another one goes so often.
const PERIOD: Duration = Duration::from_secs(1);
/// Pods that are there at the same time.
const KEPT: usize = 6;
/// Each pod has one of these, and the policies name the first.
const LABELS: [&str; 2] = ["web", "stranger"];
/// The pods that only some may call, one on each node.
const VICTIMS: [&str; 2] = ["db", "safe"];

/// Calls the addresses one after the other, and says so. Arguments: what each request begins with, and the addresses.
const CALLER: &str = r#"
tag=$1; shift; n=0
while :; do
  n=$((n + 1)); echo "step $n"
  for to; do timeout 1 wget -q -O /dev/null "http://$to/echo?msg=$tag-$n" 2>/dev/null; done
  sleep 0.2
done
"#;

/// The pods `web`, `guest`, `near` and `db` are there, and `db` lets in `web` alone.
pub(crate) fn open_nothing_and_cut_nothing(cluster: &Cluster) {
    let begun = Instant::now();
    pod(cluster, "safe", "node1");
    let ready = |pod: &str| cluster.kubectl(&["wait", "--for=condition=Ready", pod, "--timeout=120s"]);
    ready("pod/safe");
    let [db, safe] = VICTIMS.map(|name| cluster.addresses("default", name));
    let [web, guest, near] = ["web", "guest", "near"].map(|name| cluster.addresses("default", name).remove(0));
    let (guest, near) = (guest.as_str(), near.as_str());
    let passers = Passers::new(cluster, &[&db[..], &safe].concat());

    // The positive control: nothing isolates `safe` yet. That every kind of attempt reaches an open `db` was shown before.
    cluster.apply(&passers.pod(1, "control"));
    let control = attempts(cluster, &[("node1", guest, &safe[..]), ("node2", near, &safe)], "kills-control");
    for tag in ["kills-control-0-udp-", "kills-control-1-tcp-", "kills-control-2-udp-", "kills-control-3-tcp-"] {
        until(tag, || heard(cluster, "safe", tag).len(), |count| *count >= 3);
    }
    until("a pod that passes", || heard(cluster, "safe", "pass-control-1-").len(), |count| *count >= 3);
    drop(control);
    cluster.kubectl(&["delete", "pod", "pass-control", "--wait=false"]);
    let mut policy = db_policy();
    policy["metadata"]["name"] = "safe".into();
    policy["spec"]["podSelector"]["matchLabels"]["app"] = "safe".into();
    cluster.apply(&policy);
    for address in &safe {
        until("isolation", || cluster.ask("guest", address, PORT), Option::is_none);
        until("isolation", || cluster.ask("near", address, PORT), Option::is_none);
    }

    let allowed = [&db, &safe].into_iter().flat_map(|victim| {
        let kept = victim.iter().map(|to| (CONNECTION, to, "kills-kept"));
        kept.chain([(CONNECTIONS, &victim[0], "kills-new")])
    });
    let mut allowed: Vec<Running> =
        allowed.map(|(script, to, tag)| Running::script(cluster, "node1", &web, script, to, tag)).collect();
    // To a neighbour and to the other node.
    let senders: [(&str, &str, &[String]); 4] =
        [("node1", guest, &db), ("node2", near, &safe), ("node1", guest, &safe), ("node2", near, &db)];
    let forbidden = attempts(cluster, &senders, "kills-forbidden");
    enough(&allowed);

    let before: Vec<usize> = forbidden.iter().map(Running::lines).collect();
    let last = killed_while_pods_pass(cluster, &passers);
    let after = forbidden.iter().map(Running::lines);
    let sent: Vec<usize> = after.zip(before).map(|(after, before)| after - before).collect();
    println!("attempts meanwhile, each over TCP and UDP: {sent:?}");
    assert!(sent.iter().all(|steps| *steps >= KILLS), "{sent:?}");
    go_on(&mut allowed);
    println!("steps of what is allowed: {:?}", allowed.iter().map(Running::lines).collect::<Vec<_>>());

    // The agents go on: the last one of those that may call is let in, on both nodes.
    let tag = format!("pass-{last}-0-");
    for victim in VICTIMS {
        until("the last pod", || heard(cluster, victim, &tag).len(), |count| *count >= 1);
        let let_in = heard(cluster, victim, "pass-");
        let let_in: BTreeSet<&str> = let_in.iter().filter_map(|nonce| nonce.split('-').nth(1)).collect();
        println!("{victim} was called by the pods {let_in:?}");
    }
    let stranger = format!("pass-{}", last - 1);
    until("a stranger that calls", || cluster.kubectl(&["logs", &stranger]).lines().count(), |steps| *steps >= 2);
    for victim in VICTIMS {
        assert_eq!(heard(cluster, victim, "kills-forbidden-"), [].into(), "what the policy of {victim} forbids");
        let strangers =
            heard(cluster, victim, "pass-").into_iter().filter(|nonce| nonce.split('-').nth(2) == Some("1"));
        let strangers: Vec<String> = strangers.filter(|nonce| !nonce.starts_with("pass-control-")).collect();
        assert_eq!(strangers, [""; 0], "what the policy of {victim} forbids");
    }
    cluster.kubectl(&["delete", "pod", "--selector=passes", "--wait=false"]);
    cluster.kubectl(&["delete", "networkpolicy/safe", "pod/safe", "--wait=false"]);
    let rollout = ["rollout", "status", "daemonset/enforcer-agent", "--timeout=60s"];
    cluster.kubectl(&[&["--namespace", NAMESPACE], &rollout[..]].concat());
    println!("{} agents were killed, in {} s with the preparation", 2 * KILLS, begun.elapsed().as_secs());
}

/// What may not arrive: from these nodes and addresses to each address of these victims.
fn attempts(cluster: &Cluster, senders: &[(&str, &str, &[String])], tag: &str) -> Vec<Running> {
    let each = senders.iter().flat_map(|(node, from, victim)| victim.iter().map(move |to| (node, from, to)));
    let numbered = each.enumerate();
    numbered
        .map(|(number, (node, from, to))| {
            Running::script(cluster, node, from, ATTEMPTS, to, &format!("{tag}-{number}"))
        })
        .collect()
}

/// Nonces with this beginning that a victim has heard.
fn heard(cluster: &Cluster, victim: &str, tag: &str) -> BTreeSet<String> {
    nonces(&cluster.kubectl(&["logs", victim]), tag)
}

/// Kills both agents at random moments until each was killed so often. Returns the number of the last pod that may call.
fn killed_while_pods_pass(cluster: &Cluster, passers: &Passers) -> usize {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let directory = tempfile::tempdir().unwrap();
    let api = Api::of(cluster, directory.path());
    let done = AtomicBool::new(false);
    // The cluster's handle stays on this thread.
    let networks = ["node1", "node2"].map(|node| identity(cluster.network(node)));
    scope(|scope| {
        let (api, done) = (&api, &done);
        let pods = scope.spawn(move || passers.pass(api, done));
        let kills = [0, 1].map(|node| {
            let mut random = seed.rotate_left(32 * node as u32) | 1;
            scope.spawn(move || kill_often(networks[node], &mut random))
        });
        let ended = kills.map(ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        let last = pods.join().unwrap();
        for kills in ended {
            println!("lives of the agents of a node, in ms: {:?}", kills.unwrap());
        }
        last
    })
}

/// Kills each agent that starts in this network after a while. Returns how long each has lived since it was seen.
fn kill_often(network: [u64; 2], random: &mut u64) -> Vec<u128> {
    let mut killed = String::new();
    let kill = |_| {
        let is_new = |now: &Option<String>| now.as_ref().is_some_and(|process| *process != killed);
        let process = until("an agent", || agent(network), is_new).unwrap();
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let life = (LATEST.as_millis() * u128::from(*random >> 32)) >> 32;
        sleep(Duration::from_millis(life as u64));
        signal("KILL", &process);
        killed = process;
        life
    };
    (0..KILLS).map(kill).collect()
}

/// The process of the agent in a network: no other of a node's programs has its name.
fn agent(network: [u64; 2]) -> Option<String> {
    let is_agent = |process: &Path| {
        fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "enforcer")
            && fs::metadata(process.join("ns/net")).is_ok_and(|found| [found.dev(), found.ino()] == network)
    };
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let mut found = all.filter(|path| is_agent(path));
    found.next().map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
}

/// By what two paths of one namespace are the same.
fn identity(network: &Path) -> [u64; 2] {
    let metadata = fs::metadata(network).unwrap();
    [metadata.dev(), metadata.ino()]
}

/// Pods that call the victims for as long as they are there.
struct Passers {
    /// A pod without a name, a label, a node and a command.
    common: Value,
    targets: Vec<String>,
}

impl Passers {
    fn new(cluster: &Cluster, addresses: &[String]) -> Self {
        let mut common = enforcer_tests::cluster::pod(cluster, "default", "", "", "", PORT);
        common["metadata"]["labels"]["passes"] = "yes".into();
        Self { common, targets: addresses.iter().map(|address| with_port(address, PORT)).collect() }
    }

    /// The pod `pass-NAME`, and the place of its label.
    fn pod(&self, label: usize, name: &str) -> Value {
        let (mut pod, tag) = (self.common.clone(), format!("pass-{name}-{label}"));
        pod["metadata"]["name"] = format!("pass-{name}").into();
        pod["metadata"]["labels"]["app"] = LABELS[label].into();
        // Two of each label on one node, then two on the other.
        let turn = name.parse::<usize>().unwrap_or_default() / LABELS.len() % 2;
        pod["spec"]["nodeSelector"]["kubernetes.io/hostname"] = ["node1", "node2"][turn].into();
        let words = ["sh", "-c", CALLER, "caller", &tag].into_iter().chain(self.targets.iter().map(String::as_str));
        let container = &mut pod["spec"]["containers"][0];
        container["command"] = words.collect();
        container["args"] = json!([]);
        pod
    }

    /// Makes one after the other, and deletes the oldest, until it is done and the last one may call. Returns its number.
    fn pass(&self, api: &Api, done: &AtomicBool) -> usize {
        let pods = "/api/v1/namespaces/default/pods";
        let mut number: usize = 0;
        loop {
            // Odd numbers may call.
            let label = (number + 1) % LABELS.len();
            api.create(pods, &self.pod(label, &number.to_string()));
            if let Some(old) = number.checked_sub(KEPT) {
                api.ask("DELETE", &format!("{pods}/pass-{old}"), &Value::Null);
            }
            if label == 0 && done.load(Ordering::Relaxed) {
                println!("{} pods were made meanwhile", number + 1);
                return number;
            }
            number += 1;
            sleep(PERIOD);
        }
    }
}
