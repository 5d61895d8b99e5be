//! Looking back for `podmeter top`: the journal of an agent -> one collection of the past as a snapshot, and ways to others.
//!
//! Reads the journal's directory and nothing else: no kernel, no running agent, no privileges. Of the whole journal it keeps when the
//! collections were made; it decodes only the one that is shown and the one before it, which rates are against.

mod index;
mod kills;

use std::{
    collections::VecDeque,
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::{index::Index, kills::Kills};
use crate::{
    aggregate::Batch,
    export::{
        decode::Decoded,
        history::{self, NoJournal},
    },
    join::Sample,
    journal::{JournalError, Kind, Reader},
    metric::{Point, Value},
    moment,
    pods::follow_metrics,
    signals::{self, agent},
    snapshot::{
        builder::SnapshotBuilder,
        document::{KubernetesStatus, SignalStatus, Snapshot},
    },
    top::past::{Past, Place, Shown, Way},
};

/// A collection is of no moment that is later than this, in ns: the longest interval between two is 5 min. Rates are against none that
/// is further away.
const REACH_NS: u64 = 6 * 60 * 1_000_000_000;

/// Collections that are kept decoded: the shown one, the one before it, and one more, so that a step on reads only one.
const KEPT: usize = 3;

/// Why the past cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is no journal.
    #[error(transparent)]
    None(#[from] NoJournal),
    /// It has no metrics.
    #[error("the journal in {} has no collections{}", .0.display(), damaged(*.1))]
    Empty(PathBuf, u64),
    /// All of that time is damaged.
    #[error("the journal has nothing of {} that is whole", moment::utc(*.0))]
    Damaged(u64),
    /// It has none of that time.
    #[error("the journal has nothing of {}: {nearest}", moment::utc(*.wanted_ns))]
    Nothing {
        /// Which time was wanted, in ns since 1970.
        wanted_ns: u64,
        /// Which there are.
        nearest: String,
    },
    /// It cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn damaged(entries: u64) -> String {
    if entries == 0 { String::new() } else { format!("; {entries} damaged requests are left out") }
}

/// The machine that this runs on.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// The node's name, by the configuration.
    pub name: String,
    /// Its CPUs.
    pub cores: f64,
}

/// A journal that is looked back into.
#[derive(Debug)]
pub struct Replay {
    metrics: Reader,
    index: Index,
    kills: Kills,
    machine: Machine,
    /// When the shown collection was made.
    at_ns: u64,
    /// The last that were decoded.
    decoded: VecDeque<(u64, Arc<Collection>)>,
    /// What the position before the first way has met.
    note: Option<String>,
}

/// One collection.
#[derive(Debug)]
struct Collection {
    batch: Batch,
    /// Requests of it that cannot be read.
    damaged: u64,
    /// Points of metrics that this version does not know.
    unknown_points: u64,
}

impl Replay {
    /// Opens the journal in a directory, at its newest collection.
    ///
    /// # Errors
    /// When there is none, or it cannot be read, or nothing is in it.
    pub fn open(directory: &Path, machine: Machine) -> Result<Self, ReplayError> {
        let [metrics, events] = history::parts(directory);
        let is_missing = |path: &Path| path.metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        if is_missing(&metrics) {
            return Err(NoJournal(directory.to_owned()).into());
        }
        let mut metrics = Reader::open(&metrics)?;
        let index = Index::read(&mut metrics)?;
        let at_ns = index.newest().ok_or_else(|| ReplayError::Empty(directory.to_owned(), index.damaged))?;
        let kills = Kills::new((!is_missing(&events)).then_some(events));
        Ok(Self { metrics, index, kills, machine, at_ns, decoded: VecDeque::new(), note: None })
    }

    /// Goes to the collection at a moment, in ns since 1970, or just before it.
    ///
    /// # Errors
    /// When there is none of that time.
    pub fn at(&mut self, wanted_ns: u64) -> Result<(), ReplayError> {
        let found = self.index.until(wanted_ns);
        match found.filter(|found_ns| wanted_ns - found_ns <= REACH_NS) {
            Some(found_ns) => {
                self.at_ns = found_ns;
                Ok(())
            }
            None => Err(ReplayError::Nothing { wanted_ns, nearest: self.nearest(wanted_ns) }),
        }
    }

