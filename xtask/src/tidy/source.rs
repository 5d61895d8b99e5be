//! Rust source as the rules see it: its words, without comments, literals and tests, and what it imports.
//!
//! Not a parser: it knows just enough of the language not to be misled. Code that does not compile is cargo's to complain about.

use std::ops::Range;

/// A name, a keyword, `::`, or one other character, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    /// Counted from 1.
    pub(super) line: usize,
}

/// A literal or a comment, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) is_comment: bool,
    /// Whether it is in an item that is only compiled for tests.
    pub(super) is_test: bool,
}

/// The words of a file, without what is only compiled for tests.
pub(super) fn words(source: &str) -> Vec<Word<'_>> {
    let (words, _) = split(source);
    let tests = tests(&words);
    let is_kept = |(at, _): &(usize, Word<'_>)| !tests.iter().any(|test| test.contains(at));
    words.into_iter().enumerate().filter(is_kept).map(|(_, word)| word).collect()
}

/// The literals and comments of a file.
pub(super) fn pieces(source: &str) -> Vec<Piece<'_>> {
    let (words, mut pieces) = split(source);
    let lines = |test: &Range<usize>| words[test.start].line..=words[test.end - 1].line;
    let tests: Vec<_> = tests(&words).iter().map(lines).collect();
    for piece in &mut pieces {
        piece.is_test = tests.iter().any(|test| test.contains(&piece.line));
    }
    pieces
}

fn split(source: &str) -> (Vec<Word<'_>>, Vec<Piece<'_>>) {
    let (mut words, mut pieces) = (Vec::new(), Vec::new());
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let (length, is_code) = next(rest, first);
        let (text, after) = rest.split_at(length);
        if is_code {
            words.push(Word { text, line });
        } else if !first.is_whitespace() {
            pieces.push(Piece { text, line, is_comment: first == '/', is_test: false });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    (words, pieces)
}

/// How many bytes the next piece has, and whether it is a word.
fn next(rest: &str, first: char) -> (usize, bool) {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    if let Some(length) = literal(rest).or_else(|| comment(rest)) {
        (length, false)
    } else if first.is_whitespace() {
        (first.len_utf8(), false)
    } else if is_name(first) {
        (rest.find(|c| !is_name(c)).unwrap_or(rest.len()), true)
    } else if rest.starts_with("::") {
        (2, true)
    } else {
        (first.len_utf8(), true)
    }
}

fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut at, mut depth) = (2, 1);
    while depth > 0 && at < rest.len() {
        match rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    Some(at)
}

/// The length of a string, byte string, C string or character.
fn literal(rest: &str) -> Option<usize> {
    if rest.starts_with('\'') {
        return character(rest);
    }
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        rest.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('"') || (prefix.ends_with('r') && rest.starts_with("#")))
    })?;
    let body = &rest[prefix.len()..];
    let hashes = body.len() - body.trim_start_matches('#').len();
    // `r#type` is a name.
    let body = body[hashes..].strip_prefix('"')?;
    let start = prefix.len() + hashes + 1;
    if prefix.ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(body.find(&end).map_or(rest.len(), |at| start + at + end.len()));
    }
    let mut escaped = false;
    let end = body.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    Some(end.map_or(rest.len(), |at| start + at + 1))
}

/// The length of `'a'` or `'\n'`; `None` for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut inside = rest.char_indices().skip(1);
    match inside.next()? {
        // An escape ends at the next quote, unless that is what it escapes.
        (_, '\\') => inside.skip(1).find(|(_, c)| *c == '\'').map(|(at, _)| at + 1),
        _ => inside.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1),
    }
}

/// Which words are items under `#[cfg(test)]`: up to its closing brace, or its semicolon if that comes first.
fn tests(words: &[Word<'_>]) -> Vec<Range<usize>> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut tests = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if words[at..].iter().map(|word| word.text).take(CFG_TEST.len()).eq(CFG_TEST) {
            let begin = at;
            at += CFG_TEST.len() + item(&words[at + CFG_TEST.len()..]);
            tests.push(begin..at);
        } else {
            at += 1;
        }
    }
    tests
}

/// How many words an item has.
fn item(words: &[Word<'_>]) -> usize {
    let is_use = words.iter().take_while(|word| word.text != "{").any(|word| word.text == "use");
    let mut depth = 0_usize;
    let end = words.iter().position(|word| {
        match word.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && (word.text == ";" || (word.text == "}" && !is_use))
    });
    end.map_or(words.len(), |at| at + 1)
}

/// A path within its crate, absolute, that a file names by `crate::`, `super::` or `self::`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    pub(super) names: Vec<&'a str>,
    pub(super) line: usize,
}

/// The module that a file below `src` is: none for the crate's root.
pub(super) fn module(file: &str) -> Vec<&str> {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "main" || path == "lib" { Vec::new() } else { path.split('/').collect() }
}

