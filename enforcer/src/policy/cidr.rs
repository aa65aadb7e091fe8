//! Parses address ranges (CIDRs).
//!
//! Input: text. Output: a network with its host bits cleared, and whether there were any. This parser is stricter than most: it
//! refuses a text that two readers could take for different networks (leading zeros, a mapped IPv4 address).

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// A parsed CIDR.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Cidr {
    /// The network, host bits zero.
    pub(super) network: IpNetwork,
    /// The text had host bits.
    pub(super) had_host_bits: bool,
}

/// Why a text is not a CIDR.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum InvalidCidr {
    /// An address alone.
    NoPrefix(IpAddr),
    /// An IPv4 address written as IPv6.
    Mapped,
    /// Anything else.
    Syntax,
}

/// Reads `ADDRESS/LENGTH`.
pub(super) fn parse(text: &str) -> Result<Cidr, InvalidCidr> {
    let Some((address, length)) = text.split_once('/') else {
        return Err(text.parse().map_or(InvalidCidr::Syntax, InvalidCidr::NoPrefix));
    };
    let address: IpAddr = address.parse().map_err(|_| InvalidCidr::Syntax)?;
    let plain = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (length.len() > 1 && length.starts_with('0')) {
        return Err(InvalidCidr::Syntax);
    }
    let length: u8 = length.parse().map_err(|_| InvalidCidr::Syntax)?;
    let written = IpNetwork::new(address, length).map_err(|_| InvalidCidr::Syntax)?;
    let network = IpNetwork::new(written.network(), length).map_err(|_| InvalidCidr::Syntax)?;
    if let IpAddr::V6(base) = network.network()
        && length >= 96
        && base.to_ipv4_mapped().is_some()
    {
        return Err(InvalidCidr::Mapped);
    }
    Ok(Cidr { network, had_host_bits: network.ip() != written.ip() })
}

/// Whether `inner` is a part of `outer`, of the same family, and not all of it (N14).
pub(super) fn is_strict_subset(inner: IpNetwork, outer: IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && inner.prefix() > outer.prefix() && outer.contains(inner.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> IpNetwork {
        parse(text).unwrap().network
    }

    #[test]
    fn n17_host_bits_are_cleared_and_reported() {
        for (text, masked) in [("10.1.2.3/8", "10.0.0.0/8"), ("10.20.1.1/4", "0.0.0.0/4"), ("fd00::1/64", "fd00::/64")]
        {
            let cidr = parse(text).unwrap();
            assert_eq!((cidr.network.to_string().as_str(), cidr.had_host_bits), (masked, true));
        }
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "10.1.2.3/32", "fd00::1/128"] {
            let cidr = parse(text).unwrap();
            assert_eq!((cidr.network.to_string().as_str(), cidr.had_host_bits), (text, false));
        }
    }

    #[test]
    fn ambiguous_texts_are_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/255.0.0.0",
            "010.0.0.0/8",
            "10.0.0/8",
            "10.0.0.0/8 ",
            "fe80::1%eth0/64",
            "10.0.0.0/8/8",
            "fd00::/1024",
        ] {
            assert_eq!(parse(text), Err(InvalidCidr::Syntax), "{text}");
        }
        assert!(matches!(parse("10.0.0.1"), Err(InvalidCidr::NoPrefix(_))));
        assert_eq!(parse("::ffff:10.0.0.0/104"), Err(InvalidCidr::Mapped));
    }

    #[test]
    fn n14_except_is_a_strict_subset_of_one_family() {
        let ten = network("10.0.0.0/8");
        assert!(is_strict_subset(network("10.1.0.0/16"), ten));
        for outside in ["10.0.0.0/8", "11.0.0.0/16", "0.0.0.0/0", "::/64", "a00::/16"] {
            assert!(!is_strict_subset(network(outside), ten), "{outside}");
        }
        assert!(!is_strict_subset(network("10.0.0.0/8"), network("::/0")));
    }
}
