//! Pinned programs count on while no agent runs, and the next agent goes on from there: totals over several agents against
//! `cpu.stat` and the test's own counts.

mod bursts;
mod slots;

use std::{
    collections::HashMap,
    hash::Hash,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS,
    agent::{Agent, As, config_file, run, unix_ns},
    bpffs::BpfDir,
    cgroup::{Cgroup, cgroups_in, inside, mount_point},
    dns::{self, server::DnsServer, stage::v4},
    load::Load,
    metric::{
        BURST, CPU_TIME, FAULTS, NETWORK_LOOPBACK, NODE_CPU_TIME, PERIODS, PRESSURE, SEGMENTS, SWITCHES, THROTTLED_PERIODS,
        UNATTRIBUTED, WAIT, WAIT_TIME,
    },
    otlp::{Exports, Histogram, Point, Value},
    root_test,
    truth::NEARLY_EXACT,
};
use serde_json::{Value as Json, json};

/// Figures that the agent's process counts itself, and no map: they begin anew with it.
const OF_THE_PROCESS: [&str; 3] = ["podmeter.agent.", "podmeter.cpu.windows.lost", "podmeter.memory.oom.events.lost"];
/// Of those that look like it, what is counted in a map all the same.
const KEPT: &str = "podmeter.agent.cgroups.without_slot";

fn size(value: &Value) -> f64 {
    match value {
        Value::Number(value) => *value,
        Value::Histogram(histogram) => histogram.count as f64,
        Value::Absent => f64::NAN,
    }
}

/// Fails where a histogram has less than an older state of it, in any bucket.
fn is_no_less(old: &Histogram, new: &Histogram) -> Result<()> {
    let bucket = |index| new.buckets.get(index).copied().unwrap_or(0);
    let buckets = old.buckets.iter().all(|(index, n)| bucket(index) >= *n);
    let (sum, idle) = (new.sum >= old.sum, new.zero_count >= old.zero_count);
    ensure!(buckets && sum && idle, "went back: {old:?} to {new:?}");
    Ok(())
}

/// The first point of each cumulative series, or the last, by what makes it one.
fn cumulative<'a>(points: impl Iterator<Item = &'a Point>, last: bool) -> HashMap<impl Eq + Hash, &'a Point> {
    let mut series = HashMap::new();
    for point in points.filter(|point| point.counter) {
        let known = series.entry((&*point.resource, &*point.metric, &point.attributes)).or_insert(point);
        if last == (point.time_unix_ns >= known.time_unix_ns) {
            *known = point;
        }
    }
    series
}

/// Of every series of every resource that two agents exported, one after the other: what `begins_anew` names has a start after
/// the first one's end. All else has a start that is `right` for the old one, and no lower value. How many there are of either.
fn check_that_it_goes_on(
    before: &Exports,
    after: &Exports,
    begins_anew: impl Fn(&str) -> bool,
    right: impl Fn(u64, u64) -> bool,
) -> Result<[usize; 2]> {
    let of_process = |metric: &str| metric != KEPT && OF_THE_PROCESS.iter().any(|own| metric.starts_with(own));
    let (old, new) = (cumulative(before.points(), true), cumulative(after.points(), false));
    let mut counts = [0, 0];
    for (series, new) in new {
        let Some(old) = old.get(&series) else { continue };
        let anew = of_process(&new.metric) || begins_anew(&new.metric);
        counts[usize::from(anew)] += 1;
        if anew {
            ensure!(new.start_unix_ns > old.time_unix_ns, "has no start of its own: {old:?} to {new:?}");
        } else {
            ensure!(right(old.start_unix_ns, new.start_unix_ns), "has a wrong start: {old:?} to {new:?}");
            ensure!(size(&new.value) >= size(&old.value), "went down: {old:?} to {new:?}");
            if let (Value::Histogram(less), Value::Histogram(more)) = (&old.value, &new.value) {
                is_no_less(less, more).with_context(|| format!("{} of {:?}", new.metric, new.resource))?;
            }
        }
    }
    Ok(counts)
}

