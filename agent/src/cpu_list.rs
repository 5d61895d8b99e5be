//! Lists of CPUs as the kernel prints and takes them.

use std::ops::RangeInclusive;

/// The ranges of a list of CPUs: `0-3,8,10-11`. `None` for anything else, and for ids that no kernel has (`NR_CPUS` is at most 8192).
pub fn parse(list: &str) -> Option<Vec<RangeInclusive<u32>>> {
    const MOST: u32 = 1 << 16;
    let id = |text: &str| text.parse().ok().filter(|id| *id < MOST);
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(id(first)?..=id(last)?).filter(|range| !range.is_empty())
    };
    list.trim().split(',').map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_single_cpus_and_ranges() {
        let ids = |list| parse(list).map(|ranges| ranges.into_iter().flatten().collect::<Vec<_>>());
        assert_eq!(ids("0-3\n"), Some(vec![0, 1, 2, 3]));
        assert_eq!(ids("0\n"), Some(vec![0]));
        assert_eq!(ids("0-1,4,6-7\n"), Some(vec![0, 1, 4, 6, 7]));
        for bad in ["", "\n", "x", "0-", "3-1", "0,,1", "-1", "0-99999999"] {
            assert_eq!(ids(bad), None, "{bad:?}");
        }
    }
}
