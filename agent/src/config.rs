//! What the agent is told: command line > environment > file > default.
//!
//! Every key is declared once, in `key.rs`. A value that is refused stops the agent at start, with the key, where the value
//! came from, and what was expected. The higher source replaces the whole value, also of a map.

mod key;
mod yaml;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use key::{KEYS, Key, Value};

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
    pub log: Log,
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
}

/// Logging.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    /// Reads `10.0.0.0/8`, `fd00::/8`, or an address alone.
    fn parse(text: &str) -> Option<Self> {
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
    /// Cgroups that can be told apart at one time.
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

/// Where metrics go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// By which way.
    pub exporter: Exporter,
    /// URL of the OTLP receiver: with [`Protocol::HttpProtobuf`] the whole one, with [`Protocol::Grpc`] scheme and authority.
    pub endpoint: String,
    /// The same for events; `None` when no address is known that takes logs.
    pub logs_endpoint: Option<String>,
    /// How OTLP is carried.
    pub protocol: Protocol,
    /// Headers (metadata with gRPC) of every request.
    pub headers: Headers,
    /// Compression of requests.
    pub compression: Compression,
    /// Time one request may take.
    pub timeout: Duration,
    /// PEM file with the certificates that the receiver's must be signed by; `None`: those the host trusts.
    pub certificate: Option<PathBuf>,
    /// PEM file with the agent's own certificate.
    pub client_certificate: Option<PathBuf>,
    /// PEM file with its key. Set if and only if the certificate is.
    pub client_key: Option<PathBuf>,
    /// Batches kept while the receiver is away.
    pub queue: usize,
}

/// By which way metrics leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exporter {
    /// To an OTLP receiver.
    #[default]
    Otlp,
    /// As OTLP JSON to stdout.
    Stdout,
    /// Not at all.
    None,
}

/// How OTLP is carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    #[default]
    Grpc,
    /// Protobuf in HTTP POST.
    HttpProtobuf,
}

/// Compression of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    #[default]
    Gzip,
    /// None.
    None,
}

/// Headers by lower-case name, valid in HTTP. `Debug` shows the names only: values are often secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub BTreeMap<String, String>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
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
    #[error("could not understand the configuration file {}, line {line}: {why}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A key that podmeter does not have.
    #[error("there is no setting {key} ({origin}){}", similar(key))]
    Unknown {
        /// The key as written, with its sections.
        key: String,
        /// Who set it.
        origin: Origin,
    },
    /// A value that cannot be.
    #[error("setting {key} cannot be used ({origin}): {why}")]
    Invalid {
        /// The key.
        key: String,
        /// Who set it.
        origin: Origin,
        /// What was expected.
        why: String,
    },
}

/// What was meant by an unknown key: one with the same last part, or the same section.
fn similar(key: &str) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().replace(['-', '_'], "").to_lowercase();
    let section = |name: &str| name.rsplit_once('.').map(|(section, _)| section.to_owned());
    let same_last: Vec<_> = KEYS.iter().map(|known| known.name).filter(|name| last(name) == last(key)).collect();
    let same_section = || KEYS.iter().map(|known| known.name).filter(|name| section(name) == section(key)).collect::<Vec<_>>();
    let (what, names) = match same_last.is_empty() {
        false => ("did you mean", same_last),
        true => ("there are", same_section()),
    };
    if names.is_empty() { String::new() } else { format!("; {what} {}", names.join(", ")) }
}

/// Where receivers of OTLP/HTTP take metrics, and where logs.
const METRICS_PATH: &str = "/v1/metrics";
const LOGS_PATH: &str = "/v1/logs";

/// A configuration in the making.
struct Loading {
    config: Config,
    endpoint: Option<Endpoint>,
    logs_endpoint: Option<Endpoint>,
}

