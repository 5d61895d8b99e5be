//! Cgroups that have one path one after the other (pure): a service that is started again has its predecessor's.

use std::collections::{HashMap, HashSet};

use crate::cgroups::{Cgroup, Table};

/// By path, the oldest cgroup that has a slot: while it has one, the counters of the path are its own.
#[derive(Debug)]
pub struct OldestByPath<'a>(HashMap<&'a str, Age>);

/// When a cgroup was born, and its id: no two are equal.
type Age = (u64, u64);

impl<'a> OldestByPath<'a> {
    /// Of all cgroups in the table. Paths in `waiting` have a retired one that is older than all of these.
    pub fn of(table: &'a Table, waiting: &HashSet<String>) -> Self {
        let mut oldest: HashMap<&str, Age> = HashMap::with_capacity(table.len());
        for cgroup in table.iter().filter(|cgroup| !waiting.contains(&cgroup.path)) {
            oldest.entry(&cgroup.path).and_modify(|oldest| *oldest = age(cgroup).min(*oldest)).or_insert(age(cgroup));
        }
        Self(oldest)
    }

    /// Whether this is the oldest with its path.
    pub fn is(&self, cgroup: &Cgroup) -> bool {
        self.0.get(cgroup.path.as_str()) == Some(&age(cgroup))
    }
}

fn age(cgroup: &Cgroup) -> Age {
    (cgroup.born_ns, cgroup.id)
}
