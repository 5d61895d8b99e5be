//! Mistakes of users: each has an exit code and a message that names it, against a table of both. What is not there yet is no
//! mistake.

use std::{fs::Permissions, net::TcpListener, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    SECOND,
    agent::{Agent, As, Output, config_file, run},
    http, patience, root_test,
    truth::schedstat_of_threads,
};
use serde_json::json;

/// A mistake of whoever started it.
const BAD_USAGE: i32 = 2;

/// The kernel or the permissions cannot do it.
const NOT_HERE: i32 = 3;

fn run_with(config: &str, user: As) -> Result<Output> {
    let file = config_file(config)?;
    file.as_file().set_permissions(Permissions::from_mode(0o644)).context("could not make it readable")?;
    let path = file.path().to_str().context("not UTF-8")?;
    run(&["run", "--config", path], user, 10 * SECOND)
}

/// Fails unless it ended with this code, a message on stderr that holds each of `named`, and nothing that looks like a crash.
fn check(output: &Output, code: i32, named: &[&str]) -> Result<()> {
    ensure!(output.code == Some(code), "ended with {:?} instead of {code}: {}", output.code, output.stderr);
    for name in named {
        ensure!(output.stderr.contains(name), "the message does not name {name}: {}", output.stderr);
    }
    ensure!(!output.stderr.contains("panicked"), "{}", output.stderr);
    Ok(())
}

root_test! {
    fn a_key_that_does_not_exist_is_named() {
        check(&run_with("interval: 1s\nintervall: 2s\n", As::Root)?, BAD_USAGE, &["intervall"])?;
        check(&run_with("export:\n  endpint: http://127.0.0.1:4317\n", As::Root)?, BAD_USAGE, &["endpint"])
    }
}

root_test! {
    fn a_value_of_the_wrong_type_is_named_with_its_key() {
        check(&run_with("cgroups:\n  slots: many\n", As::Root)?, BAD_USAGE, &["slots"])?;
        check(&run_with("interval: soon\n", As::Root)?, BAD_USAGE, &["interval"])?;
        check(&run_with("bpf: [1, 2]\n", As::Root)?, BAD_USAGE, &["bpf"])
    }
}

root_test! {
    fn a_value_out_of_range_is_named_with_its_key() {
        check(&run_with("interval: 0s\n", As::Root)?, BAD_USAGE, &["interval"])?;
        check(&run_with("cgroups:\n  slots: 0\n", As::Root)?, BAD_USAGE, &["slots"])
    }
}

root_test! {
    fn text_that_is_no_yaml_is_refused_with_the_files_name() {
        check(&run_with("interval: [1s\n", As::Root)?, BAD_USAGE, &["podmeter-", ".yaml"])
    }
}

root_test! {
    fn an_endpoint_that_is_no_url_is_named() {
        for endpoint in ["not a url", "ftp://127.0.0.1:4317", "http://"] {
            let config = json!({"export": {"exporter": "otlp", "endpoint": endpoint}}).to_string();
            check(&run_with(&config, As::Root)?, BAD_USAGE, &["endpoint"])?;
        }
        Ok(())
    }
}

root_test! {
    fn a_configuration_that_cannot_be_read_is_named() {
        let missing = "/nonexistent/podmeter.yaml";
        check(&run(&["run", "--config", missing], As::Root, 10 * SECOND)?, BAD_USAGE, &[missing])?;
        let file = config_file("interval: 1s\n")?;
        let path = file.path().to_str().context("not UTF-8")?;
        // Mode 0600 of root: no other user may read it.
        check(&run(&["run", "--config", path], As::Nobody, 10 * SECOND)?, BAD_USAGE, &[path])?;
        check(&run(&["run", "--config", "/"], As::Root, 10 * SECOND)?, BAD_USAGE, &["/"])
    }
}

root_test! {
    fn an_argument_that_does_not_exist_is_bad_usage() {
        check(&run(&["run", "--colour"], As::Root, 10 * SECOND)?, BAD_USAGE, &["--colour"])?;
        check(&run(&["measure"], As::Root, 10 * SECOND)?, BAD_USAGE, &["measure"])
    }
}

root_test! {
    fn without_privileges_it_says_what_is_missing() {
        let output = run_with("export:\n  exporter: stdout\n", As::Nobody)?;
        check(&output, NOT_HERE, &[])?;
        let message = output.stderr.to_lowercase();
        let named = ["root", "cap_bpf", "cap_sys_admin", "cap_perfmon"].iter().any(|name| message.contains(name));
        ensure!(named, "the message does not say which privilege is missing: {}", output.stderr);
        ensure!(output.stdout.is_empty(), "exported without having measured: {}", output.stdout);
        Ok(())
    }
}

