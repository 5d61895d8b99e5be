//! A walk against the files of some cgroups, part by part, until each was compared: a kernel that keeps something otherwise than it
//! seems must not lead to wrong figures. Memory statistics are compared by the memory signal, which knows them.

use agent_common::walk::{CPU, MEMORY, PRESSURE};

use crate::cgroups::{
    Cgroup, Cgroups,
    files::{self, CgroupLimits, Pressure, Throttling},
};

/// Cgroups that are looked at, and those of them that are compared.
const LOOKED_AT: usize = 64;
const COMPARED: usize = 8;

/// Limits may change, and a cgroup go, while they are compared.
const TRIES: u32 = 3;

/// What the files of one cgroup say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Seen {
    limits: CgroupLimits,
    throttling: Option<Throttling>,
    pressure: Option<Pressure>,
}

impl Seen {
    fn of(cgroups: &Cgroups, cgroup: &Cgroup) -> Self {
        let directory = cgroups.directory(cgroup);
        Self {
            limits: files::limits(&directory, cgroup.controllers),
            throttling: files::cpu_stat(&directory).and_then(|stat| stat.throttling),
            pressure: files::pressure(|resource| directory.join(format!("{resource}.pressure"))),
        }
    }

    /// How much there is to compare.
    fn says(&self) -> (usize, u64, u64) {
        let CgroupLimits { cpu_limit_cores, memory_request_bytes, memory_limit_bytes, .. } = self.limits;
        let limits = [cpu_limit_cores.is_some(), memory_request_bytes.is_some(), memory_limit_bytes.is_some()];
        let stalled = self.pressure.into_iter().flatten().flatten().sum();
        (limits.into_iter().filter(|some| *some).count(), self.throttling.map_or(0, |t| t.throttled_ns), stalled)
    }

    /// The name of what a walk between two readings of the files has otherwise, among these parts.
    fn disagrees(&self, before: &Self, after: &Self, parts: u64) -> Option<(u64, &'static str)> {
        let cpu = |seen: &Self| (seen.limits.cpu_weight, seen.limits.cpu_limit_cores);
        let memory = |seen: &Self| (seen.limits.memory_request_bytes, seen.limits.memory_limit_bytes);
        let between = |own: u64, before: u64, after: u64| (before..=after).contains(&own);
        let throttling = match (self.throttling, before.throttling, after.throttling) {
            (Some(own), Some(before), Some(after)) => {
                between(own.periods, before.periods, after.periods)
                    && between(own.throttled_periods, before.throttled_periods, after.throttled_periods)
                    && between(own.throttled_ns, before.throttled_ns, after.throttled_ns)
            }
            (own, before, after) => own.is_none() && (before.is_none() || after.is_none()),
        };
        // The kernel brings them up to date as it shows them in a file: a walk after that has no less.
        let pressure = match (self.pressure, before.pressure, after.pressure) {
            (Some(own), Some(before), Some(after)) => own.into_iter().zip(before).zip(after).all(|known| match known {
                ((Some(own), Some(before)), Some(after)) => between(own, before, after),
                ((own, before), after) => own == before && own == after,
            }),
            (own, before, after) => own.is_none() && (before.is_none() || after.is_none()),
        };
        [
            (CPU, "CPU limit or weight", cpu(self) == cpu(before) || cpu(self) == cpu(after)),
            (CPU, "throttling", throttling),
            (MEMORY, "memory limit or request", memory(self) == memory(before) || memory(self) == memory(after)),
            (PRESSURE, "pressure", pressure),
        ]
        .into_iter()
        .find_map(|(part, name, agrees)| (parts & part != 0 && !agrees).then_some((part, name)))
    }
}

/// The parts that a cgroup has something of.
fn parts_of(cgroup: &Cgroup) -> u64 {
    let with = |has: bool, part: u64| if has { part } else { 0 };
    with(cgroup.controllers.cpu, CPU) | with(cgroup.controllers.memory, MEMORY) | PRESSURE
}

