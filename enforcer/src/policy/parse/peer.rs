//! Parses address ranges and numbered ports, which both kinds of policy have.

use ipnetwork::IpNetwork;

use super::super::caution::Caution;
use super::super::cidr::{self, InvalidCidr};
use super::super::error::Problem;
use super::super::model::{Peer, PolicyKind};
use super::super::position::{At, Position};
use super::super::yaml::shown;
use super::context::Context;

/// An address range and what it leaves out (N14). An empty `except` leaves nothing out.
pub(super) fn cidr(
    context: &mut Context<'_>,
    kind: PolicyKind,
    range: &At<String>,
    except: Option<At<Vec<At<String>>>>,
) -> Option<Peer> {
    let cidr = network(context, kind, range);
    let except = except.map_or_else(Vec::new, |except| except.value);
    let mut legal = Vec::with_capacity(except.len());
    let count = except.len();
    for text in except {
        let Some(inner) = network(context, kind, &text) else {
            continue;
        };
        match cidr {
            Some(cidr) if cidr::is_strict_subset(inner, cidr) => legal.push(inner),
            Some(cidr) => context.error(text.at, Problem::Except { except: inner, cidr }),
            None => {}
        }
    }
    (legal.len() == count).then_some(Peer::Cidr { cidr: cidr?, except: legal })
}

fn network(context: &mut Context<'_>, kind: PolicyKind, text: &At<String>) -> Option<IpNetwork> {
    let At { value, at } = text;
    match cidr::parse(value) {
        Ok(cidr::Cidr { network, had_host_bits: false }) => Some(network),
        Ok(cidr::Cidr { network, had_host_bits: true }) => match kind {
            // Kubernetes stores such objects, and every reader of them masks (N17).
            PolicyKind::NetworkPolicy => {
                context.warn(*at, Caution::HostBits { text: shown(value), network });
                Some(network)
            }
            PolicyKind::FlowPolicy => context.refuse(*at, Problem::HostBits { text: shown(value), network }),
        },
        Err(invalid) => {
            let meant = match invalid {
                InvalidCidr::NoPrefix(address) => {
                    Some(format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
                }
                InvalidCidr::Mapped => mapped_as_v4(value),
                InvalidCidr::Syntax => None,
            };
            context.refuse(*at, Problem::Cidr { text: shown(value), meant })
        }
    }
}

/// `::ffff:10.0.0.0/104` as `10.0.0.0/8`.
fn mapped_as_v4(text: &str) -> Option<String> {
    let (address, length) = text.split_once('/')?;
    let address = address.parse::<std::net::Ipv6Addr>().ok()?.to_ipv4_mapped()?;
    let length = length.parse::<u8>().ok()?.checked_sub(96)?;
    Some(format!("{address}/{length}"))
}

/// A port number from 1 to 65535.
pub(super) fn port_number(context: &mut Context<'_>, at: Position, number: i64) -> Option<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        _ => context.refuse(at, Problem::PortRange { number }),
    }
}
