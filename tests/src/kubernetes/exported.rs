//! What an agent has exported of pods: found by attributes, and waited for.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    agent::Agent,
    cgroup::Cgroup,
    otlp::{Attributes, Exports, Point},
};

/// The agent's first request comes within 2 s, and an export comes every second.
pub const SOON: Duration = Duration::from_secs(10);

/// The resource of a cgroup's newest points.
pub fn resource<'a>(exports: &'a Exports, cgroup: &Cgroup) -> Option<&'a Attributes> {
    exports.of(cgroup.path()).last().map(|point| &*point.resource)
}

/// Waits until a cgroup is exported with these attributes.
pub fn wait_for_attributes(agent: &Agent, cgroup: &Cgroup, wanted: &[(&str, &str)]) -> Result<Attributes> {
    agent.wait_for(&format!("{wanted:?} on {}", cgroup.path()), SOON, |exports| {
        let resource = resource(exports, cgroup)?;
        wanted.iter().all(|(key, value)| resource.get(*key).is_some_and(|own| own == value)).then(|| resource.clone())
    })
}

/// The newest point of a metric whose resource has these attributes, of those that are about no cgroup.
pub fn newest<'a>(exports: &'a Exports, metric: &str, of: &[(&str, &str)], attributes: &[(&str, &str)]) -> Option<&'a Point> {
    let has = |all: &Attributes, wanted: &[(&str, &str)]| {
        wanted.iter().all(|(key, value)| all.get(*key).is_some_and(|own| own == value))
    };
    let is = |point: &&Point| point.is_of(metric) && has(&point.resource, of) && has(&point.attributes, attributes);
    exports.of_node().iter().rev().find(is)
}

/// Waits until that point has this value, to a thousandth of it.
pub fn wait_for_value(agent: &Agent, metric: &str, of: &[(&str, &str)], attributes: &[(&str, &str)], wanted: f64) -> Result<()> {
    let mut last = None;
    let waited = agent.wait_for(&format!("{metric} {attributes:?} of {of:?} to be {wanted}"), SOON, |exports| {
        last = newest(exports, metric, of, attributes).map(number);
        last.is_some_and(|value| (value - wanted).abs() <= wanted.abs() / 1000.0).then_some(())
    });
    waited.with_context(|| format!("the last value was {last:?}"))
}

/// The value of a counter or gauge; NaN, which equals nothing, of any other point.
pub fn number(point: &Point) -> f64 {
    point.number().unwrap_or(f64::NAN)
}
