//! What is in the rows of durations, of which a slot has one for each way and end of its lookups.

use agent_common::dns::{DURATION_FIRST, Row, Way};

use crate::histogram::Histogram;

/// What a kind of row counts: by [`agent_common::dns::row_kind`].
pub(super) fn way_and_rcode(kind: u32) -> (Way, usize) {
    (Way::ALL[(kind >> 3) as usize & 3], (kind & 7) as usize)
}

pub(super) fn histogram(row: &Row) -> Histogram {
    Histogram::of_durations(DURATION_FIRST, &row.buckets, row.sum_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::dns::{ROW_KINDS, row_kind};

    #[test]
    fn a_rows_kind_says_what_it_counts() {
        for way in Way::ALL {
            for rcode in 0..16 {
                let kind = row_kind(way, rcode);
                assert!(kind < ROW_KINDS);
                assert_eq!(way_and_rcode(kind), (way, usize::from(rcode).min(6)));
            }
        }
    }
}
