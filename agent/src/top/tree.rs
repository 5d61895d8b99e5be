//! Which rows the workloads of a snapshot make, and in which order (pure).
//!
//! A pod, a service, a container outside of pods: what people run is a *unit*. What is inside of one, such as the containers of a
//! pod, is its *part*. Slices and kubelet's levels above the pods only group units: their figures are sums of what is shown.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use super::format;
use super::label;
use super::order::{Sort, compare, value};
use crate::snapshot::document::{CpuUsage, MemoryUsage, WorkloadUsage};

/// How the rows are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum RowLayout {
    /// Pods and services, with their containers below them; a pod with one container is one row.
    #[default]
    Tree,
    /// Pods and services only.
    Folded,
    /// Every cgroup.
    Flat,
}

impl RowLayout {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            RowLayout::Tree => "tree",
            RowLayout::Folded => "folded",
            RowLayout::Flat => "flat",
        }
    }

    /// The one after it.
    pub fn next(self) -> Self {
        match self {
            RowLayout::Tree => RowLayout::Folded,
            RowLayout::Folded => RowLayout::Flat,
            RowLayout::Flat => RowLayout::Tree,
        }
    }
}

/// What may be shown in one row.
#[derive(Clone, Debug)]
pub struct TableRow {
    /// Its figures: a cgroup's, or those of a pod and its only container.
    pub workload: WorkloadUsage,
    /// Its full name, printable.
    pub label: String,
    /// What a filter looks at, in lower case.
    text: String,
    /// Position of the row that it is part of.
    parent: Option<usize>,
}

/// A row that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownRow {
    /// Position of its [`TableRow`].
    pub row: usize,
    /// What it is called here: below the row that it is part of, without that one's name.
    pub name: String,
}

/// What the user chose to see.
#[derive(Clone, Debug)]
pub struct RowChoice {
    /// What the rows are ordered by.
    pub sort: Sort,
    /// The other way round.
    pub reversed: bool,
    /// Words that must be in name, kind or path.
    pub filter: String,
    /// Only what used CPU.
    pub hide_idle: bool,
    /// Not more than so many rows.
    pub limit: Option<usize>,
}

impl Default for RowChoice {
    fn default() -> Self {
        Self { sort: Sort::Cpu, reversed: false, filter: String::new(), hide_idle: false, limit: None }
    }
}

/// The rows of `workloads`, which are in order of their paths.
pub fn rows(workloads: &[WorkloadUsage], shape: RowLayout) -> Vec<TableRow> {
    let parents = parents(workloads);
    let row = |workload: WorkloadUsage, parent| {
        let label = format::printable(&label::label(&workload)).into_owned();
        let container = workload.container.as_deref().unwrap_or_default();
        let text = [&label, &workload.name, &workload.kind, &workload.cgroup_kind, &workload.cgroup, container].join("\n");
        let text = text.to_lowercase();
        TableRow { workload, label, text, parent }
    };
    if shape == RowLayout::Flat {
        return workloads.iter().map(|workload| row(workload.clone(), None)).collect();
    }
    let groups = groups(workloads, &parents);
    let mut only = only_containers(workloads, &parents);
    if shape == RowLayout::Folded {
        only.retain(|pod, _| is_unit(*pod, &parents, &groups));
    }
    let merged: HashSet<usize> = only.values().copied().collect();
    // Where each workload went: its row, or that of the pod it was merged with.
    let mut places: Vec<Option<usize>> = Vec::with_capacity(workloads.len());
    let mut rows = Vec::new();
    for (index, workload) in workloads.iter().enumerate() {
        let parent = parents[index].and_then(|parent| places[parent]);
        let hidden = groups.contains(&index)
            || (shape == RowLayout::Folded && !is_unit(index, &parents, &groups))
            || (workload.is_sandbox() && parents[index].is_some());
        if hidden || merged.contains(&index) {
            // What is inside of it belongs to what it belongs to itself.
            places.push(parent);
            continue;
        }
        places.push(Some(rows.len()));
        let workload = only.get(&index).map_or_else(|| workload.clone(), |container| together(workload, &workloads[*container]));
        rows.push(row(workload, parent));
    }
    rows
}

