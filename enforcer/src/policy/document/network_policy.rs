//! Shapes of a `networking.k8s.io/v1` NetworkPolicy.

use serde::Deserialize;

use super::port::PortValueDoc;
use super::selector::LabelSelectorDoc;
use crate::policy::position::{At, Field, given};

/// `spec`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct SpecDoc {
    #[serde(default)]
    pub(in crate::policy) pod_selector: Field<LabelSelectorDoc>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) policy_types: Option<At<Vec<At<String>>>>,
    #[serde(default)]
    pub(in crate::policy) ingress: Field<Vec<At<IngressRuleDoc>>>,
    #[serde(default)]
    pub(in crate::policy) egress: Field<Vec<At<EgressRuleDoc>>>,
}

/// An item of `ingress`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct IngressRuleDoc {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) from: Option<At<Vec<At<PeerDoc>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) ports: Option<At<Vec<At<PortDoc>>>>,
}

/// An item of `egress`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct EgressRuleDoc {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) to: Option<At<Vec<At<PeerDoc>>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) ports: Option<At<Vec<At<PortDoc>>>>,
}

/// An item of `from` or `to`. The boxes keep the lists of a hostile file small.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct PeerDoc {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) pod_selector: Option<Box<At<LabelSelectorDoc>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) namespace_selector: Option<Box<At<LabelSelectorDoc>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) ip_block: Option<Box<At<IpBlockDoc>>>,
}

/// `ipBlock`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct IpBlockDoc {
    pub(in crate::policy) cidr: At<String>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) except: Option<At<Vec<At<String>>>>,
}

/// An item of `ports`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::policy) struct PortDoc {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) protocol: Option<At<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) port: Option<At<PortValueDoc>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::policy) end_port: Option<At<PortValueDoc>>,
}
