//! The health endpoints: their answers against what the test does to the agent, and what a client of the port can do with it.

use std::{io::Write as _, net::TcpStream, time::Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use podmeter_tests::{SECOND, agent::Agent, http, root_test};
use serde_json::json;

/// Descriptors that the agent has open.
fn descriptors(agent: &Agent) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).context("could not list the agent's descriptors")?.count())
}

/// A figure of the agent's `/proc/<pid>/status`, in kB.
fn status_kb(agent: &Agent, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).context("could not read the agent's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in {status}"))?;
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().with_context(|| format!("{name}{line}"))
}

fn ensure_healthy(agent: &Agent) -> Result<()> {
    let began = Instant::now();
    let (status, text) = http::get(agent.address(), "/healthz")?;
    ensure!(status == 200 && began.elapsed() < 2 * SECOND, "/healthz answers {status} {text:?} after {:?}", began.elapsed());
    Ok(())
}

root_test! {
    fn a_flood_of_connections_costs_the_agent_neither_memory_nor_descriptors_nor_signals() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // For this side of the connections.
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        let agent = Agent::start(json!({}))?;
        agent.catch_up()?;
        ensure_healthy(&agent)?;
        let (open, peak) = (descriptors(&agent)?, status_kb(&agent, "VmHWM")?);

        // Some that say nothing.
        let idle = (0..1500).map(|_| TcpStream::connect_timeout(&agent.address(), 5 * SECOND)).collect::<Result<Vec<_>, _>>()?;
        ensure_healthy(&agent)?;
        let among_idle = descriptors(&agent)?;
        ensure!(among_idle <= open + 24, "{among_idle} descriptors instead of {open}");
        agent.catch_up()?;
        // Some that never stop saying what they want.
        let headers = [b"GET /healthz HTTP/1.1\r\n".as_slice(), &b"X-Filler: yes, of course, and more of it\r\n".repeat(8000)].concat();
        let mut talking = Vec::new();
        for _ in 0..2000 {
            let mut stream = TcpStream::connect_timeout(&agent.address(), 5 * SECOND).context("could not connect")?;
            stream.set_nonblocking(true)?;
            // What is not taken is not taken.
            let _ = stream.write(&headers);
            talking.push(stream);
        }
        ensure_healthy(&agent)?;
        agent.catch_up()?;
        drop((idle, talking));

        let grown = status_kb(&agent, "VmHWM")?.saturating_sub(peak);
        println!("{open} descriptors before and {among_idle} among idle connections; the peak of memory grew by {grown} kB");
        ensure!(grown < 8 << 10, "the agent's peak of memory grew by {grown} kB");
        let (status, text) = http::get(agent.address(), "/readyz")?;
        ensure!(status == 200, "{text}");
        let stopped = agent.stop()?;
        ensure!(!stopped.stderr.contains("could not read"), "{}", stopped.stderr);
        Ok(())
    }
}

root_test! {
    fn readiness_says_how_each_signal_is_and_that_an_export_fails() {
        let nowhere = format!("http://{}", http::free_address()?);
        let config = json!({"signals": {"dns": false}, "export": {"exporter": "otlp", "endpoint": nowhere, "timeout": "1s", "shutdown_timeout": "1s"}});
        let agent = Agent::spawn(config)?;
        let deadline = Instant::now() + podmeter_tests::patience(20 * SECOND);
        let text = loop {
            let answer = http::get(agent.address(), "/readyz");
            if let Ok((200, text)) = &answer
                && text.contains("export: failing")
            {
                break text.clone();
            }
            ensure!(Instant::now() < deadline, "{answer:?}");
            std::thread::sleep(SECOND / 10);
        };
        // For ten minutes that is the receiver's trouble, not the agent's.
        ensure!(text.starts_with("ok\nsignal cpu: on\n"), "{text}");
        ensure!(text.contains("signal dns: off: switched off by the configuration\n") && text.contains(&nowhere), "{text}");
        agent.stop().map(drop)
    }
}

root_test! {
    fn the_agent_lifts_its_limit_of_descriptors_as_far_as_it_may() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, 512.min(hard), hard)?;
        let agent = Agent::start(json!({}));
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        let agent = agent?;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.pid()))?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("no such limit")?;
        let values: Vec<&str> = line.split_whitespace().collect();
        ensure!(values[0] == values[1], "{line}");
        agent.stop().map(drop)
    }
}
