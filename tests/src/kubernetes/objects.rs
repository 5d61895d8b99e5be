//! Objects as clusters have them: what kubelet and the API server of Kubernetes 1.28 to 1.36 write, `managedFields` and all.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value as Json, json};

/// A container of a [`Pod`].
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// `containers`, `initContainers` or `ephemeralContainers`.
    pub list: &'static str,
    /// An init container that goes on.
    pub sidecar: bool,
    /// `resources` of the spec.
    pub resources: Json,
    /// `resources` of the status, in those versions that have them.
    pub current: Option<Json>,
    /// Its id, with the runtime before it; empty when it was never started.
    pub id: String,
    /// `state`.
    pub state: Json,
    /// `lastState`.
    pub last_state: Json,
    /// `restartCount`.
    pub restarts: u64,
    /// `ready`.
    pub ready: bool,
}

impl Container {
    /// One that runs and requests nothing. `id` has no runtime before it; without one, it waits to be created.
    pub fn new(name: &str, id: &str) -> Self {
        let (id, state) = match id {
            "" => (String::new(), json!({"waiting": {"reason": "ContainerCreating"}})),
            id => (format!("containerd://{id}"), json!({"running": {"startedAt": "2026-11-25T00:00:09Z"}})),
        };
        Self {
            name: name.to_owned(),
            list: "containers",
            sidecar: false,
            resources: json!({}),
            current: None,
            ready: !id.is_empty(),
            id,
            state,
            last_state: json!({}),
            restarts: 0,
        }
    }

    /// One that runs, with a new id.
    pub fn started(name: &str) -> Self {
        Self::new(name, &container_id())
    }

    /// Its id without the runtime.
    pub fn bare_id(&self) -> &str {
        self.id.strip_prefix("containerd://").unwrap_or(&self.id)
    }

    /// Its state after it has exited with 0.
    pub fn complete(&mut self) {
        self.state = json!({"terminated": {"exitCode": 0, "reason": "Completed", "containerID": self.id}});
    }

    /// With requests and limits: `cpu` and `memory`, as a spec has them.
    pub fn with_resources(self, requests: Json, limits: Json) -> Self {
        Self { resources: json!({"requests": requests, "limits": limits}), ..self }
    }
}

/// A pod. Its fields are what tests vary.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Minor version of the cluster: decides which fields there are.
    pub minor: u32,
    /// `metadata.uid`.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it is bound to.
    pub node: String,
    /// Labels.
    pub labels: Json,
    /// Annotations.
    pub annotations: Json,
    /// Kind and name of its controller.
    pub owner: Option<(String, String)>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// `status.phase`.
    pub phase: &'static str,
    /// `status.qosClass`.
    pub qos: &'static str,
    /// Fields put over those of `metadata`.
    pub metadata: Json,
    /// Fields put over those of `spec`.
    pub spec: Json,
    /// Fields put over those of `status`.
    pub status: Json,
}

/// A UID like those of the API server; different at every call.
pub fn uid() -> String {
    static MADE: AtomicU64 = AtomicU64::new(1);
    let n = MADE.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}-{:04x}-4000-8000-{n:012x}", std::process::id(), n & 0xffff)
}

