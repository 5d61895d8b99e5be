//! The keys that say how much leaves: which metrics and attributes, how many series, in which detail.

use super::{Check, Key, Value};
use crate::config::Loading;
use crate::config::budget::{attributes, by_name, detail, of_namespace, of_node, patterns};
use crate::config::value::store;

/// Why a series of numbers, and what happens beyond it, is in docs/cost.md.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "resource.deny",
        Some(""),
        "Resource attributes that are not exported, separated by commas; * stands for any text. Those that tell series apart, \
         such as k8s.pod.uid and service.instance.id, cannot be denied.",
        |l, v| store(&mut l.config.resource.deny, attributes(v)?),
    ),
    Key::new(
        "metrics.allow",
        Some(""),
        "Metrics that are exported, by name, separated by commas; * stands for any text: container.*,podmeter.agent.*. Default: all.",
        |l, v| store(&mut l.config.budget.allow, patterns(v)?),
    ),
    Key::new(
        "metrics.deny",
        Some(""),
        "Metrics that are not exported, in the same form. What is in both lists is not exported.",
        |l, v| store(&mut l.config.budget.deny, patterns(v)?),
    ),
    Key::new(
        "budget.series",
        Some("100000"),
        "How many series the back end may have of this node: 1000 to 100000000, or off. Beyond it detail is folded into sums that \
         stay exact: histograms of containers into their pod, those of pods into their workload, then counters and gauges the \
         same way, at last workloads into their namespace. The namespace with the most series is folded first.",
        |l, v| store(&mut l.config.budget.series, of_node(v)?),
    ),
    Key::new(
        "budget.namespace_series",
        Some("50000"),
        "How many series the back end may have of each namespace on this node: 200 to 100000000, or off. Beyond it that namespace \
         alone is folded, in the same order.",
        |l, v| store(&mut l.config.budget.namespace_series, of_namespace(v)?),
    ),
    Key::new(
        "budget.namespaces",
        None,
        "The same number for some namespaces, by name. In the environment: name=number,name2=number. Default: none.",
        |l, v| store(&mut l.config.budget.namespaces, by_name(v, |v| of_namespace(v).map(|series| series.unwrap_or(u32::MAX)))?),
    )
    .example("{batch: 5000}"),
    Key::new(
        "budget.histograms",
        Some("pod"),
        "What has histograms of its own, also within the budget: container, pod, workload or namespace. What is below is in the \
         sum above it.",
        |l, v| store(&mut l.config.budget.histograms, detail(v)?),
    ),
    Key::new(
        "budget.scalars",
        Some("container"),
        "What has counters and gauges of its own, also within the budget: container, pod, workload or namespace.",
        |l, v| store(&mut l.config.budget.scalars, detail(v)?),
    ),
    Key::new(
        "budget.namespace_detail",
        None,
        "What has series of its own in some namespaces, by name, where that is less: {kube-system: workload}. Default: none.",
        |l, v| store(&mut l.config.budget.namespace_detail, by_name(v, detail)?),
    )
    .example("{kube-system: workload}"),
    Key::new(
        "budget.signal_detail",
        None,
        "What has series of its own in some signals, by name, where that is less: {dns: pod}. Default: none.",
        signal_detail,
    )
    .example("{dns: pod}"),
];

fn signal_detail(l: &mut Loading, value: Value) -> Check {
    let details = by_name(value, detail)?;
    let known = |name: &String| super::KEYS.iter().any(|key| key.name.strip_prefix("signals.") == Some(name));
    match details.keys().find(|name| !known(name)) {
        Some(name) => Err(format!("expected the name of a signal, such as cpu or dns, found {name:?}")),
        None => store(&mut l.config.budget.signal_detail, details),
    }
}
