//! Rust source as the rules see it: its words, without comments, literals and tests, and what it imports.
//!
//! Not a parser: it knows just enough of the language not to be misled. Code that does not compile is cargo's to complain about.

/// A name, a keyword, `::`, or one other character, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    /// Counted from 1.
    pub(super) line: usize,
}

/// The words of a file, without what is only compiled for tests.
pub(super) fn words(source: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let (length, is_code) = next(rest, first);
        let (text, after) = rest.split_at(length);
        if is_code {
            words.push(Word { text, line });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    without_tests(words)
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

/// Leaves out each item under `#[cfg(test)]`: up to its closing brace, or its semicolon if that comes first.
fn without_tests(words: Vec<Word<'_>>) -> Vec<Word<'_>> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        if words[at..].iter().map(|word| word.text).take(CFG_TEST.len()).eq(CFG_TEST) {
            at += CFG_TEST.len() + item(&words[at + CFG_TEST.len()..]);
        } else {
            kept.push(words[at]);
            at += 1;
        }
    }
    kept
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

/// The modules at the top of the crate that a file names, by `crate::` or by as many `super::` as lead there.
///
/// `module` is the file's path below `src`.
pub(super) fn imports<'a>(module: &str, words: &[Word<'a>]) -> Vec<Word<'a>> {
    let path = module.trim_end_matches(".rs").trim_end_matches("/mod");
    let depth = if path == "main" || path == "lib" { 0 } else { path.split('/').count() };
    let mut imports = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let starts_path = at == 0 || words[at - 1].text != "::";
        let is_path = matches!(words[at].text, "crate" | "super") && starts_path && is_next(words, at, "::");
        at = if is_path { top_modules(words, at, 0, depth, &mut imports) } else { at + 1 };
    }
    imports
}

fn is_next(words: &[Word<'_>], at: usize, text: &str) -> bool {
    words.get(at + 1).is_some_and(|word| word.text == text)
}

/// Follows one path from `at`, or each of a group's, and keeps the first name below the crate's top. Returns where it ends.
///
/// `up` is how many `super` have been passed, of the `depth` that lead to the top.
fn top_modules<'a>(words: &[Word<'a>], mut at: usize, mut up: usize, depth: usize, imports: &mut Vec<Word<'a>>) -> usize {
    while let Some(word) = words.get(at) {
        match word.text {
            "crate" => up = depth,
            "super" => up += 1,
            "::" => {}
            "{" => {
                at += 1;
                while words.get(at).is_some_and(|word| word.text != "}") {
                    at = top_modules(words, at, up, depth, imports);
                    // Past the rest of this one: its own groups, `as name`, and the comma.
                    let mut nested = 0_usize;
                    while let Some(word) = words.get(at).filter(|word| nested > 0 || !["}", ","].contains(&word.text)) {
                        nested = match word.text {
                            "{" => nested + 1,
                            "}" => nested - 1,
                            _ => nested,
                        };
                        at += 1;
                    }
                    at += usize::from(words.get(at).is_some_and(|word| word.text == ","));
                }
                return at + 1;
            }
            _ => {
                if up >= depth {
                    imports.push(*word);
                }
                return at + 1;
            }
        }
        at += 1;
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
            imports("a.rs", &words);
        }
    }

    #[test]
    fn super_leads_to_the_top_or_not() {
        let found = |module, source| imports(module, &words(source)).iter().map(|word| word.text.to_owned()).collect::<Vec<_>>();
        assert_eq!(found("a.rs", "use super::b::c;"), ["b"]);
        assert_eq!(found("a/b.rs", "use super::c; use super::super::{d, e::{f, g}, h};"), ["d", "e", "h"]);
        assert_eq!(found("a/mod.rs", "use super::b; use self::c;"), ["b"]);
        assert_eq!(found("main.rs", "use crate::a; $crate::b!()"), ["a", "b"]);
    }
}
