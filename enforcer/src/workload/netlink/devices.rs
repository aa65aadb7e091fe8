//! Tells which devices inside a workload's namespace end at one of our hooks, and which do not.
//!
//! Input: what netlink says of a device. Output: whether its packets pass a program of the workload. What is not known to do
//! so does not.

#![forbid(unsafe_code)]

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

/// Where the packets of a device inside a workload go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Leads {
    /// To one of our hooks, to another device of the same namespace, or nowhere.
    Home,
    /// Over a device of the node, past the hooks of the workload's veths.
    OverNode,
    /// To a namespace that is neither the node's nor its own, with its nsid.
    Far(i32),
    /// Elsewhere.
    Away,
}

/// `home`: how the kernel calls the node's namespace there; `None`: nobody knows.
pub(super) fn leads(message: &LinkMessage, home: Option<i32>) -> Leads {
    let (kind, far) = (kind(message), netns_of(message));
    if kind == Some(&InfoKind::Veth) {
        return match far {
            // Both ends here.
            None => Leads::Home,
            Some(far) if home.is_none_or(|home| home == far) => Leads::Home,
            Some(far) => Leads::Far(far),
        };
    }
    if far.is_some() && far == home {
        return Leads::OverNode;
    }
    let stays = match kind {
        // A physical device, unless it is the loopback.
        None => message.header.flags.contains(LinkFlags::Loopback),
        // What is sent to the first three is dropped, and the ports of the others are devices of the same namespace.
        Some(
            InfoKind::Dummy
            | InfoKind::Ifb
            | InfoKind::Nlmon
            | InfoKind::Bridge
            | InfoKind::Bond
            | InfoKind::Team
            | InfoKind::Vrf,
        ) => true,
        // So is the device that they lie on, unless the kernel names another namespace.
        Some(
            InfoKind::Vlan
            | InfoKind::MacVlan
            | InfoKind::MacVtap
            | InfoKind::IpVlan
            | InfoKind::IpVtap
            | InfoKind::MacSec,
        ) => far.is_none(),
        Some(_) => false,
    };
    // What is down passes nothing; the kernel makes such tunnels in every namespace.
    if stays || !is_up(message) { Leads::Home } else { Leads::Away }
}

/// What kind of device it is, for people.
pub(super) fn kind_name(message: &LinkMessage) -> String {
    kind(message).map_or_else(|| "physical".to_owned(), ToString::to_string)
}

/// The namespace of the lower device or of the far end, if it is another one.
pub(super) fn netns_of(message: &LinkMessage) -> Option<i32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkNetNsId(id) if *id >= 0 => Some(*id),
        _ => None,
    })
}

pub(super) fn is_up(message: &LinkMessage) -> bool {
    message.header.flags.contains(LinkFlags::Up)
}

fn kind(message: &LinkMessage) -> Option<&InfoKind> {
    let infos = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: i32 = 3;
    const OTHER: i32 = 4;

    fn device(kind: Option<InfoKind>, far: Option<i32>, up: bool) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        message.attributes.extend(far.map(LinkAttribute::LinkNetNsId));
        message
    }

    #[test]
    fn only_what_is_known_to_end_at_a_hook_does() {
        use InfoKind as Is;
        let of = |kind: Option<Is>, far, up| leads(&device(kind, far, up), Some(HOME));
        for (kind, far, expected) in [
            (Some(Is::Veth), Some(HOME), Leads::Home),
            (Some(Is::Veth), None, Leads::Home),
            (Some(Is::Veth), Some(OTHER), Leads::Far(OTHER)),
            (Some(Is::MacVlan), None, Leads::Home),
            (Some(Is::MacVlan), Some(HOME), Leads::OverNode),
            (Some(Is::MacVlan), Some(OTHER), Leads::Away),
            (Some(Is::IpVlan), Some(HOME), Leads::OverNode),
            (Some(Is::Vlan), Some(OTHER), Leads::Away),
            (Some(Is::Netkit), Some(HOME), Leads::OverNode),
            (Some(Is::Bridge), None, Leads::Home),
            (Some(Is::Dummy), None, Leads::Home),
            (Some(Is::Tun), None, Leads::Away),
            (Some(Is::Wireguard), None, Leads::Away),
            (Some(Is::Vxlan), None, Leads::Away),
            (Some(Is::Vxlan), Some(HOME), Leads::OverNode),
            (Some(Is::IpIp), None, Leads::Away),
            (Some(Is::Other("new".to_owned())), None, Leads::Away),
            (None, None, Leads::Away),
        ] {
            assert_eq!(of(kind.clone(), far, true), expected, "{kind:?} {far:?}");
        }
        // The fallback devices of the kernel's tunnels are there, and down.
        assert_eq!(of(Some(Is::SitTun), None, false), Leads::Home);
        assert_eq!(of(Some(Is::MacVlan), Some(HOME), false), Leads::OverNode, "it may come up at any moment");
        let mut loopback = device(None, None, true);
        loopback.header.flags |= LinkFlags::Loopback;
        assert_eq!(leads(&loopback, Some(HOME)), Leads::Home);
        assert_eq!(leads(&device(Some(Is::Veth), Some(HOME), true), None), Leads::Home);
    }
}
