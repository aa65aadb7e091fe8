//! Makes the links, addresses and routes of a lab by netlink, from inside each namespace.

use std::fs;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use netlink_packet_route::link::{InfoData, InfoVeth};
use netlink_packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{Layout, Namespace, UPLINK};

/// What can go wrong while a lab is built.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A namespace could not be made or entered.
    #[error("network namespace {name}: {source}; this needs root (CAP_SYS_ADMIN)")]
    Namespace {
        /// Its name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A setting of the kernel could not be made.
    #[error("cannot write {path}: {source}")]
    Setting {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A netlink request was refused.
    #[error("{action}: {source}")]
    Netlink {
        /// What was asked.
        action: &'static str,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// There is no such device.
    #[error("no device {0}")]
    NoDevice(String),
    /// A device did not come up.
    #[error("device {0} has no usable address after {SETTLES:?}")]
    Unsettled(String),
    /// The runtime for netlink could not be started.
    #[error("netlink: {0}")]
    Runtime(#[from] std::io::Error),
}

/// The kernel makes devices and addresses usable in a work queue, which is behind where the machine has other work.
const SETTLES: Duration = Duration::from_secs(20);

const BRIDGE: &str = "br0";
/// Set, as runtimes set it: a bridge without an address of its own takes the lowest one of its ports, so it changes when a
/// container comes, and the neighbours lose it for some seconds.
const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0x88, 0, 1];
const BRIDGE_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const BRIDGE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 1);
/// Gateway of routed workloads: link-local, the same on every veth.
const ROUTED_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const ROUTED_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const UPLINK_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 64, 0, 1), Ipv4Addr::new(100, 64, 0, 2)];
const UPLINK_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, 2)];

/// Settings that every namespace needs: forwarding, no waiting for duplicate address detection, loopback up.
pub(super) fn prepare(namespace: &Namespace) -> Result<(), LabError> {
    let settings = [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/forwarding", "1"),
    ];
    inside(namespace, async |net| {
        for (path, value) in settings {
            let path = format!("/proc/sys/net/{path}");
            fs::write(&path, value).map_err(|source| LabError::Setting { path, source })?;
        }
        net.up("lo").await
    })
}

/// The bridge of the node with its addresses.
pub(super) fn bridge(node: &Namespace) -> Result<(), LabError> {
    inside(node, async |net| {
        net.handle
            .link()
            .add(LinkBridge::new(BRIDGE).address(BRIDGE_MAC.to_vec()).up().build())
            .execute()
            .await
            .map_err(refused("add the bridge"))?;
        net.address(BRIDGE, BRIDGE_V4.into(), 16).await?;
        net.address(BRIDGE, BRIDGE_V6.into(), 64).await
    })
}

/// The way out: a veth to the outside and default routes on both ends.
pub(super) fn uplink(node: &Namespace, outside: &Namespace) -> Result<(), LabError> {
    veth(node, outside, UPLINK)?;
    inside(node, async |net| {
        net.address(UPLINK, UPLINK_V4[0].into(), 30).await?;
        net.address(UPLINK, UPLINK_V6[0].into(), 126).await?;
        net.default_route(UPLINK, UPLINK_V4[1].into()).await?;
        net.default_route(UPLINK, UPLINK_V6[1].into()).await
    })?;
    inside(outside, async |net| {
        net.address("eth0", UPLINK_V4[1].into(), 30).await?;
        net.address("eth0", UPLINK_V6[1].into(), 126).await?;
        net.default_route("eth0", UPLINK_V4[0].into()).await?;
        net.default_route("eth0", UPLINK_V6[0].into()).await
    })
}

/// A workload's veth with its addresses, connected as the layout says.
pub(super) fn workload(
    layout: Layout,
    node: &Namespace,
    workload: &Namespace,
    host: &str,
    addresses: &[IpAddr],
) -> Result<(), LabError> {
    veth(node, workload, host)?;
    inside(node, async |net| match layout {
        Layout::Bridged => {
            let (index, bridge) = (net.index(host).await?, net.index(BRIDGE).await?);
            let port = LinkMessageBuilder::<LinkUnspec>::new().index(index).controller(bridge).build();
            net.handle.link().set(port).execute().await.map_err(refused("make the veth a port of the bridge"))
        }
        Layout::Routed => {
            net.address(host, ROUTED_V4.into(), 32).await?;
            net.address(host, ROUTED_V6.into(), 64).await?;
            for address in addresses {
                net.host_route(host, *address).await?;
            }
            Ok(())
        }
    })?;
    inside(workload, async |net| {
        for address in addresses {
            let length = match (layout, address) {
                (Layout::Bridged, IpAddr::V4(_)) => 16,
                (Layout::Bridged, IpAddr::V6(_)) => 64,
                (Layout::Routed, IpAddr::V4(_)) => 32,
                (Layout::Routed, IpAddr::V6(_)) => 128,
            };
            net.address("eth0", *address, length).await?;
        }
        if layout == Layout::Routed {
            net.host_route("eth0", ROUTED_V4.into()).await?;
        }
        let (v4, v6) = match layout {
            Layout::Bridged => (BRIDGE_V4, BRIDGE_V6),
            Layout::Routed => (ROUTED_V4, ROUTED_V6),
        };
        if addresses.iter().any(IpAddr::is_ipv4) {
            net.default_route("eth0", v4.into()).await?;
        }
        if addresses.iter().any(IpAddr::is_ipv6) {
            net.default_route("eth0", v6.into()).await?;
        }
        Ok(())
    })
}

