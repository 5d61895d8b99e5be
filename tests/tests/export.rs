//! End to end with a collector that fails: afterwards it has the CPU time of `cpu.stat`, and meanwhile the agent stays small and
//! quick.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::{collector::metrics::v1::ExportMetricsServiceRequest, metrics::v1::metric::Data};
use podmeter_tests::{
    MS,
    agent::{Agent, As, STOPS_WITHIN, run, unix_ns},
    bench::pods::Pods,
    cgroup::Cgroup,
    collector::{Answer, Collector, Options, Received},
    http,
    load::Load,
    metric::CPU_TIME,
    otlp::Exports,
    root_test,
    truth::{EXACT, schedstat_of_threads},
};
use prost::Message as _;
use serde_json::json;

/// How long each trouble lasts: three intervals and some attempts.
const TROUBLE: Duration = Duration::from_millis(3500);

/// Share of one CPU that the agent may use while a collector is in trouble; an unoptimised build included.
const CHEAP: f64 = 0.2;

const PROTOCOLS: [&str; 2] = ["grpc", "http/protobuf"];

fn start(collector: &Collector, protocol: &str) -> Result<Agent> {
    start_with(collector, protocol, "500ms", "8s")
}

/// An agent with this much time for one request, and for its end.
fn start_with(collector: &Collector, protocol: &str, timeout: &str, shutdown_timeout: &str) -> Result<Agent> {
    let endpoint = if protocol == "grpc" { collector.grpc_endpoint() } else { collector.http_endpoint() };
    let export = json!({"exporter": "otlp", "protocol": protocol, "endpoint": endpoint, "timeout": timeout,
        "shutdown_timeout": shutdown_timeout});
    Agent::spawn(json!({"export": export}))
}

/// Everything the collector has taken, checked.
fn exports(collector: &Collector) -> Result<Exports> {
    let exports = collector.exports()?;
    exports.check_that_counters_only_grow()?;
    Ok(exports)
}

/// Waits until the collector has what was measured after this call.
fn catch_up(collector: &Collector, cgroup: &Cgroup) -> Result<()> {
    let now = unix_ns();
    collector.wait_until("an export of what is now", |collector| {
        let exports = collector.exports().unwrap_or_default();
        exports.history(cgroup.path(), CPU_TIME).last().is_some_and(|(measured, _)| *measured > now)
    })
}

fn check_cpu_time(exports: &Exports, cgroup: &str, truth: f64) -> Result<()> {
    let measured = exports.value(cgroup, CPU_TIME, &[]).with_context(|| format!("{cgroup} never reached the collector"))?;
    EXACT.check(cgroup, measured, truth)
}

/// The lines of a log that hold `text`.
fn lines<'a>(log: &'a str, text: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(text)).collect()
}

/// Lets the collector get into trouble while containers work and end, then out of it.
fn survives(trouble: impl Fn(&Collector, &str), recovery: impl Fn(&Collector), logged: &str) -> Result<()> {
    for protocol in PROTOCOLS {
        println!("over {protocol}");
        let collector = Collector::start()?;
        let mut agent = start(&collector, protocol)?;
        let lasting = Cgroup::new("lasting")?;
        Load::burn(50 * MS).start(&lasting)?.wait()?;
        catch_up(&collector, &lasting)?;

        trouble(&collector, protocol);
        let (begin, before) = (Instant::now(), schedstat_of_threads(agent.pid())?);
        Load::burn(30 * MS).start(&lasting)?.wait()?;
        let short = Cgroup::new("short")?;
        Load::burn(20 * MS).start(&short)?.wait()?;
        let (gone, truth_of_gone) = (short.path().to_owned(), short.cpu_stat()?.usage_seconds());
        short.remove()?;
        thread::sleep(TROUBLE.saturating_sub(begin.elapsed()));
        ensure!(agent.alive()?, "the agent ended:\n{}", agent.stderr());
        let used = schedstat_of_threads(agent.pid())?.on_cpu_ns.saturating_sub(before.on_cpu_ns) as f64 / 1e9;
        let share = used / begin.elapsed().as_secs_f64();
        ensure!(share < CHEAP, "the agent used {share:.3} of a CPU while the collector was in trouble");

        recovery(&collector);
        catch_up(&collector, &lasting)?;
        let truth = lasting.cpu_stat()?.usage_seconds();
        let log = agent.stop()?.stderr;
        let exports = exports(&collector)?;
        check_cpu_time(&exports, lasting.path(), truth)?;
        check_cpu_time(&exports, &gone, truth_of_gone)?;
        let times = lines(&log, logged).len();
        // One kind of failure may turn into another, such as a reset into a refusal.
        ensure!((1..=2).contains(&times), "the log has \"{logged}\" {times} times over {protocol}:\n{log}");
    }
    Ok(())
}

