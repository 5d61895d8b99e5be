//! What the agent's journal takes: bytes on disk, memory, and the time to write, read and recover it.
//!
//! Real agents fill it and are killed. How long a write and a read took is what the agent's own spans say, and how long recovery took
//! is what it logs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use opentelemetry_proto::tonic::{common::v1::any_value::Value, trace::v1::Span};
use serde_json::{Value as Json, json};

use super::{Effort, Stop, agent::Memory, kubernetes::Cluster, report::Figure};
use crate::{agent::Agent, collector::Collector};

/// Of a node with 100 cgroups.
pub const SMALL: [&str; 2] = ["journal.bytes_per_collection_100_cgroups", "journal.hours_100_cgroups"];

/// Of a node with 1 001 cgroups.
pub const FULL: [&str; 9] = [
    "journal.bytes_per_collection_1000_cgroups",
    "journal.hours_1000_cgroups",
    "journal.write_mb_per_second",
    "journal.write_ms",
    "journal.read_mb_per_second",
    "journal.recovery_ms",
    "journal.recovery_from_disk_ms",
    "journal.rss_full_mib",
    "journal.rss_above_no_journal_mib",
];

/// Pods of three containers that make 100 cgroups.
const SMALL_PODS: usize = 25;

/// `journal.bytes` by default.
const DEFAULT_BYTES: u64 = 256 << 20;

/// The default interval, in which hours are counted.
const INTERVAL: Duration = Duration::from_secs(15);

/// How long it may take to fill a journal.
const FILLED_WITHIN: Duration = Duration::from_secs(600);

/// After this nothing of an export is still to be written.
const WRITTEN: Duration = Duration::from_secs(2);

/// What the agent logs when it has recovered the journal of metrics, and the field of that line with how long it took.
const RECOVERED: &str = "the journal of metrics is in";
const TOOK: &str = "took_ms=";

/// A directory for a journal.
struct Place(tempfile::TempDir);

/// Collections of a node with few cgroups on disk.
pub fn small(effort: Effort, stop: &Stop) -> Result<Vec<Figure>> {
    let cluster = Cluster::of(SMALL_PODS, stop)?;
    let place = Place::new()?;
    let before = cluster.collector.export_count();
    let mut agent = place.agent(&cluster, DEFAULT_BYTES)?;
    let bytes = place.bytes_per_collection(&cluster, &mut agent, before, effort)?;
    agent.stop()?;
    Ok(sizes(SMALL, bytes))
}

/// A full journal of a node with many cgroups.
pub fn full(effort: Effort, cluster: &Cluster) -> Result<Vec<Figure>> {
    let limit = match effort {
        Effort::Quick => 32 << 20,
        Effort::Full => DEFAULT_BYTES,
    };
    let place = Place::new()?;
    place.fill(cluster, limit)?;
    let (writes, reads) = (timed(&cluster.collector, "write to journal")?, timed(&cluster.collector, "read from journal")?);
    let (mut cached, mut cold) = (Vec::new(), Vec::new());
    for _ in 0..effort.pick(1, 5) {
        cached.push(place.recovery_ms(cluster, limit)?);
        place.forget()?;
        cold.push(place.recovery_ms(cluster, limit)?);
    }
    let (mut without, mut with, mut bytes) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..effort.pick(1, 2) {
        without.push(resident(cluster, Agent::spawn(cluster.config(true)?)?)?);
        let before = cluster.collector.export_count();
        let mut agent = place.agent(cluster, limit)?;
        bytes = place.bytes_per_collection(cluster, &mut agent, before, effort)?;
        with.push(Memory::of(agent.pid())?.resident_mib);
        agent.stop()?;
    }
    let above = with.iter().zip(&without).map(|(with, without)| with - without).collect();
    let [size, hours, write_speed, write, read_speed, recovery, from_disk, resident, more] = FULL;
    let mut figures = sizes([size, hours], bytes);
    figures.extend([
        Figure::once(write_speed, "MB/s", None, mb_per_second(&writes)),
        Figure::of(write, "ms", None, writes.iter().map(|(_, seconds)| seconds * 1e3).collect())?,
        Figure::once(read_speed, "MB/s", None, mb_per_second(&reads)),
        Figure::of(recovery, "ms", Some(1000.0), cached)?,
        Figure::of(from_disk, "ms", Some(1000.0), cold)?,
        Figure::of(resident, "MiB", None, with)?,
        Figure::of(more, "MiB", Some(4.0), above)?,
    ]);
    Ok(figures)
}

