use std::collections::BTreeMap;

use super::*;
use crate::home::HomeKey;
use crate::id::{Ifindex, PeerClass, PolicyWord, Slot};
use crate::image::{Cell, Header, Line};
use crate::tables::Homes;

const OWN: Address = Address([0, 0, 1, 10]);
const SHARED: Address = Address([0, 0, 1, 11]);
const STRANGER: Address = Address([0, 0, 1, 12]);
const GOOD: Address = Address([0, 0, 2, 1]);
const BAD: Address = Address([0, 0, 2, 2]);
const SERVICE: Address = Address([0, 0, 3, 1]);
const VETH: Ifindex = Ifindex(7);

/// One isolated workload. Its row allows peers of class 1 on class 1 of ports, which port 80 of TCP is in, and no others.
struct World {
    endpoint: Endpoint,
    word: PolicyWord,
    image: Option<Tables>,
}

#[derive(Clone)]
struct Tables {
    lines: Vec<Line>,
    addresses: BTreeMap<Address, AddressEntry>,
}

impl World {
    fn new() -> Self {
        let ports_at = 1;
        let of_ports = u32::div_ceil(PortKey::COUNT, 64);
        let (rows_at, vectors_at) = (ports_at + of_ports, ports_at + of_ports + 1);
        let header = Header {
            magic: Header::MAGIC,
            lines: vectors_at + 1,
            port_classes: 2,
            peer_classes: 2,
            rows: 1,
            vectors: 2,
            ports_at,
            rows_at,
            vectors_at,
            ..Header::default()
        };
        let mut lines = vec![Line::ZERO; header.lines as usize];
        lines[0] = header.to_line();
        let port = PortKey::tcp(80).index() as usize;
        lines[ports_at as usize + port / 64].write(port % 64, &[1]);
        // Class 0 has the vector that denies, class 1 the one that allows its second class of ports.
        lines[rows_at as usize].write(2, &1_u16.to_ne_bytes());
        lines[vectors_at as usize].write(3, &[Cell::Allow as u8]);
        let entry = |class| AddressEntry::new(PeerClass(class), false, false);
        let own = AddressEntry::new(PeerClass(0), true, false);
        let addresses = [(GOOD, entry(1)), (BAD, entry(0)), (SERVICE, entry(1).service()), (OWN, own)];
        let row = [Row::NONE, Row(0)];
        let mut endpoint = Endpoint { ifindex: VETH, flags: [0; 2], rows: [row; 2], owned: 1, ..Endpoint::FREE };
        (endpoint.addresses[0], endpoint.owners[0]) = (OWN, OwnerId(9));
        Self {
            endpoint,
            word: PolicyWord { revision: Revision(2), epoch: 1 },
            image: Some(Tables { lines, addresses: addresses.into() }),
        }
    }

    fn said(&self, connection: &Connection) -> Result<(), Reason> {
        judge(&self, connection, &mut { Work::EMPTY })
    }
}

impl ReadImage for Tables {
    fn line(&self, index: u32) -> Option<&Line> {
        self.lines.get(index as usize)
    }

    fn address(&self, address: &Address) -> Option<AddressEntry> {
        self.addresses.get(address).copied()
    }
}

impl PolicyTables for &World {
    type Image = Tables;

    fn word(&self) -> PolicyWord {
        self.word
    }

    fn image(&self, _: Slot) -> Option<Tables> {
        self.image.clone()
    }

    fn judges_backends(&self) -> bool {
        true
    }
}

impl Homes for &World {
    fn has_home(&self, _: &HomeKey) -> bool {
        false
    }
}

impl Devices for &World {
    fn endpoint(&self, ifindex: Ifindex) -> Option<&Endpoint> {
        // A free place of the real table is all zeros, and looks like an endpoint of no device.
        (ifindex == VETH || ifindex == Ifindex::NONE).then_some(&self.endpoint)
    }
}

impl Veths for &World {
    fn veth_of(&self, address: &Address) -> Option<Ifindex> {
        [(OWN, VETH), (SHARED, Ifindex::NONE)].into_iter().find(|(own, _)| own == address).map(|(_, veth)| veth)
    }
}

fn to(destination: Address) -> Connection {
    Connection {
        source: OWN,
        destination,
        protocol: 6,
        source_port: 40_000,
        destination_port: 80,
        called_port: 80,
        way: Way::Translated,
    }
}

