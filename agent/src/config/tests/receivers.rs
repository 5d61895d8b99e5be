//! Further receivers, which only a file can set.

use super::*;

#[test]
fn a_further_receiver_has_the_keys_and_defaults_of_the_first_and_none_of_its_values() {
    let config = from_file(
        "export:\n  endpoint: http://main:4317\n  headers: {authorization: Bearer hunter2}\n  compression: none\n  timeout: 3s\n\
         \x20 also:\n    team-b: {endpoint: 'https://b:4317/'}\n    team-a:\n      endpoint: http://vm:8428/opentelemetry/v1/metrics\n\
         \x20     protocol: http/protobuf\n      headers: {X-Tenant: a}\n      compression: none\n      timeout: 1s\n      token_file: /t\n",
    )
    .expect("a configuration");
    let [a, b] = &config.export.also[..] else { panic!("two: {:?}", config.export.also) };
    assert_eq!((a.name.as_str(), b.name.as_str()), ("team-a", "team-b"));
    let of_a = Destination {
        endpoint: "http://vm:8428/opentelemetry/v1/metrics".to_owned(),
        protocol: Protocol::HttpProtobuf,
        headers: Headers(BTreeMap::from([("x-tenant".to_owned(), "a".to_owned())])),
        token_file: Some("/t".into()),
        compression: Compression::None,
        timeout: Duration::from_secs(1),
        ..Destination::default()
    };
    assert_eq!(a.metrics, of_a);
    assert_eq!(a.logs, Destination { endpoint: "http://vm:8428/opentelemetry/v1/logs".to_owned(), ..of_a });
    let of_b = Destination {
        endpoint: "https://b:4317".to_owned(),
        compression: Compression::Gzip,
        timeout: Duration::from_secs(10),
        ..Destination::default()
    };
    assert_eq!((&b.metrics, &b.logs), (&of_b, &of_b));
    let base =
        from_file("export: {also: {a: {endpoint: 'http://c:4318/otlp', protocol: http/protobuf}}}").expect("a configuration");
    assert_eq!(base.export.also[0].metrics.endpoint, "http://c:4318/otlp/v1/metrics");
    assert_eq!(base.export.also[0].logs.endpoint, "http://c:4318/otlp/v1/logs");
    // Written in one, as other keys may be.
    let dotted = from_file("export.also.a.endpoint: http://c:4317").expect("a configuration");
    assert_eq!(dotted.export.also[0].metrics.endpoint, "http://c:4317");
}

#[test]
fn what_is_wrong_with_a_further_receiver_is_said_with_its_name_and_line() {
    let of_a = |keys: &str| format!("export:\n  also:\n    a: {{{keys}}}");
    let name = "a receiver's name is 1 to 40 of the characters a-z, 0-9 and -";
    for (file, expected) in [
        (
            "export: {also: {a: {}}}".to_owned(),
            "invalid value of setting export.also.a (podmeter.yaml, line 1): it has no endpoint: give the URL of its OTLP receiver",
        ),
        (
            "export:\n  also:\n    a:\n".to_owned(),
            "invalid value of setting export.also.a (podmeter.yaml, line 3): it has no endpoint: give the URL of its OTLP receiver",
        ),
        (
            "export: {also: {A: {}}}".to_owned(),
            &format!("invalid value of setting export.also.A (podmeter.yaml, line 1): {name}"),
        ),
        (
            format!("export: {{also: {{{}: {{}}}}}}", "a".repeat(41)),
            &format!("invalid value of setting export.also.{} (podmeter.yaml, line 1): {name}", "a".repeat(41)),
        ),
        (
            "export: {also: {main: {endpoint: 'http://c:4317'}}}".to_owned(),
            "invalid value of setting export.also.main (podmeter.yaml, line 1): main is the name of the receiver of export.endpoint: \
             choose another",
        ),
        (
            "export: {also: 'http://c:4317'}".to_owned(),
            "invalid value of setting export.also (podmeter.yaml, line 1): expected the keys of this section, indented below it",
        ),
        (
            "export: {also: {a: 'http://c:4317'}}".to_owned(),
            "invalid value of setting export.also.a (podmeter.yaml, line 1): expected the keys of this section, indented below it",
        ),
        (
            of_a("endpoint: 'http://c:4317', timeout: soon"),
            "invalid value of setting export.also.a.timeout (podmeter.yaml, line 3): expected a duration with its unit, such as 15s or \
             500ms, from 1ms to 5m, found \"soon\"",
        ),
        (
            of_a("endpoint: 'http://c:4317', client_key: k"),
            "invalid value of setting export.also.a.client_key (podmeter.yaml, line 3): it needs a client_certificate beside it",
        ),
        (
            of_a("endpoint: 'http://c:4317/x'"),
            "invalid value of setting export.also.a.endpoint (podmeter.yaml, line 3): it has a path, and protocol grpc uses none: remove \
             it, or set http/protobuf",
        ),
        (
            of_a("endpoint: 'http://c:4317', endpoint: 'http://c:4318'"),
            "invalid value of setting export.also.a.endpoint (podmeter.yaml, line 3): is set twice",
        ),
        (
            "export:\n  also:\n    a: {endpoint: 'http://c:1'}\n    a: {endpoint: 'http://c:2'}".to_owned(),
            "invalid value of setting export.also.a (podmeter.yaml, line 4): is set twice",
        ),
        (
            of_a("endpiont: 'http://c:4317'"),
            "unknown setting export.also.a.endpiont (podmeter.yaml, line 3); did you mean export.also.a.endpoint? Else: export.also.a has \
             endpoint, protocol, headers, headers_file, token_file, compression, timeout, certificate, client_certificate, client_key",
        ),
    ] {
        assert_eq!(message(from_file(&file)), expected, "{file}");
    }
    let nine: String = (1..=9).map(|n| format!("    r{n}: {{endpoint: 'http://c:4317'}}\n")).collect();
    let many = message(from_file(&format!("export:\n  also:\n{nine}")));
    assert_eq!(many, "invalid value of setting export.also (podmeter.yaml, line 11): expected at most 8 further receivers");
}

#[test]
fn only_a_file_sets_further_receivers_and_no_secret_of_theirs_is_shown() {
    let why = "further receivers can be set in the configuration file only";
    for key in ["export.also", "export.also.a.endpoint"] {
        let error = message(load("", &[], &[(key, "http://c:4317")]));
        assert_eq!(error, format!("invalid value of setting {key} (command line): {why}"));
    }
    let error = message(from_env(&[("PODMETER_EXPORT_ALSO", "a=http://c:4317")]));
    assert_eq!(error, format!("invalid value of setting export.also (environment variable PODMETER_EXPORT_ALSO): {why}"));
    let file = "export: {also: {a: {endpoint: 'http://c:4317', headers: {authorization: s3cret}}}}";
    let shown = format!("{:?}", from_file(file).expect("a configuration"));
    assert!(shown.contains("authorization") && !shown.contains("s3cret"), "{shown}");
    for wrong in ["endpoint: 'http://me:s3cret@c'", "endpoint: 'http://c:4317', headers: {a: \"s3cret\\n\"}"] {
        let error = message(from_file(&format!("export: {{also: {{a: {{{wrong}}}}}}}")));
        assert!(error.contains("export.also.a.") && !error.contains("s3cret"), "{error}");
    }
}
