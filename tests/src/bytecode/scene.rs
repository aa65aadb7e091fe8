//! One workload and its surroundings, for the kernel's maps and for ordinary memory alike.
//!
//! Input: what a test changes. Output: an endpoint, the lines of an image, and its exact addresses.

use std::net::IpAddr;

use enforcer_common::{
    endpoint::Endpoint,
    home::HomeKey,
    id::{Address, Ifindex, IncarnationId, OwnerId, PeerClass, PolicyWord, QuotaPlace, Revision, Row},
    image::{AddressEntry, Header, Line, PortKey, RangeTable},
};

/// Index of `lo`: `BPF_PROG_TEST_RUN` wants a device that is there.
pub const LO: u32 = 1;
/// The device that is an uplink, and a port of the workload's bridge.
pub const UPLINK: u32 = 7;
/// The bridge above the veths of the workload and its neighbour: no uplink.
pub const OTHER: u32 = 8;
/// A device that leads to no workload and is no uplink.
pub const TAP: u32 = 9;
/// The workload's place in `QUOTAS`.
pub const PLACE: QuotaPlace = QuotaPlace(3);
/// Id of the workload's incarnation.
pub const WORKLOAD: IncarnationId = IncarnationId(77);
/// Ids of its addresses, IPv4 first.
pub const OWNERS: [OwnerId; 2] = [OwnerId(100), OwnerId(101)];

/// An address from its text.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("tests write addresses that are some")
}

/// Who is who, IPv4 and IPv6.
pub mod who {
    /// The workload.
    pub const WORKLOAD: [&str; 2] = ["10.0.0.2", "fd00::2"];
    /// A peer that the rules name: TCP 80, UDP 53, SCTP 81, echo, protocol 47.
    pub const FRIEND: [&str; 2] = ["10.0.0.3", "fd00::3"];
    /// A workload on this node that no rule names.
    pub const NEIGHBOUR: [&str; 2] = ["10.0.0.4", "fd00::4"];
    /// An address that another workload merely shows; that workload is one that the rules name.
    pub const SHOWN: [&str; 2] = ["10.0.0.5", "fd00::5"];
    /// The broadcast address of the workload's subnet.
    pub const BROADCAST: &str = "10.0.0.255";
    /// The node.
    pub const NODE: [&str; 2] = ["10.0.0.1", "fd00::1"];
    /// An address of the range that the rules name for the same ports.
    pub const RANGE: [&str; 2] = ["192.0.2.77", "2001:db8:1::77"];
    /// Nobody that a rule names.
    pub const STRANGER: [&str; 2] = ["203.0.113.9", "2001:db8:2::9"];
}

/// Port class 1: what the rules allow.
pub fn allowed_ports() -> [PortKey; 7] {
    [
        PortKey::tcp(80),
        PortKey::udp(53),
        PortKey::sctp(81),
        PortKey::icmp(8),
        PortKey::icmpv6(128),
        PortKey::other(47),
        PortKey::icmp(13),
    ]
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The workload's veth.
    pub endpoint: Endpoint,
    /// The policy in force.
    pub word: PolicyWord,
    /// Flows that the workload may have.
    pub quota: u32,
    /// Flows that fit the table.
    pub flows: u32,
    /// Whether the rules allow anything.
    pub open: bool,
    /// Address ranges, and as many exact addresses, beside those of the scene, each in the class of nobody.
    pub extra: u32,
}

impl Default for Scene {
    fn default() -> Self {
        let mut endpoint = Endpoint {
            ifindex: Ifindex(LO),
            quota: PLACE,
            id: WORKLOAD,
            owned: 2,
            flags: [0; 2],
            rows: [[Row(0); 2]; 2],
            ..Endpoint::FREE
        };
        for (place, address) in who::WORKLOAD.into_iter().enumerate() {
            endpoint.addresses[place] = ip(address).into();
            endpoint.owners[place] = OWNERS[place];
        }
        Self {
            endpoint,
            word: PolicyWord { revision: Revision(2), epoch: 5 },
            quota: 1000,
            flows: 4096,
            open: true,
            extra: 0,
        }
    }
}

impl Scene {
    /// The exact addresses that the image knows.
    pub fn addresses(&self) -> Vec<(Address, AddressEntry)> {
        let entry = |who: [&str; 2], class, local, node| {
            who.map(|address| (ip(address).into(), AddressEntry::new(PeerClass(class), local, node)))
        };
        let mut entries = [
            entry(who::WORKLOAD, 0, true, false),
            entry(who::FRIEND, 1, false, false),
            entry(who::NEIGHBOUR, 0, true, false),
            entry(who::NODE, 0, false, true),
        ]
        .concat();
        let shown = AddressEntry::new(PeerClass(1), true, false).shown();
        entries.extend(who::SHOWN.map(|address| (ip(address).into(), shown)));
        let nobody = AddressEntry::new(PeerClass(0), false, false);
        entries.extend((0..self.extra).map(|n| (IpAddr::from((0x0a80_0000 + n).to_be_bytes()).into(), nobody)));
        entries
    }

