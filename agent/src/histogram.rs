//! An OTLP exponential histogram at scale 3: the one shape every distribution in podmeter has.
//!
//! Mergeable by adding buckets, so a percentile over a fleet is as exact as over one container. The bucket rule is
//! [`agent_common::bucket`]'s, shared with the kernel side.

pub use agent_common::bucket::SCALE;

use agent_common::bucket::PER_OCTAVE;

/// Observations of a positive quantity, by magnitude.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Number of observations, those in the zero bucket included.
    pub count: u64,
    /// Sum of the observations, in the metric's unit.
    pub sum: f64,
    /// Observations at or below [`Histogram::zero_threshold`].
    pub zero_count: u64,
    /// Upper bound of the zero bucket, in the metric's unit.
    pub zero_threshold: f64,
    /// Index of the first bucket: it holds `(2^(offset/8), 2^((offset+1)/8)]`.
    pub offset: i32,
    /// Counts of consecutive buckets from `offset` on.
    pub buckets: Vec<u64>,
}

impl Histogram {
    /// Durations in s, out of the buckets that the kernel side counts by [`agent_common::bucket::duration_position`]: the first
    /// holds what is at most `2^(first/8)` units of 2^-30 s, the next ones are of consecutive indices.
    pub fn of_durations(first: i32, buckets: &[u64], sum_ns: u64) -> Self {
        let (zero_count, rest) = buckets.split_first().map_or((0, buckets), |(zero, rest)| (*zero, rest));
        let used = rest.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
        let offset = first - 30 * PER_OCTAVE as i32;
        Self {
            count: buckets.iter().sum(),
            sum: sum_ns as f64 / 1e9,
            zero_count,
            zero_threshold: (f64::from(offset) / f64::from(PER_OCTAVE)).exp2(),
            offset,
            buckets: rest[..used].to_vec(),
        }
    }

    /// Adds `n` observations of `value` (in the metric's unit; not negative).
    pub fn record(&mut self, value: f64, n: u64) {
        self.count += n;
        self.sum += value * n as f64;
        if value <= self.zero_threshold {
            self.zero_count += n;
        } else {
            self.add(index(value), n);
        }
    }

    /// Adds all observations of `other`, which must have the same zero threshold.
    pub fn merge(&mut self, other: &Self) {
        if self.count == 0 && self.buckets.is_empty() {
            self.zero_threshold = other.zero_threshold;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.zero_count += other.zero_count;
        for (i, &n) in other.buckets.iter().enumerate().filter(|(_, n)| **n > 0) {
            self.add(other.offset + i as i32, n);
        }
    }

    /// What was observed since `earlier`, an older state of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut delta = self.clone();
        delta.count = self.count.saturating_sub(earlier.count);
        delta.sum = (self.sum - earlier.sum).max(0.0);
        delta.zero_count = self.zero_count.saturating_sub(earlier.zero_count);
        for (i, &n) in earlier.buckets.iter().enumerate() {
            let position = earlier.offset + i as i32 - delta.offset;
            if let Some(bucket) = usize::try_from(position).ok().and_then(|p| delta.buckets.get_mut(p)) {
                *bucket = bucket.saturating_sub(n);
            }
        }
        delta
    }

    /// The value below which the share `q` (0..=1) of the observations lies: the geometric middle of the bucket it falls in,
    /// at most 4.4 % from the truth. `None` without observations.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = (q.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0) as u64;
        if rank <= self.zero_count {
            return Some(0.0);
        }
        let mut seen = self.zero_count;
        let mut last = None;
        for (i, &n) in self.buckets.iter().enumerate().filter(|(_, n)| **n > 0) {
            seen += n;
            last = Some(self.offset + i as i32);
            if seen >= rank {
                break;
            }
        }
        last.map(|index| ((f64::from(index) + 0.5) / f64::from(1 << SCALE)).exp2())
    }

    /// Counts `n` observations in the bucket with this index.
    pub fn add(&mut self, index: i32, n: u64) {
        if self.buckets.is_empty() {
            self.offset = index;
        }
        if index < self.offset {
            let missing = (self.offset - index) as usize;
            self.buckets.splice(0..0, std::iter::repeat_n(0, missing));
            self.offset = index;
        }
        let position = (index - self.offset) as usize;
        if position >= self.buckets.len() {
            self.buckets.resize(position + 1, 0);
        }
        self.buckets[position] += n;
    }
}

