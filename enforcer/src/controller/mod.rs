//! Tells the authors of policies what the agents say of them.
//!
//! Input: `FlowPolicies` and `EnforcerNodes`, as the API has them. Output: the `status` of each FlowPolicy, and Events on policies and
//! pods for which something does not work. Of several controllers one writes, by a Lease. No agent reads what is written here, so a controller that is wrong, dead or missing
//! changes no enforcement.

#![forbid(unsafe_code)]

mod events;
mod fold;
mod told;
mod writer;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};

use self::told::{Node, Policy};
use self::writer::{PACE, Views, write};
use crate::kubernetes::{Cluster, GROUP, Kind, Lease, VERSION, Which};
use crate::policy::schema;
use crate::publish;

/// The Lease by which one controller leads.
pub const LEASE: &str = "enforcer-controller";

/// Runs until it is dropped. `lease` can be given up afterwards.
pub async fn run(cluster: &Cluster, lease: &mut Lease) {
    let views = Views {
        policies: cluster.follow::<DynamicObject, Policy>(&resource(&schema::KIND), &Which::all(), Policy::of),
        nodes: cluster
            .follow::<DynamicObject, Node>(&resource(&publish::KIND), &Which::all(), |object| Some(Node::of(&object))),
    };
    loop {
        tracing::info!("waiting for the Lease of the controllers");
        let since = lease.win().await;
        tracing::info!("this controller leads, and writes the status of FlowPolicies");
        tokio::select! {
            () = lease.keep(since) => {
                tracing::warn!("this controller could not renew its Lease in time, or another one has it; it waits for the Lease again");
            }
            () = write(cluster, views.clone(), PACE) => {}
            () = events::tell(cluster, views.clone(), events::PACE) => {}
        }
    }
}

fn resource(kind: &Kind) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind.name), kind.plural)
}