/// A checked URL whose path waits for the protocol.
enum Endpoint {
    /// Gets the signal's path with HTTP.
    Base(String),
    /// Used as it is.
    Signal(String),
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
        let mut in_file = match file {
            None => yaml::Settings::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                yaml::read(path, &text)?
            }
        };
        if let Some((key, _)) = overrides.0.iter().find(|(key, _)| KEYS.iter().all(|known| known.name != key)) {
            return Err(ConfigError::Unknown { key: key.clone(), origin: Origin::CommandLine });
        }

        let mut loading = Loading { config: Self::blank(), endpoint: None, logs_endpoint: None };
        let mut origins = BTreeMap::new();
        for key in KEYS {
            let on_command_line = || {
                let (_, text) = overrides.0.iter().rfind(|(name, _)| name == key.name)?;
                Some((Value::Text(text.clone()), Origin::CommandLine))
            };
            let default = || Some((Value::Text(key.default?.to_owned()), Origin::Default));
            let highest = on_command_line().or_else(|| in_environment(key, env)).or_else(|| in_file.remove(key.name));
            let Some((value, origin)) = highest.or_else(default) else { continue };
            (key.set)(&mut loading, value).map_err(|why| ConfigError::Invalid {
                key: key.name.to_owned(),
                origin: origin.clone(),
                why,
            })?;
            origins.insert(key.name, origin);
        }
        loading.resolve(&origins)
    }

    /// The file with every default, and every key explained.
    pub fn reference() -> String {
        let mut text = String::from(
            "# Configuration of podmeter. Every value here is the default.\n\
             # What is higher wins: command line, environment, this file, default.\n",
        );
        let mut open = "";
        for key in KEYS {
            let (section, name) = key.name.split_once('.').unwrap_or(("", key.name));
            text.push('\n');
            if section != open {
                let _ = writeln!(text, "{section}:");
                open = section;
            }
            let indent = if section.is_empty() { "" } else { "  " };
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
            log: Log::default(),
            signals: Signals::default(),
            kubernetes: Kubernetes::default(),
            cgroups: Cgroups::default(),
            bpf: Bpf::default(),
            export: Export::default(),
            resource: Resource::default(),
        }
    }
}

impl Loading {
    /// Settles what depends on several keys.
    fn resolve(self, origins: &BTreeMap<&'static str, Origin>) -> Result<Config, ConfigError> {
        let Self { mut config, endpoint, logs_endpoint } = self;
        let invalid = |key: &'static str, why: String| {
            let origin = origins.get(key).cloned().unwrap_or(Origin::Default);
            ConfigError::Invalid { key: key.to_owned(), origin, why }
        };
        if config.node_name.is_empty() {
            config.node_name = nix::unistd::gethostname()
                .map_err(|errno| errno.to_string())
                .and_then(|name| name.into_string().map_err(|_| "it is not UTF-8".to_owned()))
                .map_err(|why| invalid("node_name", format!("could not ask for the host's name: {why}; set node_name")))?;
        }
        let export = &mut config.export;
        match (&export.client_certificate, &export.client_key) {
            (Some(_), None) => return Err(invalid("export.client_certificate", "it needs export.client_key".to_owned())),
            (None, Some(_)) => return Err(invalid("export.client_key", "it needs export.client_certificate".to_owned())),
            _ => {}
        }
        // https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp
        let url = |key, endpoint: Option<Endpoint>, path: &str| match (export.protocol, endpoint) {
            (Protocol::Grpc, None) => Ok("http://localhost:4317".to_owned()),
            (Protocol::HttpProtobuf, None) => Ok(format!("http://localhost:4318{path}")),
            (Protocol::HttpProtobuf, Some(Endpoint::Signal(url))) => Ok(url),
            (Protocol::HttpProtobuf, Some(Endpoint::Base(url))) if url.contains('?') => {
                Err(invalid(key, "a path is appended to it, so it cannot have a query".to_owned()))
            }
            (Protocol::HttpProtobuf, Some(Endpoint::Base(url))) => Ok(format!("{}{path}", url.trim_end_matches('/'))),
            (Protocol::Grpc, Some(Endpoint::Base(url) | Endpoint::Signal(url))) => {
                let url = url.trim_end_matches('/').to_owned();
                let authority = url.split_once("://").map_or("", |(_, rest)| rest);
                if authority.contains(['/', '?']) {
                    let why = "it has a path, and export.protocol grpc uses none: remove it, or set http/protobuf";
                    return Err(invalid(key, why.to_owned()));
                }
                Ok(url)
            }
        };
        let metrics = url("export.endpoint", endpoint, METRICS_PATH)?;
        export.logs_endpoint = match (export.protocol, logs_endpoint) {
            (_, Some(given)) => Some(url("export.logs_endpoint", Some(given), LOGS_PATH)?),
            (Protocol::Grpc, None) => Some(metrics.clone()),
            // Of an address that is not the usual one for metrics, that for logs cannot be told.
            (Protocol::HttpProtobuf, None) => metrics.strip_suffix(METRICS_PATH).map(|base| format!("{base}{LOGS_PATH}")),
        };
        export.endpoint = metrics;
        Ok(config)
    }
}

/// The value of the first of a key's variables that is set.
fn in_environment(key: &Key, env: &dyn Fn(&str) -> Option<String>) -> Option<(Value, Origin)> {
    let read = |name: &str, value: fn(String) -> Value| {
        let text = env(name).filter(|text| !text.trim().is_empty())?;
        Some((value(text.trim().to_owned()), Origin::Variable(name.to_owned())))
    };
    read(&key.variable(), Value::Text).or_else(|| key.aliases.iter().find_map(|(name, value)| read(name, *value)))
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