/// For each workload the nearest one above it by its path.
fn parents(workloads: &[WorkloadUsage]) -> Vec<Option<usize>> {
    let mut by_path: HashMap<&str, usize> = HashMap::with_capacity(workloads.len());
    for (index, workload) in workloads.iter().enumerate() {
        // A unit that was restarted is there twice: what is below belongs to the one that lives.
        if !workload.ended || !by_path.contains_key(workload.cgroup.as_str()) {
            by_path.insert(&workload.cgroup, index);
        }
    }
    let above = |path: &str| {
        let mut path = path;
        while let Some(slash) = path.rfind('/').filter(|_| path != "/") {
            path = if slash == 0 { "/" } else { &path[..slash] };
            if let Some(index) = by_path.get(path) {
                return Some(*index);
            }
        }
        None
    };
    // Paths are in order, so that what is above comes before; anything else would be a circle.
    workloads.iter().enumerate().map(|(index, workload)| above(&workload.cgroup).filter(|parent| *parent < index)).collect()
}

/// What only groups others: the root, slices, kubelet's levels, where there is anything in them.
fn groups(workloads: &[WorkloadUsage], parents: &[Option<usize>]) -> HashSet<usize> {
    let mut with_pods = HashSet::new();
    let mut with_others = HashSet::new();
    for (index, workload) in workloads.iter().enumerate().rev() {
        let Some(parent) = parents[index] else { continue };
        with_others.insert(parent);
        if workload.is_a("Pod") || (with_pods.contains(&index) && workload.is_a("Cgroup")) {
            with_pods.insert(parent);
        }
    }
    let is_group = |index: &usize| match workloads[*index].cgroup_kind.as_str() {
        "Root" | "Slice" => with_others.contains(index),
        "Cgroup" => with_pods.contains(index),
        _ => false,
    };
    // A plain group inside of a unit, such as a kubelet's that runs in a container, stays part of that.
    let mut groups = HashSet::new();
    for index in (0..workloads.len()).filter(is_group) {
        if parents[index].is_none_or(|parent| groups.contains(&parent)) {
            groups.insert(index);
        }
    }
    groups
}

/// Whether nothing but groups is above.
fn is_unit(index: usize, parents: &[Option<usize>], groups: &HashSet<usize>) -> bool {
    parents[index].is_none_or(|parent| groups.contains(&parent))
}

/// Pods with one container, and that container.
fn only_containers(workloads: &[WorkloadUsage], parents: &[Option<usize>]) -> HashMap<usize, usize> {
    let mut containers: HashMap<usize, Vec<usize>> = HashMap::new();
    for (index, workload) in workloads.iter().enumerate() {
        let pod = parents[index].filter(|pod| workloads[*pod].is_a("Pod"));
        if let Some(pod) = pod.filter(|pod| !workload.is_sandbox() && workloads[*pod].ended == workload.ended) {
            containers.entry(pod).or_default().push(index);
        }
    }
    let only = |(pod, containers): (usize, Vec<usize>)| match containers[..] {
        [only] if workloads[only].is_a("Container") => Some((pod, only)),
        _ => None,
    };
    containers.into_iter().filter_map(only).collect()
}