impl Cgroups {
    /// Compares a walk with files where that was not done yet, if there are cgroups to compare; what disagrees is read from files from
    /// now on.
    pub(in crate::cgroups) fn check_walk(&mut self) {
        for tries in 1..=TRIES {
            let unchecked = self.walk.reads & !self.walk.checked & (CPU | MEMORY | PRESSURE);
            let some = |c: &&Cgroup| c.lives() && c.level > 0 && parts_of(c) & unchecked != 0;
            let looked_at = self.table.iter().filter(some).take(LOOKED_AT);
            let mut before: Vec<(Cgroup, Seen)> = looked_at.map(|c| (c.clone(), Seen::of(self, c))).collect();
            before.sort_by_key(|(_, seen)| std::cmp::Reverse(seen.says()));
            before.truncate(COMPARED);
            if before.is_empty() {
                return;
            }
            self.walk.run(&self.root);
            if !self.walk.stands() {
                return;
            }
            let mut compared = 0;
            let mut disagreed = None;
            for (cgroup, before) in before {
                let parts = parts_of(&cgroup) & unchecked;
                let after = Seen::of(self, &cgroup);
                // Without its directory it has no files.
                if !self.directory(&cgroup).exists() {
                    continue;
                }
                compared |= parts;
                let own =
                    Seen { limits: self.limits(&cgroup), throttling: self.throttling(&cgroup), pressure: self.pressure(&cgroup) };
                if let Some((part, name)) = own.disagrees(&before, &after, parts) {
                    disagreed =
                        Some((part, format!("a walk over cgroups gives another {name} of {} than its files", cgroup.path)));
                    break;
                }
            }
            match disagreed {
                None => {
                    self.walk.checked |= compared;
                    return;
                }
                Some((part, why)) if tries == TRIES => self.walk.gives_up(part, why),
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            limits: CgroupLimits { cpu_weight: Some(39), cpu_limit_cores: Some(0.5), ..CgroupLimits::default() },
            throttling: Some(Throttling { periods: 10, throttled_periods: 5, throttled_ns: 1000 }),
            pressure: Some([Some(5), None, Some(7), Some(0), Some(0), Some(0)]),
        }
    }

    #[test]
    fn a_walk_must_lie_between_two_readings_of_the_files() {
        let all = CPU | MEMORY | PRESSURE;
        let (before, mut after) = (seen(), seen());
        after.throttling = Some(Throttling { periods: 12, throttled_periods: 6, throttled_ns: 3000 });
        assert_eq!(seen().disagrees(&before, &after, all), None);
        let less = Seen { throttling: Some(Throttling { throttled_ns: 900, ..Throttling::default() }), ..seen() };
        assert_eq!(less.disagrees(&before, &after, all), Some((CPU, "throttling")));
        assert_eq!(less.disagrees(&before, &after, PRESSURE | MEMORY), None, "that part is not compared");
        let none = Seen { throttling: None, ..seen() };
        assert_eq!(none.disagrees(&before, &after, all), Some((CPU, "throttling")));
        let none = Seen { pressure: None, ..seen() };
        assert_eq!(none.disagrees(&before, &after, all), Some((PRESSURE, "pressure")));
        let other = Seen { pressure: Some([Some(7), None, Some(5), Some(0), Some(0), Some(0)]), ..seen() };
        assert_eq!(other.disagrees(&before, &after, all), Some((PRESSURE, "pressure")));
    }

    #[test]
    fn a_limit_that_is_changed_meanwhile_is_one_of_both() {
        let (before, mut after) = (seen(), seen());
        after.limits.cpu_limit_cores = None;
        assert_eq!(seen().disagrees(&before, &after, CPU), None);
        assert_eq!(Seen { limits: after.limits, ..seen() }.disagrees(&before, &after, CPU), None);
        let other = Seen { limits: CgroupLimits { cpu_weight: Some(40), ..seen().limits }, ..seen() };
        assert_eq!(other.disagrees(&before, &after, CPU), Some((CPU, "CPU limit or weight")));
        let limited = Seen { limits: CgroupLimits { memory_limit_bytes: Some(1), ..seen().limits }, ..seen() };
        assert_eq!(limited.disagrees(&before, &after, MEMORY), Some((MEMORY, "memory limit or request")));
    }
}
