//! Finds a toolchain that compiles `agent-ebpf` for the kernel, and builds the command that drives it.
//!
//! The stable toolchain that builds the agent has no `core` for `bpfel-unknown-none`. Two others have: Debian's packaged Rust
//! with a prebuilt `core`, and a rustup nightly that builds `core` from `rust-src`. Both link with bpf-linker. `agent/build.rs`
//! asks here what to run, and so does xtask, so that what is linted is what is built.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The one target the programs are built for. Little-endian, like every machine the agent runs on.
pub const TARGET: &str = "bpfel-unknown-none";

/// The environment variable that picks a toolchain: `debian`, `nightly`, or the name of a rustup toolchain (`nightly-2026-05-01`).
pub const CHOICE: &str = "PODMETER_BPF_TOOLCHAIN";

/// Debian's packaged Rust.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// Debug information is what BTF is made of: without it the kernel sees no map types and no function names.
const RUSTFLAGS: &str = "-Cdebuginfo=2 -Clink-arg=--btf";

/// aya-ebpf needs unstable features. Only that crate may use them on a stable compiler.
const BOOTSTRAP: &str = "aya_ebpf,agent_ebpf";

/// A toolchain that is complete: compiler, `core` for the target, linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    source: Source,
    linker: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Debian,
    Rustup { name: String },
}

/// Why no toolchain can be used: what each lacks.
#[derive(Debug)]
pub struct NotFound {
    lacks: Vec<String>,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no toolchain can compile the eBPF programs: {}", self.lacks.join("; "))?;
        write!(f, ". `cargo xtask setup` installs Debian's on Debian; elsewhere: `rustup toolchain install nightly")?;
        write!(f, " --component rust-src` and `cargo install bpf-linker`. {CHOICE}=debian|nightly picks one")
    }
}

impl std::error::Error for NotFound {}

impl Toolchain {
    /// The toolchain that [`CHOICE`] names, else Debian's, else rustup's nightly.
    pub fn find() -> Result<Self, NotFound> {
        let linker = program("bpf-linker");
        match env::var(CHOICE).ok().filter(|choice| !choice.is_empty()) {
            Some(choice) if choice == "debian" => {
                Self::complete(Source::Debian, linker).map_err(|lack| NotFound { lacks: vec![lack] })
            }
            Some(name) => Self::complete(Source::Rustup { name }, linker).map_err(|lack| NotFound { lacks: vec![lack] }),
            None => Self::complete(Source::Debian, linker.clone()).or_else(|debian| {
                Self::complete(Source::Rustup { name: "nightly".to_owned() }, linker)
                    .map_err(|nightly| NotFound { lacks: vec![debian, nightly] })
            }),
        }
    }

    fn complete(source: Source, linker: Option<PathBuf>) -> Result<Self, String> {
        source.check().map_err(|lack| format!("{source} {lack}"))?;
        let linker = linker.ok_or_else(|| format!("{source} has no bpf-linker, neither on PATH nor in cargo's bin directory"))?;
        Ok(Self { source, linker })
    }

    /// Files whose change means that the programs must be built again.
    pub fn files(&self) -> Vec<&Path> {
        let mut files = vec![self.linker.as_path()];
        if self.source == Source::Debian {
            files.extend([DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_CORE].map(Path::new));
        }
        files
    }

    /// `cargo build` of every program, in release, into `target_dir`.
    pub fn build(&self, target_dir: &Path) -> Command {
        let mut command = match &self.source {
            Source::Debian => Command::new(DEBIAN_CARGO),
            Source::Rustup { name } => rustup_cargo(name),
        };
        command.arg("build");
        self.finish(command, target_dir)
    }

    /// `cargo clippy` of every program, or `None` where this toolchain has no clippy.
    pub fn clippy(&self, target_dir: &Path) -> Option<Command> {
        let mut command = match &self.source {
            Source::Debian if Path::new(DEBIAN_CLIPPY).exists() => Command::new(DEBIAN_CLIPPY),
            Source::Debian => return None,
            Source::Rustup { name } => rustup_cargo(name),
        };
        command.arg("clippy");
        Some(self.finish(command, target_dir))
    }

    fn finish(&self, mut command: Command, target_dir: &Path) -> Command {
        command.args(["--release", "--locked", "--package", "agent-ebpf", "--target", TARGET, "--target-dir"]).arg(target_dir);
        // A build script and `cargo run` inherit settings of the outer build that must not reach this one, such as a static
        // build's -C target-feature, the outer toolchain's name and libraries, or the outer profile.
        for (name, _) in env::vars_os().filter(|(name, _)| leaks(name)) {
            command.env_remove(name);
        }
        command.env("RUSTFLAGS", RUSTFLAGS).env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        match self.source {
            Source::Debian => {
                command.env("CARGO", DEBIAN_CARGO).env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", BOOTSTRAP);
            }
            Source::Rustup { .. } => {
                command.args(["-Z", "build-std=core"]);
            }
        }
        command
    }

