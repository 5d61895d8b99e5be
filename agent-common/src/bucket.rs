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

/// The position of a duration in ns among the buckets of a histogram in seconds; see [`position`].
///
/// OTLP's bucket boundaries are powers of 2^(1/8) of the unit, here the second, and 10^9 is none: so a duration is counted in
/// whole units of 2^-30 s, `ns * 2^30 / 10^9`: right to 10^-7 and one unit. `FIRST` is an index in those units. Durations from
/// 18 minutes on are as good as that.
#[inline(always)]
pub const fn duration_position<const FIRST: i32, const LEN: usize>(ns: u64) -> usize {
    const MAX: u64 = 1 << 40;
    let ns = if ns > MAX { MAX } else { ns };
    position::<FIRST, LEN>((ns * 281_475) >> 18)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in whole numbers: 2^(i/8) < v <= 2^((i+1)/8) is 2^i < v^8 <= 2^(i+1), so i + 1 is the length of v^8 - 1.
    fn definition(value: u64) -> i32 {
        let mut power = [0_u64; 8];
        power[0] = value;
        for _ in 0..3 {
            power = square(power);
        }
        let mut limb = 0;
        while power[limb] == 0 {
            power[limb] = u64::MAX;
            limb += 1;
        }
        power[limb] -= 1;
        let top = power.iter().rposition(|limb| *limb != 0);
        top.map_or(0, |top| top as i32 * 64 + (64 - power[top].leading_zeros() as i32)) - 1
    }

    fn square(a: [u64; 8]) -> [u64; 8] {
        let mut product = [0_u64; 8];
        for (i, &x) in a.iter().enumerate() {
            let mut carry = 0_u128;
            for (j, &y) in a.iter().enumerate().take(8 - i) {
                let sum = u128::from(x) * u128::from(y) + u128::from(product[i + j]) + carry;
                product[i + j] = sum as u64;
                carry = sum >> 64;
            }
        }
        product
    }

    #[test]
    fn every_boundary_is_where_the_definition_has_it() {
        let mut boundaries = 0;
        for exponent in 0..64 {
            for bound in [1 << 63].iter().chain(&BOUNDS) {
                let above = bound >> (63 - exponent);
                for value in above.saturating_sub(2).max(1)..=above.saturating_add(2) {
                    assert_eq!(index(value), definition(value), "{value}");
                }
                boundaries += 1;
            }
        }
        assert_eq!(boundaries, 64 * 8);
        assert_eq!((index(1), index(2), index(3), index(4), index(u64::MAX)), (-1, 7, 12, 15, 511));
        assert_eq!(index(0), index(1));
    }

    #[test]
    fn a_million_random_values_of_every_magnitude_are_where_the_definition_has_them() {
        // xorshift64*: the same values every time.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for i in 0..1_000_000 {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let value = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> (i % 64)).max(1);
            assert_eq!(index(value), definition(value), "{value}");
        }
    }

    #[test]
    fn a_bounded_row_keeps_what_lies_outside_in_its_end_buckets() {
        const FIRST: i32 = 8;
        const LEN: usize = 10;
        let at = position::<FIRST, LEN>;
        assert_eq!((at(0), at(1), at(2)), (0, 0, 0), "up to 2^(8/8)");
        assert_eq!(at(3), (index(3) - FIRST + 1) as usize);
        assert_eq!((at(5), at(1000), at(u64::MAX)), (LEN - 1, LEN - 1, LEN - 1));
    }
}
