//! The Grafana dashboard: every query of it has data in a real VictoriaMetrics that an agent has filled. What has none is listed
//! here, with the reason.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use podmeter_tests::{
    SECOND,
    agent::Agent,
    cgroup::{self, inside},
    deploy, disk,
    kubernetes::{ApiOptions, Cluster, Container, Driver, Pod, RunningPod},
    load::Load,
    namespace::{Cable, FAR},
    promql, root_test,
    victoria::VictoriaMetrics,
};
use serde_json::{Value as Json, json};

const DASHBOARD: &str = "grafana/podmeter-victoriametrics.json";
/// How long the agent measures before the queries, and what stands for Grafana's `$__rate_interval`.
const MEASURED: Duration = Duration::from_secs(12);
const RATE_INTERVAL: &str = "10s";

/// Series that cannot be there in this test, and why. A query of one of them must have no data: when it has data, its
/// place is not here.
struct Exception {
    series: &'static [&'static str],
    why: &'static str,
    /// By the machine, or by what the agent's log says.
    holds: fn(&str) -> Result<bool>,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        series: &["k8s_container_cpu_limit_current", "podmeter_cpu_periods_total", "podmeter_cpu_throttled_periods_total"],
        why: "cgroup2 has no cpu controller on this machine",
        holds: |_| Ok(!cgroup::has_controller("cpu")?),
    },
    Exception {
        series: &[
            "container_memory_working_set_bytes",
            "podmeter_memory_unreclaimable_bytes",
            "podmeter_memory_slack_bytes",
            "k8s_container_memory_limit_current_bytes",
        ],
        why: "cgroup2 has no memory controller on this machine",
        holds: |_| Ok(!cgroup::has_controller("memory")?),
    },
    Exception {
        series: &["podmeter_disk_fsync_duration_seconds_bucket"],
        why: "this kernel runs no programs at its functions",
        holds: |log| Ok(log.contains("no syncs of files")),
    },
];

/// Why a query can have no answer here.
fn excepted(series: &BTreeSet<String>, log: &str) -> Result<Option<&'static str>> {
    for exception in EXCEPTIONS {
        if exception.series.iter().any(|name| series.contains(*name)) && (exception.holds)(log)? {
            return Ok(Some(exception.why));
        }
    }
    Ok(None)
}

/// A query of the dashboard.
struct Query {
    /// Panel or variable.
    of: String,
    promql: String,
}

/// Every query, with the variables set to "All".
fn queries(dashboard: &Json) -> Result<Vec<Query>> {
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        for target in list(&panel["targets"]) {
            let promql = target["expr"].as_str().context("a target without a query")?.to_owned();
            queries.push(Query { of: format!("panel {}", panel["title"]), promql });
        }
    }
    for variable in list(&dashboard["templating"]["list"]) {
        let Some(definition) = variable["definition"].as_str() else { continue };
        let inside = definition.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = inside.and_then(|inside| inside.rsplit_once(", ")).with_context(|| definition.to_owned())?;
        queries.push(Query { of: format!("variable {}", variable["name"]), promql: format!("count by ({label}) ({series})") });
    }
    for query in &mut queries {
        let variables = [("$__rate_interval", RATE_INTERVAL), ("$cluster", ".*"), ("$namespace", ".*"), ("$workload", ".*")];
        for (variable, value) in variables {
            query.promql = query.promql.replace(variable, value);
        }
        ensure!(!query.promql.contains('$'), "{}: an unknown variable in {}", query.of, query.promql);
    }
    Ok(queries)
}

/// The pod as the API has it: a container that runs and was restarted, and one that cannot start.
fn pod() -> Pod {
    let requests = (json!({"cpu": "250m", "memory": "64Mi"}), json!({"cpu": "500m", "memory": "128Mi"}));
    let mut app = Container::started("app").with_resources(requests.0, requests.1);
    app.restarts = 1;
    let mut broken = Container::new("broken", "");
    broken.state = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let mut pod = Pod::new("web-5d8f7c9b4-abcde", vec![app, broken]);
    // It starts after the agent has.
    let soon = humantime::format_rfc3339_seconds(SystemTime::now() + 60 * SECOND).to_string();
    let since = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": soon});
    pod.metadata = json!({"creationTimestamp": soon});
    pod.status = json!({"conditions": [since("PodScheduled"), since("Initialized"), since("ContainersReady")]});
    pod
}

