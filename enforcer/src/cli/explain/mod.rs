//! `enforcer explain`: says whether the policies allow a flow, and which line decides. It needs no privilege for files.
//!
//! Input: policies and an inventory from files, or what a daemon has in force. Output: the deciding rule of each direction on
//! stdout, and the exit code.

mod judge;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use enforcer_common::id::Direction;

use self::judge::Judge;
use super::in_force::{self, Sources};
use super::out;
use crate::flow::text::continued;
use crate::plan::Unknown;
use crate::policy::model::Transport;
use crate::policy::source::directory::load_paths;
use crate::resolve::{ResolvedPolicy, Service, resolve};
use crate::workload::inventory::Inventory;
use crate::workload::model::{Identity, Snapshot, WorkloadName};
use crate::workload::offline;

/// Say whether the policies allow a flow, and which line decides.
///
/// The command judges both ends of the flow, as the kernel does: first the sender's egress, then the receiver's ingress.
/// For an allowed flow it prints the line of the rule. For a denied flow it prints every policy that isolates the workload.
///
/// With --policies and --inventory it reads these files. Without them it reads the policies and workloads that the daemon
/// of this node has in force, and treats unknown workloads as that daemon's --unknown option says.
///
/// What goes over a device of a workload that ends at none of the hooks is not judged. The command says so for the addresses of
/// such a device, and counts the flow as allowed.
///
/// The verdict comes from the same compiled tables that the kernel uses for packets. If the rules give another verdict, the
/// command reports a defect of Enforcer and exits with 2.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 The flow is allowed; with --expect: the verdict is the expected one.
            1 The flow is denied; with --expect: the verdict is not the expected one.
            2 The command line is wrong, a file cannot be read, or tables and rules differ.")]
pub struct Args {
    /// Sender of the flow: NAMESPACE/NAME of a workload, or an IP address.
    #[arg(long, value_name = "WORKLOAD|ADDRESS")]
    pub from: AskedParty,
    /// Receiver of the flow: NAMESPACE/NAME of a workload, or an IP address.
    #[arg(long, value_name = "WORKLOAD|ADDRESS")]
    pub to: AskedParty,
    /// Destination port and protocol, such as 5432/tcp, 53/udp or 3868/sctp; or icmp for a ping.
    #[arg(long, value_name = "PORT")]
    pub port: Asked,
    /// Directory with policies to use instead of those in force.
    #[arg(long, value_name = "DIR", requires = "inventory")]
    pub policies: Option<PathBuf>,
    /// Inventory file that names the workloads for --policies.
    #[arg(long, value_name = "FILE", requires = "policies")]
    pub inventory: Option<PathBuf>,
    /// Verdict that you expect. The exit code says whether it is right.
    #[arg(long, value_name = "VERDICT")]
    pub expect: Option<Expected>,
    /// The daemon's pin directory and settings.
    #[command(flatten)]
    pub place: in_force::Place,
}

/// What `--expect` takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Expected {
    /// Both ends allow the flow.
    Allow,
    /// At least one end denies the flow.
    Deny,
}

/// One end of the flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AskedParty {
    /// A workload by name.
    Workload(WorkloadName),
    /// Whoever has this address.
    Address(IpAddr),
}

impl FromStr for AskedParty {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::Workload(WorkloadName { namespace: namespace.to_owned(), name: name.to_owned() }))
            }
            _ => Err("this is neither an IP address nor NAMESPACE/NAME, such as shop/web".to_owned()),
        }
    }
}

impl fmt::Display for AskedParty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// The service that is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// A port of a protocol.
    Port(Transport, u16),
    /// An echo request.
    Echo,
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "icmp" {
            return Ok(Self::Echo);
        }
        let parsed = text.split_once('/').and_then(|(port, protocol)| {
            let transport = match protocol {
                "tcp" => Transport::Tcp,
                "udp" => Transport::Udp,
                "sctp" => Transport::Sctp,
                _ => return None,
            };
            Some(Self::Port(transport, port.parse().ok().filter(|port| *port != 0)?))
        });
        parsed.ok_or_else(|| "this is neither a port with its protocol, such as 5432/tcp, nor icmp".to_owned())
    }
}

