//! What one agent costs beside many pods of other nodes. Input: a cluster with agents. Output: memory, processor time, and traffic
//! with the API server, while nothing happens and while pods come and go.
//!
//! The pods are objects alone: they are bound to a node that does not exist, and no controller runs that would remove them for this.
//! Each has an address of each family. The agent is that of the node on which the pods of [`super::delays`] are called.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::thread::{self, ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::json;

use super::delays::{CALLED, PODS, POLICIES, policy};
use super::traffic::{Bytes, Traffic};
use super::{Ground, NODES};
use crate::cluster::agents;
use crate::cluster::api::Api;

/// How many such pods there are.
const COUNTS: [u32; 2] = [100, 5_000];
/// Apps that these pods are of, and how many of them may call the pods of the node, each by a policy.
const APPS: u32 = 50;
const ADMITTED: u32 = 10;
/// How long each state is measured.
const MEASURED: Duration = Duration::from_mins(1);
/// What follows a change of many pods is over after so long.
const SETTLED: Duration = Duration::from_secs(20);
/// One pod goes and another one comes, which are three events: it is made, gets its addresses, and is removed.
const EVENTS: u32 = 3;
/// For 20 events in a second.
const PERIOD: Duration = Duration::from_millis(150);
/// Account of the agents, and the name under which the API server counts their requests.
const ACCOUNT: &str = "enforcer-agent";
/// How many requests are on their way while pods are made.
const AT_ONCE: u32 = 4;

/// What an agent costs.
#[derive(Debug, Serialize)]
pub struct Load {
    /// Pods of other nodes in the API.
    pub pods: u32,
    /// While nothing happens.
    pub at_rest: State,
    /// While pods come and go.
    pub busy: State,
}

/// The cost in one state.
#[derive(Debug, Serialize)]
pub struct State {
    /// Events of pods in a second.
    pub events: f64,
    /// Share of one processor, in percent.
    pub cpu_percent: f64,
    /// Resident memory at the end.
    pub resident_mib: f64,
    /// Bytes in a second from the API server, as TCP counts them.
    pub received: f64,
    /// Bytes in a second to the API server.
    pub sent: f64,
    /// Requests in a minute, the mean of all agents.
    pub requests: f64,
}

/// All numbers of pods.
pub(super) fn measure(ground: &Ground) -> Result<Vec<Load>> {
    // It would remove pods whose node does not exist.
    ground.cluster.stop("control/kube-controller-manager");
    ground.count_requests();
    for app in 0..ADMITTED {
        let from = json!([{"podSelector": {"matchLabels": {"app": format!("app-{app}")}}}]);
        let spec = json!({"policyTypes": ["Ingress"], "ingress": [{"from": from, "ports": [{"port": 8080}]}]});
        ground.api.create(POLICIES, &policy(&format!("app-{app}"), "guarded", &spec));
    }
    let mut made = 0..0;
    let mut loads = Vec::new();
    for pods in COUNTS {
        make(&ground.api, &(made.end..made.start + pods))?;
        made.end = made.start + pods;
        sleep(SETTLED);
        let at_rest = ground.state(|| {
            sleep(MEASURED);
            0
        })?;
        let busy = ground.state(|| {
            let (begin, before) = (Instant::now(), made.start);
            while begin.elapsed() < MEASURED {
                remove(&ground.api, made.start);
                make_one(&ground.api, made.end);
                made = made.start + 1..made.end + 1;
                // A round that took too long is not made up for: `events` tells.
                sleep((begin + PERIOD * (made.start - before)).saturating_duration_since(Instant::now()));
            }
            (made.start - before) * EVENTS
        })?;
        loads.push(Load { pods, at_rest, busy });
    }
    Ok(loads)
}

impl Ground {
    /// Measures the agent while `work` goes on, which returns how many events it has made.
    fn state(&self, work: impl FnOnce() -> u32) -> Result<State> {
        let pid = agents::process(&self.cluster, CALLED);
        let traffic = Traffic::start(&self.cluster, CALLED, pid)?;
        let (requests, used, begin) = (self.requests()?, cpu(pid)?, Instant::now());
        let events = work();
        let (cpu, seconds) = (cpu(pid)?.saturating_sub(used).as_secs_f64(), begin.elapsed().as_secs_f64());
        let Bytes { received, sent } = traffic.end()?;
        Ok(State {
            events: f64::from(events) / seconds,
            cpu_percent: 100.0 * cpu / seconds,
            resident_mib: resident_mib(pid)?,
            received: f64::from(u32::try_from(received)?) / seconds,
            sent: f64::from(u32::try_from(sent)?) / seconds,
            requests: 60.0 * (self.requests()? - requests) / f64::from(u32::try_from(NODES.len())?) / seconds,
        })
    }

    /// Lets the API server count the requests of the agents apart from all others.
    fn count_requests(&self) {
        let agent =
            json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": agents::NAMESPACE, "name": ACCOUNT}});
        let all = ["*"];
        let rule = json!({
            "subjects": [agent],
            "resourceRules": [{
                "verbs": all, "apiGroups": all, "resources": all, "clusterScope": true, "namespaces": all,
            }],
            "nonResourceRules": [{"verbs": all, "nonResourceURLs": all}],
        });
        self.api.create(
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            &json!({
                "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
                "metadata": {"name": ACCOUNT},
                "spec": {
                    "priorityLevelConfiguration": {"name": "workload-high"},
                    "matchingPrecedence": 100,
                    "rules": [rule],
                },
            }),
        );
    }

    /// Requests of all agents so far.
    fn requests(&self) -> Result<f64> {
        let metrics = self.cluster.kubectl(&["get", "--raw", "/metrics"]);
        let of_agents = |line: &&str| {
            line.starts_with("apiserver_flowcontrol_dispatched_requests_total{")
                && line.contains(&format!("flow_schema=\"{ACCOUNT}\""))
        };
        let counts = metrics.lines().filter(of_agents).map(|line| {
            line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok()).context("a count of requests")
        });
        counts.sum()
    }
}

/// Makes pods with these numbers.
fn make(api: &Api, numbers: &Range<u32>) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|first| {
                let own = numbers.clone().skip(first as usize).step_by(AT_ONCE as usize);
                scope.spawn(move || own.for_each(|number| make_one(api, number)))
            })
            .collect();
        let ended: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
        ensure!(ended.iter().all(Result::is_ok), "not all pods could be made");
        Ok(())
    })
}

/// Makes one, and gives it its addresses.
fn make_one(api: &Api, number: u32) {
    let name = name(number);
    let labels = json!({
        "app": format!("app-{}", number % APPS),
        "app.kubernetes.io/instance": name,
        "pod-template-hash": format!("{:08x}", number % APPS),
    });
    let container = json!({"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]});
    api.create(
        PODS,
        &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": "elsewhere", "containers": [container]},
        }),
    );
    let v4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 80, 0, 0)) + number + 1);
    let v6 = Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, 0)) + u128::from(number) + 1);
    let status = json!({"phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}]});
    api.ask("PATCH", &format!("{PODS}/{name}/status"), &json!({"status": status}));
}

fn remove(api: &Api, number: u32) {
    api.ask("DELETE", &format!("{PODS}/{}", name(number)), &json!({"gracePeriodSeconds": 0}));
}

fn name(number: u32) -> String {
    format!("elsewhere-{number}")
}

/// Processor time so far.
fn cpu(pid: u32) -> Result<Duration> {
    let pid = Pid::from_raw(i32::try_from(pid)?);
    Ok(clock_gettime(ClockId::pid_cpu_clock_id(pid)?)?.into())
}

fn resident_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
