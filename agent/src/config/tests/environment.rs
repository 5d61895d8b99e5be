//! Precedence of the sources, and the variables of OpenTelemetry.

use super::*;

#[test]
fn command_line_over_environment_over_file_over_default() {
    let file = "interval: 20s\nnode_name: file\nexport: {queue: 5, timeout: 5s}";
    let env = [("PODMETER_INTERVAL", "30s"), ("PODMETER_EXPORT_QUEUE", "6"), ("NODE_NAME", "kubernetes")];
    let config = load(file, &env, &[("interval", "40s"), ("interval", "41s")]).expect("a configuration");
    assert_eq!(config.interval, Duration::from_secs(41));
    assert_eq!(config.export.queue, 6);
    assert_eq!(config.export.metrics.timeout, Duration::from_secs(5));
    assert_eq!(config.cgroups.slots, None);
    assert_eq!(config.node_name, "kubernetes");
    let own = [("NODE_NAME", "kubernetes"), ("PODMETER_NODE_NAME", "own")];
    assert_eq!(load(file, &own, &[]).expect("a configuration").node_name, "own");
    // A map is replaced as a whole.
    let file = "resource: {attributes: {team: a, tier: b}}";
    let attributes = load(file, &[("OTEL_RESOURCE_ATTRIBUTES", "team=c")], &[]).expect("attributes").resource.attributes;
    assert_eq!(attributes, BTreeMap::from([("team".to_owned(), "c".to_owned())]));
}

#[test]
fn the_endpoint_follows_opentelemetrys_rules() {
    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const SIGNAL: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
    const OWN: &str = "PODMETER_EXPORT_ENDPOINT";
    for (protocol, env, expected) in [
        ("http/protobuf", &[][..], "http://localhost:4318/v1/metrics"),
        ("http/protobuf", &[(BASE, "http://c:4318")], "http://c:4318/v1/metrics"),
        ("http/protobuf", &[(BASE, "http://c:4318/")], "http://c:4318/v1/metrics"),
        ("http/protobuf", &[(BASE, "https://c/mycollector/")], "https://c/mycollector/v1/metrics"),
        ("http/protobuf", &[(BASE, "https://c/v1/metrics")], "https://c/v1/metrics/v1/metrics"),
        ("http/protobuf", &[(SIGNAL, "http://c:4318")], "http://c:4318"),
        ("http/protobuf", &[(SIGNAL, "http://c/custom/?k=1"), (BASE, "http://other")], "http://c/custom/?k=1"),
        (
            "http/protobuf",
            &[(OWN, "http://vm:8428/opentelemetry"), (SIGNAL, "http://x")],
            "http://vm:8428/opentelemetry/v1/metrics",
        ),
        ("http/protobuf", &[(OWN, "http://c:4318/v1/metrics")], "http://c:4318/v1/metrics"),
        ("grpc", &[], "http://localhost:4317"),
        ("grpc", &[(BASE, "https://c:4317/")], "https://c:4317"),
        ("grpc", &[(SIGNAL, "http://[::1]:4317")], "http://[::1]:4317"),
    ] {
        let env: Vec<_> = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)].into_iter().chain(env.iter().copied()).collect();
        assert_eq!(from_env(&env).expect("an endpoint").export.metrics.endpoint, expected, "{env:?}");
    }
    let path = message(from_env(&[(SIGNAL, "http://c:4318/v1/metrics")]));
    assert!(
        path.starts_with(&format!("invalid value of setting export.endpoint (environment variable {SIGNAL}): it has a path")),
        "{path}"
    );
    let query = message(from_env(&[(BASE, "http://c/?a=b"), ("PODMETER_EXPORT_PROTOCOL", "http/protobuf")]));
    assert!(query.contains("export.endpoint") && query.contains("query"), "{query}");
}

