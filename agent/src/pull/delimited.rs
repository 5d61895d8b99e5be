//! A family -> the message `io.prometheus.client.MetricFamily` behind its length (pure).
//!
//! Histograms are native ones, of the same buckets as in OTLP. The classic buckets are there, too: a Prometheus that requests protobuf
//! without having native histograms switched on has no others.

use prost::encoding;

use super::{
    buckets,
    families::{Family, Series, SeriesValue},
};
use crate::{
    histogram::{Histogram, SCALE},
    metric::MetricKind,
    protobuf,
};

/// Values of the enum `MetricType`.
const COUNTER: i32 = 0;
const GAUGE: i32 = 1;
const HISTOGRAM: i32 = 4;

/// The bytes of a family.
pub(super) fn family(family: &Family<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    encoding::string::encode(1, &family.declaration.name(), &mut message);
    protobuf::bytes(2, family.declaration.help.as_bytes(), &mut message);
    let kind = match family.kind() {
        Some(MetricKind::Counter) => COUNTER,
        Some(MetricKind::Gauge) | None => GAUGE,
        Some(MetricKind::Histogram) => HISTOGRAM,
    };
    encoding::int32::encode(3, &kind, &mut message);
    let unit = family.declaration.metric.map_or("", |metric| metric.unit);
    for series in &family.series {
        protobuf::message(4, &mut message, |out| metric(series, kind, unit, out));
    }
    let mut out = Vec::with_capacity(message.len() + encoding::encoded_len_varint(message.len() as u64));
    encoding::encode_varint(message.len() as u64, &mut out);
    out.append(&mut message);
    out
}

/// Fields of `Metric`.
fn metric(series: &Series<'_>, kind: i32, unit: &str, out: &mut Vec<u8>) {
    for (name, value) in series.labels() {
        protobuf::message(1, out, |out| {
            protobuf::bytes(1, name.as_bytes(), out);
            protobuf::bytes(2, value.as_bytes(), out);
        });
    }
    let value = match series.value {
        SeriesValue::Int(value) => value as f64,
        SeriesValue::Float(value) => value,
        SeriesValue::Histogram(histogram) => {
            return protobuf::message(7, out, |out| distribution(histogram, unit, series.start_unix_ns, out));
        }
    };
    // `Gauge` and `Counter` begin alike.
    protobuf::message(if kind == COUNTER { 3 } else { 2 }, out, |out| {
        encoding::double::encode(1, &value, out);
        if kind == COUNTER {
            timestamp(3, series.start_unix_ns, out);
        }
    });
}

/// Fields of `Histogram`.
fn distribution(histogram: &Histogram, unit: &str, start_unix_ns: u64, out: &mut Vec<u8>) {
    encoding::uint64::encode(1, &histogram.count, out);
    encoding::double::encode(2, &histogram.sum, out);
    for (bound, count) in buckets::classic(histogram, unit) {
        protobuf::message(3, out, |out| {
            encoding::uint64::encode(1, &count, out);
            encoding::double::encode(2, &bound, out);
        });
    }
    encoding::sint32::encode(5, &SCALE, out);
    encoding::double::encode(6, &histogram.zero_threshold, out);
    encoding::uint64::encode(7, &histogram.zero_count, out);
    let (spans, deltas) = buckets::native(histogram);
    for span in spans {
        protobuf::message(12, out, |out| {
            encoding::sint32::encode(1, &span.offset, out);
            encoding::uint32::encode(2, &span.length, out);
        });
    }
    encoding::sint64::encode_packed(13, &deltas, out);
    timestamp(15, start_unix_ns, out);
}

/// A field with a `google.protobuf.Timestamp`.
fn timestamp(field: u32, unix_ns: u64, out: &mut Vec<u8>) {
    protobuf::message(field, out, |out| {
        encoding::int64::encode(1, &(unix_ns / 1_000_000_000).cast_signed(), out);
        encoding::int32::encode(2, &((unix_ns % 1_000_000_000) as i32), out);
    });
}
