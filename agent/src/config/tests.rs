mod environment;
mod receivers;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::export::Headers;
use super::*;

/// Loads with a file of this text, these variables, and these overrides.
fn load(file: &str, env: &[(&str, &str)], overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("podmeter.yaml");
    std::fs::write(&path, file).expect("a file");
    let env: HashMap<_, _> = env.iter().copied().collect();
    let mut set = Overrides::default();
    for (key, text) in overrides {
        set.set(*key, *text);
    }
    Config::load(Some(&path), &|name| env.get(name).map(|text| (*text).to_owned()), set)
}

fn from_file(file: &str) -> Result<Config, ConfigError> {
    load(file, &[], &[])
}

fn from_env(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load("", env, &[])
}

fn defaults() -> Config {
    Config::load(None, &|_| None, Overrides::default()).expect("defaults")
}

/// The message without the temporary directory.
fn message(result: Result<Config, ConfigError>) -> String {
    let text = result.expect_err("an error").to_string();
    match (text.find("/"), text.find("podmeter.yaml")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &text[..from], &text[to..]),
        _ => text,
    }
}

#[test]
fn the_defaults() {
    let config = defaults();
    assert_eq!(config.node_name, nix::unistd::gethostname().expect("a name").to_string_lossy());
    let destination = Destination {
        endpoint: "http://localhost:4317".to_owned(),
        protocol: Protocol::Grpc,
        compression: Compression::Gzip,
        timeout: Duration::from_secs(10),
        ..Destination::default()
    };
    let expected = Config {
        node_name: config.node_name.clone(),
        cluster_name: None,
        interval: Duration::from_secs(15),
        listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
        log: Logging { format: LogFormat::Text, level: "info".to_owned() },
        signals: Signals {
            off: vec![],
            cpu: Cpu::default(),
            network: Network { cluster: vec![], node: vec![], private: config.signals.network.private.clone() },
            dns: Dns { timeout: Duration::from_secs(5), ports: vec![53], top_names: 0 },
            node: Node { root: "/".into(), per_cpu: false },
        },
        kubernetes: Kubernetes {
            source: KubernetesSource::Auto,
            kubelet_url: "https://127.0.0.1:10250".to_owned(),
            kubelet_verify: true,
            kubelet_interval: Duration::from_secs(10),
            spread: Duration::from_secs(15),
            finished_pods: Duration::from_secs(600),
            ..Kubernetes::default()
        },
        cgroups: Cgroups { slots: None, max_slots: None, root: None },
        overhead: Overhead { cpu: OverheadLimit::Auto, window: Duration::from_secs(60), recovery: Duration::from_secs(600) },
        bpf: Bpf { pin: true, directory: "/sys/fs/bpf/podmeter".into(), leave_out: Vec::new(), log: false },
        export: Export {
            exporter: Exporter::Otlp,
            pull: false,
            delta: false,
            metrics: destination.clone(),
            logs: Some(destination),
            also: Vec::new(),
            queue: 40,
            queue_bytes: 32 << 20,
            request_bytes: 2 << 20,
            attribute_bytes: 256,
            shutdown_timeout: Duration::from_secs(8),
            journal: Journal { directory: None, bytes: 256 << 20, age: Duration::from_secs(7 * 86_400) },
        },
        resource: Resource::default(),
        budget: Budget { series: Some(100_000), namespace_series: Some(50_000), histograms: Detail::Pod, ..Budget::default() },
        telemetry: Telemetry::default(),
        proxies: Proxies::default(),
    };
    assert_eq!(config, expected);
}

