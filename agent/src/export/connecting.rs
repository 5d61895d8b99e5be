//! The shipper's connections against a fake collector and a fake proxy: files that are read again, proxies, and what is logged.

use std::fs;
use std::path::Path;
use std::time::Duration;

use podmeter_tests::collector::{Answer, Collector, Options, Tls};
use podmeter_tests::proxy::Proxy;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tonic::Code;

use super::fixtures::{counted, destination};
use super::probe::probe;
use super::tests::{BOTH, Captured, arrived, eventful, quick, stats_until, to, with};
use super::{Destination, Export, Protocol};
use crate::config::Proxies;

/// Puts the files that a client needs where its settings have them, one by one as a person or a program does.
fn install(tls: &Tls, dir: &Path) {
    for (from, name) in [(tls.ca(), "ca.pem"), (tls.client_certificate(), "client.pem"), (tls.client_key(), "client.key")] {
        fs::copy(from, dir.join(name)).expect("a copy");
    }
}

fn mutual(collector: &Collector, protocol: Protocol, dir: &Path) -> Export {
    with(to(collector, protocol), |metrics| {
        metrics.certificate = Some(dir.join("ca.pem"));
        metrics.client_certificate = Some(dir.join("client.pem"));
        metrics.client_key = Some(dir.join("client.key"));
    })
}

#[tokio::test]
async fn exports_go_on_after_a_rotation_of_authority_certificate_and_key() {
    for protocol in BOTH {
        let log = Captured::default();
        let _guard = log.install();
        let dir = tempfile::tempdir().expect("a directory");
        let tls = Tls::mutual().expect("certificates");
        install(&tls, dir.path());
        let mut collector = Collector::with(Options { tls: Some(tls), ..Options::default() }).expect("a collector");
        let shipper = quick(&mutual(&collector, protocol, dir.path()));
        shipper.queue().enqueue(&counted(1));
        stats_until(&shipper, "the first is sent", |s| s.sent_requests == 1).await;

        // The server first, so that attempts fail until the files have followed.
        collector.present(Tls::mutual().expect("certificates")).expect("good certificates");
        collector.refuse();
        collector.listen();
        shipper.queue().enqueue(&counted(2));
        stats_until(&shipper, "attempts fail", |s| s.retries >= 2).await;
        install(collector.tls().expect("TLS"), dir.path());
        stats_until(&shipper, "the second is sent", |s| s.sent_requests == 2).await;

        // The files first: connections that last go on, and new ones are made with them.
        let next = Tls::mutual().expect("certificates");
        install(&next, dir.path());
        shipper.queue().enqueue(&counted(3));
        stats_until(&shipper, "the third is sent", |s| s.sent_requests == 3).await;
        collector.present(next).expect("good certificates");
        collector.refuse();
        collector.listen();
        shipper.queue().enqueue(&counted(4));
        stats_until(&shipper, "the fourth is sent", |s| s.sent_requests == 4).await;
        assert_eq!(arrived(&collector), [1.0, 2.0, 3.0, 4.0], "{protocol}");
        assert!(!log.lines_with("have changed and were read again").is_empty(), "{:?}", log.lines_with(""));
    }
}

