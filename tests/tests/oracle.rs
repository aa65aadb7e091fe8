//! Compares the compiled image and the datapath with the naive evaluator, over random policies, workloads and flows.
//!
//! `ENFORCER_ORACLE_SEED` repeats a run, and `ENFORCER_ORACLE_PAIRS` sets how many pairs of policy set and packet it judges.

use std::collections::BTreeMap;
use std::sync::Arc;

use enforcer::compile::{Image, compile};
use enforcer::policy::model::PolicySet;
use enforcer::resolve::{DecidedBy, ResolvedPolicy, Service, resolve};
use enforcer::workload::model::{Snapshot, WorkloadKey};
use enforcer_common::decide::decide;
use enforcer_common::id::{Address, Direction, Ifindex};
use enforcer_common::image::{AddressEntry, ReadImage as _};
use enforcer_common::verdict::Verdict;
use enforcer_tests::oracle::declare::{Declared, Defaults, model};
use enforcer_tests::oracle::evaluate::{Flow, Number, Oracle, Wants};
use enforcer_tests::oracle::generate::{self, OTHER_DEVICE, UPLINK};
use enforcer_tests::oracle::random::Random;
use enforcer_tests::packet::{Frame, Transport};
use enforcer_tests::world::{MemoryWorld, Unknown};

/// Flows a policy set is asked about.
const FLOWS: usize = 250;
/// Pairs that each number must have decided: their verdict is another if the number alone is got wrong.
const DECISIVE_AT_LEAST: usize = 1_000;

#[derive(Clone, Debug, Default)]
struct Count {
    pairs: usize,
    allowed: usize,
    decisive: BTreeMap<Number, usize>,
}

