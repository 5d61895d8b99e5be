//! The panels as people write them -> a dashboard as Grafana reads it.
//!
//! `deploy/grafana/panels.json` has what differs from panel to panel: title, unit, queries. Here is what they all have.

use anyhow::{Context, Result, bail};
use serde_json::{Value as Json, json};

use super::victoria_metrics;

/// What keeps the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// With native histograms.
    Prometheus,
    /// With buckets by `vmrange`.
    VictoriaMetrics,
}

impl Source {
    /// The dashboard for it.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Prometheus => "deploy/grafana/podmeter-prometheus.json",
            Self::VictoriaMetrics => "deploy/grafana/podmeter-victoriametrics.json",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Prometheus => "Prometheus",
            Self::VictoriaMetrics => "VictoriaMetrics",
        }
    }

    fn query(self, expression: &str) -> Result<String> {
        match self {
            Self::Prometheus => Ok(expression.to_owned()),
            Self::VictoriaMetrics => victoria_metrics::translated(expression),
        }
    }
}

/// What queries select by; a selector may use those after it.
const SELECTORS: &[(&str, &str)] = &[
    // The container's own cgroup, not those it made.
    ("$container", r#"podmeter_workload_kind="Container", $listed"#),
    ("$pod", r#"podmeter_workload_kind="Pod", $listed"#),
    // What Kubernetes reports of a pod or container.
    ("$listed", r#"$node, k8s_namespace_name=~"$namespace", service_name=~"$workload""#),
    ("$node", r#"k8s_cluster_name=~"$cluster""#),
];

/// Width of the grid, and height of a panel in its units.
const WIDTH: u64 = 24;
const HEIGHT: u64 = 8;

/// The dashboard.
pub(super) fn dashboard(panels: &Json, source: Source) -> Result<Json> {
    let mut grid = Grid::default();
    for row in list(panels, "rows")? {
        grid.row(text(row, "title")?);
        for panel in list(row, "panels")? {
            let title = text(panel, "title")?;
            grid.panel(panel, source).with_context(|| format!("panel \"{title}\""))?;
        }
    }
    let variables = list(panels, "variables")?.iter().map(variable).collect::<Result<Vec<_>>>()?;
    let datasource = json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "", "refresh": 1,
        "hide": 0, "includeAll": false, "multi": false, "current": {}, "options": [],
    });
    Ok(json!({
        "uid": format!("podmeter-{}", source.name().to_lowercase()),
        "title": format!("podmeter ({})", source.name()),
        "description": "Made of panels.json by `cargo xtask docs`; do not edit.",
        "tags": ["podmeter", "kubernetes"],
        "schemaVersion": 39,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": std::iter::once(datasource).chain(variables).collect::<Vec<_>>()},
        "panels": grid.panels,
    }))
}

/// Places panels from left to right, from top to bottom.
#[derive(Default)]
struct Grid {
    panels: Vec<Json>,
    x: u64,
    y: u64,
}

impl Grid {
    fn row(&mut self, title: &str) {
        self.next_line();
        self.panels.push(json!({
            "id": self.panels.len() + 1, "type": "row", "title": title, "collapsed": false, "panels": [],
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": self.y},
        }));
        self.y += 1;
    }

    fn next_line(&mut self) {
        if self.x > 0 {
            (self.x, self.y) = (0, self.y + HEIGHT);
        }
    }

    fn panel(&mut self, panel: &Json, source: Source) -> Result<()> {
        let width = panel["width"].as_u64().unwrap_or(WIDTH / 2);
        if self.x + width > WIDTH {
            self.next_line();
        }
        let queries = list(panel, "queries")?.iter().zip('A'..).map(|(query, letter)| {
            Ok(json!({
                "refId": letter, "datasource": datasource(), "editorMode": "code", "range": true,
                "expr": source.query(&selected(text(query, "expr")?))?, "legendFormat": text(query, "legend")?,
            }))
        });
        self.panels.push(json!({
            "id": self.panels.len() + 1,
            "type": "timeseries",
            "title": text(panel, "title")?,
            "description": text(panel, "description")?,
            "datasource": datasource(),
            "gridPos": {"h": HEIGHT, "w": width, "x": self.x, "y": self.y},
            "fieldConfig": {
                "defaults": {"unit": text(panel, "unit")?, "min": 0, "custom": {"fillOpacity": 8, "lineWidth": 1, "showPoints": "never"}},
                "overrides": [],
            },
            "options": {
                "legend": {"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
            "targets": queries.collect::<Result<Vec<_>>>()?,
        }));
        self.x += width;
        Ok(())
    }
}

fn datasource() -> Json {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// A variable whose values are those of a label. "All" is any, also none: outside Kubernetes there is no namespace.
fn variable(variable: &Json) -> Result<Json> {
    let (name, label) = (text(variable, "name")?, text(variable, "label")?);
    let query = format!("label_values({}, {})", selected(text(variable, "series")?), text(variable, "of")?);
    Ok(json!({
        "name": name, "label": label, "type": "query", "datasource": datasource(), "definition": query,
        "query": {"query": query, "refId": "variable", "qryType": 1}, "refresh": 2, "regex": "", "sort": 1, "hide": 0,
        "includeAll": true, "allValue": ".*", "multi": true, "current": {"text": ["All"], "value": ["$__all"]}, "options": [],
    }))
}

/// With the selectors written out. Each ends where a selector or one of its conditions does: `$pod` is not part of `$pods`.
fn selected(expression: &str) -> String {
    SELECTORS.iter().fold(expression.to_owned(), |text, (name, selector)| {
        let at = |end: &str| (format!("{name}{end}"), format!("{selector}{end}"));
        ["}", ","].into_iter().map(at).fold(text, |text, (name, selector)| text.replace(&name, &selector))
    })
}

fn list<'a>(value: &'a Json, key: &str) -> Result<&'a [Json]> {
    match value[key].as_array() {
        Some(list) if !list.is_empty() => Ok(list),
        _ => bail!("expected a list \"{key}\" in {value}"),
    }
}

fn text<'a>(value: &'a Json, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("expected a text \"{key}\" in {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_fill_the_grid_and_queries_select() {
        let panel = |width: u64| {
            json!({"title": "t", "description": "d", "unit": "s", "width": width,
            "queries": [{"expr": "a{$pod} / b{$node}", "legend": "l"}]})
        };
        let panels = json!({
            "variables": [{"name": "cluster", "label": "Cluster", "series": "a{$node}", "of": "k8s_cluster_name"}],
            "rows": [{"title": "r", "panels": [panel(12), panel(12), panel(24)]}, {"title": "s", "panels": [panel(12)]}],
        });
        let dashboard = dashboard(&panels, Source::Prometheus).unwrap();
        let places: Vec<_> = dashboard["panels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|panel| {
                let place = &panel["gridPos"];
                [&place["x"], &place["y"], &place["w"]].map(|number| number.as_u64().unwrap())
            })
            .collect();
        assert_eq!(places, [[0, 0, 24], [0, 1, 12], [12, 1, 12], [0, 9, 24], [0, 17, 24], [0, 18, 12]]);
        assert_eq!(
            dashboard["panels"][1]["targets"][0]["expr"],
            r#"a{podmeter_workload_kind="Pod", k8s_cluster_name=~"$cluster", k8s_namespace_name=~"$namespace", service_name=~"$workload"} / b{k8s_cluster_name=~"$cluster"}"#
        );
        assert_eq!(
            dashboard["templating"]["list"][1]["definition"],
            r#"label_values(a{k8s_cluster_name=~"$cluster"}, k8s_cluster_name)"#
        );
    }

    #[test]
    fn a_panel_without_what_it_needs_is_named() {
        let panels = json!({"variables": [], "rows": [{"title": "r", "panels": [{"title": "empty"}]}]});
        let error = format!("{:#}", dashboard(&panels, Source::VictoriaMetrics).unwrap_err());
        assert!(error.starts_with("panel \"empty\": expected"), "{error}");
    }
}
