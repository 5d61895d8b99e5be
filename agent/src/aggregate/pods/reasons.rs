//! The reasons of containers that are exported as they are (pure).

/// Reasons that kubelet and the container runtimes give. Others may hold anything: the number of series would have no bound.
const REASONS: [&str; 28] = [
    // Of a container that waits: kubelet's own (pkg/kubelet/kubelet_pods.go, pkg/kubelet/container/sync_result.go).
    "CrashLoopBackOff",
    "ContainerCreating",
    "PodInitializing",
    "RestartingAllContainers",
    // Its image (pkg/kubelet/images/types.go, k8s.io/cri-api/pkg/errors).
    "ErrImagePull",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "ImageInspectError",
    "ImageVolumeMountFailed",
    "InvalidImageName",
    "RegistryUnavailable",
    "SignatureValidationFailed",
    "RROUnsupported",
    // Its start (pkg/kubelet/kuberuntime/kuberuntime_container.go).
    "CreateContainerConfigError",
    "CreateContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "PostStartHookError",
    "RunContainerError",
    // Of one that has ended: kubelet, where the runtime does not know it any more.
    "ContainerStatusUnknown",
    "DeadlineExceeded",
    // containerd, CRI-O and cri-dockerd; containerd gives "Unknown" for one whose task was gone when containerd was started again.
    "Completed",
    "Error",
    "OOMKilled",
    "StartError",
    "Unknown",
    "ContainerCannotRun",
    "seccomp killed",
];

/// Reasons of pods: kubelet's (pkg/kubelet, lifecycle, eviction, nodeshutdown, preemption), the node's and the Job's controllers'.
const OF_PODS: [&str; 15] = [
    "Evicted",
    "Preempting",
    "Terminated",
    "Shutdown",
    "NodeShutdown",
    "NodeLost",
    "NodeAffinity",
    "NodePorts",
    "OutOfcpu",
    "OutOfmemory",
    "OutOfpods",
    "OutOfephemeral-storage",
    "Unknown",
    "UnexpectedAdmissionError",
    "DeadlineExceeded",
];

/// A pod's reason as it is if it is one of those, else "Other".
pub fn known_or_other_of_pod(reason: &str) -> &'static str {
    among(&OF_PODS, reason)
}

/// The reason as it is if it is one of those, else "Other".
pub fn known_or_other(reason: &str) -> &'static str {
    among(&REASONS, reason)
}

fn among(all: &[&'static str], reason: &str) -> &'static str {
    all.iter().find(|known| **known == reason).unwrap_or(&"Other")
}