#[test]
fn image_and_datapath_agree_with_the_oracle() {
    let seed = number_from("ENFORCER_ORACLE_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    });
    let pairs = number_from("ENFORCER_ORACLE_PAIRS").unwrap_or(1_000_000) as usize;
    println!("ENFORCER_ORACLE_SEED={seed}");
    let begin = std::time::Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let share = pairs.div_ceil(threads);
    let counts: Vec<Count> = std::thread::scope(|scope| {
        let runs: Vec<_> =
            (0..threads as u64).map(|thread| scope.spawn(move || run(Random(seed ^ thread << 56), share))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let count = counts.into_iter().fold(Count::default(), |mut sum, part| {
        sum.pairs += part.pairs;
        sum.allowed += part.allowed;
        for (number, times) in part.decisive {
            *sum.decisive.entry(number).or_default() += times;
        }
        sum
    });
    println!("decided by: {:?}", count.decisive);
    assert!(count.pairs >= pairs);
    let percent = count.allowed * 100 / count.pairs;
    println!(
        "ENFORCER_ORACLE_SEED={seed}: {} pairs, {percent}% allowed, {}% denied, in {:.1} s on {threads} processors",
        count.pairs,
        100 - percent,
        begin.elapsed().as_secs_f32()
    );
    assert!((20..=80).contains(&percent), "{percent}% of the pairs are allowed");
    // A shorter run than the usual one proves its pairs and nothing of the generator.
    if pairs >= 1_000_000 {
        for number in Number::ALL {
            let times = count.decisive.get(&number).copied().unwrap_or(0);
            assert!(times >= DECISIVE_AT_LEAST, "{number:?} decided only {times} pairs");
        }
    }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn run(mut random: Random, pairs: usize) -> Count {
    let mut count = Count::default();
    while count.pairs < pairs {
        let node = Node::random(&mut random);
        let mut world = MemoryWorld::new([OTHER_DEVICE]);
        world.install(&node.snapshot, node.image.clone(), node.unknown);
        for _ in 0..FLOWS {
            let flow = generate::flow(&mut random, &node.snapshot, &node.places);
            let expected = node.oracle(None).allows(&flow);
            node.check_sides(&flow);
            let judged = node.passes(&world, &flow);
            assert_eq!(judged, expected, "the datapath of\n{flow:#?}\n{node:#?}");
            world.forget_flows();
            count.pairs += 1;
            count.allowed += usize::from(expected);
            for number in Number::ALL {
                if node.oracle(Some(number)).allows(&flow) != expected {
                    *count.decisive.entry(number).or_default() += 1;
                }
            }
        }
    }
    count
}

struct Node {
    declared: Vec<Declared>,
    policies: Arc<PolicySet>,
    /// As if absent policy types meant both.
    policies_without_n3: PolicySet,
    snapshot: Arc<Snapshot>,
    places: Vec<std::net::IpAddr>,
    unknown: Unknown,
    resolved: ResolvedPolicy,
    image: Image,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#?}\n{:#?}\nunknown: {:?}", self.declared, self.snapshot, self.unknown)
    }
}

impl Node {
    fn random(random: &mut Random) -> Self {
        let snapshot = Arc::new(generate::snapshot(random));
        let places = generate::places(&snapshot);
        let declared = generate::policies(random, &places);
        let policies = Arc::new(model(&declared, Defaults::Standard));
        let resolved = resolve(Arc::clone(&policies), Arc::clone(&snapshot));
        let image = compile(&resolved).expect("a small set compiles");
        Self {
            policies_without_n3: model(&declared, Defaults::Both),
            declared,
            policies,
            snapshot,
            places,
            unknown: random.pick(&[Unknown::Strict, Unknown::Open]),
            resolved,
            image,
        }
    }

    fn oracle(&self, without: Option<Number>) -> Oracle<'_> {
        Oracle {
            policies: match without {
                Some(Number::N3) => &self.policies_without_n3,
                _ => &self.policies,
            },
            snapshot: &self.snapshot,
            unknown: self.unknown,
            without,
        }
    }

    /// Each side by policy alone: the tables and what the flow log would say must be what the oracle says.
    fn check_sides(&self, flow: &Flow) {
        let sides = [(flow.from, Direction::Egress, flow.destination), (flow.to, Direction::Ingress, flow.source)];
        for (key, direction, peer) in sides {
            let Some((key, identity)) = key.and_then(|key| Some((key, self.snapshot.local[&key].identity.as_ref()?)))
            else {
                continue;
            };
            let expected = self.oracle(None).by_policy(identity, direction, peer, flow.wants);
            let (service, address) = (service(flow), Address::from(peer));
            let entry = self.image.address(&address);
            let row = self.image.row(key, direction);
            let verdict = decide(&self.image, row, &address, entry, service.port_key());
            assert_eq!(verdict == Verdict::Allow, expected, "the image of {direction:?}\n{flow:#?}\n{self:#?}");
            let decision = self.resolved.decide(key, direction, peer, service);
            if decision.by == DecidedBy::Itself {
                assert!(self.snapshot.local[&key].addresses.get(&peer).is_some_and(|voucher| !voucher.is_nobody()));
            } else {
                assert_eq!(decision.verdict, verdict, "the decision of {direction:?}\n{flow:#?}\n{self:#?}");
            }
        }
    }

    /// Whether the frame of a flow passes the programs of both sides.
    fn passes(&self, world: &MemoryWorld, flow: &Flow) -> bool {
        let frame = Frame::new(flow.source, flow.destination, transport(flow)).bytes();
        let device =
            |key: WorkloadKey| *self.snapshot.local[&key].endpoints.first_key_value().expect("it has a veth").0;
        if let Some(from) = flow.from
            && world.sends(device(from), &frame) != Verdict::Allow
        {
            return false;
        }
        let Some(to) = flow.to else {
            return true;
        };
        let local = self.image.address(&flow.source.into()).is_some_and(AddressEntry::is_local);
        let came_by = match flow.from {
            Some(from) => device(from),
            None if flow.from_node => Ifindex::NONE,
            // An address of this node's workloads from outside would be a forgery.
            None if local => Ifindex(OTHER_DEVICE),
            None => Ifindex(UPLINK),
        };
        world.receives(device(to), came_by, &frame) == Verdict::Allow
    }
}

fn service(flow: &Flow) -> Service {
    match flow.wants {
        Wants::Port(transport, port) => Service::Transport(transport, port),
        Wants::Icmp(kind) if flow.source.is_ipv4() => Service::Icmp(kind),
        Wants::Icmp(kind) => Service::Icmpv6(kind),
        Wants::Other(number) => Service::Other(number),
    }
}

fn transport(flow: &Flow) -> Transport {
    use enforcer::policy::model::Transport as Protocol;
    match flow.wants {
        Wants::Port(Protocol::Tcp, port) => Transport::syn(40_000, port),
        Wants::Port(Protocol::Udp, port) => Transport::Udp { source: 40_000, destination: port },
        Wants::Port(Protocol::Sctp, port) => Transport::Sctp { source: 40_000, destination: port, chunk: 1 },
        Wants::Icmp(kind) => Transport::Icmp { kind, code: 0, rest: [0, 7, 0, 1] },
        Wants::Other(number) => Transport::Other(number),
    }
}