/// What a pod does on a disk and on the network, with both ends in it: a file that is written and synced, TCP, lookups of which every second fails, packets to closed ports; and
/// datagrams that leave by an interface, since loopback is apart.
fn talk(until: Instant) -> Result<()> {
    // All of 127/8 is this machine's; a resolver of its own would be at the first address, or at 127.0.0.53.
    const SERVER: &str = "127.9.9.9:53";
    let listener = TcpListener::bind("127.0.0.1:0").context("could not listen")?;
    let mut sender = TcpStream::connect(listener.local_addr()?).context("could not connect")?;
    let (mut receiver, _) = listener.accept().context("could not accept")?;
    let server = UdpSocket::bind(SERVER).with_context(|| format!("could not listen at {SERVER}"))?;
    let client = UdpSocket::bind("127.0.0.1:0").context("could not make a socket")?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(SECOND)).context("could not limit a wait")?;
    }
    let cable = Cable::new()?;
    let bind = || UdpSocket::bind("0.0.0.0:0").context("could not make a socket");
    let (near, far) = (cable.near.run(bind)?, cable.far.run(bind)?);
    let there = (FAR, far.local_addr()?.port());
    let mut bytes = [1; 4096];
    let mut id: u16 = 0;
    let mut file = tempfile::tempfile_in(disk::directory()?).context("could not make a file")?;
    while Instant::now() < until {
        file.write_all(&bytes).and_then(|()| file.sync_all()).context("could not write and sync a file")?;
        sender.write_all(&bytes).context("could not send")?;
        receiver.read_exact(&mut bytes).context("could not receive")?;
        near.send_to(&bytes[..1000], there).context("could not send")?;
        id += 1;
        answered(&client, &server, SERVER, id)?;
        // To a closed port: it is dropped, and the next call may report it.
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[0], "127.9.9.9:9"));
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// One lookup of `a.test`, IN A: NOERROR for even ids, SERVFAIL for odd ones.
fn answered(client: &UdpSocket, server: &UdpSocket, address: &str, id: u16) -> Result<()> {
    let [high, low] = id.to_be_bytes();
    let query = [&[high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\x04test\x00\x00\x01\x00\x01"].concat();
    client.send_to(&query, address).context("could not send a query")?;
    let mut packet = [0; 512];
    let (length, from) = server.recv_from(&mut packet).context("no question came")?;
    packet[2] |= 0x80;
    packet[3] = if id.is_multiple_of(2) { 0 } else { 2 };
    server.send_to(&packet[..length], from).context("could not answer")?;
    client.recv_from(&mut packet).context("no answer came").map(drop)
}

root_test! {
    fn every_query_of_the_dashboard_answers_with_data_that_the_agent_has_sent() {
        if !deploy::is_here(TEST) {
            return Ok(());
        }
        let text = deploy::text(&deploy::directory().join(DASHBOARD))?;
        let queries = queries(&serde_json::from_str(&text).context("the dashboard is no JSON")?)?;
        ensure!(queries.len() > 30, "the dashboard has only {} queries", queries.len());

        let Some(backend) = VictoriaMetrics::for_test(TEST)? else { return Ok(()) };
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let RunningPod { container, cgroup: _cgroup, .. } = cluster.run_pod(pod())?;
        let mut config = cluster.server.agent_config()?;
        config["cluster_name"] = json!("test");
        config["export"] = backend.exporter();
        let agent = Agent::spawn(config)?;
        let until = Instant::now() + MEASURED;
        let load = Load::duty_cycle(30 * SECOND / 1000, SECOND / 10, MEASURED).start(&container)?;
        // Two that want one CPU: both wait for the other.
        let crowd = [(); 2].map(|()| Load::spin(MEASURED).on_cpu(0).start(&container));
        inside(&container, || talk(until))?;

        let (mut wrong, log) = (Vec::new(), agent.stderr());
        for query in &queries {
            let series = promql::names(&query.promql).series;
            let answer = backend.query(&query.promql).with_context(|| query.of.clone())?;
            let data = answer.iter().any(|(_, value)| value.is_finite());
            match (excepted(&series, &log)?, data) {
                (None, false) => wrong.push(format!("{}: no data for {}", query.of, query.promql)),
                (Some(why), true) => wrong.push(format!("{}: data, although {why}: {}", query.of, query.promql)),
                (Some(why), false) => println!("{}: no data, since {why}", query.of),
                (None, true) => {}
            }
        }
        load.wait()?;
        for spinner in crowd {
            spinner?.wait()?;
        }
        agent.stop()?;
        if !wrong.is_empty() {
            bail!("of {} queries:\n{}\nseries there are:\n{}", queries.len(), wrong.join("\n"), backend.names()?.join(" "));
        }
        Ok(())
    }
}