/// A container's id like those of runtimes; different at every call.
pub fn container_id() -> String {
    static MADE: AtomicU64 = AtomicU64::new(1);
    format!("{:032x}{:032x}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}

impl Pod {
    /// A pod of a Deployment, running, on `node-1`, as 1.34 has it.
    pub fn new(name: &str, containers: Vec<Container>) -> Self {
        Self {
            minor: 34,
            uid: uid(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            node: "node-1".to_owned(),
            labels: json!({"app": "web", "pod-template-hash": "5d8f7c9b4", "team": "blue"}),
            annotations: json!({}),
            owner: Some(("ReplicaSet".to_owned(), "web-5d8f7c9b4".to_owned())),
            containers,
            phase: "Running",
            qos: "Burstable",
            metadata: json!({}),
            spec: json!({}),
            status: json!({}),
        }
    }

    /// Its state after its first container has exited with 0.
    pub fn succeed(&mut self) {
        self.phase = "Succeeded";
        self.containers[0].complete();
    }

    /// The object, without a resource version.
    pub fn json(&self) -> Json {
        let of = |list: &'static str| self.containers.iter().filter(move |container| container.list == list);
        let specs = |list: &'static str| of(list).map(|container| self.container_spec(container)).collect::<Vec<_>>();
        let statuses = |list: &'static str| of(list).map(|container| self.container_status(container)).collect::<Vec<_>>();
        let mut spec = json!({
            "volumes": [{"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}],
            "containers": specs("containers"),
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "serviceAccount": "default", "nodeName": self.node, "securityContext": {},
            "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true,
            "preemptionPolicy": "PreemptLowerPriority",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        });
        let mut status = json!({
            "phase": self.phase,
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-11-25T00:00:07Z"},
                {"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-11-25T00:00:09Z"}],
            "hostIP": "192.0.2.10", "hostIPs": [{"ip": "192.0.2.10"}], "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}],
            "startTime": "2026-11-25T00:00:07Z", "qosClass": self.qos,
            "containerStatuses": statuses("containers"),
        });
        for (list, status_list) in
            [("initContainers", "initContainerStatuses"), ("ephemeralContainers", "ephemeralContainerStatuses")]
        {
            if of(list).next().is_some() {
                spec[list] = specs(list).into();
                status[status_list] = statuses(list).into();
            }
        }
        if self.minor >= 33 {
            status["observedGeneration"] = json!(1);
        }
        merge(&mut spec, &self.spec);
        merge(&mut status, &self.status);
        let mut metadata = json!({
            "name": self.name, "namespace": self.namespace, "uid": self.uid, "creationTimestamp": "2026-11-25T00:00:07Z",
            "generation": 1, "labels": self.labels, "annotations": self.annotations,
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                "time": "2026-11-25T00:00:07Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:ownerReferences": {".": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {".": {}, "f:image": {}, "f:resources": {}}}}}}],
        });
        if let Some((kind, name)) = &self.owner {
            metadata["ownerReferences"] = json!([{
                "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1b2c3d4e-0000-4000-8000-000000000001",
                "controller": true, "blockOwnerDeletion": true}]);
        }
        merge(&mut metadata, &self.metadata);
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": status})
    }

    fn container_spec(&self, container: &Container) -> Json {
        let mut spec = json!({
            "name": container.name, "image": "registry.example/app:1.2.3", "resources": container.resources,
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent",
            "volumeMounts": [{"name": "kube-api-access-x7k2p", "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        });
        if container.sidecar {
            spec["restartPolicy"] = json!("Always");
        }
        spec
    }

    fn container_status(&self, container: &Container) -> Json {
        let mut status = json!({
            "name": container.name, "state": container.state, "lastState": container.last_state, "ready": container.ready,
            "restartCount": container.restarts, "image": "registry.example/app:1.2.3",
            "imageID": "registry.example/app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "started": container.ready,
        });
        if !container.id.is_empty() {
            status["containerID"] = json!(container.id);
        }
        // The gate of in-place resize is on by default since 1.33.
        if let (Some(current), true) = (&container.current, self.minor >= 33) {
            status["resources"] = current.clone();
            status["allocatedResources"] = current["requests"].clone();
        }
        if self.minor >= 31 {
            status["volumeMounts"] = json!([{"name": "kube-api-access-x7k2p", "readOnly": true, "recursiveReadOnly": "Disabled",
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
        }
        status
    }
}

/// A node with these allocatable resources.
pub fn node(name: &str, cpu: &str, memory: &str) -> Json {
    json!({"kind": "Node", "apiVersion": "v1",
        "metadata": {"name": name, "uid": format!("node-{name}"), "labels": {"kubernetes.io/hostname": name}, "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]},
        "status": {"capacity": {"cpu": "4", "memory": "16384256Ki", "pods": "110"},
            "allocatable": {"cpu": cpu, "memory": memory, "pods": "110", "ephemeral-storage": "94992122100"},
            "conditions": [{"type": "Ready", "status": "True"}],
            "images": [{"names": ["registry.example/app:1.2.3"], "sizeBytes": 123_456_789}]}})
}

/// A namespace with these labels.
pub fn namespace(name: &str, labels: Json) -> Json {
    json!({"kind": "Namespace", "apiVersion": "v1",
        "metadata": {"name": name, "uid": format!("namespace-{name}"), "labels": labels, "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
}

fn merge(base: &mut Json, over: &Json) {
    if let (Json::Object(base), Json::Object(over)) = (base, over) {
        base.extend(over.clone());
    }
}