/// The figures of collections that take so many bytes each.
fn sizes([size, hours]: [&'static str; 2], bytes: f64) -> Vec<Figure> {
    let kept = DEFAULT_BYTES as f64 / bytes * INTERVAL.as_secs_f64() / 3600.0;
    vec![Figure::once(size, "B", None, bytes), Figure::once(hours, "h", None, kept)]
}

/// Resident memory in MiB of an agent after its third export, which ends it.
fn resident(cluster: &Cluster, mut agent: Agent) -> Result<f64> {
    let before = cluster.collector.export_count();
    cluster.wait_for_exports(&mut agent, before + 3)?;
    cluster.stop.pause(WRITTEN)?;
    let memory = Memory::of(agent.pid())?;
    agent.stop()?;
    Ok(memory.resident_mib)
}

impl Place {
    fn new() -> Result<Self> {
        tempfile::tempdir().map(Self).context("could not make a directory for a journal")
    }

    /// Adds the journal to an agent's configuration.
    fn added_to(&self, mut config: Json, limit: u64) -> Json {
        config["journal"] = json!({"directory": self.0.path(), "bytes": format!("{}MiB", limit >> 20)});
        config
    }

    /// An agent at the default interval that writes to it.
    fn agent(&self, cluster: &Cluster, limit: u64) -> Result<Agent> {
        Agent::spawn(self.added_to(cluster.config(true)?, limit))
    }

    /// Lets an agent write until the oldest requests have no room any more, and kills it while it writes.
    ///
    /// It writes every second and does not compress, since a journal that is filled at the default interval takes hours. Its requests
    /// are as large as compressed ones of a node with 1 000 cgroups, so there are as many.
    fn fill(&self, cluster: &Cluster, limit: u64) -> Result<()> {
        let mut config = self.added_to(cluster.config(true)?, limit);
        config["interval"] = json!("1s");
        config["export"]["compression"] = json!("none");
        config["export"]["request_bytes"] = json!("512KiB");
        config["telemetry"] = json!({"traces": true});
        let mut agent = Agent::spawn(config)?;
        let mut begun = false;
        cluster.stop.pause_until("a full journal", FILLED_WITHIN, || {
            ensure!(agent.alive()?, "the agent ended:\n{}", agent.stderr());
            // A segment's name is the number of its first entry.
            let is_oldest =
                |path: &PathBuf| path.file_stem().is_some_and(|name| name.to_string_lossy().bytes().all(|byte| byte == b'0'));
            let has_oldest = self.segments()?.keys().any(is_oldest);
            begun |= has_oldest;
            Ok(begun && !has_oldest)
        })?;
        agent.kill().map(drop)
    }

    /// How long an agent that starts takes until it can write to the journal, in ms. It is killed then.
    fn recovery_ms(&self, cluster: &Cluster, limit: u64) -> Result<f64> {
        let agent = self.agent(cluster, limit)?;
        agent.wait_for_log(RECOVERED, Duration::from_secs(30))?;
        let log = agent.stderr();
        agent.kill()?;
        took_ms(&log).with_context(|| format!("the log does not say how long recovery took:\n{log}"))
    }

    /// Takes its files out of the page cache.
    fn forget(&self) -> Result<()> {
        for path in self.segments()?.keys() {
            let what = || format!("could not take {} out of the page cache", path.display());
            let file = File::open(path).with_context(what)?;
            file.sync_all().with_context(what)?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).with_context(what)?;
        }
        Ok(())
    }

    /// Bytes that the agent adds for each collection at the default interval. The first two are left out: not all pods have their
    /// names in them.
    fn bytes_per_collection(&self, cluster: &Cluster, agent: &mut Agent, before: usize, effort: Effort) -> Result<f64> {
        let exports = effort.pick(1, 4);
        cluster.wait_for_exports(agent, before + 2)?;
        cluster.stop.pause(WRITTEN)?;
        let earlier = self.segments()?;
        cluster.wait_for_exports(agent, before + 2 + exports)?;
        cluster.stop.pause(WRITTEN)?;
        Ok(added(&earlier, &self.segments()?) as f64 / exports as f64)
    }

    /// The segments of the metrics, with their bytes.
    fn segments(&self) -> Result<BTreeMap<PathBuf, u64>> {
        segments(&self.0.path().join("metrics"))
    }
}

