//! A family -> text (pure): OpenMetrics 1.0.0, and Prometheus' own format 0.0.4.

use std::fmt::Write as _;

use super::{
    accept::Format,
    buckets,
    families::{Family, Series, SeriesValue},
};
use crate::metric::MetricKind;

/// Writes the lines of a family, one series after the other: in one text, those of a node's histograms are 20 MB.
pub(super) fn family(family: &Family<'_>, format: Format, mut write: impl FnMut(&str)) {
    let open = format == Format::OpenMetrics;
    let name = family.declaration.name();
    // In OpenMetrics a family's name is without what the names of its samples end in.
    let (base, kind) = match family.kind() {
        Some(MetricKind::Counter) if open => (name.strip_suffix("_total").unwrap_or(&name), "counter"),
        Some(MetricKind::Counter) => (&*name, "counter"),
        Some(MetricKind::Gauge) => (&*name, "gauge"),
        Some(MetricKind::Histogram) => (&*name, "histogram"),
        None if open => ("target", "info"),
        None => (&*name, "gauge"),
    };
    let mut out = String::new();
    let help = escaped(family.declaration.help, open);
    let _ = writeln!(out, "# HELP {base} {help}\n# TYPE {base} {kind}");
    if let Some(unit) =
        ["seconds", "bytes", "ratio"].into_iter().find(|unit| base.ends_with(&format!("_{unit}"))).filter(|_| open)
    {
        let _ = writeln!(out, "# UNIT {base} {unit}");
    }
    let unit = family.declaration.metric.map_or("", |metric| metric.unit);
    for series in &family.series {
        write(&out);
        out.clear();
        let labels = labels(series);
        match series.value {
            SeriesValue::Int(value) => line(&name, &labels, &value.to_string(), &mut out),
            SeriesValue::Float(value) => line(&name, &labels, &number(value), &mut out),
            SeriesValue::Histogram(histogram) => {
                let bucket = |le: &str, count: u64, out: &mut String| {
                    let comma = if labels.is_empty() { "" } else { "," };
                    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {count}");
                };
                buckets::classic(histogram, unit).for_each(|(bound, count)| bucket(&number(bound), count, &mut out));
                bucket("+Inf", histogram.count, &mut out);
                line(&format!("{name}_sum"), &labels, &number(histogram.sum), &mut out);
                line(&format!("{name}_count"), &labels, &histogram.count.to_string(), &mut out);
            }
        }
        if open && matches!(family.kind(), Some(MetricKind::Counter | MetricKind::Histogram)) {
            let created = series.start_unix_ns;
            let created = format!("{}.{:03}", created / 1_000_000_000, created / 1_000_000 % 1000);
            line(&format!("{base}_created"), &labels, &created, &mut out);
        }
    }
    write(&out);
}

/// One sample.
fn line(name: &str, labels: &str, value: &str, out: &mut String) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

/// The labels of a series as they stand between braces.
fn labels(series: &Series<'_>) -> String {
    let mut text = String::new();
    for (name, value) in series.labels() {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{name}=\"{}\"", escaped(value, true));
    }
    text
}

/// A number as both formats read it, and as OpenMetrics wants bounds written: always with a point or an exponent.
fn number(value: f64) -> String {
    format!("{value:?}")
}

/// Text in which backslash and line feed are written as two characters, and the quotation mark where it ends a text.
fn escaped(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}