/// To the ns.
fn the_same(old: u64, new: u64) -> bool {
    old == new
}

/// A bit of everything that is counted.
fn work(cgroup: &Cgroup, server: &DnsServer) -> Result<()> {
    Load::burn(20 * MS).start(cgroup)?.wait()?;
    inside(cgroup, || {
        let lookup = dns::udp(server.address())?;
        dns::look_up(&lookup, 7, "answer.test")?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut near = TcpStream::connect(listener.local_addr()?)?;
        let (mut far, _) = listener.accept()?;
        near.write_all(&[7; 3000])?;
        far.read_exact(&mut [0; 3000])?;
        // Nobody listens there, so the kernel drops it.
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.send_to(&[7; 100], "127.53.0.9:9")?;
        Ok(())
    })
}

/// A cgroup that sends datagrams to itself.
struct Line {
    cgroup: Cgroup,
    ends: [UdpSocket; 2],
}

/// Of one datagram, as IP has it: payload and headers.
const LINE_BYTES: f64 = 100.0 + 28.0;

impl Line {
    fn new() -> Result<Self> {
        let cgroup = Cgroup::new("line")?;
        let end = || inside(&cgroup, || UdpSocket::bind("127.0.0.1:0").context("could not make a UDP socket"));
        let ends = [end()?, end()?];
        Ok(Self { cgroup, ends })
    }

    /// Sends so many, and receives each before the next.
    fn send(&self, number: u32) -> Result<()> {
        for _ in 0..number {
            self.ends[0].send_to(&[7; 100], self.ends[1].local_addr()?).context("could not send")?;
            self.ends[1].recv(&mut [0; 100]).context("could not receive")?;
        }
        Ok(())
    }

    /// Bytes sent, as they are exported.
    fn counted(&self, exports: &Exports) -> f64 {
        exports.value(self.cgroup.path(), NETWORK_LOOPBACK, &[("network.io.direction", "transmit")]).unwrap_or(f64::NAN)
    }
}

/// Two agents, one after the other, and work before, between and after them. `end` ends the first, `start` starts the second; each has its
/// number of `slots`. Whether the second has taken the pins of the first as they were.
fn two_lives(end: fn(Agent) -> Result<Exports>, start: fn(Json) -> Result<Agent>, slots: [Json; 2]) -> Result<bool> {
    let bpf = BpfDir::new()?;
    let config = |slots: &Json| {
        let mut config = bpf.config();
        config["cgroups"] = json!({"slots": slots});
        config
    };
    // No process moves into or out of those whose CPU time is compared: of one that does, the kernel charges a tick to the one or
    // the other.
    let (lasting, dying, busy) = (Cgroup::new("lasting")?, Cgroup::new("dying")?, Cgroup::new("busy")?);
    let served = Cgroup::new("served")?;
    let server = DnsServer::start(&served, v4())?;
    let first = Agent::start(config(&slots[0]))?;
    let young = Cgroup::new("young")?;
    let line = Line::new()?;
    line.send(7)?;
    Load::burn(100 * MS).start(&lasting)?.wait()?;
    Load::burn(50 * MS).start(&dying)?.wait()?;
    [&busy, &young].into_iter().try_for_each(|cgroup| work(cgroup, &server))?;
    first.catch_up()?;
    let before = end(first)?;

    Load::burn(70 * MS).start(&lasting)?.wait()?;
    [&busy, &young].into_iter().try_for_each(|cgroup| work(cgroup, &server))?;
    line.send(11)?;
    let born = Cgroup::new("born")?;
    Load::burn(60 * MS).start(&born)?.wait()?;
    let short = Cgroup::new("short")?;
    Load::burn(20 * MS).start(&short)?.wait()?;
    Load::burn(30 * MS).start(&dying)?.wait()?;
    let mut gone = Vec::new();
    for cgroup in [dying, short] {
        gone.push((cgroup.path().to_owned(), cgroup.cpu_stat()?.usage_seconds()));
        cgroup.remove()?;
    }

    let pinned = bpf.directories()?;
    let second = start(config(&slots[1]))?;
    let adopted = bpf.directories()? == pinned;
    Load::burn(40 * MS).start(&lasting)?.wait()?;
    line.send(13)?;
    second.catch_up()?;
    second.catch_up()?;
    let truths = [&lasting, &born].map(|cgroup| Ok((cgroup.path().to_owned(), cgroup.cpu_stat()?.usage_seconds())));
    let after = second.stop()?.exports;
    for (path, truth) in truths.into_iter().collect::<Result<Vec<_>>>()?.into_iter().chain(gone) {
        let measured = after.value(&path, CPU_TIME, &[]).with_context(|| format!("{path} was not exported after the restart"))?;
        NEARLY_EXACT.check(&path, measured, truth)?;
    }
    ensure!(
        line.counted(&after) == line.counted(&before) + 24.0 * LINE_BYTES,
        "{} of {}",
        line.counted(&after),
        line.counted(&before)
    );
    check_that_all_is_looked_at(&before, [&busy, &young])?;
    let [same, anew] = check_that_it_goes_on(&before, &after, |_| false, the_same)?;
    println!("{same} series go on, {anew} began anew");
    Ok(adopted)
}

