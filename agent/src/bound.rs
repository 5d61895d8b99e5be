//! Text that others write -> text of bounded length (pure).

use std::borrow::Cow;

/// Bytes of the mark that ends a text that was cut: `~` and a hash of the whole text.
const MARK: usize = 17;

/// `text`, or as much of it as fits into `most` bytes with a mark that two different texts do not share: what distinguishes one thing
/// from another still does when only its end was another. `most` has room for the mark.
///
/// The hash is FNV-1a: the same on every node and in every release. Whoever makes two texts with one hash only mixes up their own.
pub fn bounded(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let kept = &text[..text.floor_char_boundary(most.saturating_sub(MARK))];
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    Cow::Owned(format!("{kept}~{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_stays_another_than_its_like() {
        assert_eq!(bounded("short", 64), "short");
        let exactly = "x".repeat(64);
        assert_eq!(bounded(&exactly, 64), exactly);
        // Three bytes each: 47 is in the middle of one.
        let long = "\u{20ac}".repeat(100);
        let cut = bounded(&long, 64);
        assert!(cut.len() <= 64 && cut.starts_with(&"\u{20ac}".repeat(15)), "{cut}");
        assert_eq!(cut.strip_prefix(&"\u{20ac}".repeat(15)).map(str::len), Some(MARK));
        let other = long.clone() + "/end";
        assert_ne!(cut, bounded(&other, 64));
        assert_eq!(cut, bounded(&long, 64), "the same text is cut the same");
        // FNV-1a's published vector for "foobar", so that no release hashes otherwise.
        assert!(bounded("foobar", 5).ends_with("~85944171f73967e8"), "{}", bounded("foobar", 5));
    }
}
