//! PromQL for Prometheus -> PromQL for VictoriaMetrics, which keeps an exponential histogram as series of buckets, one for each
//! `vmrange`.
//!
//! Not a translator of any PromQL: of the two shapes in which rules and dashboards ask for distributions. What has another shape is
//! an error. Besides, VictoriaMetrics' own `increase` takes the first sample of a series for an increase from 0 unless it is large,
//! and so does it after a gap: what counts like Prometheus is `increase_prometheus`.

use anyhow::{Context, Result, bail};

/// Translates every expression in a text.
pub(super) fn translated(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, call)) = next_call(rest) {
        out.push_str(before);
        let end = closing(call).with_context(|| format!("no end of {}", start(call)))?;
        let (inside, after) = call.split_at(end);
        out.push_str(&if inside.starts_with(QUANTILE) { quantile(inside)? } else { count(inside)? });
        rest = after;
    }
    out.push_str(rest);
    Ok(increases(&out))
}

const INCREASE: &str = "increase(";
const INCREASE_FROM_0: &str = "increase_pure(";
const INCREASE_LIKE_PROMETHEUS: &str = "increase_prometheus(";

/// With every increase as Prometheus counts it.
fn increases(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(INCREASE) {
        let (before, call) = rest.split_at(at);
        out.push_str(before);
        let is_whole = !before.ends_with(|c: char| c.is_ascii_alphanumeric() || "_:".contains(c));
        out.push_str(if is_whole { INCREASE_LIKE_PROMETHEUS } else { INCREASE });
        rest = &call[INCREASE.len()..];
    }
    out.push_str(rest);
    out
}

const QUANTILE: &str = "histogram_quantile(";
const COUNT: &str = "histogram_count(";
/// What the one distribution in a call is in.
const RATES: &[&str] = &["rate(", INCREASE];

/// What comes before the next call, and what begins with it.
fn next_call(text: &str) -> Option<(&str, &str)> {
    let at = [QUANTILE, COUNT].iter().filter_map(|call| text.find(call)).min()?;
    Some(text.split_at(at))
}

/// The length of a call, its closing parenthesis included.
fn closing(call: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in call.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(at + 1),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The quantile of a sum of buckets, one for each range: `sum by (a) (rate(x[5m]))` ->
/// `sum by (a, vmrange) (increase_pure(x_bucket[5m]))`.
///
/// A bucket's series begins with its first observations, since a bucket that is empty is not sent. `rate` leaves them out, and with
/// them all that a container of one interval has seen; `increase` leaves out those of full buckets only, so that the rare ones
/// count for too much. `increase_pure` counts from 0. Only for a window's length after a long gap it has what was before, too: the
/// rules wait for longer than that.
fn quantile(call: &str) -> Result<String> {
    const BY: &str = "sum by (";
    let by = call.find(BY).with_context(|| format!("no `{BY}…)` in {}", start(call)))? + BY.len();
    let end = by + call[by..].find(')').with_context(|| format!("no end of the labels in {}", start(call)))?;
    let comma = if call[by..end].trim().is_empty() { "" } else { ", " };
    let of_buckets = suffixed(&format!("{}{comma}vmrange{}", &call[..end], &call[end..]), "_bucket")?;
    Ok(RATES.iter().fold(of_buckets, |text, rate| text.replacen(rate, INCREASE_FROM_0, 1)))
}

/// The number of observations, which has series of its own.
fn count(call: &str) -> Result<String> {
    suffixed(&call[COUNT.len()..call.len() - 1], "_count")
}

/// With the suffix at the one distribution that is named.
fn suffixed(text: &str, suffix: &str) -> Result<String> {
    let name = RATES.iter().filter_map(|rate| Some(text.find(rate)? + rate.len())).min();
    let name = name.with_context(|| format!("none of {} in {}", RATES.join(", "), start(text)))?;
    let end = text[name..].find(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c)).unwrap_or(text.len() - name);
    if end == 0 {
        bail!("no name in {}", start(&text[name..]));
    }
    let (before, after) = text.split_at(name + end);
    Ok(format!("{before}{suffix}{after}"))
}

/// Enough to recognise a place by.
fn start(text: &str) -> String {
    text.chars().take(80).collect::<String>().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_buckets_by_range_and_counts_are_series() {
        for (prometheus, victoria_metrics) in [
            (
                "a > histogram_quantile(0.9, sum by (x) (\n  rate(dns_seconds{y!=\"\"}[5m]))) > 0.5",
                "a > histogram_quantile(0.9, sum by (x, vmrange) (\n  increase_pure(dns_seconds_bucket{y!=\"\"}[5m]))) > 0.5",
            ),
            (
                "histogram_quantile(0.5, sum by () (increase(cpu_burst_long[1h])))",
                "histogram_quantile(0.5, sum by (vmrange) (increase_pure(cpu_burst_long_bucket[1h])))",
            ),
            (
                "histogram_count(sum by (x) (rate(cpu_burst[5m]))) / histogram_count(sum(rate(dns_seconds[5m])))",
                "sum by (x) (rate(cpu_burst_count[5m])) / sum(rate(dns_seconds_count[5m]))",
            ),
            ("rate(cpu_time[5m])", "rate(cpu_time[5m])"),
            (
                "sum(increase(kills[10m])) > 0 or increase(x[1m])",
                "sum(increase_prometheus(kills[10m])) > 0 or increase_prometheus(x[1m])",
            ),
            ("an_increase(x[1m])", "an_increase(x[1m])"),
        ] {
            assert_eq!(translated(prometheus).unwrap(), victoria_metrics);
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        for wrong in [
            "histogram_quantile(0.5, rate(a[5m]))",
            "histogram_count(sum(a))",
            "histogram_count(rate({}[5m]))",
            "histogram_count(",
        ] {
            assert!(translated(wrong).is_err(), "{wrong}");
        }
    }
}