/// Fails when a signal has no series that could go on or not.
fn check_that_all_is_looked_at(exports: &Exports, cgroups: [&Cgroup; 2]) -> Result<()> {
    for metric in [CPU_TIME, WAIT_TIME, SWITCHES, WAIT, BURST, SEGMENTS, "podmeter.network.loopback", "podmeter.dns.queries"] {
        for cgroup in cgroups {
            ensure!(exports.of(cgroup.path()).iter().any(|point| point.is_of(metric)), "no {metric} of {}", cgroup.path());
        }
    }
    for metric in [NODE_CPU_TIME, UNATTRIBUTED, "podmeter.tcp.unattributed", KEPT] {
        ensure!(exports.node_value(metric, &[]).is_some(), "no {metric} of the node");
    }
    Ok(())
}

root_test! {
    fn after_a_stop_and_a_start_no_counter_is_reset_and_nothing_is_lost_in_between() {
        let adopted = two_lives(|agent| Ok(agent.stop()?.exports), Agent::start, [json!("auto"), json!("auto")])?;
        ensure!(adopted, "the same agent has pins of its own");
        Ok(())
    }
}

root_test! {
    fn after_an_upgrade_to_other_programs_no_counter_is_reset_and_nothing_is_lost_in_between() {
        let another = Agent::start_of_another_version;
        let adopted = two_lives(|agent| Ok(agent.stop()?.exports), another, [json!("auto"), json!("auto")])?;
        ensure!(!adopted, "the programs were the same: this proves nothing");
        Ok(())
    }
}

root_test! {
    fn after_a_crash_of_the_agent_no_counter_is_reset_and_nothing_is_lost_in_between() {
        two_lives(Agent::kill, Agent::start, [json!("auto"), json!("auto")]).map(drop)
    }
}

root_test! {
    fn with_more_slots_after_a_restart_no_counter_is_reset_and_nothing_is_lost_in_between() {
        let slots = cgroups_in(mount_point()?)? + 64;
        two_lives(Agent::kill, Agent::start, [json!(slots), json!(2 * slots)]).map(drop)
    }
}

