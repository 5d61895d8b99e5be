//! Compiles the eBPF programs and puts one object per signal into `$OUT_DIR`, from where the agent embeds them.
//!
//! Every `agent-ebpf/src/bin/<signal>.rs` becomes `$OUT_DIR/<signal>`. They are built from source each time they or the ABI
//! change, by the toolchain that `bpf-toolchain` finds.

use std::error::Error;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

use bpf_toolchain::Toolchain;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build.rs must be run by cargo")?);
    let workspace = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?).join("..");
    println!("cargo::rerun-if-env-changed={}", bpf_toolchain::CHOICE);
    for input in ["agent-ebpf", "agent-common", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }

    let toolchain = Toolchain::find()?;
    for file in toolchain.files() {
        println!("cargo::rerun-if-changed={}", file.display());
    }

    // One directory for every profile and target of the agent: the programs are the same for all of them.
    let target = bpf_toolchain::target_dir(&out).unwrap_or(&out).join("bpf");
    let mut command = toolchain.build(&target);
    // stdout speaks to cargo; the compiler's messages go to stderr, which cargo shows when this fails.
    let status = command.current_dir(&workspace).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(format!("the eBPF programs do not compile with {toolchain}: cargo ended with {status}").into()),
        Err(error) => return Err(format!("could not start {:?} of {toolchain}: {error}", command.get_program()).into()),
    }

    let objcopy = toolchain.objcopy();
    println!("cargo::rustc-env=PODMETER_LAYOUT={:016x}", layout(&workspace)?);
    for signal in signals(&workspace.join("agent-ebpf/src/bin"))? {
        let object = target.join(bpf_toolchain::TARGET).join("release").join(&signal);
        embed(&object, &out.join(&signal), objcopy.as_deref())?;
    }
    Ok(())
}

/// The names of the programs' crates: the files in `agent-ebpf/src/bin`.
fn signals(bin: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut signals = Vec::new();
    for entry in fs::read_dir(bin).map_err(|error| format!("could not list {}: {error}", bin.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            signals.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
    }
    Ok(signals)
}

/// What maps hold, as a number: another one where a record or a map's definition differs. Programs of two builds with the same number can go
/// on with each other's maps.
fn layout(workspace: &Path) -> Result<u64, Box<dyn Error>> {
    let mut hasher = DefaultHasher::new();
    let code = |line: &&str| !line.is_empty() && !line.starts_with("//");
    for file in sources(&workspace.join("agent-common/src"))? {
        let text = fs::read_to_string(&file)?;
        let records = text.split("#[cfg(test)]").next().unwrap_or_default();
        records.lines().map(str::trim).filter(code).for_each(|line| line.hash(&mut hasher));
    }
    for file in sources(&workspace.join("agent-ebpf/src"))? {
        // Behind `pub` or `pub(crate)`, or without it.
        let of_map = |line: &&str| line.split(' ').take(2).any(|word| ["static", "type"].contains(&word));
        fs::read_to_string(&file)?.lines().map(str::trim).filter(of_map).for_each(|line| line.hash(&mut hasher));
    }
    Ok(hasher.finish())
}

/// All files with Rust below a directory but for tests, in order.
fn sources(directory: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| format!("could not list {}: {error}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Copies an object without its DWARF, where there is a tool for that: it is four fifths of it, and only BTF is loaded.
fn embed(object: &Path, to: &Path, objcopy: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let stripped = objcopy.is_some_and(|objcopy| {
        Command::new(objcopy).arg("--strip-debug").args([object, to]).status().is_ok_and(|status| status.success())
    });
    if !stripped {
        fs::copy(object, to).map_err(|error| format!("could not copy {} to {}: {error}", object.display(), to.display()))?;
    }
    Ok(())
}
