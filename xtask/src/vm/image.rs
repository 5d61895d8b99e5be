//! The guest's file system: busybox, podmeter, the tests and the tools they call, packed for the kernel to unpack into memory.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{kernel::Files, modules};
use crate::command;

const INIT: &str = include_str!("init.sh");

/// Directories that the guest mounts something on or writes to.
const EMPTY: &[&str] = &["dev", "proc", "sys", "tmp"];

/// Programs of this machine and where they go. iproute2's are found first: busybox knows neither netem nor every kind of interface.
const TOOLS: &[(&str, &str)] = &[("busybox", "bin"), ("ip", "sbin"), ("tc", "sbin")];

/// The system's certificate authorities: a TLS client wants to know some before it finds that its server does not speak TLS.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What every guest has, whatever its kernel.
#[derive(Debug)]
pub(super) struct Programs {
    /// Statically linked.
    pub(super) podmeter: PathBuf,
    /// Name and file of each test runner, statically linked.
    pub(super) tests: Vec<(String, PathBuf)>,
    /// Arguments for runners by name, in the shell's words.
    pub(super) arguments: Vec<(String, String)>,
}

/// Packs a guest's files into `image`, by way of the directory `tree`.
pub(super) fn write(image: &Path, tree: &Path, programs: &Programs, kernel: &Files) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("could not remove {}", tree.display()))?;
    }
    for directory in EMPTY {
        make(&tree.join(directory))?;
    }
    put(&tree.join("init"), INIT.as_bytes())?;
    copy(&programs.podmeter, &tree.join("bin/podmeter"))?;
    make(&tree.join("tests"))?;
    for (name, file) in &programs.tests {
        copy(file, &tree.join("tests").join(name))?;
    }
    make(&tree.join("arguments"))?;
    for (name, arguments) in &programs.arguments {
        put(&tree.join("arguments").join(name), arguments.as_bytes())?;
    }
    if Path::new(AUTHORITIES).exists() {
        copy(Path::new(AUTHORITIES), &tree.join(AUTHORITIES.trim_start_matches('/')))?;
    }
    for (tool, directory) in TOOLS {
        let program = on_path(tool)?;
        for library in libraries(&program) {
            copy(&library, &tree.join(library.strip_prefix("/").unwrap_or(&library)))?;
        }
        copy(&program, &tree.join(directory).join(tool))?;
    }
    make(&tree.join("modules"))?;
    for (number, module) in modules::in_load_order(&kernel.modules)?.iter().enumerate() {
        put(&tree.join(format!("modules/{number:02}-{}.ko", module.name)), &module.content)?;
    }
    pack(tree, image)
}

/// Not compressed: an emulated CPU takes longer to unpack it than this one to read it.
fn pack(tree: &Path, image: &Path) -> Result<()> {
    let mut names = Vec::new();
    list(tree, tree, &mut names)?;
    let output = File::create(image).with_context(|| format!("could not make {}", image.display()))?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--format=newc", "--owner=+0:+0", "--quiet"]).current_dir(tree);
    let mut child = cpio.stdin(Stdio::piped()).stdout(output).spawn().context("could not start cpio")?;
    let mut input = child.stdin.take().context("cpio has no input")?;
    input.write_all(names.join("\n").as_bytes()).context("could not pass the names of files to cpio")?;
    drop(input);
    let status = child.wait().context("could not wait for cpio")?;
    if !status.success() {
        bail!("`{}` failed: {status}", command::shown(&cpio));
    }
    Ok(())
}

/// All that is below a directory, each directory before what is in it.
fn list(tree: &Path, directory: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in directory.read_dir().with_context(|| format!("could not list {}", directory.display()))? {
        let path = entry.with_context(|| format!("could not list {}", directory.display()))?.path();
        let name = path.strip_prefix(tree).unwrap_or(&path);
        names.push(name.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned());
        if path.is_dir() && !path.is_symlink() {
            list(tree, &path, names)?;
        }
    }
    Ok(())
}

/// The shared libraries a program loads, and the loader itself; none of a static program, for which ldd fails.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    command::output(Command::new("ldd").arg(program)).map_or_else(|_| BTreeSet::new(), |listed| listed_libraries(&listed))
}

/// From lines like `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f…)` and `/lib64/ld-linux-x86-64.so.2 (0x00007f…)`.
fn listed_libraries(ldd: &str) -> BTreeSet<PathBuf> {
    let paths = ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(PathBuf::from).collect()
}

/// A program, also where only root's PATH looks.
fn on_path(program: &str) -> Result<PathBuf> {
    let elsewhere = || ["/usr/sbin", "/sbin"].iter().map(|dir| Path::new(dir).join(program)).find(|path| path.exists());
    bpf_toolchain::program(program).or_else(elsewhere).with_context(|| format!("there is no {program}: run `cargo xtask setup`"))
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))
}

fn parent_of(file: &Path) -> Result<()> {
    file.parent().map_or(Ok(()), make)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    parent_of(to)?;
    fs::copy(from, to).map(drop).with_context(|| format!("could not copy {} to {}", from.display(), to.display()))
}

fn put(file: &Path, content: &[u8]) -> Result<()> {
    parent_of(file)?;
    fs::write(file, content).with_context(|| format!("could not write {}", file.display()))?;
    fs::set_permissions(file, Permissions::from_mode(0o755)).with_context(|| format!("could not open {} to all", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f1)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f3)\n";
        let expected = ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(listed_libraries(ldd), expected.iter().map(PathBuf::from).collect());
        assert!(listed_libraries("\tstatically linked\n").is_empty());
    }

    #[test]
    fn every_directory_is_listed_before_what_is_in_it() {
        let tree = std::env::temp_dir().join(format!("xtask-image-{}", std::process::id()));
        put(&tree.join("a/b/c"), b"x").unwrap();
        let mut names = Vec::new();
        let listed = list(&tree, &tree, &mut names);
        fs::remove_dir_all(&tree).unwrap();
        listed.unwrap();
        assert_eq!(names, ["a", "a/b", "a/b/c"]);
    }
}