#[test]
fn each_signals_address_is_resolved_on_its_own() {
    const OWN: &str = "PODMETER_EXPORT_ENDPOINT";
    const OWN_LOGS: &str = "PODMETER_EXPORT_LOGS_ENDPOINT";
    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const METRICS: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
    const LOGS: &str = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT";
    for (protocol, env, expected) in [
        ("grpc", &[][..], Some("http://localhost:4317")),
        ("grpc", &[(BASE, "http://c:4317")], Some("http://c:4317")),
        ("grpc", &[(OWN, "http://c:4317")], Some("http://c:4317")),
        ("grpc", &[(METRICS, "http://c:4317")], None),
        ("grpc", &[(METRICS, "http://m:4317"), (BASE, "http://c:4317")], Some("http://c:4317")),
        ("grpc", &[(LOGS, "http://l:4317"), (BASE, "http://c:4317")], Some("http://l:4317")),
        ("grpc", &[(LOGS, "http://l:4317"), (METRICS, "http://c:4317")], Some("http://l:4317")),
        ("grpc", &[(LOGS, "http://l:4317"), (OWN_LOGS, "http://o:4317")], Some("http://o:4317")),
        ("http/protobuf", &[], Some("http://localhost:4318/v1/logs")),
        ("http/protobuf", &[(BASE, "http://c/x/")], Some("http://c/x/v1/logs")),
        ("http/protobuf", &[(OWN, "http://c/v1/metrics")], Some("http://c/v1/logs")),
        ("http/protobuf", &[(OWN, "http://c/x")], Some("http://c/x/v1/logs")),
        ("http/protobuf", &[(METRICS, "http://c/v1/metrics")], None),
        ("http/protobuf", &[(METRICS, "http://c/metrics/only"), (LOGS, "http://l/logs")], Some("http://l/logs")),
        ("http/protobuf", &[(OWN_LOGS, "http://l/v1/logs")], Some("http://l/v1/logs")),
        ("http/protobuf", &[(OWN_LOGS, "http://l")], Some("http://l/v1/logs")),
    ] {
        let env: Vec<_> = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)].into_iter().chain(env.iter().copied()).collect();
        let logs = from_env(&env).expect("an endpoint").export.logs;
        assert_eq!(logs.map(|logs| logs.endpoint).as_deref(), expected, "{env:?}");
    }
    // What the file says is for both; a variable for metrics only changes nothing of it for events.
    let config = load("export: {endpoint: 'http://f:4317'}", &[(METRICS, "http://m:4317")], &[]).expect("a configuration");
    let logs = config.export.logs.map(|logs| logs.endpoint);
    assert_eq!((config.export.metrics.endpoint.as_str(), logs.as_deref()), ("http://m:4317", Some("http://f:4317")));
}

