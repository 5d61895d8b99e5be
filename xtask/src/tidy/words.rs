//! Words that readers stumble over, in what they read: documents, comments, and texts in the code. [`glossary`] has the list.

use super::Complaint;
use super::glossary::{FORBIDDEN, Forbidden, Place};
use super::source::pieces;

/// Between these lines of a document the words are allowed, since they are what it is about.
const OFF: &str = "<!-- words:off -->";
const ON: &str = "<!-- words:on -->";

/// The list itself, and what is not ours.
const LEFT_OUT: &[&str] = &["xtask/src/tidy/glossary.rs", "xtask/src/tidy/words.rs"];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    /// In lower case; empty where a text ends.
    text: String,
    line: usize,
    is_comment: bool,
}

pub(super) fn check(file: &str, text: &str, complaints: &mut Vec<Complaint>) {
    if LEFT_OUT.contains(&file) || file.ends_with(".lock") {
        return;
    }
    let tokens = if file.ends_with(".rs") { of_code(file, text) } else { of_document(file, text) };
    for at in 0..tokens.len() {
        for forbidden in FORBIDDEN {
            if let Some(found) = forbidden.words.iter().find(|words| is_at(&tokens[at..], words, forbidden)) {
                let what = format!("\"{found}\": better {}", forbidden.instead);
                complaints.push(Complaint::new(file, tokens[at].line, what));
            }
        }
    }
}

fn is_at(tokens: &[Token], words: &str, forbidden: &Forbidden) -> bool {
    let mut words = words.split(' ');
    let is_here = |token: &Token| forbidden.place == Place::Everywhere || !token.is_comment;
    let mut tokens = tokens.iter();
    words.all(|word| tokens.next().is_some_and(|token| token.text == word && is_here(token)))
}

/// The words of comments, and of literals outside of tests.
fn of_code(file: &str, text: &str) -> Vec<Token> {
    let is_of_tests = file.starts_with("tests/") || file.ends_with("/tests.rs") || file.contains("/tests/");
    let mut tokens = Vec::new();
    for piece in pieces(text) {
        if piece.is_comment {
            split(piece.text, piece.line, true, &mut tokens);
        } else if !piece.is_test && !is_of_tests {
            end(&mut tokens);
            split(&piece.text.replace("\\n", "  "), piece.line, false, &mut tokens);
            end(&mut tokens);
        }
    }
    tokens
}

/// All words, but comments apart in files that have them.
fn of_document(file: &str, text: &str) -> Vec<Token> {
    let has_comments = [".yaml", ".yml", ".toml", ".sh"].iter().any(|kind| file.ends_with(kind));
    let mut tokens = Vec::new();
    let mut is_on = true;
    for (line, text) in (1..).zip(text.lines()) {
        is_on = (is_on || text.trim() == ON) && text.trim() != OFF;
        if is_on {
            split(text, line, has_comments && text.trim_start().starts_with('#'), &mut tokens);
        }
        if text.trim().is_empty() {
            end(&mut tokens);
        }
    }
    tokens
}

fn split(text: &str, first: usize, is_comment: bool, tokens: &mut Vec<Token>) {
    for (line, text) in (first..).zip(text.split('\n')) {
        let is_part = |c: char| c.is_alphanumeric() || "_-'`:".contains(c);
        for word in text.split(|c: char| !is_part(c)) {
            // What is quoted as code is a name, not a word.
            if word.contains('`') || word.contains("::") {
                end(tokens);
            } else if !word.trim_matches(|c: char| !c.is_alphanumeric()).is_empty() {
                let word = word.trim_matches(|c: char| "-':".contains(c)).to_lowercase();
                tokens.push(Token { text: word, line, is_comment });
            }
        }
    }
}

fn end(tokens: &mut Vec<Token>) {
    if let Some(Token { line, is_comment, .. }) = tokens.last().cloned() {
        tokens.push(Token { text: String::new(), line, is_comment });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<(usize, String)> {
        let mut complaints = Vec::new();
        check(file, text, &mut complaints);
        complaints.into_iter().map(|complaint| (complaint.line, complaint.what)).collect()
    }

    fn lines(file: &str, text: &str) -> Vec<usize> {
        found(file, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn a_word_is_named_with_what_is_better() {
        assert_eq!(found("a.md", "x\nIts Last words.\n"), [(2, "\"last words\": better final values, final points".to_owned())]);
        assert_eq!(lines("a.md", "the last\nwords\n\nlast\n\nwords lastly words\n"), [1]);
    }

    #[test]
    fn code_is_read_in_comments_and_texts_only() {
        let code = "//! an heir\nlet heir = \"heir\"; // the last\n// words\nf(\"last\", \"words\", \"{heir_of}\");\n\
            #[cfg(test)]\nmod tests {\n  fn heir() { \"heir\" } // heir\n}\n";
        assert_eq!(lines("agent/src/a.rs", code), [1, 2, 2, 7]);
        assert_eq!(lines("tests/tests/a.rs", code), [1, 2, 7]);
        assert!(lines("xtask/src/tidy/words.rs", code).is_empty());
    }

    #[test]
    fn some_words_are_refused_only_where_users_read() {
        assert_eq!(lines("agent/src/a.rs", "// nobody\nf(\"nobody\")\n"), [2]);
        assert_eq!(lines("a.yaml", "# nobody\ndescription: nobody\n"), [2]);
        assert_eq!(lines("a.md", "nobody, `nobody`, a_nobody\n"), [1]);
    }

    #[test]
    fn a_document_may_speak_of_words() {
        assert_eq!(lines("a.md", "<!-- words:off -->\nheir\n<!-- words:on -->\nheir\n"), [4]);
    }
}
