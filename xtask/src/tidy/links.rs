//! Links in documents lead somewhere: to a file of the tree, and to a heading in it. Addresses on the network are not tried.

use std::collections::BTreeSet;

use super::{Complaint, Files};

pub(super) fn check(files: &Files, exists: impl Fn(&str) -> bool, complaints: &mut Vec<Complaint>) {
    for (file, text) in files.iter().filter(|(file, _)| file.ends_with(".md")) {
        for (line, target) in links(text) {
            if let Err(what) = follow(files, &exists, file, target) {
                complaints.push(Complaint::new(file, line, format!("the link to {target} {what}")));
            }
        }
    }
}

fn follow(files: &Files, exists: &impl Fn(&str) -> bool, file: &str, target: &str) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = if path.is_empty() { file.to_owned() } else { joined(file, path).ok_or("leaves the tree")? };
    if !exists(&path) {
        return Err(format!("finds no {path}"));
    }
    match (anchor, files.get(&path)) {
        (Some(anchor), Some(text)) if path.ends_with(".md") && !headings(text).contains(anchor) => {
            Err(format!("finds no such heading in {path}"))
        }
        _ => Ok(()),
    }
}

/// A path from a file to another, as it is from the top of the tree.
fn joined(file: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = if path.starts_with('/') { Vec::new() } else { file.split('/').collect() };
    parts.pop();
    for part in path.split('/').filter(|part| !["", "."].contains(part)) {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

/// The lines of a document without those of code, each with its number.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Targets of `[text](target)`, `![text](target)` and `[name]: target`, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (line, text) in prose(text) {
        let reference = text.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        links.extend(reference.and_then(|(_, target)| Some((line, target.split_whitespace().next()?))));
        // Every second piece is code.
        for piece in text.split('`').step_by(2) {
            for (_, rest) in piece.match_indices("](").map(|(at, found)| piece.split_at(at + found.len())) {
                let target = rest.split([')', ' ']).next().unwrap_or_default();
                links.push((line, target));
            }
        }
    }
    links
}

/// The anchors of a document's headings, as hosts of repositories make them.
fn headings(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || "_- ".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase();
        let again = (1..).map(|number| format!("{anchor}-{number}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|anchor| !anchors.contains(anchor));
        anchors.extend(free);
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, String)> {
        let other = "# A b: `c`\n## Same\n## Same\n```\n# not one\n```\n".to_owned();
        let files = Files::from([("docs/a.md".to_owned(), text.to_owned()), ("METRICS.md".to_owned(), other)]);
        let mut complaints = Vec::new();
        check(&files, |path| ["docs/a.md", "METRICS.md", "docs", "LICENSE"].contains(&path), &mut complaints);
        complaints.into_iter().map(|complaint| (complaint.line, complaint.what)).collect()
    }

    #[test]
    fn links_to_files_and_headings_are_followed() {
        let good = "[a](../METRICS.md), [b](../METRICS.md#a-b-c) ![c](/LICENSE)\n[d](#own) [e](https://x.example/y#z)\n# Own\n\
            [f](../METRICS.md#same-1 \"title\")\n[g]: ../LICENSE\n`[h](nowhere)`\n```\n[i](nowhere)\n```\n[`j`](../docs/)\n";
        assert_eq!(found(good), []);
    }

    #[test]
    fn what_leads_nowhere_is_named() {
        let bad = "[a](METRICS.md)\n[b](../METRICS.md#not-one)\n[c](#x)\n[`d`](../../x)\n[e]: y\n";
        assert_eq!(found(bad).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(found("[a](METRICS.md)\n")[0].1, "the link to METRICS.md finds no docs/METRICS.md");
        assert_eq!(found("[a](../METRICS.md#b)")[0].1, "the link to ../METRICS.md#b finds no such heading in METRICS.md");
    }
}