root_test! {
    fn a_collector_that_is_overloaded_gets_everything_in_the_end() {
        let unavailable = |collector: &Collector, protocol: &str| {
            collector.always(if protocol == "grpc" {
                Answer::Grpc { code: tonic::Code::Unavailable, retry_info: None }
            } else {
                Answer::Http { status: 503, retry_after: None }
            });
        };
        survives(unavailable, |collector| collector.always(Answer::Accept), "could not send")
    }
}

root_test! {
    fn a_collector_that_stalls_gets_everything_in_the_end() {
        survives(|collector, _| collector.always(Answer::Stall), |collector| collector.always(Answer::Accept), "could not send")
    }
}

root_test! {
    fn a_collector_that_resets_its_connections_gets_everything_in_the_end() {
        survives(|collector, _| collector.always(Answer::Reset), |collector| collector.always(Answer::Accept), "could not send")
    }
}

root_test! {
    fn a_collector_that_goes_away_gets_everything_when_it_is_back() {
        survives(|collector, _| collector.refuse(), Collector::listen, "could not send")
    }
}

root_test! {
    fn a_collector_that_rejects_some_points_is_taken_at_its_word_and_logged() {
        let partial = |collector: &Collector, _: &str| {
            collector.always(Answer::Partial { rejected: 7, message: "seven were too many".to_owned() });
        };
        survives(partial, |collector| collector.always(Answer::Accept), "seven were too many")
    }
}

root_test! {
    fn a_stalling_collector_does_not_keep_the_agent_from_stopping() {
        for protocol in PROTOCOLS {
            let collector = Collector::start()?;
            collector.always(Answer::Stall);
            let agent = start_with(&collector, protocol, "500ms", "1700ms")?;
            collector.wait_until("an attempt to export", |collector| collector.connections() > 0)?;
            thread::sleep(1500 * MS);
            let took = agent.stop()?.took;
            println!("over {protocol}, it took {took:?} of {STOPS_WITHIN:?}");
        }
        Ok(())
    }
}

root_test! {
    fn a_collector_that_takes_its_time_gets_the_last_export_where_there_is_time_for_it() {
        // Each request is answered after 3 s, and one is on its way when the agent is stopped.
        for protocol in PROTOCOLS {
            let collector = Collector::start()?;
            let agent = start_with(&collector, protocol, "5s", "12s")?;
            let cgroup = Cgroup::new("late")?;
            catch_up(&collector, &cgroup)?;
            collector.always(Answer::Late(3000 * MS));
            thread::sleep(1500 * MS);
            Load::burn(40 * MS).start(&cgroup)?.wait()?;
            let truth = cgroup.cpu_stat()?.usage_seconds();
            let ended = agent.stop_within(Duration::from_secs(12))?;
            println!("over {protocol}, it took {:?}", ended.took);
            ensure!(!ended.stderr.contains("unsent"), "{}", ended.stderr);
            check_cpu_time(&exports(&collector)?, cgroup.path(), truth)?;
        }
        Ok(())
    }
}

root_test! {
    fn what_was_used_until_the_agent_is_stopped_is_in_its_last_export() {
        for protocol in PROTOCOLS {
            let collector = Collector::start()?;
            // A request that takes long is not sent twice.
            let agent = start_with(&collector, protocol, "5s", "8s")?;
            let (lasting, short) = (Cgroup::new("lasting")?, Cgroup::new("short")?);
            catch_up(&collector, &lasting)?;
            Load::burn(40 * MS).start(&lasting)?.wait()?;
            Load::burn(20 * MS).start(&short)?.wait()?;
            let truths = [(lasting.path().to_owned(), lasting.cpu_stat()?), (short.path().to_owned(), short.cpu_stat()?)];
            short.remove()?;
            agent.stop()?;
            let exports = exports(&collector)?;
            truths.iter().try_for_each(|(path, truth)| check_cpu_time(&exports, path, truth.usage_seconds()))?;
        }
        Ok(())
    }
}

root_test! {
    fn a_node_of_250_pods_arrives_whole_at_receivers_with_the_usual_limit() {
        let pods = Pods::new(250, 3)?;
        for protocol in PROTOCOLS {
            let collector = Collector::with(Options { limit: Some(4 << 20), ..Options::default() })?;
            let endpoint = if protocol == "grpc" { collector.grpc_endpoint() } else { collector.http_endpoint() };
            let agent = Agent::spawn(json!({
                "cgroups": {"slots": 2048},
                "export": {"exporter": "otlp", "protocol": protocol, "endpoint": endpoint, "request_bytes": "2MiB"},
            }))?;
            let whole = |exports: &Exports| pods.paths().filter(|path| exports.value(path, CPU_TIME, &[]).is_some()).count();
            collector.wait_until("every container", |collector| {
                collector.received().len() > 1 && whole(&collector.exports().unwrap_or_default()) == pods.containers()
            })?;
            let ended = agent.stop()?;
            ensure!(!ended.stderr.contains("could not send"), "{}", ended.stderr);
            let exports = exports(&collector)?;
            let lost = ["failed", "rejected", "dropped"]
                .map(|outcome| exports.node_value("podmeter.agent.export.points", &[("outcome", outcome)]));
            ensure!(lost == [Some(0.0); 3], "failed, rejected, dropped: {lost:?}");
            // One export is more than one request, and so has to be cut.
            let largest = collector.received().iter().map(|received| received.request.encoded_len()).max().unwrap_or_default();
            ensure!((1 << 20..=2 << 20).contains(&largest), "the largest request has {largest} B");
        }
        Ok(())
    }
}

