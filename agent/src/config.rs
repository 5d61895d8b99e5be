//! The configuration, precedence highest first: command line > environment > file > default.
//!
//! Every key is declared once, in `key.rs`. A value that is refused stops the agent at start, with the key, where the value
//! came from, and what was expected. The higher source replaces the whole value, also of a map.

mod export;
mod key;
mod proxies;
mod similar;
mod value;
mod variables;
mod yaml;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use export::{Compression, Destination, Export, Exporter, Protocol};
use export::{Endpoint, LOGS_PATH, METRICS_PATH};
use key::{Check, KEYS, Key, Value};
pub use proxies::Proxies;
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
    /// Address of the health endpoints.
    pub listen: SocketAddr,
    /// Logging.
    pub log: Logging,
    /// What is measured.
    pub signals: Signals,
    /// Where pods get their names from.
    pub kubernetes: Kubernetes,
    /// The cgroup tree.
    pub cgroups: Cgroups,
    /// Programs and maps in the kernel.
    pub bpf: Bpf,
    /// Where metrics go.
    pub export: Export,
    /// What every metric carries.
    pub resource: Resource,
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
    /// Which addresses are whose.
    pub network: Network,
    /// How DNS is measured.
    pub dns: Dns,
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

/// Which addresses are whose. An address is of the list with the longest prefix that it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Network {
    /// Of pods and services.
    pub cluster: Vec<Range>,
    /// Of nodes.
    pub node: Vec<Range>,
    /// Of others that the internet does not route.
    pub private: Vec<Range>,
}

/// A range of addresses: those whose first `prefix` bits are those of `address`, of which the others are 0.
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
    /// Names of each container that are counted by themselves: those it asked for most.
    pub top_names: usize,
}

/// Where pods get their names from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// Who is asked.
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

/// Who is asked about pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KubernetesSource {
    /// The API where there is a service account or a kubeconfig, else nobody.
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
    /// Maximum number of cgroups tracked.
    pub slots: u32,
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
}

/// What every metric carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// Resource attributes by key.
    pub attributes: BTreeMap<String, String>,
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
        /// What the kernel said.
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

/// A configuration in the making.
struct Loading {
    config: Config,
    endpoint: Option<Endpoint>,
    logs_endpoint: Option<Endpoint>,
    /// How events are sent; in the configuration once it is known where to.
    logs: Destination,
    /// Whether keys of a destination are those of the events'.
    for_logs: bool,
}

impl Config {
    /// Reads the settings: of each key, the value of the highest source that sets it.
    ///
    /// An environment variable that is set but empty counts as not set, as OpenTelemetry has it. Unlike there, one that cannot
    /// be used is an error: better no start than an export to the wrong place.
    ///
    /// # Errors
    /// When the file cannot be read or is no YAML, has an unknown key, or when a value that is used cannot be.
    pub fn load(file: Option<&Path>, env: &dyn Fn(&str) -> Option<String>, overrides: Overrides) -> Result<Self, ConfigError> {
        let in_file = match file {
            None => yaml::Settings::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                yaml::read(path, &text)?
            }
        };
        if let Some((key, _)) = overrides.0.iter().find(|(key, _)| KEYS.iter().all(|known| known.name != key)) {
            // What is no name of a key may be a value, and so a secret.
            let is_name = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            let key = if is_name { key.clone() } else { "(not shown)".to_owned() };
            return Err(ConfigError::Unknown { key, origin: Origin::CommandLine });
        }

