//! A container that serves and sends requests, and the evidence at both ends.
//!
//! Input: a name and options. Output: the result of a request: the answer at the client, and the counters of the victim's
//! TCP, which show what arrived even without an answer.

#![allow(clippy::unwrap_used, reason = "a container that cannot be asked ends the test")]

use std::fs;
use std::net::IpAddr;
use std::process::Command;

use super::{Host, IMAGE};

/// The port that policies speak of.
pub const PORT: u16 = 8080;
/// A port that is served just as well.
pub const OTHER_PORT: u16 = 8081;

/// Serves its own name at both ports, over both families.
pub const SERVE: &str = "echo \"$NAME\" >/www/name; httpd -p 8081 -h /www; exec httpd -f -p 8080 -h /www";

/// A running container.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name.
    pub name: String,
    addresses: Vec<IpAddr>,
}

/// What became of requests over each address of the victim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Every one was answered, and the victim's TCP saw them.
    Answered,
    /// None was answered, and nothing of them reached the victim's TCP.
    Silence,
}

impl Container {
    /// `podman run -d --name NAME OPTIONS IMAGE`. `addresses`: those that the options give it.
    pub fn run(host: &Host, name: &str, options: &[&str], addresses: &[&str]) -> Self {
        let named = format!("NAME={name}");
        let head = ["run", "-d", "--name", name, "--env", &named];
        host.podman(&[&head, options, &[IMAGE, "sh", "-c", SERVE]].concat());
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Self { name: name.to_owned(), addresses }
    }

    /// The same, on a network with an address of each family.
    pub fn on(host: &Host, name: &str, network: &str, addresses: [&str; 2], options: &[&str]) -> Self {
        let attached = host.attach(network, addresses);
        let attached: Vec<&str> = attached.iter().map(String::as_str).collect();
        Self::run(host, name, &[&attached, options].concat(), &addresses)
    }

    /// One that runs already, by its name and addresses; it serves what [`SERVE`] does.
    pub fn known(name: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Self { name: name.to_owned(), addresses }
    }

    /// Stops it; it keeps its identity, and gives its addresses back.
    pub fn stop(&self, host: &Host) {
        host.podman(&["stop", "-t", "0", &self.name]);
    }

    /// Starts it again, at whatever addresses `network` has for it then.
    pub fn start(&mut self, host: &Host, network: &str) {
        host.podman(&["start", &self.name]);
        self.addresses = addresses(host, &self.name, network);
    }

    /// The same as [`Self::on`], without a say in the addresses.
    pub fn anywhere_on(host: &Host, name: &str, network: &str, options: &[&str]) -> Self {
        let attached = format!("--network={}", host.network(network));
        let mut container = Self::run(host, name, &[&[attached.as_str()], options].concat(), &[]);
        container.addresses = addresses(host, name, network);
        container
    }

    /// Its id: the same for as long as it is not removed.
    pub fn id(&self, host: &Host) -> String {
        host.podman(&["inspect", "-f", "{{.Id}}", &self.name])
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Removes it.
    pub fn remove(self, host: &Host) {
        host.podman(&["rm", "-f", "-t", "0", &self.name]);
    }

    /// Asks `victim` at `port` over each of its addresses that `from` is able to reach. Fails where the two ends, or the
    /// addresses, tell different stories.
    pub fn ask(&self, host: &Host, victim: &Container, port: u16) -> Outcome {
        self.ask_at(host, victim, port, &victim.addresses)
    }

    /// The same, at these addresses of the victim.
    pub fn ask_at(&self, host: &Host, victim: &Container, port: u16, addresses: &[IpAddr]) -> Outcome {
        let (answered, arrived) = self.request(host, victim, port, addresses, 2);
        if (answered, arrived) == (0, 0) {
            return Outcome::Silence;
        }
        // On a busy machine an answer takes longer. Nothing else may come of a second request: what has arrived has arrived.
        let again =
            if answered == addresses.len() { answered } else { self.request(host, victim, port, addresses, 20).0 };
        assert_eq!(
            again,
            addresses.len(),
            "{} asks {} at {port}: {answered} were answered, then {again}, and {arrived} segments arrived",
            self.name,
            victim.name
        );
        Outcome::Answered
    }

    /// Asks once: how many answers came in so many seconds, and how many segments arrived.
    fn request(&self, host: &Host, victim: &Container, port: u16, addresses: &[IpAddr], seconds: u32) -> (usize, u64) {
        let before = victim.segments(host);
        let asked: Vec<String> = addresses
            .iter()
            .map(|address| {
                let at = if address.is_ipv4() { address.to_string() } else { format!("[{address}]") };
                // busybox's own -T does not work in every build of it.
                format!("timeout {seconds} wget -q -O - http://{at}:{port}/name & ")
            })
            .collect();
        let script = format!("{} wait", asked.concat());
        let answers = host.podman(&["exec", &self.name, "sh", "-c", &script]);
        let arrived = victim.segments(host) - before;
        (answers.lines().filter(|line| *line == victim.name).count(), arrived)
    }

    /// TCP segments that its network namespace has received.
    pub fn segments(&self, host: &Host) -> u64 {
        let pid = host.podman(&["inspect", "-f", "{{.State.Pid}}", &self.name]);
        let table = fs::read_to_string(format!("/proc/{pid}/net/snmp")).unwrap();
        let mut lines = table.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let pairs = names.split(' ').zip(values.split(' '));
        pairs.into_iter().find(|(name, _)| *name == "InSegs").unwrap().1.parse().unwrap()
    }

    /// Waits until it serves, without a packet that enforcement would see.
    pub fn wait_until_it_serves(&self, host: &mut Host) {
        let pid = host.podman(&["inspect", "-f", "{{.State.Pid}}", &self.name]);
        let listening = |port: u16| {
            let table = fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default();
            table.contains(&format!(":{port:04X} 00000000000000000000000000000000:0000 0A"))
        };
        host.until(&format!("{} serves", self.name), |_| listening(PORT) && listening(OTHER_PORT));
    }

    /// Runs `ip` in its network namespace.
    pub fn ip(&self, host: &Host, arguments: &[&str]) {
        let pid = host.podman(&["inspect", "-f", "{{.State.Pid}}", &self.name]);
        let done = Command::new("nsenter").arg(format!("--net=/proc/{pid}/ns/net")).arg("ip").args(arguments).status();
        assert!(done.unwrap().success(), "ip {arguments:?}");
    }
}

/// What the runtime says that a container has on a network, IPv4 first.
fn addresses(host: &Host, name: &str, network: &str) -> Vec<IpAddr> {
    let of = host.network(network);
    let field = |field: &str| {
        let text = host.podman(&[
            "inspect",
            "-f",
            &format!("{{{{(index .NetworkSettings.Networks \"{of}\").{field}}}}}"),
            name,
        ]);
        text.parse().unwrap_or_else(|_| panic!("{name} has no {field} on {of}: {text:?}"))
    };
    vec![field("IPAddress"), field("GlobalIPv6Address")]
}
