//! Where things are: the tree, cargo's target directory, and the tools and caches kept in it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

/// The directories of this checkout.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The top of the tree.
    pub(crate) root: PathBuf,
    /// cargo's target directory, whichever way it was chosen.
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let root = root.canonicalize().with_context(|| format!("could not find the tree at {}", root.display()))?;
        let this = env::current_exe().context("could not find this program's own file")?;
        let target = bpf_toolchain::target_dir(&this)
            .with_context(|| format!("{} is in no cargo target directory: start it by `cargo xtask`", this.display()))?;
        Ok(Self { target: target.to_path_buf(), root })
    }

    /// Programs that tests and checks use and that are installed nowhere else.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// What installers print while they bring the tools.
    pub(crate) fn setup_log(&self) -> PathBuf {
        self.target.join("setup.log")
    }

    /// Downloads, kept so that a second set-up needs no network.
    pub(crate) fn cache(&self) -> PathBuf {
        self.target.join("cache")
    }

    /// The cargo that runs this program, started at the top of the tree with the same target directory.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.arg(subcommand).current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        // `cargo run` describes xtask to xtask. Build scripts that watch these variables would run anew each time the builder
        // changes between cargo and xtask.
        let about_xtask = ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_"];
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| about_xtask.iter().any(|prefix| name.starts_with(prefix))) {
                command.env_remove(name);
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_and_the_target_directory_are_found() {
        let workspace = Workspace::find().unwrap();
        assert!(workspace.root.join("agent-ebpf/Cargo.toml").exists());
        assert!(env::current_exe().unwrap().starts_with(&workspace.target));
    }

    #[test]
    fn cargo_does_not_inherit_variables_about_xtask() {
        let cargo = Workspace::find().unwrap().cargo("build");
        assert!(cargo.get_envs().any(|(name, value)| name == "CARGO_PKG_NAME" && value.is_none()));
        assert!(!cargo.get_envs().any(|(name, value)| name == "CARGO_HOME" && value.is_none()));
    }
}
