//! Unit tests of the agent that guests run too: every fault of a receiver, and what becomes of the journal when its process is killed or
//! its files are cut or damaged, or the disk is full. They are about sockets, files and processes, which the kernel has a part in.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command;

/// What their runner is called in guests.
pub(super) const RUNNER: &str = "units";

/// What their names begin with.
const TESTS: &[&str] =
    &["export::tests::matrix::", "journal::tests::damage::", "journal::tests::disk::", "journal::tests::kill::"];

/// The names of those that have the filter in their name, by the list that their runner prints.
pub(super) fn chosen(runner: &Path, filter: Option<&str>) -> Result<Vec<String>> {
    let listed = command::output(Command::new(runner).args(["--list", "--format", "terse"]))?;
    if let Some(none) = TESTS.iter().find(|start| !listed.lines().any(|line| line.starts_with(**start))) {
        bail!("guests run the agent's unit tests {none}*, and {} has none", runner.display());
    }
    Ok(names(&listed, filter.unwrap_or_default()))
}

/// From lines like `journal::tests::kill::a_test: test`.
fn names(listed: &str, filter: &str) -> Vec<String> {
    let tests = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    let tests = tests.filter(|test| TESTS.iter().any(|start| test.starts_with(start)) && test.contains(filter));
    tests.map(str::to_owned).collect()
}

/// The arguments of a runner that runs these alone. What `init.sh` puts behind them, the filter, is then the name of no test.
pub(super) fn arguments(names: &[String]) -> String {
    format!("--exact {}", names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_about_faults_are_chosen_and_of_them_what_the_filter_has() {
        let listed =
            "cgroups::tests::a: test\nexport::tests::matrix::b_stall: test\njournal::tests::kill::c: test\nx: benchmark\n\n";
        assert_eq!(names(listed, ""), ["export::tests::matrix::b_stall", "journal::tests::kill::c"]);
        assert_eq!(names(listed, "stall"), ["export::tests::matrix::b_stall"]);
        assert!(names(listed, "cpu").is_empty());
        assert_eq!(arguments(&names(listed, "")), "--exact export::tests::matrix::b_stall journal::tests::kill::c");
    }
}
