//! What the encoder wrote, read back; and what nobody wrote.

use std::collections::BTreeMap;

use super::*;
use crate::cgroups::table::tests::cgroup;
use crate::export::backlog::info;
use crate::export::fixtures::{Load, Node, requests};
use crate::export::request::Request;
use crate::export::series::Series;
use crate::export::{Compression, Payload};
use crate::join::NodeIdentity;
use crate::metric::Scope;
use crate::signals::cpu;
use crate::snapshot::builder::SnapshotBuilder;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_030 * SECOND;
const PLAIN: Form = Form::Http(Compression::None);

fn add(decoded: &mut Decoded, request: &Request, form: Form) -> bool {
    decoded.add(&info(request, Payload::Metrics, form, NOW), &request.body)
}

/// A batch out and back.
fn there_and_back(batch: &Batch, form: Form, limit: usize) -> Batch {
    let [metrics, _] = requests(batch, form, limit);
    let mut decoded = Decoded::default();
    metrics.iter().for_each(|request| assert!(add(&mut decoded, request, form)));
    assert_eq!(decoded.unknown_points, 0);
    decoded.batch(batch.time_ns)
}

/// Batches of a node that does something in each, as they leave.
fn batches(load: Load) -> Vec<Batch> {
    let node = Node::new(4, load);
    let (mut aggregate, mut series) = (Node::aggregate(), Series::new(0));
    let batch = |round: u64| {
        let mut batch = node.batch(&mut aggregate, NOW + 15 * round * SECOND, node.readings());
        for point in batch.cgroups.iter_mut().flat_map(|cgroup| &mut cgroup.sample.points).chain(&mut batch.node.points) {
            match &mut point.value {
                Value::Int(n) => *n += 7 * round,
                Value::Float(n) => *n += 1.5 * round as f64,
                Value::Histogram(histogram) => Arc::make_mut(histogram).record(0.3, 40 * round),
                Value::Absent => {}
            }
        }
        series.complete(&mut batch, true);
        batch
    };
    (0..2).map(batch).collect()
}

/// A sample's points, as far as they are exported, by metric and attributes.
fn exported(sample: &Sample) -> BTreeMap<String, (u64, Value)> {
    let of = |point: &Point| {
        let start_ns = if point.metric.kind == MetricKind::Gauge { 0 } else { point.start_ns };
        let mut value = point.value.clone();
        if let Value::Histogram(histogram) = &mut value {
            // Empty buckets at the ends are not exported.
            let histogram = Arc::make_mut(histogram);
            let first = histogram.buckets.iter().position(|n| *n > 0).unwrap_or(histogram.buckets.len());
            histogram.buckets.drain(..first);
            histogram.offset = if histogram.buckets.is_empty() { 0 } else { histogram.offset + first as i32 };
            histogram.buckets.truncate(histogram.buckets.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1));
        }
        (format!("{} {:?}", point.metric.name, point.attributes.iter().collect::<Vec<_>>()), (start_ns, value))
    };
    let points: BTreeMap<_, _> = sample.points.iter().map(of).collect();
    assert_eq!(points.len(), sample.points.len(), "no series twice");
    points
}

#[track_caller]
fn assert_same(original: &Sample, decoded: &Sample) {
    assert_eq!(original.resource.attributes().collect::<Vec<_>>(), decoded.resource.attributes().collect::<Vec<_>>());
    assert_eq!(original.time_ns, decoded.time_ns);
    let (original, decoded) = (exported(original), exported(decoded));
    assert_eq!(original, decoded);
}

#[test]
fn what_was_encoded_is_read_back_point_for_point_and_bucket_for_bucket() {
    let forms = [PLAIN, Form::Http(Compression::Gzip), Form::Grpc(Compression::None), Form::Grpc(Compression::Gzip)];
    for (load, form, limit) in [Load::Idle, Load::Busy]
        .into_iter()
        .zip(forms)
        .map(|(load, form)| (load, form, 10_000))
        .chain([(Load::Busy, forms[2], 1 << 20), (Load::Busy, forms[3], 100_000)])
    {
        for original in batches(load) {
            let decoded = there_and_back(&original, form, limit);
            assert_eq!((decoded.time_ns, decoded.cgroups.len(), decoded.pods.len()), (original.time_ns, 16, original.pods.len()));
            assert_same(&original.node, &decoded.node);
            original.pods.iter().zip(&decoded.pods).for_each(|(original, decoded)| assert_same(original, decoded));
            for (original, decoded) in original.cgroups.iter().zip(&decoded.cgroups) {
                assert_same(&original.sample, &decoded.sample);
                let (original, decoded) = (&original.cgroup, &decoded.cgroup);
                assert_eq!((&original.path, original.ended), (&decoded.path, decoded.ended));
            }
        }
    }
}