/// The paths that the words of a module name.
pub(super) fn paths<'a>(module: &[&'a str], words: &[Word<'a>]) -> Vec<Path<'a>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let starts_path = at == 0 || words[at - 1].text != "::";
        let is_path = matches!(words[at].text, "crate" | "super" | "self") && starts_path && is_next(words, at, "::");
        at = if is_path { branches(words, at, module.to_vec(), &mut paths) } else { at + 1 };
    }
    paths
}

fn is_next(words: &[Word<'_>], at: usize, text: &str) -> bool {
    words.get(at + 1).is_some_and(|word| word.text == text)
}

/// Follows one path from `at`, or each of a group's, below `names`. Returns where it ends.
fn branches<'a>(words: &[Word<'a>], mut at: usize, mut names: Vec<&'a str>, paths: &mut Vec<Path<'a>>) -> usize {
    while let Some(word) = words.get(at) {
        match word.text {
            "crate" => names.clear(),
            "super" => drop(names.pop()),
            "self" | "::" => {}
            "{" => {
                at += 1;
                while words.get(at).is_some_and(|word| word.text != "}") {
                    at = branches(words, at, names.clone(), paths);
                    // Past `as name` and the comma.
                    while words.get(at).is_some_and(|word| !["}", ","].contains(&word.text)) {
                        at += 1;
                    }
                    at += usize::from(words.get(at).is_some_and(|word| word.text == ","));
                }
                return at + 1;
            }
            name => names.push(name),
        }
        at += 1;
        if word.text != "::" && words.get(at).is_none_or(|next| next.text != "::") {
            paths.push(Path { names, line: word.line });
            return at;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        words(source).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn literals_and_comments_are_no_words() {
        assert_eq!(texts(r#"a "b\"c" d 'e' '\'' '\u{41}' f"#), ["a", "d", "f"]);
        assert_eq!(texts("a r#\"b\"c\"# d br\"e\\\" f b\"g\" c\"h\""), ["a", "d", "f"]);
        assert_eq!(texts("a // b\nc /* d /* e */ f */ g"), ["a", "c", "g"]);
    }

    #[test]
    fn lifetimes_and_raw_names_are_words() {
        assert_eq!(texts("&'a str"), ["&", "'", "a", "str"]);
        assert_eq!(texts("r#type + bracket"), ["r", "#", "type", "+", "bracket"]);
        assert_eq!(texts("a::b"), ["a", "::", "b"]);
    }

    #[test]
    fn lines_are_counted_through_what_is_left_out() {
        let words = words("a\n/* \n */ \"\n\" b\n");
        assert_eq!(words, [Word { text: "a", line: 1 }, Word { text: "b", line: 4 }]);
    }

    #[test]
    fn what_is_unfinished_ends_with_the_file() {
        for source in ["a \"b", "a /* b", "a r#\"b\"", "a '", "a '\\", "use crate::{a", "#[cfg(test)] mod tests {", "use crate::"]
        {
            let words = words(source);
            paths(&["a"], &words);
        }
    }

    fn found(file: &str, source: &str) -> Vec<String> {
        paths(&module(file), &words(source)).iter().map(|path| path.names.join("::")).collect()
    }

    #[test]
    fn super_leads_to_the_top_or_not() {
        assert_eq!(found("a.rs", "use super::b::c;"), ["b::c"]);
        assert_eq!(found("a/b.rs", "use super::c; use super::super::{d, e::{f, g}, h};"), ["a::c", "d", "e::f", "e::g", "h"]);
        assert_eq!(found("a/mod.rs", "use super::b; use self::c;"), ["b", "a::c"]);
        assert_eq!(found("main.rs", "use crate::a; $crate::b!()"), ["a", "b"]);
    }

    #[test]
    fn groups_are_followed_to_every_end() {
        assert_eq!(found("a.rs", "use crate::{b::{self, c as d, e::*}, f}; g"), ["b", "b::c", "b::e::*", "f"]);
        assert_eq!(found("a.rs", "crate::b::c::<crate::d>(x.self)"), ["b::c::<", "d"]);
    }

    #[test]
    fn texts_are_literals_and_comments_with_their_lines() {
        let source = "// a\nlet x = \"b\\\"c\"; /* d\n e */\n#[cfg(test)]\nmod tests {\n  \"f\" // g\n}\n";
        let found: Vec<_> =
            pieces(source).iter().map(|piece| (piece.text, piece.line, piece.is_comment, piece.is_test)).collect();
        assert_eq!(
            found,
            [
                ("// a", 1, true, false),
                ("\"b\\\"c\"", 2, false, false),
                ("/* d\n e */", 2, true, false),
                ("\"f\"", 6, false, true),
                ("// g", 6, true, true),
            ]
        );
    }
}
