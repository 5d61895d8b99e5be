//! What was measured, against its targets: a table for people, `report.json` for machines.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value as Json, json};

use super::described;

/// The smallest, the middle and the largest of several measurements of one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// What is reported.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] };
        Some(Self { min, median, max })
    }
}

/// One line of the report. Less is better in all that have a target.
#[derive(Clone, Debug)]
pub struct Figure {
    /// `<what>.<which>`.
    pub name: &'static str,
    /// Unit of the values and the target.
    pub unit: &'static str,
    /// What it may be; `None` when it is shown for information.
    pub target: Option<f64>,
    /// What it is.
    pub value: Spread,
}

impl Figure {
    /// Of several measurements, of which there must be one.
    pub fn of(name: &'static str, unit: &'static str, target: Option<f64>, values: Vec<f64>) -> Result<Self> {
        let value = Spread::of(values).with_context(|| format!("{name} was never measured"))?;
        Ok(Self { name, unit, target, value })
    }

    /// Of one measurement.
    pub fn once(name: &'static str, unit: &'static str, target: Option<f64>, value: f64) -> Self {
        Self { name, unit, target, value: Spread { min: value, median: value, max: value } }
    }

    /// `None` without a target.
    pub fn met(&self) -> Option<bool> {
        self.target.map(|target| self.value.median <= target)
    }

    fn json(&self) -> Json {
        let mut json = json!({
            "name": self.name,
            "what": described::what(self.name),
            "value": rounded(self.value.median),
            "min": rounded(self.value.min),
            "max": rounded(self.value.max),
            "unit": self.unit,
        });
        if let Some(target) = self.target {
            json["target"] = json!(target);
            json["better"] = json!("lower");
            json["met"] = json!(self.value.median <= target);
        }
        json
    }
}

/// To four decimals: what was measured is not truer than that, and reports that are compared stay readable.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// The table.
pub fn table(figures: &[Figure]) -> String {
    let mut lines = vec![row("", "min", "median", "max", "unit", "target")];
    for figure in figures {
        let target = figure.target.map(|target| format!("≤ {target}")).unwrap_or_default();
        let value = |value: f64| format!("{value:.2}");
        let Spread { min, median, max } = figure.value;
        let line = row(figure.name, &value(min), &value(median), &value(max), figure.unit, &target);
        let verdict = match figure.met() {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        lines.push(format!("{line} {verdict}").trim_end().to_owned());
    }
    lines.join("\n")
}

fn row(name: &str, min: &str, median: &str, max: &str, unit: &str, target: &str) -> String {
    format!("{name:<40} {min:>9} {median:>9} {max:>9} {unit:<8} {target:<8}")
}

/// Writes `report.json` and returns where it is.
pub fn write(figures: &[Figure], directory: &Path) -> Result<PathBuf> {
    let file = directory.join("report.json");
    let json = Json::Array(figures.iter().map(Figure::json).collect());
    fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
    fs::write(&file, format!("{json:#}\n")).with_context(|| format!("could not write {}", file.display()))?;
    Ok(file)
}

/// cargo's target directory: the one that holds this executable.
pub fn target_directory() -> Result<PathBuf> {
    let executable = env::current_exe().context("could not find the benchmark's own executable")?;
    let target = bpf_toolchain::target_dir(&executable);
    let none = || format!("{} is not in a cargo target directory: run `cargo xtask bench`", executable.display());
    Ok(target.with_context(none)?.to_owned())
}

/// What it was measured on, in a line.
pub fn machine() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("could not read /proc/cpuinfo")?;
    // x86 has "model name"; others have no such line.
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model));
    let kernel = nix::sys::utsname::uname().context("could not ask for the kernel's release")?;
    Ok(format!(
        "{}, {} CPUs, Linux {}, load average {}",
        model.unwrap_or(env::consts::ARCH),
        crate::truth::cpus(),
        kernel.release().to_string_lossy(),
        load_average()?,
    ))
}

/// How busy the machine was in the last 1, 5 and 15 minutes: figures of a busy one are noisy.
pub fn load_average() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg").context("could not read /proc/loadavg")?;
    Ok(load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(Spread::of(vec![4.0, 1.0, 3.0, 2.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn a_figure_without_a_target_is_neither_met_nor_missed() {
        let shown = Figure::once("agent.map_kib", "KiB", None, 12.0);
        assert_eq!(shown.met(), None);
        assert_eq!(
            shown.json(),
            json!({"name": "agent.map_kib", "what": "kernel memory of all maps", "value": 12.0, "min": 12.0, "max": 12.0, "unit": "KiB"})
        );
        assert!(!table(&[shown]).contains("met"));
    }

    #[test]
    fn a_target_is_met_up_to_its_very_value_by_the_median() {
        let figure = |values| Figure::of("cpu.x", "ns", Some(20.0), values).expect("has values");
        assert_eq!(figure(vec![1.0, 20.0, 90.0]).met(), Some(true));
        let missed = figure(vec![20.1]);
        assert_eq!((missed.met(), missed.json()["met"].clone()), (Some(false), json!(false)));
        assert!(table(&[missed]).contains("≤ 20     MISSED"));
        assert!(Figure::of("cpu.x", "ns", None, Vec::new()).is_err());
    }
}
