//! Requests of real nodes: how large, in what order, with which descriptions.

use std::collections::HashSet;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use prost::Message;

use super::*;
use crate::aggregate::Batch;
use crate::export::encode::{self, Bounds};
use crate::export::fixtures::{Load, happened, node, resources, series};
use crate::export::logs;
use crate::kernel::clock::UnixOffset;

const PLAIN: Form = Form::Http(Compression::None);

fn packed(form: Form, limit: usize, batch: &Batch) -> Vec<Request> {
    let (bounds, mut requests) = (Bounds::new(256), Vec::new());
    let mut packer = Packer::new(form, Payload::Metrics, limit, |request| requests.push(request));
    encode::encode(batch, &bounds, |group| packer.add(group));
    packer.finish();
    requests
}

fn decoded(form: Form, request: &Request) -> ExportMetricsServiceRequest {
    let message = form.message(&request.body).expect("a message");
    assert_eq!(message.len(), request.size);
    ExportMetricsServiceRequest::decode(&message[..]).expect("what prost wrote")
}

fn metrics(request: &ExportMetricsServiceRequest) -> impl Iterator<Item = &Metric> {
    request.resource_metrics.iter().flat_map(|group| &group.scope_metrics).flat_map(|scope| &scope.metrics)
}

/// Points in a request.
fn count(request: &ExportMetricsServiceRequest) -> u64 {
    let points = |metric: &Metric| match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        other => panic!("{other:?}"),
    };
    metrics(request).map(points).sum::<usize>() as u64
}

/// What the requests carry, whatever they are divided into.
fn carried(requests: &[ExportMetricsServiceRequest]) -> HashSet<u64> {
    series(requests.iter().flat_map(|request| &request.resource_metrics))
}

/// Every metric of a request has its description once, with the first.
fn assert_described_once(request: &ExportMetricsServiceRequest) {
    let mut seen = HashSet::new();
    for metric in metrics(request) {
        assert_eq!(metric.description.is_empty(), !seen.insert(&metric.name), "{}", metric.name);
        assert!(!metric.unit.is_empty(), "{}", metric.name);
    }
}

#[test]
fn a_batch_leaves_as_requests_within_the_limit_that_carry_every_point_once() {
    let batch = node(20, Load::Busy);
    let bounds = Bounds::new(256);
    let whole = ExportMetricsServiceRequest { resource_metrics: resources(&batch, &bounds) };
    let (of_all, points) = (carried(std::slice::from_ref(&whole)), count(&whole));
    assert!(of_all.len() > 5000, "{}", of_all.len());
    for compression in [Compression::Gzip, Compression::None] {
        for form in [Form::Http(compression), Form::Grpc(compression)] {
            for limit in [1 << 30, 256 << 10, 64 << 10, 20_000, 5_000] {
                let requests = packed(form, limit, &batch);
                assert!(requests.iter().all(|request| request.size <= limit), "{limit}");
                assert_eq!(requests.iter().map(|request| request.count).sum::<u64>(), points);
                let decoded: Vec<_> = requests.iter().map(|request| decoded(form, request)).collect();
                let counts = requests.iter().map(|request| request.count);
                assert!(counts.eq(decoded.iter().map(count)));
                assert_eq!(carried(&decoded), of_all, "{form:?} {limit}");
                decoded.iter().for_each(assert_described_once);
                // No more of them than needed: none and its successor would fit into one.
                let pairs = requests.windows(2).filter(|pair| pair[0].size + pair[1].size < limit / 2);
                assert_eq!(pairs.count(), 0, "{limit}");
            }
        }
    }
}

#[test]
fn a_metric_that_is_too_large_alone_is_a_request_of_its_own() {
    let requests = packed(PLAIN, 100, &node(1, Load::Idle));
    assert!(requests.iter().all(|request| metrics(&decoded(PLAIN, request)).count() == 1));
    assert_eq!(requests[0].halves(PLAIN, Payload::Metrics).len(), 1, "it cannot be divided");
}