#[tokio::test]
async fn a_file_that_is_broken_in_the_middle_of_its_rotation_changes_nothing_and_is_said_once() {
    for protocol in BOTH {
        let log = Captured::default();
        let _guard = log.install();
        let dir = tempfile::tempdir().expect("a directory");
        let tls = Tls::mutual().expect("certificates");
        install(&tls, dir.path());
        let collector = Collector::with(Options { tls: Some(tls), ..Options::default() }).expect("a collector");
        let shipper = quick(&mutual(&collector, protocol, dir.path()));
        fs::write(dir.path().join("client.key"), "-----BEGIN PRIVATE KEY-----\nhunter2").expect("a file");
        for batch in 1..=3 {
            // Each by a separate connection.
            collector.refuse();
            collector.listen();
            shipper.queue().enqueue(&counted(batch));
            stats_until(&shipper, "it is sent", |s| s.sent_requests == u64::from(batch)).await;
        }
        let said = log.lines_with("what was read before is used");
        assert!(said.len() == 1 && said[0].contains("client key") && said[0].contains("client.key"), "{said:?}");
        assert_eq!(log.lines_with("hunter2"), [""; 0]);
        install(collector.tls().expect("TLS"), dir.path());
        collector.refuse();
        collector.listen();
        shipper.queue().enqueue(&counted(4));
        stats_until(&shipper, "it is sent", |s| s.sent_requests == 4).await;
        assert_eq!(log.lines_with("read again").len(), 1, "{:?}", log.lines_with(""));
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_read_again_and_the_batch_is_not_lost() {
    for protocol in BOTH {
        let dir = tempfile::tempdir().expect("a directory");
        let token = dir.path().join("token");
        fs::write(&token, "first").expect("a file");
        let collector = Collector::start().expect("a collector");
        let refusal = match protocol {
            Protocol::Grpc => Answer::Grpc { code: Code::Unauthenticated, retry_info: None },
            Protocol::HttpProtobuf => Answer::Http { status: 401, retry_after: None },
        };
        let shipper = quick(&with(to(&collector, protocol), |metrics| metrics.token_file = Some(token.clone())));
        shipper.queue().enqueue(&counted(1));
        stats_until(&shipper, "the first is sent", |s| s.sent_requests == 1).await;
        // Changed: the next request has it.
        fs::write(&token, "second").expect("a file");
        shipper.queue().enqueue(&counted(2));
        stats_until(&shipper, "the second is sent", |s| s.sent_requests == 2).await;
        // Refused with the same in the file: it is as with any refusal.
        collector.next(1, refusal);
        shipper.queue().enqueue(&counted(3));
        stats_until(&shipper, "the third is given up", |s| s.failed_requests == 1).await;
        let tokens: Vec<_> = collector.received().iter().map(|request| request.headers["authorization"].clone()).collect();
        assert_eq!(tokens, ["Bearer first", "Bearer second"], "{protocol}");
    }
}

#[tokio::test]
async fn what_is_meant_for_metrics_is_not_sent_with_events() {
    for protocol in BOTH {
        let (metrics, logs) = (Collector::start().expect("a collector"), Collector::start().expect("a collector"));
        let mut settings = to(&metrics, protocol);
        settings.metrics.headers.0 = [("authorization".to_owned(), "of-metrics".to_owned())].into();
        let of_logs = settings.logs.as_mut().expect("an address");
        // By the other protocol, too.
        (of_logs.protocol, of_logs.endpoint) = match protocol {
            Protocol::Grpc => (Protocol::HttpProtobuf, logs.http_endpoint().replace("/v1/metrics", "/v1/logs")),
            Protocol::HttpProtobuf => (Protocol::Grpc, logs.grpc_endpoint()),
        };
        of_logs.headers.0 = [("x-key".to_owned(), "of-logs".to_owned())].into();
        let shipper = quick(&settings);
        shipper.queue().enqueue(&eventful(1));
        logs.until("the event", |c| !c.logs().is_empty()).await.expect("an event");
        metrics.until("the metrics", |c| !c.received().is_empty()).await.expect("metrics");
        let headers = logs.logs_headers();
        assert_eq!((headers[0].get("authorization"), headers[0]["x-key"].as_str()), (None, "of-logs"), "{protocol}");
        let received = metrics.received();
        assert_eq!((received[0].headers["authorization"].as_str(), received[0].headers.get("x-key")), ("of-metrics", None));
        assert_eq!((metrics.log_attempts(), logs.attempts()), (0, 0));
    }
}

/// Passes on what comes to a Unix socket.
fn bridge(path: &Path, to: String) {
    let socket = UnixListener::bind(path).expect("a socket");
    tokio::spawn(async move {
        while let Ok((mut near, _)) = socket.accept().await {
            let mut far = TcpStream::connect(&to).await.expect("the collector");
            tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
    });
}

#[tokio::test]
async fn exports_and_events_go_to_a_unix_socket_and_one_that_nobody_made_is_named() {
    for protocol in BOTH {
        let log = Captured::default();
        let _guard = log.install();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("otel.sock");
        let collector = Collector::start().expect("a collector");
        let mut settings = to(&collector, protocol);
        for to in std::iter::once(&mut settings.metrics).chain(&mut settings.logs) {
            to.endpoint = format!("unix://{}", path.display());
        }
        let shipper = quick(&settings);
        shipper.queue().enqueue(&eventful(1));
        stats_until(&shipper, "an attempt fails", |s| s.retries > 0).await;
        let said = log.lines_with("otel.sock");
        assert!(said.iter().any(|line| line.contains("No such file")), "{said:?}");
        bridge(&path, collector.grpc_endpoint().replace("http://", ""));
        stats_until(&shipper, "it is sent", |s| s.sent_requests == 1).await;
        collector.until("the event", |c| !c.logs().is_empty()).await.expect("an event");
        assert_eq!(arrived(&collector).len(), 1, "{protocol}");
    }
}

/// A destination with a name that only the proxy can look up.
fn behind(collector: &Collector, protocol: Protocol, proxies: Proxies) -> Export {
    let endpoint = |url: &str| url.replace("127.0.0.1", "server.test");
    let mut settings = to(collector, protocol);
    for to in std::iter::once(&mut settings.metrics).chain(&mut settings.logs) {
        (to.endpoint, to.proxies) = (endpoint(&to.endpoint), proxies.clone());
    }
    settings
}

fn by(name: &str, url: &str) -> Proxies {
    Proxies::read(&|variable| (variable == name).then(|| url.to_owned()))
}

#[tokio::test]
async fn exports_go_through_the_environments_proxy_with_its_credentials() {
    const LOGIN: &str = "Basic bWU6aHVudGVyMg==";
    for (protocol, tls) in
        [(Protocol::Grpc, false), (Protocol::Grpc, true), (Protocol::HttpProtobuf, false), (Protocol::HttpProtobuf, true)]
    {
        let log = Captured::default();
        let _guard = log.install();
        let proxy = Proxy::that_wants(LOGIN).expect("a proxy");
        let options = Options { tls: tls.then(|| Tls::new().expect("certificates")), ..Options::default() };
        let collector = Collector::with(options).expect("a collector");
        let variable = if tls { "https_proxy" } else { "HTTP_PROXY" };
        let settings = behind(&collector, protocol, by(variable, &proxy.url_of("me", "hunter2")));
        let shipper = quick(&settings);
        for second in 1..=3 {
            shipper.queue().enqueue(&eventful(second));
        }
        stats_until(&shipper, "all are sent", |s| s.sent_requests == 3).await;
        collector.until("the events", |c| c.logs().len() == 3).await.expect("events");
        assert_eq!(arrived(&collector), [1.0, 2.0, 3.0]);
        let port = collector.address().port();
        let requests = proxy.requests();
        // Plain HTTP/1.1 needs no tunnel, which many a proxy opens to the ports of TLS only.
        let mut lines: Vec<_> = requests.iter().map(|request| request.line.clone()).collect();
        lines.sort();
        if protocol == Protocol::HttpProtobuf && !tls {
            let post = |path: &str| format!("POST http://server.test:{port}/v1/{path} HTTP/1.1");
            assert_eq!(lines, [post("logs"), post("metrics")]);
        } else {
            assert_eq!(lines, [format!("CONNECT server.test:{port} HTTP/1.1"), format!("CONNECT server.test:{port} HTTP/1.1")]);
        }
        assert!(requests.iter().all(|request| request.authorization.as_deref() == Some(LOGIN)), "{requests:?}");
        // Only the proxy gets it.
        if tls || protocol == Protocol::Grpc {
            let received = collector.received();
            assert!(received.iter().all(|request| !request.headers.contains_key("proxy-authorization")), "{protocol}");
        }
        assert_eq!((log.lines_with("hunter2"), log.lines_with("bWU6aHVudGVyMg")), (vec![], vec![]));
        assert!(!format!("{settings:?} {shipper:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn a_proxy_that_fails_is_named_without_its_credentials() {
    let refused = Proxy::that_refuses("403 Forbidden").expect("a proxy");
    let unauthorized = Proxy::that_wants("Basic other").expect("a proxy");
    let url = |proxy: &Proxy| proxy.url_of("me", "hunter2");
    let gone = "http://me:hunter2@127.0.0.1:1".to_owned();
    for (proxy, want) in [
        (url(&refused), "opens no connection to server.test:"),
        (url(&refused), "403 Forbidden"),
        (url(&unauthorized), "407 Proxy Authentication Required, check the user and the password"),
        (gone, "the proxy http://127.0.0.1:1 (ALL_PROXY) could not be reached"),
    ] {
        let collector = Collector::start().expect("a collector");
        let shipper = quick(&behind(&collector, Protocol::Grpc, by("ALL_PROXY", &proxy)));
        shipper.queue().enqueue(&counted(1));
        let stats = stats_until(&shipper, "an attempt failed", |s| s.retries >= 1).await;
        let error = stats.last_error.expect("an error");
        for part in [want, "by the proxy http://127.0.0.1:", "NO_PROXY"] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
        assert!(!error.contains("hunter2") && collector.connections() == 0, "{error}");
    }
    // What has no need of it does not use it.
    let collector = Collector::start().expect("a collector");
    let settings = with(to(&collector, Protocol::Grpc), |metrics| metrics.proxies = by("ALL_PROXY", &url(&refused)));
    let shipper = quick(&settings);
    shipper.queue().enqueue(&counted(1));
    stats_until(&shipper, "it is sent", |s| s.sent_requests == 1).await;
}

#[tokio::test]
async fn tls_where_there_is_none_and_none_where_there_is_are_told_apart_from_a_bad_certificate() {
    for protocol in BOTH {
        let plain = Collector::start().expect("a collector");
        let options = Options { tls: Some(Tls::new().expect("certificates")), ..Options::default() };
        let encrypted = Collector::with(options).expect("a collector");
        let swapped = |collector: &Collector, from: &str, into: &str| {
            with(to(collector, protocol), |metrics| metrics.endpoint = metrics.endpoint.replace(from, into))
        };
        for (settings, want) in [
            (swapped(&plain, "http://", "https://"), "the endpoint does not speak TLS: use http://"),
            (swapped(&encrypted, "https://", "http://"), "the endpoint speaks TLS: use https://"),
        ] {
            let settings = with(settings, |metrics| metrics.certificate = Some(encrypted.tls().expect("TLS").ca()));
            let shipper = quick(&settings);
            shipper.queue().enqueue(&counted(1));
            let start = std::time::Instant::now();
            // It may take a second look.
            let error = loop {
                let stats = stats_until(&shipper, "an attempt failed", |s| s.retries >= 1).await;
                match stats.last_error.filter(|error| error.contains(want)) {
                    Some(error) => break error,
                    None => assert!(start.elapsed() < Duration::from_secs(10), "{protocol}: {:?}", shipper.queue().stats()),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            assert!(!error.contains("certificate"), "{error}");
        }
    }
}

#[tokio::test]
async fn one_empty_request_tells_whether_a_receiver_takes_what_is_sent() {
    for protocol in BOTH {
        let collector = Collector::start().expect("a collector");
        let probes = probe(&to(&collector, protocol), &crate::config::Telemetry::default()).await.expect("good settings");
        let outcomes: Vec<_> = probes.iter().map(|probe| (probe.payload.to_string(), probe.outcome.is_ok())).collect();
        assert_eq!(outcomes, [("metrics".to_owned(), true), ("events".to_owned(), true)], "{probes:?}");
        assert_eq!((collector.attempts(), collector.log_attempts()), (1, 1));
        assert_eq!(collector.received()[0].request.resource_metrics.len(), 0);

        collector.always_logs(match protocol {
            Protocol::Grpc => Answer::Grpc { code: Code::Unauthenticated, retry_info: None },
            Protocol::HttpProtobuf => Answer::Http { status: 401, retry_after: None },
        });
        let probes = probe(&to(&collector, protocol), &crate::config::Telemetry::default()).await.expect("good settings");
        let error = probes[1].outcome.as_ref().expect_err("refused");
        assert!(probes[0].outcome.is_ok() && error.contains("check the credentials"), "{error}");
        let nobody = Export { metrics: destination("http://127.0.0.1:1", protocol), logs: None, ..to(&collector, protocol) };
        let nobody = with(nobody, |metrics| {
            if protocol == Protocol::HttpProtobuf {
                metrics.endpoint += "/v1/metrics";
            }
        });
        let probes = probe(&nobody, &crate::config::Telemetry::default()).await.expect("good settings");
        assert!(probes[0].outcome.as_ref().is_err_and(|error| error.contains("refused")), "{probes:?}");
        let bad: Destination = destination("ftp://x", protocol);
        assert!(probe(&Export { metrics: bad, ..to(&collector, protocol) }, &crate::config::Telemetry::default()).await.is_err());
    }
}