    /// The llvm-objcopy that goes with this toolchain.
    ///
    /// It takes the DWARF, four fifths of an object, out again; BTF stays. A toolchain may lack it: the objects are then
    /// larger and work the same.
    pub fn objcopy(&self) -> Option<PathBuf> {
        let sysroot = match &self.source {
            Source::Debian => PathBuf::from("/usr"),
            Source::Rustup { name } => sysroot(name)?,
        };
        let bundled = sysroot.join(format!("lib/rustlib/{}-unknown-linux-gnu/bin/rust-objcopy", env::consts::ARCH));
        bundled.exists().then_some(bundled).or_else(|| newest_llvm()?.join("bin/llvm-objcopy").canonicalize().ok())
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.source, self.linker.display())
    }
}

impl Source {
    /// What it lacks, as the rest of a sentence that starts with its name.
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Debian => {
                let parts = [(DEBIAN_RUSTC, "rustc-web"), (DEBIAN_CARGO, "cargo-web"), (DEBIAN_CORE, "libstd-rust-web-dev-bpf")];
                match parts.iter().find(|(path, _)| !Path::new(path).exists()) {
                    Some((path, package)) => Err(format!("lacks {path} (package {package})")),
                    None => Ok(()),
                }
            }
            Self::Rustup { name } => match sysroot(name) {
                None => Err("is not installed".to_owned()),
                Some(root) if root.join("lib/rustlib/src/rust/library/core").exists() => Ok(()),
                Some(_) => Err(format!("lacks its source (`rustup component add rust-src --toolchain {name}`)")),
            },
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian => write!(f, "Debian's Rust"),
            Self::Rustup { name } => write!(f, "rustup's {name}"),
        }
    }
}

/// Where a program is: on PATH, else in cargo's bin directory, which need not be on it.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    env::split_paths(&path).chain(cargo_home.map(|home| home.join("bin"))).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The cargo target directory that holds `file`, a build product: the nearest one above that cargo has tagged as its own.
///
/// Asked of a product, since the directory may come from the environment, from a flag or from any of cargo's config files.
pub fn target_dir(file: &Path) -> Option<&Path> {
    file.ancestors().skip(1).find(|dir| dir.join("CACHEDIR.TAG").exists())
}

fn rustup_cargo(toolchain: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo"]);
    command
}

fn sysroot(toolchain: &str) -> Option<PathBuf> {
    // An absent toolchain is an answer here, not a reason for rustup to download it.
    let output = Command::new("rustup").args(["which", "--toolchain", toolchain, "rustc"]).output().ok()?;
    let rustc = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
    (output.status.success() && rustc.is_file()).then(|| rustc.ancestors().nth(2).map(Path::to_path_buf))?
}

/// The directory of the newest LLVM as Debian lays them out, `/usr/lib/llvm-<major>`.
fn newest_llvm() -> Option<PathBuf> {
    let major = |name: &OsStr| name.to_str()?.strip_prefix("llvm-")?.parse::<u32>().ok();
    let entries = Path::new("/usr/lib").read_dir().ok()?.flatten();
    let newest = entries.filter_map(|entry| major(&entry.file_name())).max()?;
    Some(PathBuf::from(format!("/usr/lib/llvm-{newest}")))
}

/// Whether an environment variable is a setting of the outer build.
fn leaks(name: &OsString) -> bool {
    let Some(name) = name.to_str() else { return false };
    const EXACT: &[&str] = &[
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_ENCODED_RUSTDOCFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_MAKEFLAGS",
        "DEBUG",
        "HOST",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "MFLAGS",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "TARGET",
    ];
    const PREFIXES: &[&str] = &[
        "CARGO_BIN_",
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_CRATE_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PRIMARY_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
        "CLIPPY_",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
    ];
    EXACT.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_outer_build_do_not_reach_the_kernel_side() {
        for name in
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO_PROFILE_RELEASE_LTO"]
        {
            assert!(leaks(&name.into()), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "RUSTUP_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_PROXY",
            "HTTPS_PROXY",
            "CARGO_REGISTRIES_X",
        ] {
            assert!(!leaks(&name.into()), "{name}");
        }
    }

    #[test]
    fn a_toolchain_that_is_not_installed_says_so() {
        let lack = Toolchain::complete(Source::Rustup { name: "no-such-toolchain".to_owned() }, None).unwrap_err();
        assert_eq!(lack, "rustup's no-such-toolchain is not installed");
    }

    #[test]
    fn the_target_directory_is_the_one_cargo_tagged() {
        let product = env::current_exe().unwrap();
        let target = target_dir(&product).unwrap();
        assert!(product.starts_with(target) && target.join("CACHEDIR.TAG").exists());
        assert_eq!(target_dir(Path::new("/no/such/file")), None);
    }

    #[test]
    fn the_message_says_what_to_do() {
        let error = NotFound { lacks: vec!["Debian's Rust lacks x".to_owned(), "rustup's nightly is not installed".to_owned()] };
        let message = error.to_string();
        for part in ["Debian's Rust lacks x; rustup's nightly", "cargo xtask setup", "rust-src", CHOICE] {
            assert!(message.contains(part), "{message}");
        }
    }
}
