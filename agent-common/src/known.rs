//! What programs have looked up and keep, so that they need not look it up at each packet.

/// Entries of a table of [`Known`]: a power of two.
pub const KNOWN_LEN: usize = 2048;

record! {
    /// The value of one key in the tables of a generation, at [`Known::position`] of an array; any CPU writes it.
    ///
    /// The words of two writers may mix; the check then matches neither key.
    pub struct Known {
        /// The key, mixed with the other word.
        pub check: u64,
        /// Generation in the upper half, value in the lower one.
        pub fact: u64,
    }
}

impl Known {
    /// A key's value, as of a generation.
    #[inline(always)]
    pub const fn new(key: u64, generation: u32, value: u32) -> Self {
        let fact = (generation as u64) << 32 | value as u64;
        Self { check: key ^ mixed(fact), fact }
    }

    /// The value of this key, if it is this one's and of this generation. A key of 0 may find 0 where nothing was written yet.
    #[inline(always)]
    pub const fn value(&self, key: u64, generation: u32) -> Option<u32> {
        if self.check ^ mixed(self.fact) == key && (self.fact >> 32) as u32 == generation { Some(self.fact as u32) } else { None }
    }

    /// Where a key is. Those that follow each other have places of their own.
    #[inline(always)]
    pub const fn position(key: u64) -> u32 {
        (key as u32 ^ (key >> 32) as u32) & (KNOWN_LEN as u32 - 1)
    }
}

#[inline(always)]
const fn mixed(fact: u64) -> u64 {
    fact.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_of_the_same_generation_is_known() {
        let known = Known::new(77, 3, 9);
        assert_eq!(known.value(77, 3), Some(9));
        assert_eq!((known.value(78, 3), known.value(77, 4), known.value(77, 2)), (None, None, None));
        assert_eq!(Known::ZERO.value(1, 0), None);
    }

    #[test]
    fn words_of_two_writers_match_no_key() {
        for (a, b) in (1..400_u64).flat_map(|a| (1..400_u64).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            // Slots of cgroups that were made one after the other, as it mostly is, and in the other order.
            for value in [a as u32, 1000 - a as u32] {
                let (one, other) = (Known::new(a, 5, value), Known::new(b, 5, b as u32));
                let mixed = Known { check: one.check, fact: other.fact };
                if one.fact != other.fact {
                    assert_eq!((mixed.value(a, 5), mixed.value(b, 5)), (None, None), "{a} and {b}");
                }
            }
        }
    }

    #[test]
    fn keys_that_follow_each_other_have_places_of_their_own() {
        let mut places: Vec<u32> = (1000..1000 + KNOWN_LEN as u64).map(Known::position).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), KNOWN_LEN);
    }
}
