//! What in `deploy/` is made of other files: rules and dashboards for VictoriaMetrics, the dashboards' JSON.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value as Json;

use super::dashboard::{self, Source};
use super::victoria_metrics;
use crate::workspace::Workspace;

const RULES: &str = "deploy/prometheus/rules.yaml";
const RULES_VICTORIA_METRICS: &str = "deploy/prometheus/victoriametrics.yaml";
const HEAD: &str = "# Alert rules for VictoriaMetrics and vmalert, made of rules.yaml by `cargo xtask docs`; do not edit.\n";
const PANELS: &str = "deploy/grafana/panels.json";

/// Every file that is made, with what it has to hold.
pub(super) fn files(workspace: &Workspace) -> Result<Vec<(&'static str, String)>> {
    let read = |file: &str| fs::read_to_string(workspace.root.join(file)).with_context(|| format!("could not read {file}"));
    let rules = victoria_metrics::translated(body(&read(RULES)?)).context(RULES)?;
    let mut files = vec![(RULES_VICTORIA_METRICS, format!("{HEAD}{rules}"))];
    let panels: Json = serde_json::from_str(&read(PANELS)?).with_context(|| format!("{PANELS} is no JSON"))?;
    for source in [Source::Prometheus, Source::VictoriaMetrics] {
        let dashboard = dashboard::dashboard(&panels, source).context(PANELS)?;
        files.push((source.file(), format!("{dashboard:#}\n")));
    }
    Ok(files)
}

/// A YAML text without the comments it begins with.
fn body(text: &str) -> &str {
    let comments: usize = text.lines().take_while(|line| line.starts_with('#')).map(|line| line.len() + 1).sum();
    &text[comments.min(text.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_what_is_in_the_tree() {
        let workspace = Workspace::find().unwrap();
        for (file, text) in files(&workspace).unwrap() {
            let kept = fs::read_to_string(workspace.root.join(file)).unwrap();
            assert!(kept == text, "{file} is stale: `cargo xtask docs` writes it anew");
        }
    }

    #[test]
    fn only_the_first_comments_go() {
        assert_eq!(body("# a\n# b\ngroups:\n  # c\n"), "groups:\n  # c\n");
        assert_eq!(body("# a"), "");
    }
}