root_test! {
    fn check_says_what_this_kernel_allows() {
        let output = run(&["check", "--json"], As::Root, 10 * SECOND)?;
        ensure!(output.code == Some(0), "ended with {:?}: {}{}", output.code, output.stdout, output.stderr);
        let report: serde_json::Value = serde_json::from_str(&output.stdout).context("check --json does not print JSON")?;
        ensure!(report.to_string().contains("cpu"), "the report does not name the cpu signal: {report}");
        ensure!(run(&["check"], As::Root, 10 * SECOND)?.code == Some(0));
        Ok(())
    }
}

/// An agent with this endpoint must measure on, stay cheap, and stop in time.
fn check_that_it_runs_on_without_a_backend(endpoint: &str, logged: &str) -> Result<()> {
    let mut agent = Agent::spawn(
        json!({"export": {"exporter": "otlp", "endpoint": endpoint, "timeout": "500ms", "shutdown_timeout": "1s"}}),
    )?;
    agent.wait_for_log(logged, 15 * SECOND)?;
    std::thread::sleep(3 * SECOND);
    ensure!(agent.alive()?, "ended without a backend:\n{}", agent.stderr());
    let (status, _) = http::get(agent.address(), "/healthz")?;
    ensure!(status == 200, "/healthz answers {status} without a backend");
    let used = schedstat_of_threads(agent.pid())?.on_cpu_ns as f64 / 1e9;
    ensure!(used < patience(3 * SECOND).as_secs_f64(), "used {used} s of CPU in about 5 s");
    agent.stop().map(drop)
}

root_test! {
    fn a_backend_that_cannot_be_reached_does_not_end_it() {
        let endpoint = format!("http://{}", http::free_address()?);
        check_that_it_runs_on_without_a_backend(&endpoint, &endpoint)
    }
}

root_test! {
    fn a_backend_that_does_not_speak_tls_does_not_end_it() {
        let listener = TcpListener::bind("127.0.0.1:0").context("could not listen")?;
        let endpoint = format!("https://{}", listener.local_addr().context("no address")?);
        // Answers whatever comes in plain text, until the test ends.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = std::io::Write::write_all(&mut &stream, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            }
        });
        check_that_it_runs_on_without_a_backend(&endpoint, &endpoint)
    }
}

root_test! {
    fn it_is_healthy_at_once_and_ready_after_its_first_collection() {
        let agent = Agent::spawn(json!({"interval": "2s"}))?;
        let begin = std::time::Instant::now();
        let mut statuses = Vec::new();
        while statuses.last() != Some(&200) {
            ensure!(begin.elapsed() < patience(15 * SECOND), "never ready, answered {statuses:?}:\n{}", agent.stderr());
            // The port is not open before the agent listens.
            if let Ok((ready, _)) = http::get(agent.address(), "/readyz") {
                let (healthy, _) = http::get(agent.address(), "/healthz")?;
                ensure!(healthy == 200, "/healthz answers {healthy}");
                statuses.push(ready);
            }
            std::thread::sleep(SECOND / 200);
        }
        ensure!(statuses.iter().all(|status| [200, 503].contains(status)), "/readyz answered {statuses:?}");
        ensure!(http::get(agent.address(), "/nonexistent")?.0 == 404);
        agent.stop().map(drop)
    }
}

root_test! {
    fn check_tells_whether_the_endpoint_of_a_configuration_takes_what_is_sent() {
        let collector = podmeter_tests::collector::Collector::start()?;
        let check_with = |config: String| {
            let file = config_file(&config)?;
            file.as_file().set_permissions(Permissions::from_mode(0o644)).context("could not make it readable")?;
            let path = file.path().to_str().context("not UTF-8")?;
            // It needs no privileges.
            run(&["check", "--config", path, "--endpoint", "--json"], As::Nobody, 10 * SECOND)
        };
        let at = |endpoint: &str| json!({"export": {"endpoint": endpoint, "timeout": "2s"}}).to_string();
        let output = check_with(at(&collector.grpc_endpoint()))?;
        ensure!(output.code == Some(0), "ended with {:?}: {}{}", output.code, output.stdout, output.stderr);
        let report: serde_json::Value = serde_json::from_str(&output.stdout).context("check --json does not print JSON")?;
        let endpoints = report["endpoints"].as_array().context("no endpoints")?;
        ensure!(endpoints.len() == 2 && endpoints.iter().all(|endpoint| endpoint["ok"] == true), "{report}");
        ensure!((collector.attempts(), collector.log_attempts()) == (1, 1), "not one request each");

        let gone = format!("http://{}", http::free_address()?);
        let output = check_with(at(&gone))?;
        ensure!(output.code == Some(1) && output.stdout.contains("refused"), "{:?}: {}", output.code, output.stdout);
        check(&check_with("export:\n  endpint: http://127.0.0.1:1\n".to_owned())?, BAD_USAGE, &["did you mean export.endpoint"])
    }
}