/// Adds an address to a device.
pub(super) fn add_address(namespace: &Namespace, device: &str, address: IpAddr, length: u8) -> Result<(), LabError> {
    inside(namespace, async |net| net.address(device, address, length).await)
}

/// A veth from `near` (device `name`) to `far` (device `eth0`), both up.
fn veth(near: &Namespace, far: &Namespace, name: &str) -> Result<(), LabError> {
    let namespace = fs::File::open(far.path())?;
    inside(near, async |net| {
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").setns_by_fd(namespace.as_raw_fd()).build();
        let pair = LinkVeth::new(name, "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).up().build();
        net.handle.link().add(pair).execute().await.map_err(refused("add a veth"))
    })?;
    inside(far, async |net| {
        net.up("eth0").await?;
        settled("eth0").await
    })?;
    inside(near, async |_| settled(name).await)
}

/// Waits until a device is up: before that, the kernel's worker marks further IPv6 addresses as tentative again.
async fn settled(device: &str) -> Result<(), LabError> {
    const LINK_SCOPE: &str = "20";
    usable(device, |_, scope| scope == LINK_SCOPE).await
}

/// Waits until an IPv6 address of a device that `wanted` takes (address, scope) is not tentative and has its route: nobody can
/// bind to it before, and the kernel takes nothing in for it.
async fn usable(device: &str, wanted: impl Fn(&str, &str) -> bool) -> Result<(), LabError> {
    const TENTATIVE: u32 = 0x40;
    /// `RTF_LOCAL` of the kernel's uapi.
    const LOCAL: u32 = 0x8000_0000;
    let without = |flags: &str, bit: u32| u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & bit == 0);
    let end = Instant::now() + SETTLES;
    while Instant::now() < end {
        let (addresses, routes) = (table("if_inet6")?, table("ipv6_route")?);
        let ready = addresses.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
            matches!(fields[..], [address, _, _, scope, flags, name] if name == device
            && wanted(address, scope)
            && without(flags, TENTATIVE)
            && routes.lines().filter(|route| route.starts_with(address)).any(|route| {
                route.split_whitespace().nth(8).is_some_and(|flags| !without(flags, LOCAL))
            }))
        });
        if ready {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(LabError::Unsettled(device.to_owned()))
}

/// What the kernel says of the calling thread's network.
fn table(name: &str) -> Result<String, LabError> {
    let path = format!("/proc/thread-self/net/{name}");
    fs::read_to_string(&path).map_err(|source| LabError::Setting { path, source })
}

fn refused(action: &'static str) -> impl Fn(rtnetlink::Error) -> LabError {
    move |source| LabError::Netlink { action, source }
}

/// Netlink requests from inside a namespace.
struct Net {
    handle: Handle,
}

fn inside<F>(namespace: &Namespace, work: impl FnOnce(Net) -> F + Send) -> Result<(), LabError>
where
    F: Future<Output = Result<(), LabError>>,
{
    namespace.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            work(Net { handle }).await
        })
    })?
}

impl Net {
    async fn index(&self, device: &str) -> Result<u32, LabError> {
        let mut found = self.handle.link().get().match_name(device.to_owned()).execute();
        match found.try_next().await {
            Ok(Some(link)) => Ok(link.header.index),
            Ok(None) | Err(_) => Err(LabError::NoDevice(device.to_owned())),
        }
    }

    async fn up(&self, device: &str) -> Result<(), LabError> {
        let index = self.index(device).await?;
        let up = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
        self.handle.link().set(up).execute().await.map_err(refused("set a device up"))
    }

    async fn address(&self, device: &str, address: IpAddr, length: u8) -> Result<(), LabError> {
        let index = self.index(device).await?;
        self.handle.address().add(index, address, length).execute().await.map_err(refused("add an address"))?;
        match address {
            IpAddr::V4(_) => Ok(()),
            IpAddr::V6(v6) => {
                let digits = format!("{:032x}", u128::from(v6));
                usable(device, |address, _| address == digits).await
            }
        }
    }

    async fn host_route(&self, device: &str, address: IpAddr) -> Result<(), LabError> {
        let index = self.index(device).await?;
        let route = match address {
            IpAddr::V4(v4) => {
                // A gateway must be on the link (kernel: net/ipv4/fib_semantics.c, fib_check_nh_v4_gw).
                RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(v4, 32)
                    .output_interface(index)
                    .scope(RouteScope::Link)
                    .build()
            }
            IpAddr::V6(v6) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).output_interface(index).build()
            }
        };
        self.handle.route().add(route).execute().await.map_err(refused("add a host route"))
    }

    async fn default_route(&self, device: &str, gateway: IpAddr) -> Result<(), LabError> {
        let index = self.index(device).await?;
        let route = match gateway {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(v4).output_interface(index).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(v6).output_interface(index).build(),
        };
        self.handle.route().add(route).execute().await.map_err(refused("add a default route"))
    }
}
