//! The budget of series: how many the back end may have of this node, and in which detail metrics leave.

use std::collections::BTreeMap;

use super::Value;
use super::value::{number, one_of, pairs, text, unless, words};

/// How many series the back end may have of this node, and in which detail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Series of the node; `None`: without a bound.
    pub series: Option<u32>,
    /// Series of each namespace; `None`: without a bound.
    pub namespace_series: Option<u32>,
    /// Series of some namespaces, instead of that.
    pub namespaces: BTreeMap<String, u32>,
    /// How the back end keeps a histogram.
    pub histogram_series: HistogramSeries,
    /// The most detail of histograms.
    pub histograms: Detail,
    /// The most detail of counters and gauges.
    pub scalars: Detail,
    /// The most detail of some namespaces.
    pub namespace_detail: BTreeMap<String, Detail>,
    /// The most detail of some signals.
    pub signal_detail: BTreeMap<String, Detail>,
    /// Metrics that are exported; empty: all.
    pub allow: Vec<Pattern>,
    /// Metrics that are not.
    pub deny: Vec<Pattern>,
}

/// How the back end keeps a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistogramSeries {
    /// As one series.
    #[default]
    Native,
    /// As one series per bucket, with one for the count and one for the sum.
    Buckets,
}

/// What has series of its own; what is below it is in its sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Detail {
    /// Each container.
    #[default]
    Container,
    /// Each pod.
    Pod,
    /// Each workload, such as a Deployment, with all its pods of this node.
    Workload,
    /// Each namespace, with all its pods of this node.
    Namespace,
}

impl Detail {
    /// All of them, the most detail first, with their names.
    pub const ALL: [(&'static str, Self); 4] =
        [("container", Self::Container), ("pod", Self::Pod), ("workload", Self::Workload), ("namespace", Self::Namespace)];
}

/// A name in which each `*` stands for any text, also none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether a name is one of those.
    pub fn is(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

/// Numbers of series that a budget may have: fewer than these an idle node has without any pod.
const SERIES: std::ops::RangeInclusive<u32> = 1_000..=100_000_000;
const OF_NAMESPACE: std::ops::RangeInclusive<u32> = 200..=100_000_000;

pub(super) fn of_node(value: Value) -> Result<Option<u32>, String> {
    unless("off", value, |value| number(value, SERIES))
}

pub(super) fn of_namespace(value: Value) -> Result<Option<u32>, String> {
    unless("off", value, |value| number(value, OF_NAMESPACE))
}

pub(super) fn detail(value: Value) -> Result<Detail, String> {
    one_of(value, &Detail::ALL)
}

/// A map of names to values.
pub(super) fn by_name<T>(value: Value, parse: impl Fn(Value) -> Result<T, String>) -> Result<BTreeMap<String, T>, String> {
    let mut all = BTreeMap::new();
    for (name, value) in pairs(value)? {
        if name.is_empty() {
            return Err("a value needs a name before it".to_owned());
        }
        let parsed = parse(Value::Text(value)).map_err(|why| format!("of {name}: {why}"))?;
        all.insert(name, parsed);
    }
    Ok(all)
}

/// Names of metrics, separated by commas, with `*` for any text.
pub(super) fn patterns(value: Value) -> Result<Vec<Pattern>, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._*".contains(c);
    let pattern = |word: String| {
        if word.chars().all(allowed) {
            return Ok(Pattern(word));
        }
        Err(format!(
            "expected names of metrics as `podmeter metrics` prints them, such as podmeter.tcp.* or *.pressure.time, found {word:?}"
        ))
    };
    words(value)?.into_iter().map(pattern).collect()
}

/// Attributes without which two things would have one series.
const IDENTIFYING: [&str; 8] = [
    "host.name",
    "k8s.container.name",
    "k8s.namespace.name",
    "k8s.node.name",
    "k8s.pod.uid",
    "podmeter.workload.kind",
    "podmeter.workload.name",
    "service.instance.id",
];

/// Names of resource attributes, separated by commas, with `*` for any text.
pub(super) fn attributes(value: Value) -> Result<Vec<Pattern>, String> {
    let found = text(value)?;
    let all: Vec<Pattern> = words(Value::Text(found))?.into_iter().map(Pattern).collect();
    let needed = IDENTIFYING.into_iter().find_map(|key| Some((key, all.iter().find(|pattern| pattern.is(key))?)));
    match needed {
        Some((key, pattern)) => {
            Err(format!("{:?} is also {key}, without which two things would have one series: name the others", pattern.0))
        }
        None => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        let is = |pattern: &str, name: &str| Pattern(pattern.to_owned()).is(name);
        for (pattern, name) in
            [("a.b", "a.b"), ("*", "a.b"), ("a.*", "a.b"), ("a.*", "a."), ("*.b", "a.b"), ("a*c*e", "abcde"), ("a**e", "ae")]
        {
            assert!(is(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "a.b"), ("a.*", "a"), ("*.b", "a.b.c"), ("a*b*a", "aba-b"), ("ab*b", "ab")] {
            assert!(!is(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn details_are_in_their_order() {
        assert!(Detail::ALL.is_sorted_by_key(|(_, detail)| detail));
        assert!(Detail::Container < Detail::Pod && Detail::Workload < Detail::Namespace);
    }
}