const NO_RULE: Result<(), Reason> = Err(Reason::NoRule);

#[test]
fn the_backend_decides_by_its_address_and_its_port() {
    let world = World::new();
    assert_eq!(world.said(&to(GOOD)), Ok(()));
    assert_eq!(world.said(&to(BAD)), NO_RULE);
    assert_eq!(world.said(&Connection { called_port: 81, ..to(GOOD) }), NO_RULE, "the port behind translation");
    assert_eq!(world.said(&Connection { protocol: 17, ..to(GOOD) }), NO_RULE, "another protocol");
}

#[test]
fn an_address_of_a_service_is_nobody_that_policy_could_allow() {
    let world = World::new();
    for way in [Way::Plain, Way::Translated] {
        assert_eq!(world.said(&Connection { way, ..to(SERVICE) }), NO_RULE, "D5");
    }
}

#[test]
fn what_is_not_translated_has_been_judged_on_the_veth() {
    let world = World::new();
    assert_eq!(world.said(&Connection { way: Way::Plain, ..to(BAD) }), Ok(()));
    let shared = Connection { source: SHARED, way: Way::Plain, ..to(BAD) };
    assert_eq!(world.said(&shared), Ok(()), "who claims an address cuts nobody off");
}

#[test]
fn what_is_taken_for_an_answer_to_a_service_is_one_if_that_host_may_have_called() {
    let answer =
        |destination| Connection { source_port: 80, destination_port: 40_000, way: Way::Answer, ..to(destination) };
    let mut world = World::new();
    assert_eq!(world.said(&answer(BAD)), Ok(()), "judged on the veth");
    world.endpoint.rows = [[Row(0), Row(0)]; 2];
    let other = Connection { source_port: 81, called_port: 81, ..answer(SERVICE) };
    assert_eq!(
        (world.said(&answer(SERVICE)), world.said(&other)),
        (Ok(()), NO_RULE),
        "by the ingress row and its own port"
    );
    let mut work = Work::EMPTY;
    assert_eq!(judge(&&world, &other, &mut work), NO_RULE);
    assert_eq!((work.packet.source, work.packet.destination), (OWN, SERVICE));
    assert_eq!((work.packet.source_port, work.packet.destination_port), (81, 40_000));
    world.endpoint.rows = [[Row::NOT_ISOLATED, Row(0)]; 2];
    assert_eq!(world.said(&other), Ok(()), "anybody may call");
}

#[test]
fn a_workload_that_reaches_itself_through_a_service_is_judged() {
    assert_eq!(World::new().said(&to(OWN)), NO_RULE, "C14");
}

#[test]
fn who_is_no_workload_or_is_not_isolated_passes() {
    let mut world = World::new();
    assert_eq!(world.said(&Connection { source: STRANGER, ..to(BAD) }), Ok(()));
    world.endpoint.rows = [[Row::NONE, Row::NOT_ISOLATED]; 2];
    assert_eq!(world.said(&to(BAD)), Ok(()));
    assert_eq!(world.said(&Connection { way: Way::Plain, ..to(SERVICE) }), Ok(()));
}

#[test]
fn who_cannot_be_told_gets_nothing() {
    let mut world = World::new();
    let unknown = Err(Reason::UnknownWorkload);
    assert_eq!(world.said(&Connection { source: SHARED, ..to(GOOD) }), unknown, "two workloads have the address");
    world.endpoint.flags = [Endpoint::UNKNOWN; 2];
    assert_eq!(world.said(&to(GOOD)), unknown);
    world.endpoint.flags = [0; 2];
    world.image = None;
    assert_eq!(world.said(&to(GOOD)), Err(Reason::Internal));
    world.word.revision = Revision::NONE;
    assert_eq!(world.said(&to(GOOD)), Err(Reason::NoPolicy));
}

#[test]
fn the_record_of_a_denial_names_the_backend() {
    let world = World::new();
    let mut work = Work::EMPTY;
    assert_eq!(judge(&&world, &to(BAD), &mut work), NO_RULE);
    assert_eq!((work.packet.source, work.packet.destination), (OWN, BAD));
    assert_eq!((work.packet.source_port, work.packet.destination_port, work.packet.protocol), (40_000, 80, 6));
    assert_eq!((work.direction, work.meta.ifindex, work.word), (Direction::Egress, VETH, world.word));
}