/// The times of the node's own points in a request, which is one of each collection.
fn times_of_node(request: &ExportMetricsServiceRequest) -> BTreeSet<u64> {
    let metrics = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics);
    let gauges =
        metrics.filter(|metric| metric.name == "podmeter.agent.export.queue.length").filter_map(|metric| match &metric.data {
            Some(Data::Gauge(gauge)) => Some(&gauge.data_points),
            _ => None,
        });
    gauges.flatten().filter(|point| point.flags == 0).map(|point| point.time_unix_nano).collect()
}

root_test! {
    fn an_agent_that_is_killed_again_and_again_loses_no_export() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let directory = tempfile::tempdir()?;
        let journal = directory.path().join("journal");
        let collector = Collector::start()?;
        let config = || json!({
            "journal": {"directory": journal},
            "export": {"exporter": "otlp", "protocol": "grpc", "endpoint": collector.grpc_endpoint(), "timeout": "500ms"},
        });
        let lasting = Cgroup::new("lasting")?;
        let rounds = 6;
        for round in 0..rounds {
            // Half of the time nothing can be sent; killed at another moment of the second each time.
            let refused = round % 2 == 0;
            if refused { collector.refuse() } else { collector.listen() }
            let agent = Agent::spawn(config())?;
            agent.wait_for_log("podmeter runs", PATIENCE)?;
            Load::burn(20 * MS).start(&lasting)?.wait()?;
            if refused { agent.wait_for_log("could not send metrics", PATIENCE)? } else { catch_up(&collector, &lasting)? }
            thread::sleep(Duration::from_millis(700 + round * 170));
            agent.kill()?;
        }
        collector.listen();
        let agent = Agent::spawn(config())?;
        catch_up(&collector, &lasting)?;
        let log = agent.stop()?.stderr;

        let arguments = ["export", "--since", "1h", "--journal", journal.to_str().context("a path")?];
        let output = run(&arguments, As::Root, Duration::from_secs(60))?;
        ensure!(output.code == Some(0), "{output:?}");
        let lines = output.stdout.lines().map(serde_json::from_str::<ExportMetricsServiceRequest>);
        let kept = lines.collect::<Result<Vec<_>, _>>()?;
        let kept: BTreeSet<u64> = kept.iter().flat_map(times_of_node).collect();
        let sent: BTreeSet<u64> = collector.received().iter().flat_map(|received| times_of_node(&received.request)).collect();
        ensure!(kept.len() as u64 > rounds, "{} exports in the journal; the last agent's log:\n{log}", kept.len());
        ensure!(kept == sent, "{} exports were kept and {} were sent", kept.len(), sent.len());
        // In order, and no counter went down.
        let exports = exports(&collector)?;
        check_cpu_time(&exports, lasting.path(), lasting.cpu_stat()?.usage_seconds())
    }
}

/// The times of the node's own points in all that a collector has, in order of arrival, and how long after them each came.
fn arrivals(collector: &Collector) -> Vec<(u64, Duration)> {
    let (now, now_ns) = (Instant::now(), unix_ns());
    let received = collector.received();
    let of_request = |received: &Received| {
        let at_ns = now_ns - now.duration_since(received.at).as_nanos() as u64;
        let delay = move |time: u64| (time, Duration::from_nanos(at_ns.saturating_sub(time)));
        times_of_node(&received.request).into_iter().map(delay).collect::<Vec<_>>()
    };
    received.iter().flat_map(of_request).collect()
}

