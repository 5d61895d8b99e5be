//! Values out of a request.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, metric::Data, number_data_point};

/// Every value of a metric, of resources that have this attribute. Of a histogram, its count.
pub(super) fn values(request: &ExportMetricsServiceRequest, (key, value): (&str, &str), metric: &str) -> Vec<f64> {
    let text = Some(any_value::Value::StringValue(value.into()));
    let is = |a: &KeyValue| a.key == key && a.value.as_ref().is_some_and(|v| v.value == text);
    let groups = request.resource_metrics.iter().filter(|g| g.resource.iter().any(|r| r.attributes.iter().any(is)));
    let metrics = groups.flat_map(|g| &g.scope_metrics).flat_map(|s| &s.metrics).filter(|m| m.name == metric);
    let number = |p: &NumberDataPoint| match p.value {
        Some(number_data_point::Value::AsInt(v)) => Some(v as f64),
        Some(number_data_point::Value::AsDouble(v)) => Some(v),
        None => None,
    };
    let of = |metric: &Metric| match &metric.data {
        Some(Data::Sum(sum)) => sum.data_points.iter().filter_map(number).collect(),
        Some(Data::Gauge(gauge)) => gauge.data_points.iter().filter_map(number).collect(),
        Some(Data::ExponentialHistogram(h)) => h.data_points.iter().map(|p| p.count as f64).collect(),
        _ => Vec::new(),
    };
    metrics.flat_map(of).collect()
}