/// The index of a positive value's bucket at [`SCALE`], as the OpenTelemetry data model defines it: `ceil(log2(v) * 8) - 1`,
/// with exact powers of two on the lower side.
pub fn index(value: f64) -> i32 {
    let bits = value.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    if exponent == -1023 {
        // Subnormal: far below anything podmeter measures.
        return (-1022) << SCALE;
    }
    // The mantissa as an integer gives the sub-bucket by the very comparison the kernel side makes.
    let mantissa = (bits & ((1 << 52) - 1)) | (1 << 52);
    (exponent << SCALE) + agent_common::bucket::index(mantissa) - (52 << SCALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: the unique i with 2^(i/8) < v <= 2^((i+1)/8).
    fn holds(index: i32, value: f64) -> bool {
        let bound = |i: i32| (f64::from(i) / 8.0).exp2();
        // One ulp of slack: the bounds themselves are rounded.
        bound(index) * (1.0 - 1e-15) < value && value <= bound(index + 1) * (1.0 + 1e-15)
    }

    #[test]
    fn every_power_of_two_is_in_the_bucket_below_it() {
        for exponent in -60..60 {
            assert_eq!(index(f64::from(exponent).exp2()), exponent * 8 - 1);
        }
    }

    #[test]
    fn values_are_in_the_bucket_of_the_definition() {
        for i in -400..400 {
            let value = 1.0179_f64.powi(i) * 1.001;
            assert!(holds(index(value), value), "{value} in {}", index(value));
        }
    }

    #[test]
    fn durations_are_where_their_bounds_in_seconds_are() {
        // 2^-10 s is the upper bound of its bucket, one ns more is above it.
        const FIRST: i32 = 88;
        for (ns, expected) in [(976_562, -81), (976_600, -80), (999_999_000, -1), (1_000_001_000, 0)] {
            let mut buckets = [0; 300];
            buckets[agent_common::bucket::duration_position::<FIRST, 300>(ns)] += 1;
            let histogram = Histogram::of_durations(FIRST, &buckets, ns);
            assert_eq!(histogram.offset + histogram.buckets.len() as i32 - 1, expected, "{ns} ns");
            assert!(holds(expected, ns as f64 / 1e9), "{ns} ns");
        }
        let short = Histogram::of_durations(FIRST, &[3, 0, 0], 5);
        assert_eq!((short.count, short.zero_count, short.buckets.len()), (3, 3, 0));
        assert_eq!(short.zero_threshold, 1.0 / f64::from(1 << 19));
    }

    #[test]
    fn a_quantile_is_within_a_bucket_of_the_truth() {
        let mut histogram = Histogram::default();
        for v in 1..=1000 {
            histogram.record(f64::from(v) / 100.0, 1);
        }
        for (q, truth) in [(0.5, 5.0), (0.95, 9.5), (0.99, 9.9)] {
            let estimate = histogram.quantile(q).expect("not empty");
            assert!((estimate / truth - 1.0).abs() < 0.045, "q{q}: {estimate} against {truth}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn merging_is_the_same_as_recording_in_one_and_a_difference_undoes_it() {
        let (mut a, mut b, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
        for (i, v) in [0.0, 0.25, 3.0, 17.0, 0.004, 1.0].into_iter().enumerate() {
            if i % 2 == 0 {
                a.record(v, 2)
            } else {
                b.record(v, 2)
            }
            both.record(v, 2);
        }
        let before = a.clone();
        a.merge(&b);
        assert_eq!((a.count, a.zero_count, a.offset, &a.buckets), (both.count, both.zero_count, both.offset, &both.buckets));
        let back = a.since(&before);
        assert_eq!(back.count, b.count);
        assert_eq!(back.quantile(0.5), b.quantile(0.5));
    }
}
