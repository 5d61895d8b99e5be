use std::fs;

use podmeter_tests::{
    collector::{Collector, Options, Tls},
    proxy::Proxy as FakeProxy,
};
use serde_json::{Value as Json, json};

use super::*;
use crate::pods::{
    api::Api,
    failure::{FollowError, FollowErrorKind},
};

/// A server of HTTP in TLS: it answers 404, which shows that TLS worked.
fn server(tls: Tls) -> Collector {
    Collector::with(Options { tls: Some(tls), ..Options::default() }).unwrap()
}

/// A kubeconfig with this cluster and user, written to a file of that directory.
fn kubeconfig(dir: &Path, mut cluster: Json, user: &Json, server: &str) -> PathBuf {
    cluster["server"] = server.into();
    let path = dir.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "other", "cluster": {"server": "https://x", "proxy-url": "no url"}}, {"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(&path, config.to_string()).unwrap();
    path
}

fn install(tls: &Tls, dir: &Path) {
    for (from, name) in [(tls.ca(), "ca.pem"), (tls.client_certificate(), "client.pem"), (tls.client_key(), "client.key")] {
        fs::copy(from, dir.join(name)).unwrap();
    }
}

async fn request(api: &mut Api) -> FollowErrorKind {
    api.get("/version", "application/json").await.expect_err("no such path").kind
}

async fn api(kubeconfig: &PathBuf, proxies: &Proxies) -> Api {
    Api::new(Server::of_cluster(Some(kubeconfig), proxies).await.unwrap())
}

#[tokio::test]
async fn the_api_is_reached_again_after_a_rotation_of_authority_certificate_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::mutual().unwrap();
    install(&tls, dir.path());
    let mut server = server(tls);
    // As people write it: relative to the kubeconfig.
    let user = json!({"client-certificate": "client.pem", "client-key": "client.key"});
    let path = kubeconfig(dir.path(), json!({"certificate-authority": "ca.pem"}), &user, &server.grpc_endpoint());
    let mut api = api(&path, &Proxies::default()).await;
    assert_eq!(request(&mut api).await, FollowErrorKind::Status);

    server.present(Tls::mutual().unwrap()).unwrap();
    server.refuse();
    server.listen();
    assert_eq!(request(&mut api).await, FollowErrorKind::Connection);
    install(server.tls().unwrap(), dir.path());
    assert_eq!(request(&mut api).await, FollowErrorKind::Status);

    // Changed before anything has failed: not one request is lost.
    let next = Tls::mutual().unwrap();
    install(&next, dir.path());
    server.present(next).unwrap();
    server.refuse();
    server.listen();
    assert_eq!(request(&mut api).await, FollowErrorKind::Status);
}

#[tokio::test]
async fn files_that_are_broken_in_the_middle_of_their_rotation_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::mutual().unwrap();
    install(&tls, dir.path());
    let server = server(tls);
    let user = json!({"client-certificate": dir.path().join("client.pem"), "client-key": dir.path().join("client.key")});
    let authority = json!({"certificate-authority": dir.path().join("ca.pem")});
    let path = kubeconfig(dir.path(), authority, &user, &server.grpc_endpoint());
    let mut api = api(&path, &Proxies::default()).await;
    assert_eq!(request(&mut api).await, FollowErrorKind::Status);
    for name in ["ca.pem", "client.key", "kubeconfig"] {
        let whole = fs::read(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name), &whole[..whole.len() / 2]).unwrap();
        server.refuse();
        server.listen();
        assert_eq!(request(&mut api).await, FollowErrorKind::Status, "{name}");
        fs::write(dir.path().join(name), whole).unwrap();
        assert_eq!(request(&mut api).await, FollowErrorKind::Status, "{name} is whole again");
    }
}