/// A pod and its only container as one: the pod's figures, and the container's where the pod has none of its own.
///
/// Either may be throttled by its own limit, mostly at the same time: the larger figure is the pod's.
fn together(pod: &WorkloadUsage, container: &WorkloadUsage) -> WorkloadUsage {
    let (cpu, inner) = (&pod.cpu, &container.cpu);
    let throttled = largest(cpu.throttled_rate, inner.throttled_rate);
    let throttled_seconds = largest(cpu.throttled_seconds, inner.throttled_seconds);
    let rest = |wait: Option<f64>, throttled: Option<f64>, or: Option<f64>| match (wait, throttled) {
        (Some(wait), Some(throttled)) => Some((wait - throttled).max(0.0)),
        _ => or,
    };
    let memory = match (&pod.memory, &container.memory) {
        (Some(pod), Some(container)) => Some(MemoryUsage {
            request_bytes: pod.request_bytes.or(container.request_bytes),
            limit_bytes: pod.limit_bytes.or(container.limit_bytes),
            suggested_request_bytes: pod.suggested_request_bytes.or(container.suggested_request_bytes),
            ..pod.clone()
        }),
        (pod, container) => pod.clone().or_else(|| container.clone()),
    };
    WorkloadUsage {
        container: container.container.clone(),
        cpu: CpuUsage {
            throttled_rate: throttled,
            throttled_seconds,
            contention_rate: rest(cpu.wait_rate, throttled, cpu.contention_rate),
            contention_seconds: rest(cpu.wait_seconds, throttled_seconds, cpu.contention_seconds),
            request_cores: cpu.request_cores.or(inner.request_cores),
            limit_cores: cpu.limit_cores.or(inner.limit_cores),
            suggested_request_cores: cpu.suggested_request_cores.or(inner.suggested_request_cores),
            // A pod's own cgroup has no tasks that could wait.
            neighbours: inner.neighbours.clone(),
            ..cpu.clone()
        },
        memory,
        network: pod.network.clone().or_else(|| container.network.clone()),
        tcp: pod.tcp.clone().or_else(|| container.tcp.clone()),
        dns: pod.dns.clone().or_else(|| container.dns.clone()),
        ..pod.clone()
    }
}

fn largest(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    [a, b].into_iter().flatten().reduce(f64::max)
}

/// The rows that are wanted, in order. A part stands below what it is part of, if that is shown; what has the largest figure in it
/// comes first.
pub fn arrange(rows: &[TableRow], choice: &RowChoice) -> Vec<ShownRow> {
    let words: Vec<String> = choice.filter.split_whitespace().map(str::to_lowercase).collect();
    let wanted = |row: &TableRow| {
        !(choice.hide_idle && row.workload.is_idle()) && words.iter().all(|word| row.text.contains(word.as_str()))
    };
    let kept: Vec<bool> = rows.iter().map(wanted).collect();
    let above = |index: usize| {
        let mut parent = rows[index].parent;
        while let Some(at) = parent.filter(|at| !kept[*at]) {
            parent = rows[at].parent;
        }
        parent
    };
    let mut best: Vec<Option<f64>> = rows.iter().map(|row| value(choice.sort, &row.workload)).collect();
    let mut below: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
    for index in (0..rows.len()).rev().filter(|index| kept[*index]) {
        let parent = above(index);
        if let Some(parent) = parent
            && compare(best[index], best[parent], choice.reversed) == Ordering::Less
        {
            best[parent] = best[index];
        }
        below.entry(parent).or_default().push(index);
    }
    for siblings in below.values_mut() {
        siblings.sort_by(|&a, &b| {
            let by_name = || rows[a].label.cmp(&rows[b].label);
            let first = match choice.sort {
                Sort::Name if choice.reversed => by_name().reverse(),
                Sort::Name => by_name(),
                _ => compare(best[a], best[b], choice.reversed),
            };
            let (one, other) = (&rows[a].workload, &rows[b].workload);
            first.then_with(by_name).then_with(|| one.cgroup.cmp(&other.cgroup)).then_with(|| one.ended.cmp(&other.ended))
        });
    }
    let mut shown = Vec::new();
    let limit = choice.limit.unwrap_or(usize::MAX);
    let mut next: Vec<(usize, usize)> = below.get(&None).into_iter().flatten().rev().map(|&index| (index, 0)).collect();
    while let Some((index, depth)) = next.pop().filter(|_| shown.len() < limit) {
        let name = match above(index) {
            Some(parent) => {
                let name = label::short_label(&rows[index].workload, &rows[parent].workload);
                format!("{:width$}{}", "", format::printable(&name), width = INDENT * depth.min(DEEPEST))
            }
            None => rows[index].label.clone(),
        };
        shown.push(ShownRow { row: index, name });
        next.extend(below.get(&Some(index)).into_iter().flatten().rev().map(|&part| (part, depth + 1)));
    }
    shown
}

/// Columns by which a part's name is moved to the right, and how often.
const INDENT: usize = 2;
const DEEPEST: usize = 4;

#[cfg(test)]
mod tests;
