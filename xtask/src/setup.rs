//! `cargo xtask setup`: brings what building, running and testing need, and nothing that is there already.
//!
//! What is there is seen by looking for files, so that a machine that has everything pays a few milliseconds. What is missing
//! comes from Debian's packages and by `cargo install`; on another system the missing tools are named, with what they are for.

mod apt;
pub(crate) mod archive;
mod bundle;
mod debian;
mod kubernetes_schemas;
pub(crate) mod qemu;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use bpf_toolchain::Toolchain;
use clap::ValueEnum;

use self::bundle::Bundle;
use crate::workspace::Workspace;
use crate::{command, progress};

/// What the tools are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Compiling and running podmeter.
    Build,
    /// That, and every check and test on this machine.
    Test,
    /// That, and the tests on other kernels.
    Vm,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Build => "build",
            Self::Test => "test",
            Self::Vm => "vm",
        })
    }
}

/// A program or file, and the Debian package it comes in.
struct Tool {
    /// A path, or the name of a program to be found on PATH.
    file: &'static str,
    package: &'static str,
    why: &'static str,
}

/// Debian's toolchain for the kernel side. Wanted together or not at all: their versions must agree.
const BPF_TOOLCHAIN: &[Tool] = &[
    Tool { file: "/usr/bin/rustc", package: "rustc-web", why: "compiles the eBPF programs" },
    Tool { file: "/usr/bin/cargo", package: "cargo-web", why: "builds the eBPF programs" },
    Tool {
        file: "/usr/lib/rustlib/bpfel-unknown-none",
        package: "libstd-rust-web-dev-bpf",
        why: "is Rust's core library for eBPF",
    },
];

const BPF_LINKER: &str = "0.13.0";
const CARGO_DENY: &str = "0.20.2";

/// What tests use.
const TEST_TOOLS: &[Tool] = &[Tool { file: "ip", package: "iproute2", why: "makes network namespaces for tests" }];

/// What tests on other kernels use.
const VM_TOOLS: &[Tool] = &[
    Tool { file: "busybox", package: "busybox-static", why: "is the user space of virtual machines" },
    Tool { file: "cpio", package: "cpio", why: "packs their files" },
    Tool { file: "xz", package: "xz-utils", why: "unpacks their kernel modules" },
];

/// Real resolvers: tests measure their lookups.
const RESOLVERS: Bundle = Bundle {
    name: "resolvers",
    packages: &["bind9-dnsutils", "unbound"],
    kept: &["usr/bin/dig", "usr/sbin/unbound"],
    why: "dig and unbound for tests (about 30 MB)",
};

/// Clippy for Debian's toolchain.
const KERNEL_CLIPPY: Tool = Tool { file: "/usr/bin/cargo-clippy", package: "rust-web-clippy", why: "lints the eBPF programs" };

/// Installs what is missing. An error names what could not be had and how to get it.
pub(crate) fn run(workspace: &Workspace, purpose: Purpose) -> Result<()> {
    bpf_toolchain(workspace)?;
    if purpose == Purpose::Vm {
        install_missing(workspace, VM_TOOLS)?;
        qemu::fetch(workspace)?;
        qemu::try_out(workspace)?;
    }
    if purpose != Purpose::Build {
        install_missing(workspace, TEST_TOOLS)?;
        rustup_components(workspace, &[("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")])?;
        if cargo_deny(workspace).is_none() {
            install_cargo_deny(workspace)?;
        }
        // The tests that use one of these skip themselves without it.
        for program in debian::PROGRAMS {
            if let Err(error) = debian::fetch(workspace, program) {
                eprintln!("note: no {}, which {}: tests with it will be skipped: {error:#}", program.name, program.why);
            }
        }
        if let Err(error) = RESOLVERS.fetch(workspace) {
            eprintln!("note: no dig and unbound: tests with them will be skipped: {error:#}");
        }
        if let Err(error) = kubernetes_schemas::install(workspace) {
            eprintln!("note: no kubernetes-validate, so Kubernetes manifests will not be checked: {error:#}");
        }
    }
    Ok(())
}

/// cargo-deny: ours, else whichever is installed.
pub(crate) fn cargo_deny(workspace: &Workspace) -> Option<PathBuf> {
    let ours = workspace.tools().join("bin/cargo-deny");
    if ours.exists() { Some(ours) } else { bpf_toolchain::program("cargo-deny") }
}

impl Tool {
    fn is_missing(&self) -> bool {
        // Debian keeps some of them where only root's PATH looks.
        let on_path = || bpf_toolchain::program(self.file).is_some() || Path::new("/usr/sbin").join(self.file).exists();
        if self.file.starts_with('/') { !Path::new(self.file).exists() } else { !on_path() }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.package, self.why)
    }
}