#[tokio::test]
async fn the_environments_proxy_leads_to_the_api_and_the_kubeconfigs_own_goes_before_it() {
    const LOGIN: &str = "Basic bWU6aHVudGVyMg==";
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::new().unwrap();
    install(&tls, dir.path());
    let server = server(tls);
    let address = server.grpc_endpoint().replace("127.0.0.1", "server.test");
    let authority = json!({"certificate-authority": dir.path().join("ca.pem")});
    let tunnel = format!("CONNECT {} HTTP/1.1", address.trim_start_matches("https://"));

    let environment = FakeProxy::that_wants(LOGIN).unwrap();
    let url = environment.url_of("me", "hunter2");
    let proxies = |none: &str| {
        Proxies::read(&|name| match name {
            "HTTPS_PROXY" => Some(url.clone()),
            "no_proxy" => Some(none.to_owned()),
            _ => None,
        })
    };
    // A list that ends in a comma, as many do.
    let path = kubeconfig(dir.path(), authority.clone(), &json!({}), &address);
    let mut by_environment = api(&path, &proxies("10.0.0.0/8,.svc,")).await;
    assert_eq!(request(&mut by_environment).await, FollowErrorKind::Status);
    let requests = environment.requests();
    assert_eq!((requests[0].line.as_str(), requests[0].authorization.as_deref()), (tunnel.as_str(), Some(LOGIN)));
    let shown = by_environment.address();
    assert!(shown.contains("by the proxy http://127.0.0.1:") && !shown.contains("hunter2"), "{shown}");

    // Nobody but the proxy knows the name.
    let mut direct = api(&path, &proxies("server.test")).await;
    assert_eq!(request(&mut direct).await, FollowErrorKind::Connection);
    assert_eq!(environment.requests().len(), 1);

    let own = FakeProxy::start().unwrap();
    let mut cluster = authority;
    cluster["proxy-url"] = own.url().into();
    let path = kubeconfig(dir.path(), cluster, &json!({}), &address);
    let mut by_own = api(&path, &proxies("server.test")).await;
    assert_eq!(request(&mut by_own).await, FollowErrorKind::Status);
    assert_eq!((own.requests()[0].line.as_str(), environment.requests().len()), (tunnel.as_str(), 1));

    let refusing = FakeProxy::that_refuses("503 Service Unavailable").unwrap();
    let path = kubeconfig(dir.path(), json!({"proxy-url": refusing.url_of("me", "hunter2")}), &json!({}), &address);
    let failure: FollowError = api(&path, &Proxies::default()).await.get("/version", "*/*").await.expect_err("no tunnel");
    assert_eq!(failure.kind, FollowErrorKind::Connection);
    assert!(failure.reason.contains("503 Service Unavailable") && !failure.reason.contains("hunter2"), "{}", failure.reason);
}

#[tokio::test]
async fn errors_show_no_secret_of_a_kubeconfig_nor_of_the_program_that_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    for text in [
        "users:\n- name: u\n  user:\n    token: hunter2\n  user: [\n",
        "users:\n- name: u\n  user: hunter2\n",
        "clusters: hunter2",
        "clusters: [{name: c, cluster: {server: 'https://c', proxy-url: 'ftp://me:hunter2@p'}}]\ncurrent-context: x\n\
         contexts: [{name: x, context: {cluster: c}}]\n",
    ] {
        fs::write(&path, text).unwrap();
        let error = Server::of_cluster(Some(&path), &Proxies::default()).await.map(|_| ()).expect_err(text);
        let shown = causes::chain(&error);
        assert!(!shown.contains("hunter2") && shown.contains("kubeconfig"), "{shown}");
    }
    for script in ["echo hunter2; exit 3", "echo 'token: hunter2'", "echo hunter2"] {
        let exec = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script], "interactiveMode": "Never",
        }});
        let path = kubeconfig(dir.path(), json!({"insecure-skip-tls-verify": true}), &exec, "https://127.0.0.1:1");
        let failure = api(&path, &Proxies::default()).await.get("/version", "*/*").await.expect_err(script);
        assert_eq!(failure.kind, FollowErrorKind::Configuration);
        assert!(!failure.reason.contains("hunter2"), "{}", failure.reason);
    }
}
