//! The configuration, precedence highest first: command line > environment > file > default.
//!
//! Every key is declared once, in `key.rs`. A value that is refused stops the agent at start, with the key, where the value
//! came from, and what was expected. The higher source replaces the whole value, also of a map.

mod budget;
mod draft;
mod export;
mod form;
mod key;
mod load;
mod overhead;
mod proxies;
mod receiver_name;
mod receivers;
mod reference;
mod similar;
mod value;
mod variables;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use budget::{Budget, Detail, HistogramSeries, Pattern};
use draft::Loading;
pub use export::{Compression, Destination, Export, Exporter, FurtherReceiver, Journal, OtlpService, Protocol, Telemetry};
use key::{Check, KEYS, Key, Value};
pub use overhead::{Overhead, OverheadLimit};
pub use proxies::Proxies;
pub use receiver_name::MAIN_RECEIVER;
use similar::similar;
pub use variables::unknown as unknown_variables;

/// The settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this node in every metric.
    pub node_name: String,
    /// Name of the cluster in every metric.
    pub cluster_name: Option<String>,
    /// Time between two exports.
    pub interval: Duration,
    /// Address of the health endpoints, and of /metrics.
    pub listen: SocketAddr,
    /// Logging.
    pub log: Logging,
    /// What is measured.
    pub signals: Signals,
    /// Where pods get their names from.
    pub kubernetes: Kubernetes,
    /// The cgroup tree.
    pub cgroups: Cgroups,
    /// What podmeter may cost.
    pub overhead: Overhead,
    /// Programs and maps in the kernel.
    pub bpf: Bpf,
    /// Where metrics go.
    pub export: Export,
    /// What every metric carries.
    pub resource: Resource,
    /// Which metrics leave, in which detail, and how many series they may be.
    pub budget: Budget,
    /// What podmeter sends of itself.
    pub telemetry: Telemetry,
    /// The environment's proxies.
    pub proxies: Proxies,
}

