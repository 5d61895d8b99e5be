//! The alert rules of `deploy/`: each fires when it should and does not when it should not, in Prometheus and in VictoriaMetrics,
//! by the unit tests beside the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::deploy;
use serde_json::Value as Json;

const PROMETHEUS: &str = "rules.yaml";
const VICTORIA_METRICS: &str = "victoriametrics.yaml";

/// Every rule of a file of rules.
fn all_rules(rules: &str) -> Result<Vec<Json>> {
    let file = deploy::directory().join("prometheus").join(rules);
    let documents = deploy::yaml(&deploy::text(&file)?)?;
    let groups = documents.first().and_then(|rules| rules["groups"].as_array()).context("there are no groups")?;
    Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
}

/// Every alert of a file of rules.
fn alerts(rules: &str) -> Result<BTreeSet<String>> {
    Ok(all_rules(rules)?.iter().filter_map(|rule| rule["alert"].as_str().map(str::to_owned)).collect())
}

#[test]
fn no_rule_waits_for_as_long_as_its_own_window_lasts() -> Result<()> {
    if !deploy::is_here("no_rule_waits_for_as_long_as_its_own_window_lasts") {
        return Ok(());
    }
    // A burst is an increase for as long as the window is: a rule that waits for that long never fires.
    let minutes = |text: &str| -> Option<u64> {
        let number = |unit| text.strip_suffix(unit).and_then(|number: &str| number.parse::<u64>().ok());
        number("m").or_else(|| Some(number("h")? * 60)).or_else(|| Some(number("d")? * 24 * 60))
    };
    let mut windows = 0;
    for rule in all_rules(PROMETHEUS)? {
        let (expr, wait) = (rule["expr"].as_str().unwrap_or_default(), rule["for"].as_str().map_or(Some(0), minutes));
        let wait = wait.with_context(|| format!("for is no duration: {rule}"))?;
        for increase in expr.split("increase(").skip(1) {
            let window = increase.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(window, _)| window);
            let window = window.and_then(minutes).with_context(|| format!("an increase without a window: {rule}"))?;
            ensure!(wait < window, "an increase over {window} minutes that has to last for {wait}: {rule}");
            windows += 1;
        }
    }
    ensure!(windows > 2, "only {windows} increases were found");
    Ok(())
}