#[test]
fn the_reference_is_the_defaults_and_its_examples_are_valid() {
    let reference = Config::reference();
    assert_eq!(from_file(&reference).expect("the reference"), defaults());
    let uncommented: Vec<_> = reference
        .lines()
        .map(|line| {
            let example = KEYS.iter().any(|key| {
                let name = key.name.rsplit('.').next().expect("a name");
                key.default.is_none() && line.trim_start() == format!("# {name}: {}", key.example)
            });
            if example { line.replacen("# ", "", 1) } else { line.to_owned() }
        })
        .collect();
    let config = from_file(&uncommented.join("\n")).expect("the examples");
    assert_eq!(config.node_name, "node-1");
    assert_eq!(config.export.metrics.headers.0["authorization"], "Bearer secret");
    assert_eq!(config.export.metrics.client_key.as_deref(), Some(Path::new("/etc/podmeter/client-key.pem")));
    assert_eq!(config.resource.attributes["deployment.environment.name"], "production");
}

#[test]
fn no_two_keys_share_a_name_or_a_variable() {
    let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
    let own = KEYS.iter().map(Key::variable);
    let variables: BTreeSet<_> =
        own.chain(KEYS.iter().flat_map(|key| key.aliases.iter().map(|(name, _)| (*name).to_owned()))).collect();
    assert_eq!(names.len(), KEYS.len());
    assert_eq!(variables.len(), KEYS.iter().map(|key| 1 + key.aliases.len()).sum::<usize>());
    // A file could not tell a section from a value.
    assert!(names.iter().all(|name| !names.iter().any(|other| other.starts_with(&format!("{name}.")))));
}

fn patterns(text: &str) -> Vec<Pattern> {
    budget::patterns(Value::Text(text.to_owned())).expect("patterns")
}

