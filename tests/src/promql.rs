//! The series and labels of a PromQL expression.
//!
//! Not a parser: words, and where they stand. promtool and the back end say whether the expression is right.

use std::collections::BTreeSet;

/// The names in an expression.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Names of series.
    pub series: BTreeSet<String>,
    /// Names of labels, in selectors and after `by`, `on` and their like.
    pub labels: BTreeSet<String>,
}

/// Words that are followed by names of labels in parentheses.
const BEFORE_LABELS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words that are neither names nor functions.
const WORDS: &[&str] =
    &["and", "or", "unless", "bool", "offset", "inf", "nan", "Inf", "NaN", "start", "end", "default", "if", "ifnot", "limit"];

/// Finds them. Text in quotes names nothing.
pub fn names(expression: &str) -> Names {
    let mut names = Names::default();
    let mut rest = expression;
    let mut in_braces = false;
    let mut label_list = false;
    let mut after_label_word = false;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' | '`' => quoted(rest),
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '0'..='9' => rest.find(|c: char| !c.is_alphanumeric() && c != '.').unwrap_or(rest.len()),
            'a'..='z' | 'A'..='Z' | '_' | ':' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && !"_:".contains(c)).unwrap_or(rest.len());
                let word = &rest[..end];
                let next = rest[end..].trim_start().chars().next();
                // `group_left rate(x)`: a list need not follow.
                after_label_word = false;
                if in_braces || label_list {
                    names.labels.insert(word.to_owned());
                } else if BEFORE_LABELS.contains(&word) {
                    after_label_word = true;
                } else if !WORDS.contains(&word) && next != Some('(') && !is_aggregation(word, &rest[end..]) {
                    names.series.insert(word.to_owned());
                }
                rest = &rest[end..];
                continue;
            }
            _ => {
                match first {
                    '{' => in_braces = true,
                    '}' => in_braces = false,
                    '(' if after_label_word => label_list = true,
                    ')' => label_list = false,
                    _ => {}
                }
                if !first.is_whitespace() {
                    after_label_word = false;
                }
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    names
}

/// `sum by (x) (…)`: a word before a clause of labels is an aggregation.
fn is_aggregation(word: &str, rest: &str) -> bool {
    let clause = rest.trim_start();
    ["by", "without"].iter().any(|word| clause.starts_with(word) && clause[word.len()..].trim_start().starts_with('('))
        && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// The length of a text in quotes, both included.
fn quoted(text: &str) -> usize {
    let quote = text.chars().next().unwrap_or('"');
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote != '`' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(expression: &str) -> (Vec<String>, Vec<String>) {
        let names = names(expression);
        (names.series.into_iter().collect(), names.labels.into_iter().collect())
    }

    #[test]
    fn series_and_labels_are_told_apart() {
        let (series, labels) = found(
            r#"histogram_quantile(0.99, sum by (vmrange, k8s_pod_uid) (increase(podmeter_cpu_burst_bucket{kind="Pod",x=~"a{b"}[1h:5m])))
            > 1e3 * on (node) group_left (zone) max without(le)(node:cpu:usage offset 5m) and -Inf"#,
        );
        assert_eq!(series, ["node:cpu:usage", "podmeter_cpu_burst_bucket"]);
        assert_eq!(labels, ["k8s_pod_uid", "kind", "le", "node", "vmrange", "x", "zone"]);
    }

    #[test]
    fn functions_durations_comments_and_texts_are_no_series() {
        assert_eq!(found("time() - a_seconds # b_seconds\n + c"), (vec!["a_seconds".to_owned(), "c".to_owned()], vec![]));
        assert_eq!(found(r#"label_replace(up, "a", "$1", "b", "x\"y(.*)")"#), (vec!["up".to_owned()], vec![]));
        assert_eq!(found("topk(3, x{} offset 1h30m)"), (vec!["x".to_owned()], vec![]));
        let (series, labels) = found("rate(a[1h]) / ignoring(p) group_left rate(b[1h])");
        assert_eq!((series, labels), (vec!["a".to_owned(), "b".to_owned()], vec!["p".to_owned()]));
    }
}