    /// Goes to the collection that is nearest to a moment, and notes it where that is of another time.
    pub fn near(&mut self, wanted_ns: u64) {
        if self.at(wanted_ns).is_err() {
            self.at_ns = self.index.until(wanted_ns).or_else(|| self.index.oldest()).unwrap_or(self.at_ns);
            self.note = Some(format!("nothing was collected at {}", moment::utc(wanted_ns)));
        }
    }

    /// The times that there are around one of which there is nothing.
    fn nearest(&self, wanted_ns: u64) -> String {
        let ends = |index: &Index| Some((index.oldest()?, index.newest()?));
        let (oldest, newest) = ends(&self.index).unwrap_or_default();
        let all = format!("it has collections from {} to {}", moment::utc(oldest), moment::utc(newest));
        match (self.index.until(wanted_ns), self.index.after(wanted_ns)) {
            (Some(before), Some(after)) => {
                format!("{all}, and none between {} and {}", moment::utc(before), moment::utc(after))
            }
            _ => all,
        }
    }

    /// The shown collection.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn snapshot(&mut self) -> Result<Snapshot, ReplayError> {
        let (at_ns, before) = (self.at_ns, self.before());
        let shown = self.collection(at_ns)?.ok_or(ReplayError::Damaged(at_ns))?;
        let before = before.map(|ns| self.collection(ns)).transpose()?.flatten();
        Ok(self.make(&shown, before.as_deref()))
    }

    /// Damaged requests: of the shown collection, and those of which only that is known.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn damaged(&mut self) -> Result<u64, ReplayError> {
        Ok(self.index.damaged + self.collection(self.at_ns)?.map_or(0, |shown| shown.damaged))
    }

    /// When the collection was made that rates are against.
    fn before(&self) -> Option<u64> {
        self.index.before(self.at_ns).filter(|ns| self.at_ns - ns <= REACH_NS)
    }

    /// What was collected then; `None` when nothing of it is whole, or it is not there any more.
    fn collection(&mut self, time_ns: u64) -> Result<Option<Arc<Collection>>, ReplayError> {
        if let Some((_, known)) = self.decoded.iter().find(|(ns, _)| *ns == time_ns) {
            return Ok(Some(Arc::clone(known)));
        }
        let (mut decoded, mut all, mut whole) = (Decoded::default(), 0_u64, 0);
        self.metrics.infos(time_ns, time_ns.saturating_add(1), |_| all += 1)?;
        for entry in self.metrics.between(time_ns, time_ns.saturating_add(1))? {
            let entry = entry?;
            whole += u64::from(entry.info.kind == Kind::Metrics && decoded.add(&entry.info, &entry.body));
        }
        let (damaged, unknown_points) = (all.saturating_sub(whole), decoded.unknown_points);
        if whole == 0 {
            return Ok(None);
        }
        let collection = Arc::new(Collection { batch: decoded.batch(time_ns), damaged, unknown_points });
        self.decoded.truncate(KEPT - 1);
        self.decoded.push_front((time_ns, Arc::clone(&collection)));
        Ok(Some(collection))
    }

    fn make(&self, shown: &Collection, before: Option<&Collection>) -> Snapshot {
        let batch = &shown.batch;
        let samples = std::iter::once(&batch.node).chain(batch.cgroups.iter().map(|cgroup| &cgroup.sample));
        let name = samples.filter_map(|sample| sample.resource.get("host.name")).next().unwrap_or_default();
        let cores = if name == self.machine.name { self.machine.cores } else { 0.0 };
        // Against itself nothing has a rate.
        let before = before.map_or(batch, |before| &before.batch);
        let snapshot = SnapshotBuilder::new(name.to_owned(), cores).between(before, batch);
        Snapshot {
            at: Some(moment::rfc3339(batch.time_ns)),
            signals: signals(&batch.node),
            kubernetes: kubernetes(&batch.node),
            ..snapshot
        }
    }

    /// Where it is now.
    fn place(&mut self, note: Option<String>) -> Result<Place, ReplayError> {
        let shown = self.collection(self.at_ns)?;
        let (damaged, unknown) = shown.map_or((0, 0), |shown| (shown.damaged, shown.unknown_points));
        let left_out = [
            (damaged, "damaged requests of it"),
            (unknown, "points of another version"),
            (self.index.damaged, "damaged requests of unknown times"),
        ];
        let left_out: Vec<String> =
            left_out.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what} left out")).collect();
        Ok(Place {
            at_ns: self.at_ns,
            number: self.index.number(self.at_ns),
            count: self.index.len(),
            oldest_ns: self.index.oldest().unwrap_or(self.at_ns),
            newest_ns: self.index.newest().unwrap_or(self.at_ns),
            interval: self.before().map(|ns| Duration::from_nanos(self.at_ns - ns)),
            left_out: Some(left_out.join(", ")).filter(|text| !text.is_empty()),
            note,
        })
    }

    /// The collection that a way leads to, and what there is to say of it.
    fn target(&mut self, way: Way) -> Result<(u64, Option<String>), ReplayError> {
        let at_ns = self.at_ns;
        Ok(match way {
            Way::Stay => (at_ns, self.note.take()),
            Way::Step(by) => {
                let target = self.index.step(at_ns, by);
                (target, (by != 0 && target == at_ns).then(|| end(by > 0)))
            }
            Way::Jump(seconds) => self.index.jump(at_ns, seconds),
            Way::Kill { later } => match self.kills.next(&self.index, at_ns, later)? {
                Some((target, text)) => (target, Some(text)),
                None => (at_ns, Some(format!("no {} OOM kill in the journal", if later { "later" } else { "earlier" }))),
            },
        })
    }
}

