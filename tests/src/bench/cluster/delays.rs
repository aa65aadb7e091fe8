//! From a change in the API to the packet that shows it. Input: a cluster with agents. Output: the middle and the end of many rounds.
//!
//! A policy counts from the request that makes or deletes it, which goes to the API server without the start of a kubectl. A pod
//! counts from the moment in which a watch tells that it is `Running`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::stream::{Ear, Stream};
use super::{Ground, NODES, millis};
use crate::cluster::places::{Place, networks};
use crate::cluster::{BOUND, pod};

/// Where the pods are that call.
const CALLING: &str = NODES[0];
/// Where those are that are called.
pub(super) const CALLED: &str = NODES[1];
/// The port that policies allow, and one that they do not.
const PORTS: [u16; 2] = [7001, 7002];
pub(super) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(super) const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";

/// How long one kind of change takes.
#[derive(Debug, Serialize)]
pub struct Delay {
    /// From what to what.
    pub what: &'static str,
    /// How often it was measured.
    pub rounds: usize,
    /// Half of the rounds took no longer.
    pub p50_ms: f64,
    /// 99 of a hundred took no longer.
    pub p99_ms: f64,
    /// None took longer.
    pub worst_ms: f64,
}

impl Delay {
    fn of(what: &'static str, mut times: Vec<Duration>) -> Result<Self> {
        times.sort();
        let at = |percent: usize| Some(millis(*times.get((times.len() * percent).div_ceil(100).checked_sub(1)?)?));
        let [p50_ms, p99_ms, worst_ms] = [at(50), at(99), at(100)].map(|time| time.context("no rounds"));
        Ok(Self { what, rounds: times.len(), p50_ms: p50_ms?, p99_ms: p99_ms?, worst_ms: worst_ms? })
    }
}

/// All of them.
pub(super) fn measure(ground: &Ground, rounds: usize) -> Result<Vec<Delay>> {
    for (name, node) in [("open", CALLED), ("guarded", CALLED), ("caller", CALLING)] {
        ground.api.create(PODS, &silent(ground, name, name, node));
    }
    ground.cluster.wait_for_pods("default");
    let place = |name: &str, node: &str| Place::pod(&ground.cluster, node, "default", name);
    let (open, guarded, caller) = (place("open", CALLED), place("guarded", CALLED), place("caller", CALLING));
    let mut delays = policies(ground, &caller, &open, rounds)?;
    delays.extend(pods(ground, &caller, &open, &guarded, rounds)?);
    Ok(delays)
}

/// A policy is made that isolates a pod, and is deleted.
fn policies(ground: &Ground, caller: &Place, called: &Place, rounds: usize) -> Result<Vec<Delay>> {
    let isolation = policy("isolation", "open", &json!({"policyTypes": ["Ingress"]}));
    let ear = Ear::start(called, PORTS[0])?;
    let stream = Stream::start(caller, vec![to(called, PORTS[0])], 0)?;
    stream.until_open(&ear, Instant::now()).context("before any policy")?;
    let (mut made, mut deleted) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        apart(round);
        let begin = Instant::now();
        ground.api.create(POLICIES, &isolation);
        made.push(stream.until_cut(&ear, begin)?.saturating_duration_since(begin));
        apart(round);
        let begin = Instant::now();
        ground.api.ask("DELETE", &format!("{POLICIES}/isolation"), &Value::Null);
        deleted.push(stream.until_open(&ear, begin)?.saturating_duration_since(begin));
    }
    Ok(vec![
        Delay::of("NetworkPolicy made, until it cuts a flow", made)?,
        Delay::of("NetworkPolicy deleted, until the flow goes on", deleted)?,
    ])
}