/// Logging.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// Shape of a line.
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`, checked.
    pub level: String,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// What is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Names of the signals that are not wanted, each once.
    pub off: Vec<&'static str>,
    /// How CPU time is measured.
    pub cpu: Cpu,
    /// Address ranges by scope.
    pub network: Network,
    /// How DNS is measured.
    pub dns: Dns,
    /// How the node is measured.
    pub node: Node,
}

impl Signals {
    /// Notes whether a signal is wanted.
    fn switch(&mut self, name: &'static str, on: bool) {
        self.off.retain(|off| *off != name);
        if !on {
            self.off.push(name);
        }
    }
}

/// How CPU time is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// CPUs that are never interrupted.
    pub undisturbed: Vec<RangeInclusive<u32>>,
}

/// Address ranges by scope. An address belongs to the list with the longest matching prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Network {
    /// Of pods and services.
    pub cluster: Vec<Range>,
    /// Of nodes.
    pub node: Vec<Range>,
    /// Of others that the internet does not route.
    pub private: Vec<Range>,
}

/// A range of addresses: all that share the first `prefix` bits of `address`, in which the other bits are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// The first one.
    pub address: IpAddr,
    /// Bits that all have in common.
    pub prefix: u32,
}

impl Range {
    /// Ranges that all lists together may have.
    pub const MOST: usize = 192;

    /// Ranges that one list may have.
    pub(super) const MOST_OF_ONE: usize = Self::MOST / 3;

    /// Whether an address is in it.
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(first), IpAddr::V4(other)) => (first.to_bits() ^ other.to_bits()).leading_zeros() >= self.prefix,
            (IpAddr::V6(first), IpAddr::V6(other)) => (first.to_bits() ^ other.to_bits()).leading_zeros() >= self.prefix,
            _ => false,
        }
    }

    /// The range of this address alone.
    pub fn of(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Reads `10.0.0.0/8`, `fd00::/8`, or an address alone.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok())?;
        let first = match address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(bits.checked_sub(prefix)?).unwrap_or(0)).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(bits.checked_sub(prefix)?).unwrap_or(0)).into()),
        };
        (first == address).then_some(Self { address, prefix })
    }
}

/// How DNS is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// How long an answer may take.
    pub timeout: Duration,
    /// The ports of DNS: at least one, each once.
    pub ports: Vec<u16>,
    /// Names of each container that are exported: those with the most queries.
    pub top_names: usize,
}

/// How the node itself is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Where the node's root directory is.
    pub root: PathBuf,
    /// Whether each CPU has its own CPU time by mode.
    pub per_cpu: bool,
}

/// Where pods get their names from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// Where pods are read from.
    pub source: KubernetesSource,
    /// How to reach the API; `None`: with the service account.
    pub kubeconfig: Option<PathBuf>,
    /// Keys of pod labels that become attributes.
    pub labels: Vec<String>,
    /// Keys of namespace labels that become attributes.
    pub namespace_labels: Vec<String>,
    /// Whether well-known labels name a pod's service.
    pub service_labels: bool,
    /// URL of the kubelet, without a path.
    pub kubelet_url: String,
    /// PEM file with the certificates that the kubelet's must be signed by; `None`: those the host trusts.
    pub kubelet_ca: Option<PathBuf>,
    /// Whether the kubelet's certificate is checked.
    pub kubelet_verify: bool,
    /// File with the token for the kubelet; `None`: the service account's.
    pub kubelet_token: Option<PathBuf>,
    /// Time between two requests to the kubelet.
    pub kubelet_interval: Duration,
    /// Lists are put off by up to this long.
    pub spread: Duration,
    /// How long a pod's state is exported after its end.
    pub finished_pods: Duration,
}

/// Where pods are read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KubernetesSource {
    /// The API where there is a service account or a kubeconfig; otherwise pods are not followed.
    #[default]
    Auto,
    /// The cluster's API.
    Api,
    /// The kubelet of this node.
    Kubelet,
    /// Nobody.
    Off,
}

/// The cgroup tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// How many cgroups are tracked at first; `None`: as many as the node may hold.
    pub slots: Option<u32>,
    /// How many may be tracked; `None`: as many as at first where that is set, else up to what is reasonable.
    pub max_slots: Option<u32>,
    /// Mount point of the cgroup2 hierarchy; `None`: as in /proc/mounts.
    pub root: Option<PathBuf>,
}

/// Programs and maps in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bpf {
    /// Whether they stay when the agent stops.
    pub pin: bool,
    /// Where they are pinned.
    pub directory: PathBuf,
    /// Programs that are not loaded.
    pub leave_out: Vec<String>,
    /// Whether programs say what they meet.
    pub log: bool,
}

/// What every metric carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// Resource attributes by key.
    pub attributes: BTreeMap<String, String>,
    /// Resource attributes that are not exported.
    pub deny: Vec<Pattern>,
}

/// What the command line sets, as text by key: it wins over every other source.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<(String, String)>);

impl Overrides {
    /// Sets a key, such as `export.timeout`, to what was written. The last one wins. [`Config::load`] checks both.
    pub fn set(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.0.push((key.into(), text.into()));
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// The command line.
    CommandLine,
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::CommandLine => f.write_str("command line"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why the configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No such file, or no permission.
    #[error("could not read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// Not YAML, or not of keys with values.
    #[error("could not parse the configuration file {}, line {line}: {why}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A key that podmeter does not have.
    #[error("unknown setting {key} ({origin}){}", similar(key))]
    Unknown {
        /// The key as written, with its sections.
        key: String,
        /// Who set it.
        origin: Origin,
    },
    /// An environment variable that is nearly one of podmeter's.
    #[error("unknown environment variable {name}; did you mean {meant}?")]
    Variable {
        /// As it is.
        name: String,
        /// As it should be.
        meant: String,
    },
    /// A setting on the command line that sets nothing.
    #[error("--set number {which} has no =; expected KEY=VALUE")]
    NoAssignment {
        /// From 1.
        which: usize,
    },
    /// An invalid value.
    #[error("invalid value of setting {key} ({origin}): {why}")]
    Invalid {
        /// The key.
        key: String,
        /// Who set it.
        origin: Origin,
        /// What was expected.
        why: String,
    },
}

#[cfg(test)]
mod tests;