        let mut loading =
            Loading { config: Self::blank(), endpoint: None, logs_endpoint: None, logs: Destination::default(), for_logs: false };
        let on_command_line = |key: &Key| {
            let (_, text) = overrides.0.iter().rfind(|(name, _)| name == key.name)?;
            Some((Value::Text(text.clone()), Origin::CommandLine))
        };
        let default = |key: &Key| Some((Value::Text(key.default?.to_owned()), Origin::Default));
        let mut origins = Origins::new();
        for key in KEYS {
            let set = |key: &'static Key, for_metrics| {
                let highest = on_command_line(key).or_else(|| in_environment(key, env, for_metrics));
                let (value, origin) = highest.or_else(|| in_file.get(key.name).cloned())?;
                Some((key, value, origin))
            };
            let general = key.general().and_then(|name| KEYS.iter().find(|key| key.name == name));
            let found = match general {
                None => set(key, true).or_else(|| default(key).map(|(value, origin)| (key, value, origin))),
                Some(general) => set(key, true)
                    .or_else(|| set(general, false))
                    .or_else(|| default(general).map(|(value, origin)| (general, value, origin))),
            };
            let Some((by, value, origin)) = found else { continue };
            loading.for_logs = general.is_some();
            (key.set)(&mut loading, value).map_err(|why| ConfigError::Invalid {
                key: by.name.to_owned(),
                origin: origin.clone(),
                why,
            })?;
            origins.insert(key.name.to_owned(), (by.name, origin));
        }
        loading.config.proxies = Proxies::read(env);
        loading.resolve(&origins)
    }

    /// The file with every default, and every key explained.
    pub fn reference() -> String {
        let mut text = String::from(
            "# Configuration of podmeter. Every value here is the default.\n\
             # Precedence, highest first: command line, environment, this file, default.\n",
        );
        let mut open = Vec::new();
        for key in KEYS {
            let mut sections: Vec<_> = key.name.split('.').collect();
            let name = sections.pop().unwrap_or_default();
            text.push('\n');
            let same = sections.iter().zip(&open).take_while(|(a, b)| a == b).count();
            for (depth, section) in sections.iter().enumerate().skip(same) {
                let _ = writeln!(text, "{:1$}{section}:", "", 2 * depth);
            }
            let indent = " ".repeat(2 * sections.len());
            open = sections;
            let variables: Vec<_> =
                std::iter::once(key.variable()).chain(key.aliases.iter().map(|(name, _)| (*name).to_owned())).collect();
            for line in wrap(key.help).into_iter().chain(wrap(&format!("Environment: {}.", variables.join(", ")))) {
                let _ = writeln!(text, "{indent}# {line}");
            }
            let _ = match key.default {
                Some(default) => writeln!(text, "{indent}{name}: {default}"),
                None => writeln!(text, "{indent}# {name}: {}", key.example),
            };
        }
        text
    }

    /// What every key with a default then overwrites.
    fn blank() -> Self {
        Self {
            node_name: String::new(),
            cluster_name: None,
            interval: Duration::ZERO,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            log: Logging::default(),
            signals: Signals::default(),
            kubernetes: Kubernetes::default(),
            cgroups: Cgroups::default(),
            bpf: Bpf::default(),
            export: Export::default(),
            resource: Resource::default(),
            proxies: Proxies::default(),
        }
    }
}

impl Loading {
    /// What a key of a destination sets.
    fn destination(&mut self) -> &mut Destination {
        if self.for_logs { &mut self.logs } else { &mut self.config.export.metrics }
    }

    /// Settles what depends on several keys.
    fn resolve(self, origins: &Origins) -> Result<Config, ConfigError> {
        let Self { mut config, endpoint, logs_endpoint, mut logs, .. } = self;
        let invalid = |key: &str, why: String| {
            let (key, origin) = origins.get(key).cloned().unwrap_or((key, Origin::Default));
            ConfigError::Invalid { key: key.to_owned(), origin, why }
        };
        if config.node_name.is_empty() {
            config.node_name = nix::unistd::gethostname()
                .map_err(|errno| errno.to_string())
                .and_then(|name| name.into_string().map_err(|_| "it is not UTF-8".to_owned()))
                .map_err(|why| invalid("node_name", format!("could not read the host's name: {why}; set node_name")))?;
        }
        let wrong = |section: &'static str| move |(name, why)| invalid(&format!("{section}.{name}"), why);
        // An address for metrics only is no address for logs, and what is sent with it need not be meant for any other.
        let for_metrics_only = endpoint.is_some() && logs_endpoint.is_none();
        config.export.metrics.proxies = config.proxies.clone();
        logs.proxies = config.proxies.clone();
        config.export.metrics.settle(endpoint, METRICS_PATH).map_err(wrong("export"))?;
        if !for_metrics_only {
            logs.settle(logs_endpoint, LOGS_PATH).map_err(wrong("export.logs"))?;
            config.export.logs = Some(logs);
        }
        Ok(config)
    }
}

/// OpenTelemetry's variables that are for metrics only begin so.
const FOR_METRICS: &str = "OTEL_EXPORTER_OTLP_METRICS_";

/// By key: the key that holds for it, and who set that.
type Origins = BTreeMap<String, (&'static str, Origin)>;

/// The value of the first of a key's variables that is set, without those that are for metrics only unless they are wanted.
fn in_environment(key: &Key, env: &dyn Fn(&str) -> Option<String>, for_metrics: bool) -> Option<(Value, Origin)> {
    let read = |name: &str, value: fn(String) -> Value| {
        let text = env(name).filter(|text| !text.trim().is_empty())?;
        Some((value(text.trim().to_owned()), Origin::Variable(name.to_owned())))
    };
    let mut aliases = key.aliases.iter().filter(|(name, _)| for_metrics || !name.starts_with(FOR_METRICS));
    read(&key.variable(), Value::Text).or_else(|| aliases.find_map(|(name, value)| read(name, *value)))
}

/// Lines of at most 100 bytes, broken between words.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests;
