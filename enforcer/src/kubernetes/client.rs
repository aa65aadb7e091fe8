//! The client of the API.
//!
//! Input: [`Config`]. Output: [`Cluster`], which connects at its first request. An API server that is away is no error
//! here: the daemon goes on from what it has kept.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::follow::Follower;
use super::view::{View, Which};

/// Where the API server is, and which node this is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The kubeconfig file. Without it: the files of the variable `KUBECONFIG`, and without that the account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// The name of this node among the nodes of the cluster.
    pub node: String,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig is missing, or not one.
    #[error("cannot read the kubeconfig: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// Neither a kubeconfig nor a pod.
    #[error(
        "cannot find the Kubernetes API: {0}; give --kubeconfig or set KUBECONFIG, or run in a pod with a service account"
    )]
    InCluster(#[from] InClusterError),
    /// The certificates or the address cannot be used.
    #[error("cannot make a client of the Kubernetes API: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// A client of the API. Clones share it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    node: Arc<str>,
    server: Arc<str>,
}

impl Cluster {
    /// Makes a client, in a tokio runtime. Nothing is sent yet.
    pub async fn open(config: &Config) -> Result<Self, ConnectError> {
        let kubeconfig = match &config.kubeconfig {
            Some(path) => Some(Kubeconfig::read_from(path)?),
            None => Kubeconfig::from_env()?,
        };
        let found = match kubeconfig {
            Some(kubeconfig) => kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?,
            None => kube::Config::incluster()?,
        };
        let server = found.cluster_url.to_string();
        let client = Client::try_from(found).map_err(|error| ConnectError::Client(Box::new(error)))?;
        Ok(Self { client, node: config.node.as_str().into(), server: server.trim_end_matches('/').into() })
    }

    /// The name of this node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The address of the API server, for people.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The client itself, for what writes.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Follows objects of a kind for as long as somebody listens. `trim` says what is kept of an object; `None`: nothing,
    /// as if it were not there.
    pub fn follow<K, T>(
        &self,
        kind: &K::DynamicType,
        which: &Which,
        trim: impl Fn(K) -> Option<T> + Send + Sync + 'static,
    ) -> watch::Receiver<View<T>>
    where
        K: Resource + Clone + fmt::Debug + DeserializeOwned + Send + 'static,
        T: PartialEq + Send + Sync + 'static,
    {
        let (to, view) = watch::channel(View::default());
        let api = Api::<K>::all_with(self.client.clone(), kind);
        let name = format!("{} ({})", K::kind(kind), K::api_version(kind));
        let to = Arc::new(to);
        let follower = Follower::new(api, which, name, trim, Arc::clone(&to));
        tokio::spawn(async move {
            tokio::select! {
                () = follower.run() => {}
                () = to.closed() => {}
            }
        });
        view
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server).field("node", &self.node).finish_non_exhaustive()
    }
}