    /// By which devices the packets of the local workloads may come in.
    pub fn homes(&self) -> Vec<HomeKey> {
        let local = [who::WORKLOAD, who::NEIGHBOUR].concat();
        let pairs = local
            .into_iter()
            .map(|address| Address::from(ip(address)))
            .flat_map(|address| [HomeKey::guarded(address), HomeKey::new(address, Ifindex(OTHER))]);
        let own = who::WORKLOAD.into_iter().map(|address| HomeKey::new(ip(address).into(), Ifindex(LO)));
        // Nobody vouches for it, so no mark guards it.
        let shown = who::SHOWN.into_iter().map(|address| HomeKey::new(ip(address).into(), Ifindex(OTHER)));
        let broadcast = HomeKey::for_all(ip(who::BROADCAST).into(), Ifindex(LO));
        pairs.chain(own).chain(shown).chain([HomeKey::out(Ifindex(UPLINK)), broadcast]).collect()
    }

    /// The image: two peer classes, two port classes, one row, two vectors.
    pub fn image(&self) -> Vec<Line> {
        let mut image = vec![Line::ZERO; 3];
        let mut ports = vec![0; PortKey::COUNT as usize];
        for key in allowed_ports() {
            ports[key.index() as usize] = 1;
        }
        let ports_at = append(&mut image, &ports);
        // Peer class 0 has vector 0, peer class 1 vector 1.
        let rows_at = append(&mut image, &[0u16, 1].map(u16::to_ne_bytes).concat());
        let vectors_at = append(&mut image, &[0, 0, 0, u8::from(self.open)]);
        let v4 = self.ranges_v4();
        let (starts, classes): (Vec<u64>, Vec<u32>) =
            v4.iter().map(|(start, class)| (u64::from(*start), *class)).unzip();
        let bytes: Vec<u8> = v4.iter().flat_map(|(start, _)| start.to_ne_bytes()).collect();
        image[1] = Self::ranges(&mut image, &starts, &bytes, &classes).to_line();
        let v6 = self.ranges_v6();
        let (starts, classes): (Vec<u64>, Vec<u32>) = v6.iter().map(|(start, class)| (start[0], *class)).unzip();
        let bytes: Vec<u8> = v6.iter().flat_map(|(start, _)| start.map(u64::to_ne_bytes).concat()).collect();
        image[2] = Self::ranges(&mut image, &starts, &bytes, &classes).to_line();
        image[0] = Header {
            magic: Header::MAGIC,
            lines: image.len() as u32,
            flags: 0,
            port_classes: 2,
            peer_classes: 2,
            rows: 1,
            vectors: 2,
            ports_at,
            rows_at,
            vectors_at,
            addresses: self.addresses().len() as u32,
        }
        .to_line();
        image
    }

    fn ranges_v4(&self) -> Vec<(u32, u32)> {
        let mut ranges = vec![(0, 0)];
        // Below 192.0.2.0, so that the search has something to do.
        ranges.extend((1..=self.extra).map(|n| (0x0b00_0000 + n * 256, 0)));
        ranges.extend([(0xc000_0200, 1), (0xc000_0300, 0)]);
        ranges
    }

    fn ranges_v6(&self) -> Vec<([u64; 2], u32)> {
        let mut ranges = vec![([0, 0], 0)];
        ranges.extend((1..=self.extra).map(|n| ([0x2001_0000_0000_0000 + (u64::from(n) << 16), 0], 0)));
        ranges.extend([([0x2001_0db8_0001_0000, 0], 1), ([0x2001_0db8_0002_0000, 0], 0)]);
        ranges
    }

    /// About two buckets a range, over where ranges start: as the compiler makes them. `words` are the upper halves of IPv6
    /// starts.
    fn ranges(image: &mut Vec<Line>, words: &[u64], bytes: &[u8], classes: &[u32]) -> RangeTable {
        const MOST: usize = 1 << 16;
        let (base, span) = (words[1], words[words.len() - 1] - words[1]);
        let most = (2 * words.len()).next_power_of_two().min(MOST) as u64;
        let shift = (0..63).find(|shift| span >> shift < most).expect("a shift");
        let buckets = (span >> shift) as u32 + 1;
        let bucket = |word: u64| RangeTable::bucket(base, shift, buckets, word);
        let index: Vec<u8> = (0..=buckets)
            .map(|at| words.partition_point(|word| bucket(*word) < at) as u32)
            .flat_map(u32::to_ne_bytes)
            .collect();
        let index_at = append(image, &index);
        let starts_at = append(image, bytes);
        let classes_at = append(image, &classes.iter().flat_map(|class| class.to_ne_bytes()).collect::<Vec<u8>>());
        RangeTable { base, shift, buckets, count: classes.len() as u32, index_at, starts_at, classes_at }
    }
}

fn append(image: &mut Vec<Line>, bytes: &[u8]) -> u32 {
    let at = image.len() as u32;
    for chunk in bytes.chunks(64) {
        let mut line = Line::ZERO;
        line.write(0, chunk);
        image.push(line);
    }
    at
}
