//! How a table that all cgroups share is divided, so that none of them fills it to the harm of the others.

/// Whether one of those who share a table of `len` entries may take another, when it has `own` of the `taken` ones: while more are free
/// than it has.
///
/// So one alone gets half of the table, each of three a quarter, and as much as each of them has is always free for whoever has less. No
/// configuration, and no limit that idle others would make needlessly small (dynamic thresholds, Choudhury and Hahne 1998). Counts may be
/// off by what is going on at this moment, below nothing too.
#[inline(always)]
pub const fn has_room(own: u64, taken: u64, len: u32) -> bool {
    own.cast_signed() < (len as i64).saturating_sub(taken.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each has when nobody may take more, when they take turns.
    fn filled<const N: usize>(mut own: [u64; N], len: u32) -> [u64; N] {
        loop {
            let before = own;
            for i in 0..N {
                if has_room(own[i], own.iter().sum(), len) {
                    own[i] += 1;
                }
            }
            if own == before {
                return own;
            }
        }
    }

    #[test]
    fn whoever_floods_a_table_leaves_as_much_free_as_it_has() {
        assert_eq!(filled([0], 1024), [512]);
        let three = filled([0; 3], 1024);
        assert!(three.iter().all(|own| (255..=257).contains(own)), "{three:?}");
        // One that comes late finds room for as many as all but the last free place.
        assert!(has_room(0, 512, 1024) && has_room(511, 512, 1024) && !has_room(512, 512, 1024));
        assert!(has_room(0, 1023, 1024) && !has_room(1, 1023, 1024) && !has_room(0, 1024, 1024));
    }

    #[test]
    fn counts_that_are_off_for_a_moment_do_no_harm() {
        assert!(has_room(u64::MAX, 0, 16) && has_room(3, u64::MAX, 16));
        assert!(!has_room(3, 1 << 40, 16));
    }
}