#[test]
fn the_snapshot_of_what_is_read_back_is_that_of_the_original() {
    for load in [Load::Idle, Load::Busy] {
        let mut snapshots = [(); 2].map(|()| SnapshotBuilder::new("n".to_owned(), 4.0));
        for original in batches(load) {
            let both = [original.clone(), there_and_back(&original, PLAIN, 10_000)];
            let mut documents = snapshots
                .iter_mut()
                .zip(both)
                .map(|(snapshots, batch)| serde_json::to_value(snapshots.next(&batch)).expect("is JSON"));
            let (original, decoded) = (documents.next().expect("one"), documents.next().expect("another"));
            assert_eq!(original, decoded);
            assert!(original["workloads"].as_array().is_some_and(|workloads| workloads.len() == 16));
        }
    }
}

#[test]
fn a_removed_cgroup_and_its_successor_are_two_and_a_series_of_rates_is_one() {
    let node = NodeIdentity { name: "n".into(), ..NodeIdentity::default() };
    let of = |began: u64, died: Option<u64>, time: f64| {
        let mut cgroup = cgroup(1, "/system.slice/web.service", None);
        cgroup.died_ns = died;
        let points = vec![Point::new(&cpu::metrics::TIME, began * SECOND, Value::Float(time))];
        CgroupSample::new(&cgroup, Arc::new(node.resource_of(&cgroup)), points)
    };
    let at = |second: u64, cgroups: Vec<CgroupSample>| {
        there_and_back(&Batch { time_ns: second * SECOND, cgroups, ..Batch::default() }, PLAIN, 10_000)
    };
    let before = at(100, vec![of(10, None, 5.0)]);
    let now = at(115, vec![of(10, Some(104 * SECOND), 6.0), of(105, None, 0.5)]);
    let seen: Vec<_> = now.cgroups.iter().map(|sample| (sample.cgroup.ended, sample.sample.time_ns)).collect();
    assert_eq!(seen, [(true, Some(104 * SECOND)), (false, None)]);
    let ids: Vec<_> = before.cgroups.iter().chain(&now.cgroups).map(|sample| sample.cgroup.id).collect();
    assert!(ids[0] == ids[1] && ids[0] != ids[2], "{ids:?}");
    let name = &now.cgroups[1].cgroup.name;
    assert_eq!((name.kind.as_str(), name.name.as_str(), name.nested), ("Service", "web", false));
}

#[test]
fn what_another_version_exports_is_left_out_and_counted() {
    static FUTURE: Metric = Metric::counter("podmeter.future", "s", Scope::Cgroup, "Unknown.");
    static OTHER_KIND: Metric = Metric::gauge("container.cpu.time", "s", Scope::Cgroup, "Now a gauge.");
    let node = Arc::new(NodeIdentity { name: "n".into(), ..NodeIdentity::default() }.resource());
    let points = vec![
        Point::new(&FUTURE, 1, Value::Int(1)),
        Point::new(&cpu::metrics::WAIT_TIME, 1, Value::Float(2.0)).with("cause", "contention").with("future", "x"),
        Point::new(&OTHER_KIND, 1, Value::Int(1)),
    ];
    let [metrics, _] = requests(&Batch { time_ns: NOW, node: Sample::new(node, points), ..Batch::default() }, PLAIN, 10_000);
    let mut decoded = Decoded::default();
    assert!(add(&mut decoded, &metrics[0], PLAIN));
    assert_eq!(decoded.unknown_points, 2);
    let batch = decoded.batch(NOW);
    let expected = Point::new(&cpu::metrics::WAIT_TIME, 1, Value::Float(2.0)).with("cause", "contention");
    assert_eq!(batch.node.points, [expected]);
    let no_form = EntryInfo { form: 77, ..info(&metrics[0], Payload::Metrics, PLAIN, NOW) };
    assert!(!Decoded::default().add(&no_form, &metrics[0].body));
}