#[test]
fn a_file_sets_every_key() {
    let config = from_file(
        "node_name: n\ncluster_name: \"null\"\ninterval: 1m 30s\nlisten: '[::]:80'\nlog: {format: json, level: 'warn,podmeter=debug'}\n\
         signals:\n  cpu: false\n\
         kubernetes:\n  source: kubelet\n  kubeconfig: k\n  labels: ' team, app ,team,'\n  namespace_labels: team\n  service_labels: true\n\
         \x20 kubelet_url: https://n:10250/\n  kubelet_ca: a\n  kubelet_verify: false\n  kubelet_token: t\n  kubelet_interval: 1m\n\
         \x20 spread: 0s\n  finished_pods: 1h\n\
         network:\n  cluster_cidrs: 10.2.0.0/16\n  node_cidrs: fd00::/8\n  private_cidrs: ''\n\
         dns:\n  ports: 5353,53\n  timeout: 1s\n  top_names: 3\ncpu:\n  undisturbed: 2-3,5\ncgroups:\n  slots: 65536\n  max_slots: 16\n  root: /cg\n\
          overhead: {cpu: 1.5%, window: 2m, recovery: 1h}\nbpf:\n  pin: false\n  directory: /b\n  log: true\n\
         export:\n  exporter: stdout\n  pull: true\n  endpoint: https://c:1/x\n  protocol: http/protobuf\n  headers:\n    X-Key: 1.10\n\
         \x20 compression: none\n  timeout: 500ms\n  certificate: a\n  client_certificate: b\n  client_key: c\n  queue: 1\n\
         \x20 queue_bytes: 1024KiB\n  request_bytes: 4 MiB\n  attribute_bytes: 1024\n  shutdown_timeout: 1m\n  histograms: buckets\n  temporality: delta\n\
         \x20 headers_file: h\n  token_file: t\n  logs:\n    endpoint: http://l:2/\n    protocol: grpc\n    headers: {X-Logs: z}\n\
         \x20   headers_file: i\n    token_file: j\n    compression: gzip\n    timeout: 2s\n    certificate: k\n    client_certificate: m\n\
         \x20   client_key: n\n\
         journal:\n  directory: /j\n  bytes: 2MiB\n  age: 1h\n\
         resource:\n  attributes:\n    version: 1.10\n    empty: ''\n  deny: container.id\n\
         metrics: {allow: 'a.*, b', deny: '*.c'}\ntelemetry: {traces: false, logs: false}\n\
         budget:\n  series: off\n  namespace_series: 200\n  namespaces: {shop: 300, bank: off}\n  histograms: workload\n\
         \x20 scalars: pod\n  namespace_detail: {kube-system: namespace}\n  signal_detail: {dns: pod}\n",
    )
    .expect("a configuration");
    let destination = |endpoint: &str, certificate: &str| Destination {
        endpoint: endpoint.to_owned(),
        protocol: Protocol::HttpProtobuf,
        headers: Headers(BTreeMap::from([("x-key".to_owned(), "1.10".to_owned())])),
        headers_file: Some("h".into()),
        token_file: Some("t".into()),
        compression: Compression::None,
        timeout: Duration::from_millis(500),
        certificate: Some(certificate.into()),
        client_certificate: Some("b".into()),
        client_key: Some("c".into()),
        proxies: Proxies::default(),
    };
    let expected = Config {
        node_name: "n".to_owned(),
        cluster_name: Some("null".to_owned()),
        interval: Duration::from_secs(90),
        listen: "[::]:80".parse().expect("an address"),
        log: Logging { format: LogFormat::Json, level: "warn,podmeter=debug".to_owned() },
        signals: Signals {
            off: vec!["cpu"],
            cpu: Cpu { undisturbed: vec![2..=3, 5..=5] },
            network: Network {
                cluster: vec![Range { address: "10.2.0.0".parse().expect("an address"), prefix: 16 }],
                node: vec![Range { address: "fd00::".parse().expect("an address"), prefix: 8 }],
                private: vec![],
            },
            dns: Dns { timeout: Duration::from_secs(1), ports: vec![53, 5353], top_names: 3 },
            node: Node { root: "/".into(), per_cpu: false },
        },
        kubernetes: Kubernetes {
            source: KubernetesSource::Kubelet,
            kubeconfig: Some("k".into()),
            labels: vec!["team".to_owned(), "app".to_owned()],
            namespace_labels: vec!["team".to_owned()],
            service_labels: true,
            kubelet_url: "https://n:10250".to_owned(),
            kubelet_ca: Some("a".into()),
            kubelet_verify: false,
            kubelet_token: Some("t".into()),
            kubelet_interval: Duration::from_secs(60),
            spread: Duration::ZERO,
            finished_pods: Duration::from_secs(3600),
        },
        cgroups: Cgroups { slots: Some(65536), max_slots: Some(16), root: Some("/cg".into()) },
        overhead: Overhead {
            cpu: OverheadLimit::Share(Duration::from_millis(15)),
            window: Duration::from_secs(120),
            recovery: Duration::from_secs(3600),
        },
        bpf: Bpf { pin: false, directory: "/b".into(), leave_out: Vec::new(), log: true },
        export: Export {
            exporter: Exporter::Stdout,
            pull: true,
            delta: true,
            metrics: destination("https://c:1/x/v1/metrics", "a"),
            logs: Some(Destination {
                headers: Headers(BTreeMap::from([("x-logs".to_owned(), "z".to_owned())])),
                headers_file: Some("i".into()),
                token_file: Some("j".into()),
                client_certificate: Some("m".into()),
                client_key: Some("n".into()),
                timeout: Duration::from_secs(2),
                compression: Compression::Gzip,
                protocol: Protocol::Grpc,
                ..destination("http://l:2", "k")
            }),
            also: Vec::new(),
            queue: 1,
            queue_bytes: 1 << 20,
            request_bytes: 4 << 20,
            attribute_bytes: 1024,
            shutdown_timeout: Duration::from_secs(60),
            journal: Journal { directory: Some("/j".into()), bytes: 2 << 20, age: Duration::from_secs(3600) },
        },
        resource: Resource {
            attributes: BTreeMap::from([("version".to_owned(), "1.10".to_owned()), ("empty".to_owned(), String::new())]),
            deny: patterns("container.id"),
        },
        budget: Budget {
            series: None,
            namespace_series: Some(200),
            namespaces: BTreeMap::from([("shop".to_owned(), 300), ("bank".to_owned(), u32::MAX)]),
            histogram_series: HistogramSeries::Buckets,
            histograms: Detail::Workload,
            scalars: Detail::Pod,
            namespace_detail: BTreeMap::from([("kube-system".to_owned(), Detail::Namespace)]),
            signal_detail: BTreeMap::from([("dns".to_owned(), Detail::Pod)]),
            allow: patterns("a.*,b"),
            deny: patterns("*.c"),
        },
        telemetry: Telemetry::default(),
        proxies: Proxies::default(),
    };
    assert_eq!(config, expected);
}

