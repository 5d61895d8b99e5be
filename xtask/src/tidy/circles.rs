//! No circles among modules: of two files or folders side by side, one may use the other, never both.
//!
//! A module (`foo.rs` with all of `foo/`) counts as one beside its siblings. A child may use what its parents hold, and a parent
//! its children. Tests may use what they like.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{self, module, words};
use super::{Complaint, Files};

/// The crates that are checked.
const CRATES: &[&str] = &["agent", "agent-common", "agent-ebpf", "bpf-toolchain", "tests", "xtask"];

/// An import across siblings: where it is, and from which file.
type Siblings<'a> = BTreeMap<&'a str, BTreeMap<&'a str, (String, usize)>>;

pub(super) fn check(files: &Files, complaints: &mut Vec<Complaint>) {
    for name in CRATES {
        let start = format!("{name}/src/");
        let sources: Vec<(&str, &str)> =
            files.iter().filter_map(|(file, text)| Some((file.strip_prefix(&start)?, text.as_str()))).collect();
        circles(&start, &sources, complaints);
    }
}

fn circles(start: &str, sources: &[(&str, &str)], complaints: &mut Vec<Complaint>) {
    // Binaries are crates of their own; tests use what they like.
    let is_code = |file: &str| file.ends_with(".rs") && !file.starts_with("bin/") && !module(file).contains(&"tests");
    let sources: Vec<_> = sources.iter().filter(|(file, _)| is_code(file)).collect();
    let modules: BTreeSet<Vec<&str>> = sources.iter().map(|(file, _)| module(file)).collect();
    // By the parent that siblings share.
    let mut parents: BTreeMap<Vec<&str>, Siblings<'_>> = BTreeMap::new();
    for (file, text) in sources {
        let own = module(file);
        let words = words(text);
        for path in source::paths(&own, &words) {
            let known = (0..=path.names.len()).rev().map(|length| &path.names[..length]).find(|names| modules.contains(*names));
            let Some(other) = known.and_then(|names| modules.get(names)) else { continue };
            let shared = own.iter().zip(other).take_while(|(one, other)| one == other).count();
            let (Some(&from), Some(&to)) = (own.get(shared), other.get(shared)) else { continue };
            let uses = parents.entry(own[..shared].to_vec()).or_default().entry(from).or_default();
            uses.entry(to).or_insert_with(|| (format!("{start}{file}"), path.line));
        }
    }
    for (parent, siblings) in &parents {
        for circle in found(siblings) {
            let (file, line) = &siblings[circle[0]][circle[1]];
            let parent = parent.iter().map(|name| format!("{name}::")).collect::<String>();
            let what =
                format!("a circle: {parent}{{{}}} use each other in this order: one idea has two places", circle.join(" -> "));
            complaints.push(Complaint::new(file, *line, what));
        }
    }
}

/// One circle for each sibling from which there is one, each only once: the shortest way from it back to it.
fn found<'a>(siblings: &Siblings<'a>) -> Vec<Vec<&'a str>> {
    let mut circles: Vec<Vec<&str>> = Vec::new();
    for &first in siblings.keys() {
        if circles.iter().any(|circle| circle.contains(&first)) {
            continue;
        }
        let mut ways = vec![vec![first]];
        let mut seen = BTreeSet::new();
        while let Some(way) = (!ways.is_empty()).then(|| ways.remove(0)) {
            let next = way.last().and_then(|last| siblings.get(last));
            for &to in next.into_iter().flat_map(BTreeMap::keys) {
                let longer: Vec<&str> = way.iter().copied().chain([to]).collect();
                if to == first {
                    circles.push(longer);
                    ways.clear();
                    break;
                }
                if seen.insert(to) {
                    ways.push(longer);
                }
            }
            if circles.last().is_some_and(|circle| circle[0] == first) {
                break;
            }
        }
    }
    circles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(sources: &[(&str, &str)]) -> Vec<(String, usize, String)> {
        let mut complaints = Vec::new();
        circles("c/src/", sources, &mut complaints);
        complaints.into_iter().map(|complaint| (complaint.file, complaint.line, complaint.what)).collect()
    }

    #[test]
    fn siblings_that_use_each_other_are_a_circle() {
        let found = complaints(&[("lib.rs", "mod a; mod b;"), ("a.rs", "\nuse crate::b::X;"), ("b.rs", "use super::a::Y;")]);
        assert_eq!((found.len(), found[0].0.as_str(), found[0].1), (1, "c/src/a.rs", 2));
        assert!(found[0].2.contains("{a -> b -> a}"), "{}", found[0].2);
        assert!(complaints(&[("lib.rs", ""), ("a.rs", "use crate::b::X;"), ("b.rs", "// use super::a::Y;")]).is_empty());
    }

    #[test]
    fn longer_circles_and_those_of_cousins_are_found() {
        let found = complaints(&[
            ("p.rs", "use self::a::X;"),
            ("p/a.rs", "use super::b::X;"),
            ("p/b.rs", "mod deep;"),
            ("p/b/deep.rs", "use super::super::d::X;"),
            ("p/d.rs", "use crate::p::a;"),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].2.contains("p::{a -> b -> d -> a}"), "{}", found[0].2);
    }

    #[test]
    fn parents_and_children_tests_and_binaries_may_use_each_other() {
        let found = complaints(&[
            ("main.rs", "use crate::p::X;"),
            ("p.rs", "use self::a::X; use crate::Y;"),
            ("p/a.rs", "use super::X; use crate::Z; #[cfg(test)] mod t { use super::super::b; }"),
            ("p/b.rs", "use super::a::X;"),
            ("p/tests.rs", "use super::b; use crate::q;"),
            ("q.rs", "use crate::p;"),
            ("bin/x.rs", "use crate::q;"),
        ]);
        assert_eq!(found, []);
    }
}