#[test]
fn a_request_in_halves_is_the_same_with_each_description_in_both() {
    for form in [PLAIN, Form::Grpc(Compression::Gzip)] {
        let request = packed(form, 1 << 30, &node(10, Load::Busy)).remove(0);
        let halves = request.halves(form, Payload::Metrics);
        assert!((2..=3).contains(&halves.len()), "{}", halves.len());
        assert!(halves.iter().all(|half| half.size <= request.size / 2));
        assert_eq!(halves.iter().map(|half| half.count).sum::<u64>(), request.count);
        let of_halves: Vec<_> = halves.iter().map(|half| decoded(form, half)).collect();
        assert!(halves.iter().map(|half| half.count).eq(of_halves.iter().map(count)));
        assert_eq!(carried(&of_halves), carried(&[decoded(form, &request)]));
        of_halves.iter().for_each(assert_described_once);
        // In the end each is a single metric, which cannot be divided.
        let (mut open, mut ends) = (vec![request.clone()], 0);
        while let Some(next) = open.pop() {
            let halves = next.halves(form, Payload::Metrics);
            match halves.len() {
                1 => ends += halves[0].count,
                _ => open.extend(halves),
            }
        }
        assert_eq!(ends, request.count);
    }
}

#[test]
fn a_resource_that_is_too_large_alone_is_divided_by_its_metrics_and_named_in_each_part() {
    let mut batch = node(1, Load::Busy);
    batch.pods.clear();
    batch.node.resource = std::mem::take(&mut batch.cgroups)[0].sample.resource.clone();
    let requests = packed(PLAIN, 4_000, &batch);
    assert!(requests.len() > 2 && requests.iter().all(|request| request.size <= 4_000));
    let decoded: Vec<_> = requests.iter().map(|request| decoded(PLAIN, request)).collect();
    let named: HashSet<_> =
        decoded.iter().flat_map(|r| &r.resource_metrics).map(|group| format!("{:?}", group.resource)).collect();
    assert_eq!(named.len(), 1);
}

#[test]
fn events_obey_the_same_limit_and_are_halved_too() {
    let bounds = Bounds::new(256);
    let mut events: Vec<_> = (0..200).map(|n| happened(&format!("web-{}", n / 50), n)).collect();
    // As in a batch, those of one pod share their resource.
    for n in 0..events.len() {
        events[n].resource = events[n / 50 * 50].resource.clone();
    }
    let (mut requests, mut groups) = (Vec::new(), 0);
    let mut packer = Packer::new(PLAIN, Payload::Logs, 3_000, |request| requests.push(request));
    logs::encode(&events, 9, UnixOffset::default(), &bounds, |group| {
        packer.add(group);
        groups += 1;
    });
    packer.finish();
    assert_eq!(groups, 4);
    assert!(requests.len() > 4 && requests.iter().all(|request| request.size <= 3_000));
    let times = |requests: &[Request]| -> Vec<u64> {
        let decoded = requests.iter().map(|r| ExportLogsServiceRequest::decode(&r.body[..]).expect("logs"));
        let groups = decoded.flat_map(|request| request.resource_logs);
        groups.flat_map(|group| group.scope_logs).flat_map(|scope| scope.log_records).map(|r| r.time_unix_nano).collect()
    };
    assert_eq!(times(&requests), (0..200).collect::<Vec<_>>());
    let halves = requests[0].halves(PLAIN, Payload::Logs);
    assert!(halves.len() > 1);
    assert_eq!(times(&halves), times(&requests[..1]));
}

#[test]
fn a_message_is_framed_for_grpc_with_its_flag_and_length() {
    let batch = node(1, Load::Idle);
    let plain = packed(PLAIN, 1 << 30, &batch).remove(0);
    for (compression, flag) in [(Compression::None, 0), (Compression::Gzip, 1)] {
        let framed = packed(Form::Grpc(compression), 1 << 30, &batch).remove(0);
        assert_eq!(framed.body[0], flag);
        let len = u32::from_be_bytes([framed.body[1], framed.body[2], framed.body[3], framed.body[4]]);
        assert_eq!(len as usize, framed.body.len() - 5);
        assert_eq!(Form::Grpc(compression).message(&framed.body), Some(plain.body.to_vec()));
    }
}

