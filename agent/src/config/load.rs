//! Command line, environment and file -> the configuration: of each key, the value of the highest source that sets it.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use super::{
    Bpf, Budget, Cgroups, Config, ConfigError, Destination, Export, Exporter, KEYS, Kubernetes, Logging, Origin, OtlpService,
    Overhead, Overrides, Proxies, Resource, Signals, Telemetry,
    draft::{Loading, Sent},
    key::{Key, Value},
    receiver_name, receivers, yaml,
};

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
            if receiver_name::parts(&key).is_some() {
                let why = receiver_name::IN_FILE_ONLY.to_owned();
                return Err(ConfigError::Invalid { key, origin: Origin::CommandLine, why });
            }
            return Err(ConfigError::Unknown { key, origin: Origin::CommandLine });
        }

        let mut loading = Loading::new(Self::blank());
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
            loading.service = key.service();
            (key.set)(&mut loading, value).map_err(|why| ConfigError::Invalid {
                key: by.name.to_owned(),
                origin: origin.clone(),
                why,
            })?;
            origins.insert(key.name.to_owned(), (by.name, origin));
        }
        loading.config.proxies = Proxies::read(env);
        loading.config.export.also = receivers::further(&in_file, &loading.config.proxies)?;
        loading.resolve(&origins)
    }

    /// What every key with a default then overwrites.
    pub(super) fn blank() -> Self {
        Self {
            node_name: String::new(),
            cluster_name: None,
            interval: Duration::ZERO,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            log: Logging::default(),
            signals: Signals::default(),
            kubernetes: Kubernetes::default(),
            cgroups: Cgroups::default(),
            overhead: Overhead::default(),
            bpf: Bpf::default(),
            export: Export::default(),
            resource: Resource::default(),
            budget: Budget::default(),
            telemetry: Telemetry::default(),
            proxies: Proxies::default(),
        }
    }
}

impl Loading {
    /// Settles what depends on several keys.
    fn resolve(self, origins: &Origins) -> Result<Config, ConfigError> {
        let Self { mut config, metrics, logs, traces, telemetry, .. } = self;
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
        let proxies = config.proxies.clone();
        let settle = |sent: Sent, service: OtlpService, section: &str| {
            let mut destination = Destination { proxies: proxies.clone(), ..sent.destination };
            let settled = destination.settle(sent.endpoint, service.path());
            settled.map(|()| destination).map_err(|(name, why)| invalid(&format!("{section}.{name}"), why))
        };
        // An address for metrics only is no address for others, and what is sent with it need not be meant for any other.
        let for_metrics_only = metrics.endpoint.is_some();
        let logs_too = !for_metrics_only || logs.endpoint.is_some();
        let to_receiver = config.export.exporter == Exporter::Otlp;
        // Metrics that go to no receiver say nothing of where to find one.
        let check = |key: &str, sent: &Sent, endpoint: &str| match (to_receiver, sent.endpoint.is_some()) {
            (_, true) => Ok(()),
            (true, false) if !for_metrics_only => Ok(()),
            (true, false) => Err(invalid(key, format!("there is an address for metrics only: set {endpoint}"))),
            (false, false) => {
                Err(invalid(key, format!("it goes to an OTLP receiver, and export.exporter is not otlp: set {endpoint}")))
            }
        };
        if telemetry.logs {
            check("telemetry.logs", &logs, "export.logs.endpoint")?;
        }
        if telemetry.traces {
            check("telemetry.traces", &traces, "export.traces.endpoint")?;
        }
        config.export.metrics = settle(metrics, OtlpService::Metrics, "export")?;
        if logs_too {
            config.export.logs = Some(settle(logs, OtlpService::Logs, "export.logs")?);
        }
        if telemetry.logs {
            config.telemetry.logs.clone_from(&config.export.logs);
        }
        if telemetry.traces {
            config.telemetry.traces = Some(settle(traces, OtlpService::Traces, "export.traces")?);
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
