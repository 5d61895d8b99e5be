//! The dns signal with the resolvers that people use, glibc, dig and unbound: against what the test's server got from them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    SECOND,
    cgroup::{Cgroup, inside},
    dns::{
        self, look_up,
        stage::{QUERIES, SERVED, Stage, durations, number, v4},
    },
    root_test,
};
use serde_json::json;

/// A program of the resolvers that `cargo xtask setup` has fetched, with a loader and libraries of its own; `None`, with a line
/// on standard error, where it is not there.
fn resolver(test: &str, program: &str) -> Option<Command> {
    let place = std::env::var_os("PODMETER_TOOLS").map(|tools| PathBuf::from(tools).join("resolvers"));
    let Some(place) = place.filter(|place| place.join(program).is_file()) else {
        eprintln!("SKIPPED {test}: needs {program} in the resolvers of PODMETER_TOOLS (cargo xtask setup --for test)");
        return None;
    };
    let mut command = Command::new(place.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(place.join("usr/lib/x86_64-linux-gnu")).arg(place.join(program)).stdin(Stdio::null());
    Some(command)
}

root_test! {
    fn queries_of_getaddrinfo_are_measured_with_its_search_list() {
        if !["/usr/bin/getent", "/usr/bin/unshare", "/usr/bin/mount"].iter().all(|tool| Path::new(tool).exists()) {
            eprintln!("SKIPPED {TEST}: needs glibc's getent, and unshare and mount");
            return Ok(());
        }
        let stage = Stage::set(json!({}), v4())?;
        let files = tempfile::tempdir().context("could not make a directory")?;
        let write = |name: &str, text: &str| {
            let path = files.path().join(name);
            std::fs::write(&path, text).map(|()| path).context("could not write a file")
        };
        let server = stage.server.address().ip();
        let resolv = write("resolv.conf", &format!("nameserver {server}\nsearch nxdomain.test fine.test\noptions ndots:5\n"))?;
        let switch = write("nsswitch.conf", "hosts: dns\n")?;
        // The orders are in a name's first label, so the search list makes names without orders, all of which are NOERROR.
        let script = format!(
            "echo $$ > {}/cgroup.procs; mount --bind {} /etc/resolv.conf; mount --bind {} /etc/nsswitch.conf; \
             getent ahosts nxdomain; true",
            stage.client.dir().display(),
            resolv.display(),
            switch.display()
        );
        let status = Command::new("/usr/bin/unshare").args(["-m", "sh", "-c", &script]).status()?;
        ensure!(status.success(), "could not run getent: {status}");
        stage.catch_up()?;
        // nxdomain.nxdomain.test, nxdomain.fine.test, nxdomain: A and AAAA each.
        stage.check_counts("udp", &[(QUERIES, 6, 6), ("podmeter.dns.unmatched", 0, 0)])?;
        let wasted = number(stage.lookups(Some("NXDOMAIN"), "udp"));
        ensure!(wasted == 6, "{wasted} NXDOMAIN of 6: what the search list wastes");
        stage.agent.stop().map(drop)
    }
}

/// Runs dig as the client, against the stage's server.
fn dig(stage: &Stage, mut command: Command, arguments: &[&str]) -> Result<Output> {
    command.arg(format!("@{}", stage.server.address().ip())).args(arguments);
    inside(&stage.client, || command.output().context("could not run dig"))
}

root_test! {
    fn queries_of_dig_are_measured_with_their_outcomes_and_their_way_from_udp_to_tcp() {
        if resolver(TEST, "usr/bin/dig").is_none() {
            return Ok(());
        }
        let stage = Stage::set(json!({"dns": {"timeout": "1s"}}), v4())?;
        let dig = |arguments: &[&str], wanted: &str| -> Result<()> {
            let command = resolver(TEST, "usr/bin/dig").context("dig is gone")?;
            let output = dig(&stage, command, arguments)?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(text.contains(wanted), "dig {arguments:?} does not contain {wanted:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        // With EDNS and a cookie, as dig does by itself; without; over TCP; cut, which it queries again over TCP; and to no
        // avail.
        dig(&["delay20.test", "A"], "status: NOERROR")?;
        dig(&["+noedns", "delay20.test", "AAAA"], "status: NOERROR")?;
        dig(&["nxdomain.test"], "status: NXDOMAIN")?;
        dig(&["+tcp", "+keepopen", "servfail.test", "servfail.test", "A"], "status: SERVFAIL")?;
        dig(&["cut.test"], "status: NOERROR")?;
        dig(&["+tries=1", "+timeout=1", "never.test"], "timed out")?;
        thread::sleep(2 * SECOND);
        stage.catch_up()?;
        stage.check_counts("udp", &[(QUERIES, 5, 5), ("podmeter.dns.truncated", 1, 1), ("podmeter.dns.malformed", 0, 0)])?;
        stage.check_counts("tcp", &[(QUERIES, 3, 3), ("podmeter.dns.unmatched", 0, 0), ("podmeter.dns.gaps", 0, 0)])?;
        for (end, transport, expected) in [
            (None, "udp", 3),
            (Some("NXDOMAIN"), "udp", 1),
            (Some("timeout"), "udp", 1),
            (Some("SERVFAIL"), "tcp", 2),
            (None, "tcp", 1),
        ] {
            let found = (number(stage.lookups(end, transport)), number(stage.served(end, transport)));
            ensure!(found == (expected, expected), "{end:?} over {transport}: {found:?} instead of {expected}");
        }
        stage.agent.stop().map(drop)
    }
}

/// A caching resolver, which ends with this value.
struct Unbound(Child);

impl Unbound {
    /// Starts it as a process of `cgroup`: it listens at `address` and queries `forward` for what it does not know.
    fn start(mut command: Command, cgroup: &Cgroup, directory: &Path, address: SocketAddr, forward: SocketAddr) -> Result<Self> {
        let text = format!(
            "server:\n directory: \"{0}\"\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n use-syslog: no\n \
             interface: {1}\n access-control: 127.0.0.0/8 allow\n do-not-query-localhost: no\n module-config: \"iterator\"\n \
             num-threads: 1\n do-ip6: no\n local-zone: \"test.\" nodefault\n \
             verbosity: 0\nremote-control:\n control-enable: no\nforward-zone:\n name: \".\"\n forward-addr: {2}\n",
            directory.display(),
            address.ip(),
            forward.ip()
        );
        let config = directory.join("unbound.conf");
        std::fs::write(&config, text).context("could not write unbound's configuration")?;
        command.arg("-d").arg("-c").arg(&config);
        let process = inside(cgroup, || command.spawn().context("could not start unbound"))?;
        Ok(Self(process))
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

root_test! {
    fn a_caching_resolver_is_measured_as_a_server_for_its_clients_and_as_a_client_of_its_own_server() {
        let Some(command) = resolver(TEST, "usr/sbin/unbound") else { return Ok(()) };
        let stage = Stage::set(json!({}), v4())?;
        let (cache, directory) = (Cgroup::new("dns-cache")?, tempfile::tempdir().context("could not make a directory")?);
        let address = SocketAddr::from(([127, 53, 0, 3], 53));
        let unbound = Unbound::start(command, &cache, directory.path(), address, stage.server.address())?;
        let deadline = Instant::now() + 10 * SECOND;
        // A new socket each time: a late answer must not be taken for that of the next question.
        let socket = loop {
            let socket = inside(&stage.client, || dns::udp(address))?;
            socket.set_read_timeout(Some(SECOND))?;
            if look_up(&socket, 1, "nxdomain-first.test").is_ok() {
                break socket;
            }
            ensure!(Instant::now() < deadline, "unbound does not answer at {address}");
            thread::sleep(SECOND / 10);
        };
        stage.catch_up()?;
        let queries_before = stage.agent.look(|exports| dns::stage::count(exports, cache.path(), QUERIES, "client", "udp"));
        stage.server.take_delays();
        for id in 0..20 {
            look_up(&socket, 1000 + id, &format!("nxdomain-delay20.n{id}.test"))?;
        }
        stage.catch_up()?;
        let upstream = stage.server.take_delays().len() as u64;
        let (queries, answered, durations) = stage.agent.look(|exports| {
            let count = |side| dns::stage::count(exports, cache.path(), QUERIES, side, "udp");
            (count("client"), count("server"), durations(exports, cache.path(), SERVED, Some("NXDOMAIN"), "udp"))
        });
        ensure!(upstream >= 20 && queries - queries_before == upstream, "{queries} - {queries_before} queried, its server got {upstream}");
        let durations = durations.context("nothing was answered")?;
        // A client that queried while it started may have queried more than once.
        ensure!(answered >= 21 && durations.count >= 21, "{answered} answered, {} measured, of 21", durations.count);
        let (low, high) = durations.quantile_bounds(0.5).context("no median")?;
        ensure!(low < 0.03 && high >= 0.02, "the median of its answers is within {low} and {high} s, its server takes 20 ms");
        drop(unbound);
        stage.agent.stop().map(drop)
    }
}
