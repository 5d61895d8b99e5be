//! The stages of the agent: data flows one way through them.

use std::collections::BTreeSet;

use super::Complaint;
use super::source::{self, Word};

/// The stages of the agent in the order data takes. A module may use those on the lines above it;
/// those on the first line may also use each other.
const STAGES: &[&[&str]] = &[
    &[
        "backoff",
        "bound",
        "causes",
        "cpu_list",
        "event",
        "failure_log",
        "files",
        "fuzzing",
        "histogram",
        "interrupt",
        "journal",
        "moment",
        "protobuf",
        "rate_limit",
        "span",
        "url",
    ],
    &["config", "metric"],
    &["logging"],
    &["addresses", "overhead"],
    &["connect"],
    &["kernel"],
    &["cgroups"],
    &["pods", "signals"],
    &["join"],
    &["aggregate"],
    &["budget"],
    &["snapshot"],
    &["export", "top"],
    &["pull"],
    &["health"],
    &["registry", "pipeline", "telemetry"],
    &["run"],
    &["check", "live", "replay"],
    &["main"],
];

/// The stages as ARCHITECTURE shows them: one on a line, in order.
pub(crate) fn text() -> String {
    let lines = STAGES.iter().map(|stage| format!("`{}`", stage.join("`, `")));
    lines.enumerate().map(|(number, line)| format!("{}. {line}\n", number + 1)).collect()
}

/// A module imports only from stages before its own. Tests may use what they like.
pub(super) fn check(file: &str, module: &str, words: &[Word<'_>], complaints: &mut Vec<Complaint>) {
    let own = module.split(['/', '.']).next().unwrap_or_default();
    let Some(own_stage) = stage(own) else {
        let what = format!("`{own}` is not in xtask's table of stages: add it there, where data passes it");
        complaints.push(Complaint::new(file, 0, what));
        return;
    };
    let mut seen = BTreeSet::new();
    for path in source::paths(&source::module(module), words) {
        let Some(import) = path.names.first().filter(|import| **import != own) else { continue };
        if !seen.insert((*import, path.line)) {
            continue;
        }
        let mut complain = |what: String| complaints.push(Complaint::new(file, path.line, what));
        match stage(import) {
            Some(stage) if stage < own_stage || (stage == 0 && own_stage == 0) => {}
            Some(stage) if stage == own_stage => {
                complain(format!("`{own}` uses `{import}`, which is beside it: one of the two comes first"));
            }
            Some(_) => complain(format!("`{own}` uses `{import}`, which comes after it: data flows one way")),
            // An item of main.rs, the last stage of all.
            None if own != "main" => {
                complain(format!("`{own}` uses `crate::{import}`, which is no stage: items live in modules"));
            }
            None => {}
        }
    }
}

fn stage(module: &str) -> Option<usize> {
    STAGES.iter().position(|stage| stage.contains(&module))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{complaints, lines};
    use super::*;

    #[test]
    fn an_import_from_a_later_stage_is_refused() {
        let text = "use std::io;\nuse crate::kernel::Btf;\nuse crate::export::encode;\n";
        assert_eq!(
            complaints("agent/src/signals/cpu.rs", text),
            [(3, "`signals` uses `export`, which comes after it: data flows one way".to_owned())]
        );
        assert!(lines("agent/src/run.rs", text).is_empty());
    }

    #[test]
    fn every_way_to_write_an_import_is_seen() {
        assert_eq!(lines("agent/src/join.rs", "use crate::{histogram, aggregate::{Batch, Resource}, signals};"), [1]);
        assert_eq!(lines("agent/src/join.rs", "use crate::{\n  histogram,\n  run as r,\n};"), [3]);
        assert_eq!(lines("agent/src/join.rs", "fn f() {\n  let x = crate::top::view();\n}"), [2]);
        assert_eq!(lines("agent/src/join.rs", "use super::aggregate::Batch;"), [1]);
        assert_eq!(lines("agent/src/signals/cpu.rs", "use super::super::aggregate::Batch;\nuse super::metric::Point;"), [1]);
        assert_eq!(lines("agent/src/signals/mod.rs", "use super::aggregate::Batch;"), [1]);
        assert_eq!(lines("agent/src/signals/cpu.rs", "pub(crate) use super::{metric, super::aggregate};\n"), [1]);
    }

    #[test]
    fn tests_comments_and_strings_may_name_any_stage() {
        let text = "//! see crate::run\n/* crate::run /* crate::top */ */\nconst A: &str = \"crate::run\"; // crate::run\n\
            const B: &str = r#\"crate::\"run\"#;\n#[cfg(test)]\nmod tests {\n  use crate::run::x;\n  fn f() { if a { crate::top::b() } }\n}\n";
        assert!(lines("agent/src/join.rs", text).is_empty());
        // What follows the tests is code again.
        assert_eq!(lines("agent/src/join.rs", &format!("{text}use crate::run;\n")), [10]);
        assert_eq!(lines("agent/src/join.rs", "#[cfg(test)]\nuse crate::run::x;\nuse crate::top;\n"), [3]);
    }

    #[test]
    fn an_unknown_module_must_be_put_in_the_table() {
        assert!(complaints("agent/src/zebra.rs", "")[0].1.contains("add it there"));
        assert!(complaints("agent/src/join.rs", "use crate::zebra;")[0].1.contains("no stage"));
        assert!(lines("agent/src/main.rs", "use crate::Arguments;").is_empty());
    }

    #[test]
    fn no_stage_is_listed_twice() {
        let mut all: Vec<_> = STAGES.iter().copied().flatten().collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn modules_of_one_stage_do_not_use_each_other_but_on_the_first_line() {
        let [one, other] = [STAGES[0][0], STAGES[0][1]];
        assert!(lines(&format!("agent/src/{one}.rs"), &format!("use crate::{other}::x;")).is_empty());
        let beside = STAGES[1..].iter().find(|stage| stage.len() > 1).unwrap();
        assert_eq!(lines(&format!("agent/src/{}.rs", beside[0]), &format!("use crate::{}::x;", beside[1])), [1]);
        assert!(lines(&format!("agent/src/{}.rs", beside[0]), &format!("use crate::{}::x;", beside[0])).is_empty());
    }
}
