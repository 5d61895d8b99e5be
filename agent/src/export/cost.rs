//! What an export costs the agent, from what the signals have read to the bytes in the queue, without a kernel.
//!
//! `cargo test --release -p podmeter --bin podmeter export::cost -- --ignored --nocapture` measures.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use flate2::write::GzEncoder;
use nix::time::ClockId;

use super::fixtures::{Load, Node, node};
use super::intake::{Intake, Queue};
use super::queue::{QueueLimits, SharedQueue};
use super::request::Form;
use super::series::Series;
use crate::config::Compression;
use crate::kernel::facts;

/// Milliseconds of CPU time of this thread, and what `work` gives.
fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let began = facts::clock_ns(ClockId::CLOCK_THREAD_CPUTIME_ID);
    let made = work();
    ((facts::clock_ns(ClockId::CLOCK_THREAD_CPUTIME_ID) - began) as f64 / 1e6, made)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Queues that keep the last export, for receivers of these forms.
fn queue(forms: &[Form]) -> Queue {
    let limits = QueueLimits { exports: 1, bytes: usize::MAX, request_bytes: 2 << 20 };
    let queues = forms.iter().map(|form| Arc::new(SharedQueue::new(None, *form, limits, None))).collect();
    Queue { attribute_bytes: 256, metrics: Arc::new(Intake::new(queues, None)), logs: None }
}

#[test]
#[ignore = "it measures"]
fn the_levels_of_gzip_on_an_export_of_1_000_cgroups() {
    for load in [Load::Idle, Load::Busy] {
        let queue = queue(&[Form::Http(Compression::None)]);
        queue.enqueue(&node(250, load));
        let plain: Vec<_> = queue.metrics.queues[0].state().waiting.iter().map(|entry| entry.request.body.clone()).collect();
        let bytes: usize = plain.iter().map(|body| body.len()).sum();
        for level in 1..=9 {
            let mut compressed = 0;
            let mut once = || {
                let (ms, sizes) = timed(|| {
                    plain
                        .iter()
                        .map(|body| {
                            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(level));
                            encoder.write_all(body).and_then(|()| encoder.finish()).map_or(0, |body| body.len())
                        })
                        .sum::<usize>()
                });
                compressed = sizes;
                ms
            };
            let ms = median((0..9).map(|_| once()).collect());
            eprintln!("{load:?}, level {level}: {ms:.1} ms, {compressed} B of {bytes}");
        }
    }
}

#[test]
#[ignore = "it measures"]
fn the_stages_of_an_export_of_1_000_cgroups() {
    const SECOND: u64 = 1_000_000_000;
    for load in [Load::Idle, Load::Busy] {
        let node = Node::new(250, load);
        let (mut aggregate, mut series) = (Node::aggregate(), Series::new(0));
        let queue = queue(&[Form::Grpc(Compression::Gzip)]);
        let mut stages: [Vec<f64>; 4] = Default::default();
        let mut points = 0;
        for round in 0..21 {
            let readings = node.readings();
            let time_ns = 1_700_000_030 * SECOND + round * 15 * SECOND;
            let (aggregating, mut batch) = timed(|| node.batch(&mut aggregate, time_ns, readings));
            let (completing, _) = timed(|| series.complete(&mut batch, true));
            let (encoding, ()) = timed(|| queue.enqueue(&batch));
            points = batch.samples().map(|sample| sample.points.len()).sum();
            let (dropping, ()) = timed(|| drop(batch));
            // The first makes what is kept.
            if round > 0 {
                stages.iter_mut().zip([aggregating, completing, encoding, dropping]).for_each(|(all, ms)| all.push(ms));
            }
        }
        let [aggregating, completing, encoding, dropping] = stages.map(median);
        let stats = queue.stats();
        eprintln!(
            "{load:?}: aggregate {aggregating:.1} ms, series {completing:.1} ms, encode and compress {encoding:.1} ms, drop {dropping:.1} ms; \
             {points} points, {} B in {} requests",
            stats.queue_bytes, stats.queue_length
        );
    }
}

#[test]
#[ignore = "it measures"]
fn what_further_receivers_add_to_an_export_of_1_000_cgroups() {
    use Compression::{Gzip, None};
    let (grpc, http, plain) = (Form::Grpc(Gzip), Form::Http(Gzip), Form::Http(None));
    for load in [Load::Idle, Load::Busy] {
        let batch = node(250, load);
        for forms in [&[grpc][..], &[grpc, grpc], &[grpc; 9], &[grpc, http], &[grpc, plain], &[plain, grpc], &[plain]] {
            let queue = queue(forms);
            let once = |_| timed(|| queue.enqueue(&batch)).0;
            once(0);
            let ms = median((0..15).map(once).collect());
            // Addresses of the bytes: those that are shared count once.
            let states: Vec<_> = queue.metrics.queues.iter().map(|queue| queue.state()).collect();
            let bodies = states.iter().flat_map(|state| &state.waiting).map(|entry| &entry.request.body);
            let kept: BTreeMap<_, _> = bodies.map(|body| (body.as_ptr(), body.len())).collect();
            eprintln!("{load:?}, {forms:?}: {ms:.1} ms, {} B kept", kept.values().sum::<usize>());
        }
    }
}