/// Says that there is nothing further.
fn end(later: bool) -> String {
    if later { "this is the newest collection".to_owned() } else { "this is the oldest collection".to_owned() }
}

impl Past for Replay {
    fn go(&mut self, way: Way) -> Result<Shown, Box<dyn Error + Send + Sync>> {
        if way != Way::Stay {
            // What the agent has collected meanwhile.
            self.index.grow(&mut self.metrics)?;
        }
        let from_ns = self.at_ns;
        let (target, mut note) = self.target(way)?;
        if target == from_ns && way != Way::Stay {
            return Ok(Shown { snapshot: None, place: self.place(note)? });
        }
        self.at_ns = target;
        // Past what is damaged, in the same direction; at the end the way goes back.
        let (later, mut passed) = (target >= from_ns && way != Way::Stay, 0_u64);
        while self.collection(self.at_ns)?.is_none() {
            let damaged_ns = self.at_ns;
            self.at_ns = self.index.remove(damaged_ns, later).ok_or(ReplayError::Damaged(damaged_ns))?;
            passed += 1;
        }
        if passed > 0 {
            let what = if passed == 1 { "one collection was".to_owned() } else { format!("{passed} collections were") };
            note = Some(note.map_or_else(String::new, |note| note + "; ") + &what + " damaged or removed");
        }
        Ok(Shown { snapshot: Some(self.snapshot()?), place: self.place(note)? })
    }
}

/// Which signals were measured, as far as that was exported: why not is in no metric.
fn signals(node: &Sample) -> Vec<SignalStatus> {
    let of = |signal: &signals::Signal| {
        let is_of = |point: &&Point| {
            std::ptr::eq(point.metric, &agent::SIGNAL_ACTIVE)
                && point.attributes.iter().any(|attribute| attribute == ("signal", signal.name))
        };
        let on = is_positive(node.points.iter().find(is_of)?);
        Some(SignalStatus { name: signal.name.to_owned(), on, ..SignalStatus::default() })
    };
    signals::ALL.iter().filter_map(of).collect()
}

/// Whether the pods were followed.
fn kubernetes(node: &Sample) -> Option<KubernetesStatus> {
    let mut current = node.points.iter().filter(|point| std::ptr::eq(point.metric, &follow_metrics::CURRENT)).peekable();
    current.peek()?;
    Some(KubernetesStatus { current: current.all(is_positive), error: None })
}

fn is_positive(point: &Point) -> bool {
    match point.value {
        Value::Int(n) => n > 0,
        Value::Float(n) => n > 0.0,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