fn bpf_toolchain(workspace: &Workspace) -> Result<()> {
    let Err(lacks) = Toolchain::find() else { return Ok(()) };
    let chosen = std::env::var(bpf_toolchain::CHOICE).unwrap_or_default();
    if !apt::is_here() || !["", "debian"].contains(&chosen.as_str()) {
        return Err(lacks.into());
    }
    if BPF_TOOLCHAIN.iter().any(Tool::is_missing) {
        apt::install(workspace, &BPF_TOOLCHAIN.iter().collect::<Vec<_>>())?;
    }
    if bpf_toolchain::program("bpf-linker").is_none() {
        install_bpf_linker(workspace)?;
    }
    Toolchain::find().map(drop).context("the toolchain was installed and is still incomplete")
}

/// bpf-linker reads what rustc writes, so both must have the same LLVM.
fn install_bpf_linker(workspace: &Workspace) -> Result<()> {
    let version = command::output(Command::new("/usr/bin/rustc").arg("-vV"))?;
    let major = llvm_major(&version).with_context(|| format!("/usr/bin/rustc does not name its LLVM:\n{version}"))?;
    let prefix = format!("/usr/lib/llvm-{major}");
    // The library to link with, which only the development package has.
    if !Path::new(&prefix).join("lib/libLLVM.so").exists() {
        apt::install_packages(
            workspace,
            &[format!("llvm-{major}-dev")],
            &format!("llvm-{major}-dev: bpf-linker is compiled against it"),
        )?;
    }
    let mut install = cargo_install("bpf-linker", BPF_LINKER);
    // What it does, LLVM does, which is compiled already.
    install.args(["--no-default-features", "--features", &format!("llvm-{major}")]).env("LLVM_PREFIX", prefix).envs(UNOPTIMIZED);
    let what = format!("bpf-linker {BPF_LINKER}, which links the eBPF programs: compiled, one to two minutes");
    progress::step(&what, || command::logged(&mut install, &workspace.setup_log())).context("could not install bpf-linker")
}

/// The major version in rustc's `LLVM version: 22.1.8`.
fn llvm_major(rustc_version: &str) -> Option<u32> {
    let version = rustc_version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

fn install_missing(workspace: &Workspace, tools: &[Tool]) -> Result<()> {
    let mut missing: Vec<&Tool> = tools.iter().filter(|tool| tool.is_missing()).collect();
    // Without Debian's toolchain the programs are linted by rustup's.
    if BPF_TOOLCHAIN.iter().all(|tool| !tool.is_missing()) && KERNEL_CLIPPY.is_missing() {
        missing.push(&KERNEL_CLIPPY);
    }
    if missing.is_empty() {
        return Ok(());
    }
    if apt::is_here() {
        return apt::install(workspace, &missing);
    }
    // None of them stops a build, and tests that lack one skip themselves.
    eprintln!("note: not installed, and there is no apt-get to install it with:");
    for tool in missing {
        eprintln!("  {}: it {} (Debian's package {})", tool.file, tool.why, tool.package);
    }
    Ok(())
}

/// Adds what a minimal installation of Rust lacks: programs, and the components they come in.
fn rustup_components(workspace: &Workspace, wanted: &[(&str, &str)]) -> Result<()> {
    let sysroot = command::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let bin = Path::new(sysroot.trim_end()).join("bin");
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| !bin.join(program).exists()).map(|(_, component)| *component).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if bpf_toolchain::program("rustup").is_none() {
        bail!("{} has no {}, and there is no rustup to add it with: install it for this Rust", bin.display(), missing.join(", "));
    }
    let mut add = Command::new("rustup");
    add.args(["component", "add"]).args(&missing);
    progress::step(&format!("{} by rustup", missing.join(", ")), || command::logged(&mut add, &workspace.setup_log()))
}

fn install_cargo_deny(workspace: &Workspace) -> Result<()> {
    let mut install = cargo_install("cargo-deny", CARGO_DENY);
    install.args(["--no-default-features", "--root"]).arg(workspace.tools());
    install.envs(UNOPTIMIZED);
    let what = format!("cargo-deny {CARGO_DENY}, which checks dependencies: compiled, one to three minutes");
    progress::step(&what, || command::logged(&mut install, &workspace.setup_log())).context("could not install cargo-deny")
}

/// For programs that run for seconds: optimising them takes minutes.
const UNOPTIMIZED: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
];

/// `cargo install`, started outside the tree: its settings are not for it.
fn cargo_install(name: &str, version: &str) -> Command {
    let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install.args(["install", name, "--version", version, "--locked", "--quiet"]).current_dir("/");
    // Compiled in a directory of its own that goes when it is done.
    install.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    install
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_rustc_is_read() {
        let version =
            "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(version), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn a_tool_is_found_by_path_and_by_name() {
        let tool = |file| Tool { file, package: "p", why: "w" };
        assert!(!tool("sh").is_missing() && !tool("/bin/sh").is_missing());
        assert!(tool("no-such-program").is_missing() && tool("/no/such/file").is_missing());
    }

    #[test]
    fn no_package_is_listed_twice() {
        let mut packages: Vec<_> =
            BPF_TOOLCHAIN.iter().chain(TEST_TOOLS).chain([&KERNEL_CLIPPY]).map(|tool| tool.package).collect();
        packages.sort_unstable();
        assert!(packages.windows(2).all(|pair| pair[0] != pair[1]), "{packages:?}");
    }
}