/// The segments of a directory, with their bytes; none where there is no directory yet.
fn segments(directory: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    let Ok(files) = fs::read_dir(directory) else { return Ok(BTreeMap::new()) };
    let mut segments = BTreeMap::new();
    for file in files {
        let file = file.with_context(|| format!("could not list {}", directory.display()))?;
        let is_segment = file.path().extension().is_some_and(|extension| extension == "segment");
        // One that is removed in this moment is none any more.
        if let (true, Ok(metadata)) = (is_segment, file.metadata()) {
            segments.insert(file.path(), metadata.len());
        }
    }
    Ok(segments)
}

/// Bytes that were written between two moments.
fn added(earlier: &BTreeMap<PathBuf, u64>, later: &BTreeMap<PathBuf, u64>) -> u64 {
    later.iter().map(|(path, bytes)| bytes - earlier.get(path).unwrap_or(&0)).sum()
}

/// Bytes and seconds of the spans with this name that a collector has.
fn timed(collector: &Collector, name: &str) -> Result<Vec<(f64, f64)>> {
    let resources = collector.traces().into_iter().flat_map(|request| request.resource_spans);
    let spans = resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
    let found: Vec<_> = spans.filter(|span| span.name == name).filter_map(|span| bytes_and_seconds(&span)).collect();
    ensure!(!found.is_empty(), "the agent sent no span \"{name}\"");
    Ok(found)
}

fn bytes_and_seconds(span: &Span) -> Option<(f64, f64)> {
    let bytes = span.attributes.iter().find(|attribute| attribute.key == "podmeter.bytes")?;
    let Some(Value::IntValue(bytes)) = bytes.value.as_ref()?.value else { return None };
    Some((bytes as f64, span.end_time_unix_nano.checked_sub(span.start_time_unix_nano)? as f64 / 1e9))
}

/// Of all together.
fn mb_per_second(timed: &[(f64, f64)]) -> f64 {
    let (bytes, seconds) = timed.iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    bytes / 1e6 / seconds
}

/// How long recovery took by the agent's log.
fn took_ms(log: &str) -> Option<f64> {
    let line = log.lines().find(|line| line.contains(RECOVERED))?;
    line.split_whitespace().find_map(|word| word.strip_prefix(TOOK))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_counted_also_where_the_oldest_has_gone() {
        let of = |files: &[(&str, u64)]| files.iter().map(|(name, bytes)| (PathBuf::from(name), *bytes)).collect();
        assert_eq!(added(&of(&[("a", 9), ("b", 5)]), &of(&[("b", 7), ("c", 4)])), 6);
        assert_eq!(mb_per_second(&[(1e6, 0.5), (3e6, 1.5)]), 2.0);
    }

    #[test]
    fn the_time_of_a_recovery_is_in_the_log() {
        let log = "INFO x\nINFO podmeter::export::backlog: the journal of metrics is in /j entries=3 unsent=0 damaged=0 took_ms=3.214\n";
        assert_eq!(took_ms(log), Some(3.214));
        assert_eq!(took_ms("the journal of metrics is in /j"), None);
    }

    #[test]
    fn hours_follow_from_bytes() {
        let hours: Vec<f64> = sizes(SMALL, f64::from(1 << 20)).iter().map(|figure| figure.value.median).collect();
        assert_eq!(hours, [f64::from(1 << 20), 256.0 * 15.0 / 3600.0]);
    }
}
