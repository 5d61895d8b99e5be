//! The bucket index of an OTLP exponential histogram, by integer arithmetic.
//!
//! At scale 3 a bucket's upper bound is `2^(1/8)` times its lower bound: eight buckets per octave, and a percentile read from
//! the buckets is at most 4.4 % from the truth. Bucket `i` holds the values in `(2^(i/8), 2^((i+1)/8)]` (upper-inclusive, as
//! the OpenTelemetry metrics data model defines it), so an exact power of two belongs to the bucket below it.

/// The OTLP scale of every histogram podmeter keeps.
pub const SCALE: i32 = 3;

/// Buckets per octave at [`SCALE`].
pub const PER_OCTAVE: u32 = 1 << SCALE;

/// `ceil(2^(63 + k/8))` for k = 1..=7: a mantissa normalised to bit 63 is in sub-bucket `k` or above when it is **greater**
/// than `2^(63 + k/8)`; as that bound is irrational, "not less than its ceiling" is the same.
const BOUNDS: [u64; 7] = [
    10_058_158_527_438_640_871,
    10_968_499_650_544_839_024,
    11_961_233_684_655_323_371,
    13_043_817_825_332_782_213,
    14_224_384_202_002_324_190,
    15_511_800_964_685_064_949,
    16_915_738_899_553_466_671,
];

/// The bucket index at [`SCALE`] of a value that is at least 1: `ceil(log2(value) * 8) - 1`.
///
/// Zero has no index in an exponential histogram; it yields the index of 1.
#[inline(always)]
pub const fn index(value: u64) -> i32 {
    let value = if value == 0 { 1 } else { value };
    let exponent = log2(value);
    let mantissa = value << (63 - exponent);
    if mantissa == 1 << 63 {
        // An exact power of two is the inclusive upper bound of the octave below.
        return (exponent * PER_OCTAVE) as i32 - 1;
    }
    // Binary search among the seven boundaries inside the octave.
    let mut k = if mantissa >= BOUNDS[3] { 4 } else { 0 };
    if mantissa >= BOUNDS[k + 1] {
        k += 2;
    }
    if mantissa >= BOUNDS[k] {
        k += 1;
    }
    (exponent * PER_OCTAVE) as i32 + k as i32
}

/// `floor(log2(value))` for a value that is at least 1. BPF has no instruction for it; five halvings do.
#[inline(always)]
const fn log2(value: u64) -> u32 {
    let mut value = value;
    let mut exponent = 0;
    if value >= 1 << 32 {
        value >>= 32;
        exponent += 32;
    }
    if value >= 1 << 16 {
        value >>= 16;
        exponent += 16;
    }
    if value >= 1 << 8 {
        value >>= 8;
        exponent += 8;
    }
    if value >= 1 << 4 {
        value >>= 4;
        exponent += 4;
    }
    if value >= 1 << 2 {
        value >>= 2;
        exponent += 2;
    }
    if value >= 1 << 1 {
        exponent += 1;
    }
    exponent
}

/// A bounded row of buckets: `LEN` counters from index `FIRST` on, with the underflow below and the overflow in the last.
///
/// Values up to `2^(FIRST/8)` go to position 0 (exported as the histogram's zero bucket, whose threshold that is); the value of
/// index `FIRST + p - 1` goes to position `p`; all that lies above goes to the last position.
#[inline(always)]
pub const fn position<const FIRST: i32, const LEN: usize>(value: u64) -> usize {
    let position = index(value) - FIRST + 1;
    if position <= 0 || value == 0 {
        0
    } else if position as usize >= LEN {
        LEN - 1
    } else {
        position as usize
    }
}
