//! The API's JSON: the fields that are read, named as there.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::pods::quantity::Quantity;

/// `null` stands for nothing there, as Go's encoder writes it.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// What is no quantity is unknown; the object is not refused for it.
fn if_readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Quantity>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Read {
        Well(Quantity),
        Badly(IgnoredAny),
    }
    Ok(match Read::deserialize(deserializer)? {
        Read::Well(quantity) => Some(quantity),
        Read::Badly(IgnoredAny) => None,
    })
}

#[derive(Deserialize)]
pub(super) struct WirePod {
    pub(super) metadata: WireMetadata,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) spec: WirePodSpec,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) status: WirePodStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireMetadata {
    pub(super) name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) uid: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) namespace: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) creation_timestamp: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) owner_references: Vec<WireOwnerReference>,
}

#[derive(Deserialize)]
pub(super) struct WireOwnerReference {
    #[serde(default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) controller: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WirePodSpec {
    pub(super) priority_class_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) host_network: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) resources: WireResources,
    #[serde(deserialize_with = "or_default")]
    pub(super) overhead: WireAmounts,
    #[serde(deserialize_with = "or_default")]
    pub(super) containers: Vec<WireContainer>,
    #[serde(deserialize_with = "or_default")]
    pub(super) init_containers: Vec<WireContainer>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ephemeral_containers: Vec<WireContainer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireContainer {
    pub(super) name: String,
    pub(super) restart_policy: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) resources: WireResources,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WireResources {
    #[serde(deserialize_with = "or_default")]
    pub(super) requests: WireAmounts,
    #[serde(deserialize_with = "or_default")]
    pub(super) limits: WireAmounts,
}

/// The resources of a status, where an empty list is not the same as none.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WireStatusResources {
    pub(super) requests: Option<WireAmounts>,
    pub(super) limits: Option<WireAmounts>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireAmounts {
    #[serde(deserialize_with = "if_readable")]
    pub(super) cpu: Option<Quantity>,
    #[serde(deserialize_with = "if_readable")]
    pub(super) memory: Option<Quantity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WirePodStatus {
    pub(super) phase: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) start_time: Option<String>,
    pub(super) qos_class: Option<String>,
    /// The state of a resize before 1.33.
    pub(super) resize: Option<String>,
    pub(super) resources: Option<WireStatusResources>,
    pub(super) allocated_resources: Option<WireAmounts>,
    #[serde(rename = "hostIPs", deserialize_with = "or_default")]
    pub(super) host_ips: Vec<WirePodAddress>,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pub(super) pod_ips: Vec<WirePodAddress>,
    #[serde(deserialize_with = "or_default")]
    pub(super) conditions: Vec<WireCondition>,
    #[serde(deserialize_with = "or_default")]
    pub(super) container_statuses: Vec<WireContainerStatus>,
    #[serde(deserialize_with = "or_default")]
    pub(super) init_container_statuses: Vec<WireContainerStatus>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ephemeral_container_statuses: Vec<WireContainerStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WirePodAddress {
    pub(super) ip: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireCondition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub(super) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) reason: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) last_transition_time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireContainerStatus {
    pub(super) name: String,
    #[serde(default, rename = "containerID", deserialize_with = "or_default")]
    pub(super) container_id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ready: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) restart_count: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) state: WireState,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) last_state: WireState,
    pub(super) resources: Option<WireStatusResources>,
    pub(super) allocated_resources: Option<WireAmounts>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WireState {
    pub(super) waiting: Option<WireStateDetail>,
    pub(super) running: Option<WireStateDetail>,
    pub(super) terminated: Option<WireStateDetail>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WireStateDetail {
    pub(super) reason: Option<String>,
    #[serde(rename = "containerID")]
    pub(super) container_id: Option<String>,
    #[serde(rename = "startedAt")]
    pub(super) started_at: Option<String>,
    #[serde(rename = "finishedAt")]
    pub(super) finished_at: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct WireNode {
    pub(super) metadata: WireMetadata,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) spec: WireNodeSpec,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) status: WireNodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WireNodeSpec {
    #[serde(rename = "podCIDRs", deserialize_with = "or_default")]
    pub(super) pod_cidrs: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WireNodeAddress {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) address: String,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireAllocatable {
    #[serde(flatten)]
    pub(super) amounts: WireAmounts,
    #[serde(deserialize_with = "if_readable")]
    pub(super) pods: Option<Quantity>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WireNodeStatus {
    #[serde(deserialize_with = "or_default")]
    pub(super) allocatable: WireAllocatable,
    #[serde(deserialize_with = "or_default")]
    pub(super) addresses: Vec<WireNodeAddress>,
}

#[derive(Deserialize)]
pub(super) struct WireNamespace {
    pub(super) metadata: WireMetadata,
}