#[test]
fn a_request_in_another_form_is_what_would_have_been_made_in_it_and_compressed_anew_only_where_it_must() {
    use Compression::{Gzip, None};
    let batch = node(1, Load::Idle);
    let forms = [Form::Http(None), Form::Http(Gzip), Form::Grpc(None), Form::Grpc(Gzip)];
    let made = forms.map(|form| packed(form, 1 << 30, &batch).remove(0).body);
    for (from, body) in forms.iter().zip(&made) {
        for (to, expected) in forms.iter().zip(&made) {
            let got = from.reframe(body.clone(), *to).expect("a request");
            assert_eq!(to.message(&got), to.message(expected), "{from:?} to {to:?}");
            let shared = body.as_ptr_range().contains(&got.as_ptr());
            let is_framing_only = from == to || matches!((from, to), (Form::Grpc(from), Form::Http(to)) if from == to);
            assert_eq!(shared, is_framing_only, "{from:?} to {to:?}");
        }
    }
    assert_eq!(Form::Grpc(Gzip).reframe(Bytes::from_static(b"abc"), Form::Http(Gzip)), Option::None);
    assert_eq!(Form::Http(Gzip).reframe(Bytes::from_static(b"no gzip"), Form::Http(None)), Option::None);
}

#[test]
fn a_line_is_a_request_in_json_with_each_description_once() {
    let batch = node(3, Load::Busy);
    let lines = packed(Form::Line, 64 << 10, &batch);
    assert!(lines.len() > 1);
    let mut requests = Vec::new();
    for line in &lines {
        assert_eq!(line.body.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(line.body.last(), Some(&b'\n'));
        requests.push(serde_json::from_slice::<ExportMetricsServiceRequest>(&line.body).expect("OTLP/JSON"));
        assert_eq!(requests[requests.len() - 1].encoded_len(), line.size);
    }
    requests.iter().for_each(assert_described_once);
    let whole: Vec<_> = packed(PLAIN, 1 << 30, &batch).iter().map(|request| decoded(PLAIN, request)).collect();
    assert_eq!(carried(&requests), carried(&whole));
}

/// Bytes of a full node's export per container: 110 pods of two containers and a sandbox each.
fn per_container(requests: &[Request]) -> usize {
    requests.iter().map(|request| request.body.len()).sum::<usize>() / 330
}

#[test]
fn an_export_of_a_full_node_has_the_size_that_the_documents_say() {
    for (load, plain, gzipped, requests) in
        [(Load::Idle, 6_000..6_500, 700..800, 1), (Load::Busy, 14_400..15_300, 2_700..3_100, 3)]
    {
        let batch = node(110, load);
        let of = |compression| packed(Form::Http(compression), 2 << 20, &batch);
        let (sent, compressed) = (of(Compression::None), of(Compression::Gzip));
        let (plain_bytes, gzipped_bytes) = (per_container(&sent), per_container(&compressed));
        assert!(plain.contains(&plain_bytes) && gzipped.contains(&gzipped_bytes), "{load:?}: {plain_bytes} {gzipped_bytes}");
        assert_eq!(sent.len(), requests, "{load:?}");
        // What a description with every metric would cost.
        let (bounds, mut gzip, mut described) = (Bounds::new(256), Writer::new(&[], Compression::Gzip), 0);
        for group in resources(&batch, &bounds) {
            let bytes = group.encode_to_vec();
            described += bytes.len();
            gzip.write(&bytes);
        }
        let saved = |now: usize, then: usize| 1.0 - now as f64 * 330.0 / then as f64;
        let (saved, gzip_saved) = (saved(plain_bytes, described), saved(gzipped_bytes, gzip.finish().len()));
        eprintln!("{load:?}: {plain_bytes} B a container, {gzipped_bytes} compressed; {saved:.2} and {gzip_saved:.2} saved");
        assert!(saved > 0.25, "{load:?}: {saved}");
    }
}