/// Fails unless the tests in these directories expect each alert of `rules` at some time and expect its absence at another.
fn check_that_each_is_tested_both_ways(rules: &str, directories: &[&str]) -> Result<()> {
    let mut fires: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for directory in directories {
        let entries = deploy::directory().join("prometheus").join(directory).read_dir().context("could not list the tests")?;
        for file in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()) {
            let documents = deploy::yaml(&deploy::text(&file)?)?;
            let tests = documents.iter().filter_map(|document| document["tests"].as_array()).flatten();
            for expected in tests.filter_map(|test| test["alert_rule_test"].as_array()).flatten() {
                let name = expected["alertname"].as_str().context("a test without an alert")?;
                let some = expected["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
                fires.entry(name.to_owned()).or_default().insert(some);
            }
        }
    }
    let all = alerts(rules)?;
    ensure!(!all.is_empty(), "{rules} has no alerts");
    for alert in all {
        let tested = fires.get(&alert).cloned().unwrap_or_default();
        ensure!(tested.len() == 2, "{alert}: tests expect {tested:?}, of which true is that it fires");
    }
    Ok(())
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> Result<()> {
    if !deploy::is_here("every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not") {
        return Ok(());
    }
    check_that_each_is_tested_both_ways(PROMETHEUS, &["tests", "tests/prometheus"])?;
    check_that_each_is_tested_both_ways(VICTORIA_METRICS, &["tests", "tests/victoriametrics"])
}

#[test]
fn prometheus_rules_fire_when_they_should() -> Result<()> {
    let Some(promtool) = deploy::tool("promtool", "prometheus_rules_fire_when_they_should") else { return Ok(()) };
    let rules = deploy::directory().join("prometheus").join(PROMETHEUS);
    deploy::output(Command::new(&promtool).args(["check", "rules", "--lint=all", "--lint-fatal"]).arg(rules))?;
    for directory in ["prometheus/tests", "prometheus/tests/prometheus"] {
        let files = yaml_files(&deploy::directory().join(directory))?;
        deploy::output(Command::new(&promtool).args(["test", "rules"]).args(files))?;
    }
    Ok(())
}

#[test]
fn victoria_metrics_rules_fire_when_they_should() -> Result<()> {
    let Some(tool) = deploy::tool("vmalert-tool", "victoria_metrics_rules_fire_when_they_should") else { return Ok(()) };
    // The tests that hold for both name the rules of Prometheus.
    let copy = tempfile::tempdir().context("could not make a directory")?;
    let source = deploy::directory().join("prometheus");
    for directory in ["tests", "tests/victoriametrics"] {
        fs::create_dir_all(copy.path().join(directory)).context("could not make a directory")?;
        for file in yaml_files(&source.join(directory))? {
            let text = deploy::text(&file)?.replace(&format!("/{PROMETHEUS}]"), &format!("/{VICTORIA_METRICS}]"));
            let name = file.file_name().context("a file has no name")?;
            fs::write(copy.path().join(directory).join(name), text).context("could not write a test")?;
        }
    }
    fs::copy(source.join(VICTORIA_METRICS), copy.path().join(VICTORIA_METRICS)).context("could not copy the rules")?;
    for directory in ["tests", "tests/victoriametrics"] {
        for file in yaml_files(&copy.path().join(directory))? {
            let mut unittest = Command::new(&tool);
            unittest.args(["unittest", "--disableAlertgroupLabel"]).arg(format!("--files={}", file.display()));
            let output = deploy::output(&mut unittest)?;
            ensure!(output.contains("SUCCESS"), "{} did not run: {output}", file.display());
        }
    }
    Ok(())
}

/// The YAML files of one directory.
fn yaml_files(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = directory.read_dir().with_context(|| format!("could not list {}", directory.display()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort_unstable();
    ensure!(!files.is_empty(), "there is no test in {}", directory.display());
    Ok(files)
}

/// Where the rules say that the runbooks are; who uses them writes their own address instead.
const RUNBOOKS: &str = "https://podmeter.example/runbooks.md#";

#[test]
fn every_alert_has_its_part_of_the_runbooks_and_links_to_it() -> Result<()> {
    if !deploy::is_here("every_alert_has_its_part_of_the_runbooks_and_links_to_it") {
        return Ok(());
    }
    let text = deploy::text(&deploy::directory().join("runbooks.md"))?;
    let parts: BTreeMap<&str, &str> = text.split("\n## ").skip(1).filter_map(|part| part.split_once('\n')).collect();
    for rules in [PROMETHEUS, VICTORIA_METRICS] {
        let alerts = alerts(rules)?;
        let headings: BTreeSet<String> = parts.keys().map(|heading| (*heading).to_owned()).collect();
        ensure!(headings == alerts, "runbooks.md has {headings:?}, {rules} has {alerts:?}");
        for rule in all_rules(rules)? {
            let name = rule["alert"].as_str().context("a rule without an alert")?;
            // As Markdown's readers make an anchor of a heading of one word.
            let anchor = format!("{RUNBOOKS}{}", name.to_lowercase());
            ensure!(rule["annotations"]["runbook_url"] == *anchor, "{name} does not link to {anchor}: {rule}");
        }
    }
    for (heading, part) in parts {
        for what in ["**Means:**", "**Look at:**", "**Do:**"] {
            ensure!(part.contains(what), "the runbook of {heading} lacks {what}");
        }
        // Links within the file.
        for link in part.split("](#").skip(1).filter_map(|rest| rest.split_once(')')) {
            ensure!(text.lines().any(|line| line.to_lowercase() == format!("## {}", link.0)), "{heading} links to {}", link.0);
        }
    }
    Ok(())
}

#[test]
fn every_alert_says_how_grave_it_is_and_what_to_do() -> Result<()> {
    if !deploy::is_here("every_alert_says_how_grave_it_is_and_what_to_do") {
        return Ok(());
    }
    for rule in all_rules(PROMETHEUS)? {
        let filled = |text: &Json| text.as_str().is_some_and(|text| !text.trim().is_empty());
        ensure!(["info", "warning", "critical"].iter().any(|severity| rule["labels"]["severity"] == *severity), "{rule}");
        ensure!(filled(&rule["annotations"]["summary"]) && filled(&rule["annotations"]["runbook"]), "{rule}");
    }
    Ok(())
}
