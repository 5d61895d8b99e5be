//! An exponential histogram -> classic buckets, and -> spans of a native histogram (pure).

use agent_common::bucket::PER_OCTAVE;

use crate::histogram::Histogram;

/// A classic bucket for each power of two between these, by the metric's unit. They are the same for every series, since queries add
/// up buckets by `le`, and are borders of our buckets, so that each count is exact. The lowest of seconds, 31 µs, is at or above every
/// zero bucket of a duration.
const SECONDS: std::ops::RangeInclusive<i32> = -15..=5;
const CPUS: std::ops::RangeInclusive<i32> = -6..=9;
const OTHERS: std::ops::RangeInclusive<i32> = 0..=30;

/// The classic buckets of a histogram, without the last one, of infinity: upper bound, and the observations up to it.
pub(super) fn classic(histogram: &Histogram, unit: &str) -> impl Iterator<Item = (f64, u64)> {
    let exponents = match unit {
        "s" => SECONDS,
        "{cpu}" => CPUS,
        _ => OTHERS,
    };
    let (mut up_to, mut counted) = (0, 0);
    exponents.map(move |exponent| {
        let bound = f64::from(exponent).exp2();
        // The bucket with index i ends at 2^((i+1)/8): those before 8 times the exponent are below the bound.
        let below = i64::from(exponent) * i64::from(PER_OCTAVE) - i64::from(histogram.offset);
        let below = usize::try_from(below).unwrap_or(0).min(histogram.buckets.len());
        counted += histogram.buckets[up_to..below].iter().sum::<u64>();
        up_to = below;
        // Where zero ends above the bound it is not known how many are below it.
        let zeros = if histogram.zero_threshold <= bound { histogram.zero_count } else { 0 };
        (bound, zeros + counted)
    })
}

/// Buckets in a row, as native histograms have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Of the first one: its index. Of the others: the gap to the span before.
    pub(super) offset: i32,
    /// Number of buckets.
    pub(super) length: u32,
}

/// Empty buckets that are written out: a new span takes more bytes.
const GAP: usize = 2;

/// The spans of a native histogram, and the count of each bucket as the difference to the one before. Its buckets are numbered by
/// their upper bounds, ours by their lower ones: each index is greater by one.
pub(super) fn native(histogram: &Histogram) -> (Vec<Span>, Vec<i64>) {
    let (mut spans, mut deltas): (Vec<Span>, Vec<i64>) = (Vec::new(), Vec::new());
    let (mut before, mut next) = (0, 0);
    let mut push = |count: u64, deltas: &mut Vec<i64>| {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        deltas.push(count - before);
        before = count;
    };
    for (at, &count) in histogram.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
        let gap = at - next;
        match spans.last_mut() {
            Some(span) if gap <= GAP => {
                (0..gap).for_each(|_| push(0, &mut deltas));
                span.length += gap as u32 + 1;
            }
            Some(_) => spans.push(Span { offset: gap as i32, length: 1 }),
            None => spans.push(Span { offset: histogram.offset + at as i32 + 1, length: 1 }),
        }
        push(count, &mut deltas);
        next = at + 1;
    }
    if spans.is_empty() {
        // Without any span it would not be known as a native one.
        spans.push(Span { offset: 0, length: 0 });
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(offset: i32, buckets: &[u64]) -> Histogram {
        let count = buckets.iter().sum::<u64>() + 6;
        Histogram { count, sum: 1.0, zero_count: 6, zero_threshold: f64::from(-19).exp2(), offset, buckets: buckets.to_vec() }
    }

    #[test]
    fn a_classic_bucket_has_exactly_what_is_up_to_its_bound() {
        let mut recorded = Histogram::default();
        let values = [0.0, 0.000_01, 0.25, 0.250_001, 0.5, 0.51, 3.0, 32.0, 32.1, 500.0];
        for value in values {
            recorded.record(value, 1);
        }
        let buckets: Vec<_> = classic(&recorded, "s").collect();
        assert_eq!((buckets.len(), buckets[0].0, buckets[20].0), (21, 1.0 / 32768.0, 32.0));
        for (bound, count) in buckets {
            assert_eq!(count, values.iter().filter(|value| **value <= bound).count() as u64, "up to {bound}");
        }
        assert_eq!((classic(&recorded, "{cpu}").count(), classic(&recorded, "By").count()), (16, 31));
    }

    #[test]
    fn buckets_outside_of_the_classic_bounds_are_in_the_first_or_only_in_infinity() {
        let low = histogram(-19 * 8, &[1, 2, 3]);
        assert_eq!(classic(&low, "s").next(), Some((1.0 / 32768.0, 12)));
        let high = histogram(6 * 8, &[1, 2, 3]);
        assert_eq!(classic(&high, "s").last(), Some((32.0, 6)));
        let wide_zero = Histogram { zero_threshold: 1.0, ..histogram(8, &[1]) };
        assert_eq!(classic(&wide_zero, "s").map(|(_, count)| count).collect::<Vec<_>>()[14..], [0, 6, 6, 7, 7, 7, 7]);
    }

    #[test]
    fn spans_and_deltas_are_those_of_the_definition() {
        let span = |offset, length| Span { offset, length };
        // Bucket -3 of ours ends at 2^(-2/8): it is number -2 of a native histogram.
        assert_eq!(native(&histogram(-3, &[1, 3, 2])), (vec![span(-2, 3)], vec![1, 2, -1]));
        assert_eq!(native(&histogram(0, &[0, 5, 0, 0, 4, 0, 0, 0, 7, 0])), (vec![span(2, 4), span(3, 1)], vec![5, -5, 0, 4, 3]));
        assert_eq!(native(&histogram(0, &[])), (vec![span(0, 0)], vec![]));
        assert_eq!(native(&histogram(9, &[0, 0])), (vec![span(0, 0)], vec![]));
    }
}