#[test]
fn events_are_read_back() {
    let batch = Batch { time_ns: NOW, events: vec![crate::export::fixtures::happened("web-0", 5)], ..Batch::default() };
    let [metrics, logs] = requests(&batch, PLAIN, 10_000);
    let info = info(&logs[0], Payload::Logs, PLAIN, NOW);
    let expected = PastEvent { name: "podmeter.test".into(), time_ns: 5, body: "it happened".into() };
    assert_eq!((metrics.len(), events(&info, &logs[0].body)), (0, Some(vec![expected])));
    for end in 0..logs[0].body.len() {
        let _ = events(&info, &logs[0].body[..end]);
    }
}

/// What is made of damaged bytes: anything, but no panic and nothing without bounds.
fn survive(info: &EntryInfo, body: &[u8]) {
    let mut decoded = Decoded::default();
    decoded.add(info, body);
    let _ = events(info, body);
    let batch = decoded.batch(NOW);
    SnapshotBuilder::new("n".to_owned(), 4.0).between(&Batch { time_ns: NOW - 15 * SECOND, ..batch.clone() }, &batch);
}

#[test]
fn a_request_that_is_cut_or_has_any_bytes_changed_does_no_harm() {
    let original = &batches(Load::Busy)[0];
    let few = Batch { cgroups: original.cgroups[..1].to_vec(), node: Sample::default(), pods: Vec::new(), ..original.clone() };
    let few = Batch { ended: Vec::new(), ..few };
    let [metrics, _] = requests(&few, PLAIN, 4_000);
    let mut random = fastrand::Rng::with_seed(7);
    for request in &metrics {
        let info = info(request, Payload::Metrics, PLAIN, NOW);
        for end in 0..request.body.len() {
            let mut decoded = Decoded::default();
            decoded.add(&info, &request.body[..end]);
            decoded.batch(NOW);
        }
        for _ in 0..500 {
            let mut bytes = request.body.to_vec();
            for _ in 0..random.usize(1..8) {
                let at = random.usize(..bytes.len());
                bytes[at] = if random.bool() { random.u8(..) } else { bytes[at] ^ 1 << random.u8(..8) };
            }
            survive(&info, &bytes);
        }
    }
    let info = info(&metrics[0], Payload::Metrics, PLAIN, NOW);
    for _ in 0..2000 {
        let length = random.usize(..300);
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        survive(&info, &bytes);
    }
}

#[test]
fn a_distribution_that_nothing_measures_is_left_out() {
    let point = |change: &dyn Fn(&mut ExponentialHistogramDataPoint)| {
        use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
        let mut point = ExponentialHistogramDataPoint {
            count: 5,
            zero_count: 2,
            sum: Some(1.0),
            scale: SCALE,
            positive: Some(Buckets { offset: -80, bucket_counts: vec![1, 2] }),
            ..ExponentialHistogramDataPoint::default()
        };
        change(&mut point);
        distribution(&point)
    };
    assert!(point(&|_| {}).is_some());
    let positive = |point: &mut ExponentialHistogramDataPoint, offset, counts: &[u64]| {
        let positive = point.positive.as_mut().expect("is set");
        (positive.offset, positive.bucket_counts) = (offset, counts.to_vec());
    };
    let wrong: [&dyn Fn(&mut ExponentialHistogramDataPoint); 7] = [
        &|p| p.scale = 4,
        &|p| p.count = 6,
        &|p| p.sum = Some(f64::NAN),
        &|p| p.zero_threshold = f64::INFINITY,
        &|p| positive(p, i32::MAX, &[1, 2]),
        &|p| positive(p, i32::MIN, &[1, 2]),
        &|p| positive(p, 0, &[u64::MAX, u64::MAX]),
    ];
    for (number, wrong) in wrong.iter().enumerate() {
        assert_eq!(point(wrong), None, "{number}");
    }
}
