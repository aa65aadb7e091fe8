//! The network that joins the members. Input: members with addresses. Output: a bridge in the control plane's namespace,
//! and a veth to each node, whose end there is `eth0`. Every member has a route to every node's pods.
//!
//! The control plane is thus also a machine outside of the nodes, from which tests can call them.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{
    member::Member,
    shape::{is_v6, prefix},
};

const BRIDGE: &str = "br0";
const UPLINK: &str = "eth0";

/// Joins the nodes with the control plane, and all with the pods.
pub(crate) fn join(control: &Member, nodes: &[Member]) -> Result<()> {
    let mut lines = vec![format!("link add {BRIDGE} type bridge"), format!("link set {BRIDGE} up")];
    for node in nodes {
        lines.push(format!("link add {} type veth peer name {UPLINK} netns {}", node.name, node.pid));
        lines.push(format!("link set {} master {BRIDGE} up", node.name));
    }
    lines.extend(own(control, BRIDGE));
    lines.extend(routes(control, nodes, BRIDGE));
    ip(control, &lines)?;
    for node in nodes {
        let mut lines = vec![format!("link set {UPLINK} up")];
        lines.extend(own(node, UPLINK));
        lines.extend(routes(node, nodes, UPLINK));
        // What is nowhere else goes to the control plane, as to a router.
        lines.extend(control.addresses.iter().map(|router| format!("route add default via {router} dev {UPLINK}")));
        ip(node, &lines)?;
    }
    Ok(())
}

fn own(member: &Member, device: &str) -> Vec<String> {
    // A duplicate cannot be, and the check for one would take a second.
    let line = |address: &String| {
        let quick = if is_v6(address) { " nodad" } else { "" };
        format!("address add {address}/{} dev {device}{quick}", prefix(address))
    };
    member.addresses.iter().map(line).collect()
}

fn routes(member: &Member, nodes: &[Member], device: &str) -> Vec<String> {
    let others = nodes.iter().filter(|node| node.name != member.name);
    let pairs = others.flat_map(|node| node.pods.iter().zip(&node.addresses));
    pairs.map(|(pods, node)| format!("route add {pods} via {node} dev {device}")).collect()
}

/// Runs the lines of `ip` in the member's network.
fn ip(member: &Member, lines: &[String]) -> Result<()> {
    let mut run: Command = member.in_network("ip");
    run.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().context("cannot run ip")?;
    let mut input = child.stdin.take().context("no input")?;
    input.write_all((lines.join("\n") + "\n").as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the network of {} cannot be made: {}", member.name, said.trim());
    }
    ensure!(said.is_empty(), "ip in {}: {}", member.name, said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, addresses: [&str; 2], pods: &[&str]) -> Member {
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Member {
            name: name.into(),
            pid: 1,
            started: 0,
            network: "/proc/1/ns/net".into(),
            root: "/proc/1/root".into(),
            enter: Vec::new(),
            addresses: strings(&addresses),
            pods: strings(pods),
            cgroups: Vec::new(),
            directory: "/".into(),
        }
    }

    #[test]
    fn a_member_has_a_route_to_the_pods_of_every_node_but_itself() {
        let control = member("control", ["10.77.0.1", "fd77::1"], &[]);
        let nodes = [
            member("node1", ["10.77.0.11", "fd77::11"], &["10.78.1.0/24", "fd78:0:0:1::/64"]),
            member("node2", ["10.77.0.12", "fd77::12"], &["10.78.2.0/24", "fd78:0:0:2::/64"]),
        ];
        assert_eq!(
            routes(&nodes[0], &nodes, UPLINK),
            ["route add 10.78.2.0/24 via 10.77.0.12 dev eth0", "route add fd78:0:0:2::/64 via fd77::12 dev eth0"]
        );
        assert_eq!(routes(&control, &nodes, BRIDGE).len(), 4);
        assert_eq!(own(&control, BRIDGE)[1], "address add fd77::1/64 dev br0 nodad");
    }
}