root_test! {
    fn what_is_configured_anew_begins_anew_and_nothing_else() {
        let bpf = BpfDir::new()?;
        let old = Cgroup::new("old")?;
        let served = Cgroup::new("served")?;
        let server = DnsServer::start(&served, v4())?;
        let first = Agent::start(bpf.config())?;
        let young = Cgroup::new("young")?;
        [&old, &young].into_iter().try_for_each(|cgroup| work(cgroup, &server))?;
        first.catch_up()?;
        let before = first.stop()?.exports;

        let mut config = bpf.config();
        config["dns"] = json!({"timeout": "4s"});
        let second = Agent::start(config.clone())?;
        [&old, &young].into_iter().try_for_each(|cgroup| work(cgroup, &server))?;
        second.catch_up()?;
        let after = second.kill()?;
        check_that_all_is_looked_at(&after, [&old, &young])?;
        let of_dns = |metric: &str| metric.starts_with("dns.") || metric.starts_with("podmeter.dns.");
        check_that_it_goes_on(&before, &after, of_dns, the_same)?;
        // What began anew began with nothing, and goes on from there.
        for cgroup in [&old, &young] {
            let queries = after.value(cgroup.path(), "podmeter.dns.queries", &[("side", "client")]);
            ensure!(queries == Some(1.0), "{queries:?} queries of {}", cgroup.path());
        }
        let third = Agent::start(config.clone())?.stop()?.exports;
        check_that_it_goes_on(&after, &third, |_| false, the_same)?;

        // As an agent leaves it that dies while it starts, or one of a version that kept no such number.
        let of_tcp = std::fs::read_dir(bpf.path())?.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with("tcp-"));
        std::fs::remove_file(of_tcp.context("nothing is pinned for tcp")?.path().join("since"))?;
        let fourth = Agent::start(config)?.stop()?.exports;
        check_that_it_goes_on(&third, &fourth, |metric| metric.starts_with("podmeter.tcp."), the_same)?;
        let segments = fourth.value(young.path(), SEGMENTS, &[]);
        ensure!(segments.is_none(), "{segments:?} segments of what has sent none since");
        Ok(())
    }
}

root_test! {
    fn with_fewer_slots_what_the_kernel_counts_goes_on_and_all_else_begins_anew() {
        let bpf = BpfDir::new()?;
        let old = Cgroup::new("old")?;
        Load::burn(20 * MS).start(&old)?.wait()?;
        let first = Agent::start(bpf.config())?;
        let many = (0..8).map(|_| Cgroup::new("young")).collect::<Result<Vec<_>>>()?;
        // Of processes that stay where they began: of one that moves, the kernel charges a tick to the one or the other.
        for cgroup in many.iter().chain([&old]) {
            Load::burn(20 * MS).start(cgroup)?.wait()?;
        }
        first.catch_up()?;
        let before = first.kill()?;

        // Maps that are smaller take nothing over.
        let mut config = bpf.config();
        config["cgroups"] = json!({"slots": 512});
        let second = Agent::start(config)?;
        second.catch_up()?;
        let after = second.kill()?;
        let goes_on = [CPU_TIME, NODE_CPU_TIME, PERIODS, THROTTLED_PERIODS, PRESSURE, "podmeter.node.pressure.time", FAULTS, "podmeter.memory.refaults"];
        let of_kernel = |metric: &str| metric.starts_with("system.") || metric.starts_with("podmeter.node.softnet.");
        let begins_anew = |metric: &str| !goes_on.contains(&metric) && !of_kernel(metric);
        check_that_it_goes_on(&before, &after, begins_anew, the_same)?;
        // Their births were seen by the first.
        for cgroup in &many {
            let start = |exports: &Exports| {
                let mut points = exports.of(cgroup.path()).iter();
                points.find(|point| point.is_of(CPU_TIME)).map(|point| point.start_unix_ns)
            };
            ensure!(start(&before) > Some(0) && start(&before) == start(&after), "{:?}, {:?}", start(&before), start(&after));
        }
        Ok(())
    }
}