#[test]
fn what_is_meant_for_metrics_only_never_goes_to_the_receiver_of_events() {
    const H: &str = "headers";
    const P: &str = "protocol";
    const C: &str = "compression";
    const T: &str = "timeout";
    const CA: &str = "certificate";
    // Of each option, what metrics and events have by these variables and this file.
    let export = |file: &str, env: &[(&str, &str)]| {
        let env: Vec<_> = env.iter().copied().chain([("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://l:4317")]).collect();
        let export = load(file, &env, &[]).expect("a configuration").export;
        let logs = export.logs.expect("an address for events");
        [export.metrics, logs].map(|to| {
            BTreeMap::from([
                (H, to.headers.0.get("a").cloned().unwrap_or_default()),
                (P, format!("{:?}", to.protocol)),
                (C, format!("{:?}", to.compression)),
                (T, to.timeout.as_millis().to_string()),
                (CA, to.certificate.map(|path| path.display().to_string()).unwrap_or_default()),
            ])
        })
    };
    for (option, [metrics, general, logs, own], [m, g, l, o]) in [
        (H, ["a=m", "a=g", "a=l", "a=o"], ["m", "g", "l", "o"]),
        (C, ["none", "none", "none", "none"], ["None", "None", "None", "None"]),
        (T, ["1", "2", "3", "4ms"], ["1", "2", "3", "4"]),
        (CA, ["m", "g", "l", "o"], ["m", "g", "l", "o"]),
    ] {
        let name = option.to_uppercase();
        let [metrics_, general_, logs_] = ["METRICS_", "", "LOGS_"].map(|signal| format!("OTEL_EXPORTER_OTLP_{signal}{name}"));
        let own_ = format!("PODMETER_EXPORT_{name}");
        let none = export("", &[])[1][option].clone();
        for (env, want) in [
            (vec![(metrics_.as_str(), metrics)], (m, none.as_str())),
            (vec![(&general_, general)], (g, g)),
            (vec![(&metrics_, metrics), (&general_, general)], (m, g)),
            (vec![(&metrics_, metrics), (&logs_, logs)], (m, l)),
            (vec![(&general_, general), (&logs_, logs)], (g, l)),
            (vec![(&own_, own), (&metrics_, metrics), (&general_, general)], (o, o)),
            (vec![(&own_, own), (&logs_, logs)], (o, l)),
        ] {
            let [of_metrics, of_logs] = export("", &env);
            assert_eq!((of_metrics[option].as_str(), of_logs[option].as_str()), want, "{env:?}");
        }
    }
    // Each has a protocol of its own.
    let [metrics, logs] = export("", &[("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")]);
    assert_eq!((metrics[P].as_str(), logs[P].as_str()), ("HttpProtobuf", "Grpc"));
    let [metrics, logs] = export("", &[("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf")]);
    assert_eq!((metrics[P].as_str(), logs[P].as_str()), ("Grpc", "HttpProtobuf"));
    // The file has sections; a map is replaced as a whole.
    let [metrics, logs] = export("export: {headers: {a: m}, logs: {headers: {b: l}, timeout: 7ms}}", &[]);
    assert_eq!((metrics[H].as_str(), logs[H].as_str()), ("m", ""));
    assert_eq!((metrics[T].as_str(), logs[T].as_str()), ("10000", "7"));
    let [_, logs] = export("export: {logs: {timeout: 7ms}}", &[("PODMETER_EXPORT_LOGS_TIMEOUT", "8ms")]);
    assert_eq!(logs[T], "8");
    // A pair that is for metrics only leaves events without one.
    let pair = [("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", "c"), ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "k")];
    let export = from_env(&[pair[0], pair[1], ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")]).expect("a configuration").export;
    assert!(export.metrics.client_key.is_some());
    let logs = export.logs.expect("an address");
    assert_eq!((logs.client_certificate, logs.client_key), (None, None));
}

#[test]
fn podmeters_own_telemetry_is_off_unless_it_is_configured_and_then_needs_an_address() {
    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const ON: [(&str, &str); 2] = [("OTEL_TRACES_EXPORTER", "otlp"), ("PODMETER_TELEMETRY_LOGS", "true")];
    let addresses = |env: &[(&str, &str)]| {
        let telemetry = from_env(env).expect("a configuration").telemetry;
        [telemetry.traces, telemetry.logs].map(|to| to.map(|to| to.endpoint))
    };
    let both = |traces: &str, logs: &str| [Some(traces.to_owned()), Some(logs.to_owned())];
    assert_eq!(addresses(&[(BASE, "http://c:4317")]), [None, None]);
    assert_eq!(addresses(&[("OTEL_TRACES_EXPORTER", "none"), ("OTEL_LOGS_EXPORTER", "none")]), [None, None]);
    assert_eq!(addresses(&ON), both("http://localhost:4317", "http://localhost:4317"));
    let http = [ON[0], ON[1], ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), (BASE, "http://c/x")];
    assert_eq!(addresses(&http), both("http://c/x/v1/traces", "http://c/x/v1/logs"));
    let own = [http[0], http[1], http[2], http[3], ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t/spans")];
    assert_eq!(addresses(&own), both("http://t/spans", "http://c/x/v1/logs"));
    let headers = from_env(&[ON[0], ("OTEL_EXPORTER_OTLP_HEADERS", "a=g"), ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=m")]);
    let traces = headers.expect("a configuration").telemetry.traces.expect("on");
    assert_eq!(traces.headers.0["a"], "g");

    const METRICS: (&str, &str) = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m:4317");
    for (env, expected) in [
        (vec![ON[0], METRICS], "there is an address for metrics only: set export.traces.endpoint"),
        (vec![ON[1], METRICS], "there is an address for metrics only: set export.logs.endpoint"),
        (vec![ON[0], ("PODMETER_EXPORT_EXPORTER", "stdout")], "export.exporter is not otlp: set export.traces.endpoint"),
        (vec![("OTEL_TRACES_EXPORTER", "zipkin")], "zipkin"),
    ] {
        let error = from_env(&env).expect_err("no such telemetry").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_other_variables_of_opentelemetry() {
    let general = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b%2Cc, X-Scope-OrgID = 1=2 ,"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/cert"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=caf%C3%A9,k%3D=v"),
    ];
    let config = from_env(&general).expect("a configuration");
    let export = &config.export.metrics;
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
    assert_eq!(export.protocol, Protocol::HttpProtobuf);
    assert_eq!(export.headers.0, map(&[("api-key", "a b,c"), ("x-scope-orgid", "1=2")]));
    assert_eq!(export.compression, Compression::None);
    assert_eq!(export.timeout, Duration::from_millis(2500));
    assert_eq!(export.certificate.as_deref(), Some(Path::new("/ca")));
    assert_eq!(export.client_certificate.as_deref(), Some(Path::new("/cert")));
    assert_eq!(export.client_key.as_deref(), Some(Path::new("/key")));
    assert_eq!(config.resource.attributes, map(&[("service.name", "café"), ("k=", "v")]));

    let for_metrics = [
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=b"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "/m-ca"),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", "/m-cert"),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "/m-key"),
    ];
    let both: Vec<_> = general.into_iter().chain(for_metrics).collect();
    let export = from_env(&both).expect("a configuration").export.metrics;
    assert_eq!(export.protocol, Protocol::Grpc);
    assert_eq!(export.headers.0, map(&[("a", "b")]));
    assert_eq!(export.compression, Compression::Gzip);
    assert_eq!(export.timeout, Duration::from_millis(1));
    assert_eq!(export.certificate.as_deref(), Some(Path::new("/m-ca")));
    assert_eq!(export.client_certificate.as_deref(), Some(Path::new("/m-cert")));
    assert_eq!(export.client_key.as_deref(), Some(Path::new("/m-key")));

    for wrong in ["10s", "0", "-1", "1.5", "99999999999999999999"] {
        let error = message(from_env(&[("OTEL_EXPORTER_OTLP_TIMEOUT", wrong)]));
        assert!(
            error.starts_with("invalid value of setting export.timeout (environment variable OTEL_EXPORTER_OTLP_TIMEOUT): "),
            "{error}"
        );
    }
}
