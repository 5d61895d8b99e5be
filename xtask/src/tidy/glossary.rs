//! The words that are not used here, and those that are used for them. To forbid another one, add a line.

/// Where a word is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In comments too.
    Everywhere,
    /// In documents, and in texts that the code prints or exports.
    UserTexts,
}

/// Words or phrases with one replacement, in lower case.
pub(super) struct Forbidden {
    pub(super) words: &'static [&'static str],
    pub(super) instead: &'static str,
    pub(super) place: Place,
}

const fn everywhere(words: &'static [&'static str], instead: &'static str) -> Forbidden {
    Forbidden { words, instead, place: Place::Everywhere }
}

const fn user_texts(words: &'static [&'static str], instead: &'static str) -> Forbidden {
    Forbidden { words, instead, place: Place::UserTexts }
}

pub(super) const FORBIDDEN: &[Forbidden] = &[
    everywhere(&["last words", "last word on", "last word"], "final values, final points"),
    everywhere(&["first word", "first words"], "first response, first log line"),
    everywhere(&["bury", "buries", "buried", "burying", "burial"], "retire"),
    everywhere(&["heir", "heirs"], "parent"),
    everywhere(&["the books", "books of", "books balance", "ledger", "ledgers"], "counts, slot counts, sums"),
    everywhere(&["told apart", "tell apart", "tells apart"], "tracked, distinguished"),
    everywhere(&["value that cannot be", "values that cannot be"], "invalid value"),
    everywhere(&["what is higher wins"], "precedence, highest first"),
    everywhere(&["receiver's words"], "receiver's error"),
    everywhere(&["has nobody", "nobody's"], "is empty, no cgroup's, unattributed"),
    everywhere(&["mend", "mends", "mended", "mending"], "fix"),
    everywhere(&["stand-in", "stand-ins"], "placeholder"),
    everywhere(&["parcel", "parcels"], "encoded batch"),
    everywhere(&["a look at", "one look", "each look", "every look", "looks in vain"], "a read, a sample, an interval"),
    user_texts(&["told"], "exported, shown, reported, holds, contains"),
    user_texts(&["asked", "asking"], "queried (DNS), requested (API), checked"),
    user_texts(&["whose"], "owner, or a sentence with \"of which\" or \"with\""),
    user_texts(&["nobody"], "no process, no cgroup, no one user"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_written_as_they_are_compared() {
        for forbidden in FORBIDDEN {
            assert!(!forbidden.words.is_empty() && !forbidden.instead.is_empty());
            for words in forbidden.words {
                assert_eq!(words.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase(), *words);
            }
        }
    }
}