root_test! {
    fn a_service_that_is_started_again_within_an_interval_has_starts_of_its_own() {
        let slice = Cgroup::new("slice")?;
        let served = Cgroup::new("served")?;
        let server = DnsServer::start(&served, v4())?;
        let agent = Agent::start(json!({"interval": "5s"}))?;
        let service = slice.child("web.service")?;
        let path = service.path().to_owned();
        work(&service, &server)?;
        service.remove()?;
        let again_ns = unix_ns();
        let service = slice.child("web.service")?;
        work(&service, &server)?;
        // Final values need up to two ticks.
        std::thread::sleep(3000 * MS);
        let exports = agent.stop()?.exports;
        let mut starts: HashMap<_, Vec<(u64, f64)>> = HashMap::new();
        for point in exports.of(&path).iter().filter(|point| point.counter) {
            starts.entry((&point.metric, &point.attributes)).or_default().push((point.start_unix_ns, size(&point.value)));
        }
        for metric in [CPU_TIME, WAIT_TIME, SWITCHES, WAIT, BURST, SEGMENTS, "podmeter.network.loopback", "podmeter.dns.queries"] {
            ensure!(starts.keys().any(|(own, _)| &***own == metric), "no {metric} of {path}");
        }
        for (series, points) in starts {
            let old = points.iter().find(|(start_ns, _)| *start_ns < again_ns);
            let new = points.iter().find(|(start_ns, _)| *start_ns >= again_ns);
            ensure!(new.is_some(), "{series:?} has no start after the second birth: {points:?}");
            // The files are gone with the cgroup; all that is counted in the kernel is exported for both.
            ensure!(old.is_some() || &**series.0 == PRESSURE || &**series.0 == FAULTS, "{series:?} has no values of the first");
        }
        Ok(())
    }
}

root_test! {
    fn when_the_clock_is_set_all_starts_follow_it_and_none_moves_by_itself() {
        const HOUR: u64 = 3_600_000_000_000;
        let bpf = BpfDir::new()?;
        let young = || Cgroup::new("young");
        let first = Agent::start(bpf.config())?;
        let _young = young()?;
        first.catch_up()?;
        let before = first.stop()?.exports;

        let Some(second) = Agent::start_ahead(bpf.config(), 3600)? else {
            eprintln!("SKIPPED {TEST}: this kernel has no time namespaces");
            return Ok(());
        };
        second.wait_for_log("the clock was set back by 3", MS * 1000)?;
        let _younger = young()?;
        second.catch_up()?;
        let log = second.stderr();
        ensure!(log.matches("the clock was set").count() == 1, "it is to be logged once: {log}");
        let after = second.stop()?.exports;
        // By one and the same number, however well two clocks could be read.
        let moved = std::cell::Cell::new(None);
        let all_alike = |old: u64, new: u64| {
            let by = old.wrapping_sub(new);
            by.abs_diff(HOUR) < 1_000_000 && by == moved.replace(Some(by)).unwrap_or(by)
        };
        check_that_it_goes_on(&before, &after, |_| false, all_alike)?;
        ensure!(moved.get().is_some(), "nothing was looked at");

        let third = Agent::start(bpf.config())?;
        third.wait_for_log("the clock was set forward by 3", MS * 1000)?;
        check_that_it_goes_on(&before, &third.stop()?.exports, |_| false, |old, new| old.abs_diff(new) < 1_000_000)?;
        Ok(())
    }
}

root_test! {
    fn an_agent_that_pins_nothing_leaves_nothing_behind() {
        let bpf = BpfDir::new()?;
        // The kernel puts files of its own there.
        let before = bpf.entries()?;
        let agent = Agent::start(json!({"bpf": {"pin": false, "directory": bpf.path()}}))?;
        agent.stop()?;
        let after = bpf.entries()?;
        ensure!(after == before, "left behind in {}: {after:?}", bpf.path().display());
        Ok(())
    }
}

root_test! {
    fn a_second_agent_with_the_same_directory_ends_with_4_and_the_first_goes_on() {
        let bpf = BpfDir::new()?;
        let mut first = Agent::start(bpf.config())?;
        let config = config_file(&bpf.config().to_string())?;
        let config = config.path().to_str().context("the file's path is not UTF-8")?;
        let pinned = bpf.entries()?;
        for arguments in [
            &["run", "--config", config, "--exporter", "stdout", "--set", "listen=127.0.0.1:0"][..],
            &["uninstall", "--config", config][..],
        ] {
            let ended = run(arguments, As::Root, 15_000 * MS)?;
            let named = ended.stderr.contains(&bpf.path().display().to_string());
            ensure!(ended.code == Some(4) && named && ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
        }
        ensure!(first.alive()? && bpf.entries()? == pinned, "the first agent was disturbed: {}", first.stderr());
        first.stop()?;
        Ok(())
    }
}