#[test]
fn what_is_left_empty_keeps_its_default() {
    for file in
        ["", "# nothing\n", "---\n", "~", "export:\n", "export:\n  queue:\ninterval: null\n", "{}", "export: {headers: {a: ~}}"]
    {
        assert_eq!(from_file(file).expect(file), defaults(), "{file:?}");
    }
    assert_eq!(from_env(&[("PODMETER_INTERVAL", ""), ("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).expect("empty"), defaults());
}

#[test]
fn every_error_of_a_file_names_the_key_and_the_line() {
    for (file, expected) in [
        (
            "intervall: 15s",
            "unknown setting intervall (podmeter.yaml, line 1); did you mean interval? Else: there are node_name, cluster_name, \
             interval, listen, log, signals, kubernetes, node, cgroups, network, dns, cpu, bpf, export, journal, resource, overhead, metrics, budget, telemetry",
        ),
        (
            "export:\n  time-out: 1s",
            "unknown setting export.time-out (podmeter.yaml, line 2); did you mean export.timeout? Else: export has exporter, pull, \
             endpoint, protocol, headers, headers_file, token_file, compression, timeout, certificate, client_certificate, \
             client_key, queue, queue_bytes, request_bytes, attribute_bytes, temporality, histograms, shutdown_timeout, logs, traces, also",
        ),
        (
            "\nendpoint: x",
            "unknown setting endpoint (podmeter.yaml, line 2); did you mean export.endpoint, export.logs.endpoint or export.traces.endpoint? Else: there \
             are node_name, cluster_name, interval, listen, log, signals, kubernetes, node, cgroups, network, dns, cpu, bpf, export, journal, resource, overhead, metrics, budget, telemetry",
        ),
        (
            "openshift:\n  a: 1",
            "unknown setting openshift (podmeter.yaml, line 1); there are node_name, cluster_name, interval, listen, log, signals, \
             kubernetes, node, cgroups, network, dns, cpu, bpf, export, journal, resource, overhead, metrics, budget, telemetry",
        ),
        (
            "export: otlp",
            "invalid value of setting export (podmeter.yaml, line 1): expected the keys of this section, indented below it",
        ),
        ("interval: [1s]", "invalid value of setting interval (podmeter.yaml, line 1): expected one value, found a list"),
        (
            "interval:\n  every: 1s",
            "invalid value of setting interval (podmeter.yaml, line 1): expected one value, found keys with values",
        ),
        (
            "\n\ninterval: 15",
            "invalid value of setting interval (podmeter.yaml, line 3): expected a duration with its unit, such as 15s or 500ms, \
             from 1s to 5m, found \"15\"",
        ),
        (
            "signals:\n  cpu: yes",
            "invalid value of setting signals.cpu (podmeter.yaml, line 2): expected true or false, found \"yes\"",
        ),
        ("interval: 1s\ninterval: 2s", "invalid value of setting interval (podmeter.yaml, line 2): is set twice"),
        ("export:\n  headers: {a: 1, a: 2}", "invalid value of setting export.headers.a (podmeter.yaml, line 2): is set twice"),
        (
            "export:\n  headers:\n    a: [1]",
            "invalid value of setting export.headers.a (podmeter.yaml, line 3): expected one value",
        ),
        (
            "export:\n  headers:\n    a b: 1",
            "invalid value of setting export.headers (podmeter.yaml, line 2): the name of header 1 has characters that HTTP forbids: \
             write name=value, or a map in the file",
        ),
        (
            "export: {client_key: k}",
            "invalid value of setting export.client_key (podmeter.yaml, line 1): it needs a client_certificate beside it",
        ),
        (
            "cluster_name: &c x\nnode_name: *c",
            "invalid value of setting node_name (podmeter.yaml, line 2): YAML aliases are not supported",
        ),
        (
            "interval: 1s\n---\ninterval: 2s",
            "could not parse the configuration file podmeter.yaml, line 2: there is a second YAML document; podmeter reads one",
        ),
        (
            "- a",
            "could not parse the configuration file podmeter.yaml, line 1: expected keys with values, such as \"interval: 15s\"",
        ),
        ("? [a]\n: b", "could not parse the configuration file podmeter.yaml, line 1: expected the name of a key"),
    ] {
        assert_eq!(message(from_file(file)), expected, "{file}");
    }
    let broken = message(from_file("interval: 1s\nexport: {queue: 3\nlog: x"));
    assert!(broken.starts_with("could not parse the configuration file podmeter.yaml, line "), "{broken}");
    let missing = Config::load(Some(Path::new("/no/such/file")), &|_| None, Overrides::default()).expect_err("no file");
    assert_eq!(missing.to_string(), "could not read the configuration file /no/such/file");
}

#[test]
fn every_key_refuses_what_it_cannot_use_and_says_so() {
    // For each key with a check: values just outside, or of another type.
    let wrong: &[(&str, &[&str])] = &[
        ("interval", &["0s", "999ms", "301s", "15", "soon", "-1s"]),
        ("listen", &["9464", "localhost", "127.0.0.1"]),
        ("log.format", &["xml", "TEXT"]),
        ("log.level", &["a=b=c", "podmeter=loud"]),
        ("signals.cpu", &["1", "on"]),
        (
            "network.cluster_cidrs",
            &["10.0.0.0/33", "10.0.0.1/8", "10.0/8", "fd00::1/8", "::/129", "cluster", "10.0.0.0/", "10.0.0.0/-1"],
        ),
        ("cgroups.slots", &["15", "65537", "-1", "many", "16.5", "99999999999"]),
        ("cgroups.max_slots", &["15", "65537", "auto"]),
        ("cgroups.root", &["cgroup"]),
        ("node.root", &["host"]),
        ("node.per_cpu", &["2"]),
        ("bpf.pin", &["maybe"]),
        ("bpf.directory", &["./bpf"]),
        ("export.exporter", &["prometheus"]),
        ("export.pull", &["maybe"]),
        ("export.endpoint", &["localhost:4317", "collector", "ftp://x", "http://", "http://u:p@x:1", "/x", "http://a b"]),
        ("export.protocol", &["http/json", "http"]),
        ("export.headers", &["a", "=b", "a=%ff", "a=%0a"]),
        ("export.compression", &["zstd"]),
        ("export.timeout", &["0s", "301s", "10"]),
        ("export.client_certificate", &["x"]),
        ("export.client_key", &["x"]),
        ("export.queue", &["0", "10001"]),
        ("export.queue_bytes", &["1023KiB", "5GiB", "32MB", "-1", "1.5MiB", "MiB", "99999999999GiB"]),
        ("export.request_bytes", &["63KiB", "65MiB", "2M"]),
        ("export.attribute_bytes", &["63", "1025", "many"]),
        ("export.shutdown_timeout", &["0s", "301s", "8"]),
        ("journal.directory", &["./journal"]),
        ("journal.bytes", &["1023KiB", "65GiB"]),
        ("journal.age", &["59s", "2y", "7"]),
        ("resource.attributes", &["a", "=b", "a=%ff"]),
        ("resource.deny", &["k8s.pod.uid", "service.*", "*"]),
        ("metrics.allow", &["Container.cpu", "a b"]),
        ("metrics.deny", &["container_cpu_time{}"]),
        ("export.histograms", &["explicit"]),
        ("budget.series", &["0", "999", "many", "100000001"]),
        ("budget.namespace_series", &["199", "-1"]),
        ("budget.namespaces", &["shop", "shop=1", "=500", "shop=all"]),
        ("budget.histograms", &["node"]),
        ("budget.scalars", &["Pod"]),
        ("budget.namespace_detail", &["shop=node", "shop"]),
        ("budget.signal_detail", &["cpus=pod", "dns=all"]),
    ];
    for (name, values) in wrong {
        let key = KEYS.iter().find(|key| key.name == *name).expect(name);
        for value in *values {
            let from_variable = message(from_env(&[(&key.variable(), value)]));
            let start = format!("invalid value of setting {name} (environment variable {}): ", key.variable());
            assert!(from_variable.starts_with(&start) && from_variable.len() > start.len(), "{name}={value}: {from_variable}");
            let from_line = message(load("", &[], &[(name, value)]));
            assert!(from_line.starts_with(&format!("invalid value of setting {name} (command line): ")), "{from_line}");
        }
    }
    for name in ["node_name", "cluster_name", "export.certificate", "export.endpoint", "cgroups.root", "log.level"] {
        let empty = message(load("", &[], &[(name, "")]));
        assert_eq!(empty, format!("invalid value of setting {name} (command line): must not be empty"));
    }
    assert!(message(load("", &[], &[("port", "1")])).starts_with("unknown setting port (command line)"));
}

#[test]
fn secrets_are_not_shown() {
    let config = from_env(&[
        ("PODMETER_EXPORT_HEADERS", "authorization=s3cret"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://c/v1/metrics?key=s3cret"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://c/v1/logs?key=s3cret"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("HTTPS_PROXY", "http://me:s3cret@proxy"),
    ])
    .expect("a configuration");
    let shown = format!("{config:?}");
    assert!(!shown.contains("s3cret") && shown.contains("authorization") && shown.contains("HTTPS_PROXY"), "{shown}");
    let headers =
        ["s3cret", "authorization=s3cret%0a", "authorization=s3cret%ff", "authorization: Bearer s3cret==", "a=b,x y s3cret=1"];
    let addresses = [
        "http://me:s3cret@x",
        "ftp://me:s3cret@x",
        "me:s3cret@collector:4317",
        "https://me:s3cret@coll ector",
        "ftp://c/?key=s3cret",
        "https:/c?key=s3cret",
        "http://c:s3cret",
    ];
    for (values, variables) in [
        (&headers[..], ["PODMETER_EXPORT_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"]),
        (&addresses, ["PODMETER_EXPORT_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "PODMETER_KUBERNETES_KUBELET_URL"]),
    ] {
        for (value, variable) in values.iter().flat_map(|value| variables.map(|variable| (value, variable))) {
            let error = message(from_env(&[(variable, value)]));
            assert!(error.contains(variable) && !error.contains("s3cret"), "{error}");
        }
    }
    let file = message(from_file("export:\n  headers:\n    'authorization: Bearer s3cret': x"));
    assert!(file.contains("export.headers") && !file.contains("s3cret"), "{file}");
    let set = message(load("", &[], &[("export.headers authorization: Bearer s3cret", "=")]));
    assert!(!set.contains("s3cret"), "{set}");
}

proptest::proptest! {
    #[test]
    fn no_file_makes_it_panic(text in "[a-z:\\[\\]{}&*!|>'\"%@`# ,?\n\t.-]{0,80}") {
        let _ = yaml::read(Path::new("f"), &text);
    }
}

#[test]
fn address_ranges_of_both_families_are_read() {
    let set = |text: &str| {
        let config = from_file(&format!("network:\n  node_cidrs: '{text}'\n"));
        config.expect("a configuration").signals.network.node.into_iter().map(|r| format!("{}/{}", r.address, r.prefix)).collect()
    };
    let ranges: Vec<String> = set("10.1.0.0/16, fd00::/8,192.0.2.7,0.0.0.0/0,::/0,");
    assert_eq!(ranges, ["10.1.0.0/16", "fd00::/8", "192.0.2.7/32", "0.0.0.0/0", "::/0"]);
    assert_eq!(defaults().signals.network.private.len(), 10);
}

#[test]
fn any_text_is_a_configuration_or_refused() {
    crate::fuzzing::hammer("config", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match yaml::read(Path::new("podmeter.yaml"), &text) {
            Ok(settings) => assert!(settings.len() <= text.len()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}