root_test! {
    fn of_two_receivers_one_is_down_and_the_agent_is_killed_and_each_gets_every_export_in_order_the_other_without_delay() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let kills = 2;
        let directory = tempfile::tempdir()?;
        let journal = directory.path().join("journal");
        let (down, up) = (Collector::start()?, Collector::start()?);
        let alone = || json!({
            "journal": {"directory": journal},
            "export": {"exporter": "otlp", "protocol": "grpc", "endpoint": down.grpc_endpoint(), "timeout": "500ms"},
        });
        // In another form than the journal has.
        let further = json!({"endpoint": up.http_endpoint(), "protocol": "http/protobuf", "compression": "none"});
        let both = || {
            let mut config = alone();
            config["export"]["also"] = json!({"team-a": further});
            config
        };
        let lasting = Cgroup::new("lasting")?;
        let mut agent = Agent::spawn(both())?;
        catch_up(&down, &lasting)?;
        down.refuse();
        let outage = Instant::now();
        for round in 0..kills {
            agent.wait_for_log("could not send metrics to ", PATIENCE)?;
            Load::burn(20 * MS).start(&lasting)?.wait()?;
            catch_up(&up, &lasting)?;
            thread::sleep(Duration::from_millis(4300 + round * 370));
            agent.kill()?;
            agent = Agent::spawn(both())?;
        }
        catch_up(&up, &lasting)?;
        let (_, ready) = http::get(agent.address(), "/readyz")?;
        ensure!(ready.contains("export to main: failing for ") && ready.contains("export to team-a: on"), "{ready}");
        let outage = outage.elapsed();
        down.listen();
        [&down, &up].into_iter().try_for_each(|collector| catch_up(collector, &lasting))?;
        let truth = lasting.cpu_stat()?.usage_seconds();
        let log = agent.stop()?.stderr;
        ensure!(log.contains(" over gRPC (main): "), "{log}");

        let arguments = ["export", "--since", "1h", "--journal", journal.to_str().context("a path")?];
        let output = run(&arguments, As::Root, PATIENCE)?;
        let requests = output.stdout.lines().map(serde_json::from_str::<ExportMetricsServiceRequest>);
        let kept = requests.collect::<Result<Vec<_>, _>>()?;
        let kept: BTreeSet<u64> = kept.iter().flat_map(times_of_node).collect();
        for (name, collector) in [("main", &down), ("team-a", &up)] {
            let sent: Vec<u64> = arrivals(collector).into_iter().map(|(time, _)| time).collect();
            ensure!(sent.is_sorted(), "{name} got exports out of order: {sent:?}");
            let each: BTreeSet<u64> = sent.iter().copied().collect();
            ensure!(each == kept, "{name} got {} of {} exports; the last agent's log:\n{log}", each.len(), kept.len());
            // The request that is on its way when the agent is killed may come twice.
            let twice = sent.len() - each.len();
            ensure!(twice <= kills as usize, "{name} got {twice} exports twice");
            let exports = exports(collector)?;
            check_cpu_time(&exports, lasting.path(), truth)?;
            for receiver in ["main", "team-a"] {
                let dropped = exports.node_value("podmeter.agent.export.points", &[("outcome", "dropped"), ("receiver", receiver)]);
                ensure!(dropped == Some(0.0), "{name} shows {dropped:?} dropped points of {receiver}");
            }
        }
        let slowest = arrivals(&up).into_iter().map(|(_, delay)| delay).max().unwrap_or_default();
        println!("{} exports, down for {outage:?}, the other got each within {slowest:?}", kept.len());
        ensure!(slowest < outage / 2, "while one was down for {outage:?} the other got an export {slowest:?} late");

        // Without the second one nothing is left of it.
        let cursor = journal.join("metrics/to-team-a.cursor");
        ensure!(cursor.exists(), "{cursor:?} is not there");
        let agent = Agent::spawn(alone())?;
        catch_up(&down, &lasting)?;
        ensure!(!cursor.exists(), "{cursor:?} is still there");
        let log = agent.stop()?.stderr;
        let forgotten = lines(&log, "the receiver team-a is not in the configuration any more").len();
        ensure!(forgotten == 2, "for metrics and events, once each, not {forgotten} times:\n{log}");
        Ok(())
    }
}

root_test! {
    fn check_tries_each_receiver_and_says_which_refuses() {
        let (good, bad) = (Collector::start()?, Collector::start()?);
        bad.always(Answer::Http { status: 401, retry_after: None });
        bad.always_logs(Answer::Http { status: 401, retry_after: None });
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("podmeter.yaml");
        std::fs::write(&file, serde_json::to_string(&json!({"export": {
            "endpoint": good.grpc_endpoint(),
            "also": {"team-a": {"endpoint": bad.http_endpoint(), "protocol": "http/protobuf"}},
        }}))?)?;
        let output = run(&["check", "--config", file.to_str().context("a path")?, "--endpoint"], As::Root, Duration::from_secs(60))?;
        let of_team: Vec<_> = lines(&output.stdout, "(team-a)");
        ensure!(of_team.len() == 2 && of_team.iter().all(|line| line.contains("FAILED") && line.contains("401")), "{output:?}");
        ensure!(lines(&output.stdout, " ok ").len() == 2 && output.code == Some(1), "{output:?}");
        Ok(())
    }
}