impl Asked {
    fn service(self, peer: IpAddr) -> Service {
        match self {
            Self::Port(transport, port) => Service::Transport(transport, port),
            Self::Echo if peer.is_ipv4() => Service::Icmp(enforcer_common::packet::icmp::ECHO_REQUEST),
            Self::Echo => Service::Icmpv6(enforcer_common::packet::icmp::V6_ECHO_REQUEST),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { from, to, port, policies, inventory, expect, place } = args;
    let Sources { policies, snapshot, unknown } = match (policies, inventory) {
        (Some(policies), Some(inventory)) => {
            let policies = load_paths(std::slice::from_ref(policies))?.set;
            // An inventory names all of its workloads.
            Sources { policies, snapshot: offline::snapshot(&Inventory::load(inventory)?), unknown: Unknown::Strict }
        }
        _ => in_force::load(place)?,
    };
    let resolved = resolve(policies, Arc::new(snapshot));
    let judge = Judge::new(&resolved, unknown)?;
    let mut allowed = true;
    for (source, destination) in pairs(&resolved, from, to)? {
        out::tell(&format!("{from} ({source}) -> {to} ({destination})"));
        for (direction, own, peer) in
            [(Direction::Egress, source, destination), (Direction::Ingress, destination, source)]
        {
            let answer = judge.explain_flow(direction, own, peer, port.service(peer))?;
            out::tell(&format!("  {}", continued(&answer.text)));
            allowed &= answer.allowed;
        }
        for address in [source, destination] {
            if let Some(voucher) = voucher(resolved.snapshot(), address) {
                out::tell(&format!("  {address}  {}", continued(&voucher)));
            }
            if let Some(beside) = judge.beside(address) {
                out::tell(&format!("  {address}  {}", continued(&beside)));
            }
        }
    }
    let verdict = if allowed { Expected::Allow } else { Expected::Deny };
    out::tell(if allowed { "ALLOWED" } else { "DENIED" });
    Ok(ExitCode::from(u8::from(verdict != expect.unwrap_or(Expected::Allow))))
}

/// Who says that a workload on this node has an address.
fn voucher(snapshot: &Snapshot, address: IpAddr) -> Option<String> {
    let disputed = snapshot.local.values().find_map(|local| local.disputed.get(&address));
    let disputed = disputed.map(|voucher| format!("{voucher}; another one has an equal claim, so it is disputed"));
    disputed
        .or_else(|| snapshot.local.values().find_map(|local| local.addresses.get(&address)).map(ToString::to_string))
}

/// The address pairs to judge: of each family that both ends have.
fn pairs(resolved: &ResolvedPolicy, from: &AskedParty, to: &AskedParty) -> anyhow::Result<Vec<(IpAddr, IpAddr)>> {
    let (sources, destinations) = (addresses(resolved, from)?, addresses(resolved, to)?);
    let mut pairs = Vec::new();
    for v4 in [true, false] {
        let source = sources.iter().find(|address| address.is_ipv4() == v4);
        let destination = destinations.iter().find(|address| address.is_ipv4() == v4);
        pairs.extend(source.copied().zip(destination.copied()));
    }
    if pairs.is_empty() {
        bail!("{from} and {to} have no addresses of the same family, so no flow between them is possible");
    }
    Ok(pairs)
}

fn addresses(resolved: &ResolvedPolicy, party: &AskedParty) -> anyhow::Result<Vec<IpAddr>> {
    let name = match party {
        AskedParty::Address(address) => return Ok(vec![*address]),
        AskedParty::Workload(name) => name,
    };
    let snapshot = resolved.snapshot();
    let named = |identity: &Identity| identity.name == *name;
    let local = snapshot.local.values().find(|local| local.identity.as_ref().is_some_and(named));
    let remote = snapshot.remote.iter().find(|remote| named(&remote.identity));
    let local = local.map(|local| local.addresses.keys().copied().collect());
    let found: Option<BTreeSet<IpAddr>> = local.or_else(|| remote.map(|remote| remote.addresses.clone()));
    let found = found.with_context(|| {
        let known = snapshot.local.values().filter_map(|local| local.identity.as_ref());
        let known = known.chain(snapshot.remote.iter().map(|remote| &remote.identity));
        let known: BTreeSet<String> = known.map(|identity| identity.name.to_string()).collect();
        format!("there is no workload {name}; the known workloads are: {}", Vec::from_iter(known).join(", "))
    })?;
    // Link-local addresses are not what one end would choose for the other.
    Ok(found.into_iter().filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())).collect())
}
