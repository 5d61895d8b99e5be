//! What is in `deploy/`: found in this tree, read as values, checked with the tools that `cargo xtask setup` brings.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value as Json;

/// The directory `deploy` of the tree that this was compiled from.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Whether the tree is here; reports the test as skipped when it is not, as in a virtual machine.
pub fn is_here(test: &str) -> bool {
    let here = directory().is_dir();
    if !here {
        eprintln!("SKIPPED {test}: needs the directory deploy of the source tree");
    }
    here
}

/// One of the programs in `PODMETER_TOOLS`; `None`, with a line on standard error, when it is not there.
pub fn tool(name: &str, test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("PODMETER_TOOLS").map(|tools| PathBuf::from(tools).join(name)).filter(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED {test}: needs {name} in PODMETER_TOOLS (cargo xtask setup)");
    }
    found
}

/// Every file below a directory of `deploy`, sorted.
pub fn files(below: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![directory().join(below)];
    while let Some(directory) = directories.pop() {
        let entries = directory.read_dir().with_context(|| format!("could not list {}", directory.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("could not list {}", directory.display()))?.path();
            if path.is_dir() { directories.push(path) } else { found.push(path) }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The text of a file.
pub fn text(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))
}

/// The blocks of PromQL in a document of the tree, named by its path from the tree's root.
pub fn documented_queries(document: &str) -> Result<Vec<String>> {
    let text = text(&directory().join("..").join(document))?;
    let queries = text.split("```promql\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned());
    let queries: Vec<String> = queries.collect();
    ensure!(!queries.is_empty(), "{document} has no query any more");
    Ok(queries)
}

/// The documents of a YAML text, empty ones left out.
pub fn yaml(text: &str) -> Result<Vec<Json>> {
    let documents = format!("\n{text}");
    let documents = documents.split("\n---").map(serde_saphyr::from_str::<Json>);
    let documents = documents.collect::<Result<Vec<_>, _>>().context("is no YAML")?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// What a program prints; anything but success is an error with all its output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("could not start {command:?}"))?;
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_told_apart() {
        assert_eq!(yaml("---\na: 1\n---\n# nothing\n---\nb: [x, '1']\n").unwrap(), [json!({"a": 1}), json!({"b": ["x", "1"]})]);
        assert!(yaml("a: [").is_err());
    }
}