/// A pod is made that is isolated for egress, and that a pod of the other node admits.
fn pods(ground: &Ground, caller: &Place, open: &Place, guarded: &Place, rounds: usize) -> Result<Vec<Delay>> {
    let port = json!([{"port": PORTS[0], "protocol": "UDP"}]);
    let peers = json!([{"podSelector": {"matchExpressions": [
        {"key": "app", "operator": "In", "values": ["open", "guarded"]},
    ]}}]);
    let own = json!({"policyTypes": ["Egress"], "egress": [{"to": peers, "ports": port}]});
    let admission = json!({"policyTypes": ["Ingress"], "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"app": "new"}}}], "ports": port},
    ]});
    let [at_open, at_guarded] = [Ear::start(open, PORTS[0])?, Ear::start(guarded, PORTS[0])?];
    let forbidden = Ear::start(open, PORTS[1])?;
    let addresses = vec![to(open, PORTS[0]), to(guarded, PORTS[0]), to(open, PORTS[1])];
    {
        // Both policies are in force before the first pod: the second shows by what it cuts.
        let begin = Instant::now();
        let stream = Stream::start(caller, addresses.clone(), 0)?;
        stream.until_open(&at_guarded, begin).context("before any policy")?;
        ensure!(stream.is_heard(&forbidden, begin), "nothing arrives at the port that is forbidden later");
        ground.api.create(POLICIES, &policy("own", "new", &own));
        ground.api.create(POLICIES, &policy("admission", "guarded", &admission));
        stream.until_cut(&at_guarded, Instant::now())?;
    }
    let (mut enforced, mut admitted) = (Vec::new(), Vec::new());
    // The first pod is not counted.
    for round in 0..=rounds {
        let name = format!("new-{round}");
        let (stream, running) = start(ground, &name, &addresses, u32::try_from(round)? + 1)?;
        let opened = stream.until_open(&at_open, running).context("its own policy")?;
        let let_in = stream.until_open(&at_guarded, running).context("the rule of its peer")?;
        ensure!(!stream.is_heard(&forbidden, opened), "{name} reaches what its policy does not allow");
        if round > 0 {
            enforced.push(opened.saturating_duration_since(running));
            admitted.push(let_in.saturating_duration_since(running));
        }
        drop(stream);
        ground.api.ask("DELETE", &format!("{PODS}/{name}"), &Value::Null);
    }
    Ok(vec![
        Delay::of("pod Running, until its own policy lets through what it allows", enforced)?,
        Delay::of("pod Running, until a rule of a pod elsewhere admits it", admitted)?,
    ])
}

/// Makes a pod that sends as soon as it has a network. Returns what it sends, and the moment in which the API says that it runs.
fn start(ground: &Ground, name: &str, addresses: &[SocketAddr], tag: u32) -> Result<(Stream, Instant)> {
    let known: BTreeSet<_> = networks(&ground.cluster, CALLING).into_iter().collect();
    let mut events = ground.api.watch(&format!("{PODS}?watch=true&fieldSelector=metadata.name={name}"));
    ground.api.create(PODS, &silent(ground, name, "new", CALLING));
    let end = Instant::now() + BOUND;
    let place = loop {
        let new = networks(&ground.cluster, CALLING).into_iter().filter(|path| !known.contains(path));
        let mut places = new.filter_map(|path| Place::at(name, &path));
        if let Some(place) = places.find(|place| place.addresses.iter().any(IpAddr::is_ipv4)) {
            break place;
        }
        ensure!(Instant::now() < end, "{name} gets no network");
        sleep(Duration::from_millis(2));
    };
    let stream = Stream::start(&place, addresses.to_vec(), tag)?;
    events
        .find(|event| event["object"]["status"]["phase"] == "Running")
        .with_context(|| format!("{name} does not run"))?;
    Ok((stream, Instant::now()))
}

/// A pod that does nothing: what is sent from its network, and heard there, is this program's.
fn silent(ground: &Ground, name: &str, app: &str, node: &str) -> Value {
    let mut object = pod(&ground.cluster, "default", name, app, node, PORTS[0]);
    object["spec"]["containers"][0]["args"] = json!(["pause"]);
    object
}

/// A policy for the pods of an app.
pub(super) fn policy(name: &str, app: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["podSelector"] = json!({"matchLabels": {"app": app}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

fn to(place: &Place, port: u16) -> SocketAddr {
    SocketAddr::new(place.address(true), port)
}

/// Waits, so that the rounds are not in step with what the agents do ten times a second.
fn apart(round: usize) {
    sleep(Duration::from_millis(u64::try_from(round * 37 % 200).unwrap_or_default()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_rounds() {
        let of = |count: u64| {
            let delay = Delay::of("", (1..=count).rev().map(Duration::from_millis).collect()).unwrap();
            format!("{:.0} {:.0} {:.0}", delay.p50_ms, delay.p99_ms, delay.worst_ms)
        };
        assert_eq!(of(200), "100 198 200");
        assert_eq!(of(1), "1 1 1");
        assert!(Delay::of("", Vec::new()).is_err());
    }
}
