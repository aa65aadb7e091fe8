//! Parses what people write in inventories and labels: names of workloads, ports and addresses.
//!
//! Input: text. Output: whether the text is a valid name, or the port or address that it stands for.

#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::model::NamedPort;

/// Label of a namespace that always carries its name. Set by us; a policy may rely on it.
pub(super) const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A port as people write it: `8080/tcp`.
pub(super) fn parse_port(text: &str) -> Option<NamedPort> {
    let (port, protocol) = text.split_once('/')?;
    let protocol = match protocol {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        _ => return None,
    };
    // `u16::from_str` takes a leading plus.
    let port: u16 = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten()?;
    (port != 0).then_some(NamedPort { protocol, port })
}

/// What `parse_port` reads.
pub(super) fn port_as_written(port: NamedPort) -> String {
    let protocol = match port.protocol {
        6 => "tcp",
        17 => "udp",
        _ => "sctp",
    };
    format!("{}/{protocol}", port.port)
}

/// A namespace or workload name that stays one word in `shop/web` and in a log line.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether one workload can have the address.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    let unfit = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    !unfit && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}
