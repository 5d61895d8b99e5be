//! The agent as the DaemonSet runs it, without a container runtime: a root file system that holds the agent and nothing else and
//! cannot be written, the manifest's mounts, namespaces of its own, and root with no capability but the manifest's.
//!
//! Not as there: of the default seccomp profile only the system calls that it forbids and that an agent could want, no AppArmor
//! profile, and the test's own network namespace, through which probes reach it.

mod confinement;

use std::{
    ffi::CString,
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::stat::Mode,
};
use serde_json::Value as Json;
use tempfile::TempDir;

use self::confinement::Confinement;
use crate::{
    agent::{self, Agent, Output, is_configuration},
    bpffs::BpfDir,
    cgroup::{self, Cgroup},
    deploy, http,
};

/// The manifest.
const DAEMONSET: &str = include_str!("../../deploy/kubernetes/base/daemonset.yaml");
/// What the ConfigMap holds.
const CONFIG: &str = include_str!("../../deploy/kubernetes/base/config.yaml");

/// The node's name in the downward API.
pub const NODE_NAME: &str = "node-1";

/// The agent without a dynamic linker, as in the image: what `cargo xtask test` has built, or the agent under test if that is
/// such a one; `None`, with a line on standard error, when there is none.
pub fn static_binary(test: &str) -> Result<Option<PathBuf>> {
    let named = std::env::var_os("PODMETER_STATIC_BIN").map(PathBuf::from);
    let binary = named.map_or_else(agent::binary, Ok)?;
    if is_static(&binary)? {
        return Ok(Some(binary));
    }
    eprintln!("SKIPPED {test}: needs a static podmeter in PODMETER_STATIC_BIN (cargo xtask build --static)");
    Ok(None)
}

/// Whether a 64-bit ELF file names no program that has to load it.
fn is_static(file: &Path) -> Result<bool> {
    const PT_INTERP: u32 = 3;
    let bytes = fs::read(file).with_context(|| format!("could not read {}", file.display()))?;
    let short = || format!("{} is no ELF file", file.display());
    let number = |at: usize, size: usize| -> Result<u64> {
        let field = bytes.get(at..at + size).with_context(short)?;
        Ok(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), short());
    let (table, size, count) = (number(32, 8)? as usize, number(54, 2)? as usize, number(56, 2)? as usize);
    for i in 0..count {
        if number(table + i * size, 4)? == u64::from(PT_INTERP) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A directory of the node in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted: `cgroups`, `bpf`, `config`.
    pub volume: String,
    /// The directory on the node; `None` for the configuration.
    pub host_path: Option<String>,
    /// Where in the container.
    pub path: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
    /// Whether kubelet makes the directory where it is not there.
    pub create: bool,
}

/// The agent's container in the manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The pod.
    pub pod: Json,
    /// The container.
    pub container: Json,
    /// Arguments of the image's entry point.
    pub args: Vec<String>,
    /// Names and values of environment variables.
    pub env: Vec<(String, String)>,
    /// Names without `CAP_`.
    pub capabilities: Vec<String>,
    /// In the order in which they are mounted.
    pub mounts: Vec<Mount>,
}

impl Manifest {
    /// Reads it.
    pub fn read() -> Result<Self> {
        let documents = deploy::yaml(DAEMONSET)?;
        let pod = documents.first().context("the manifest is empty")?["spec"]["template"]["spec"].clone();
        let container = pod["containers"][0].clone();
        let text = |value: &Json| value.as_str().map(str::to_owned).with_context(|| format!("expected a string, found {value}"));
        let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
        let env = list(&container["env"]).into_iter().map(|variable| {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("spec.nodeName") => NODE_NAME.to_owned(),
                Some(other) => bail!("this harness does not know the field {other}"),
                None => text(&variable["value"])?,
            };
            Ok((text(&variable["name"])?, value))
        });
        let mounts = list(&container["volumeMounts"]).into_iter().map(|mount| {
            let name = text(&mount["name"])?;
            let volume = list(&pod["volumes"]).into_iter().find(|volume| volume["name"] == mount["name"]);
            let volume = volume.with_context(|| format!("there is no volume {name}"))?;
            let host_path = volume["hostPath"]["path"].as_str().map(str::to_owned);
            let read_only = mount["readOnly"] == true || host_path.is_none();
            let create = volume["hostPath"]["type"] == "DirectoryOrCreate";
            Ok(Mount { volume: name, host_path, path: text(&mount["mountPath"])?, read_only, create })
        });
        let mut capabilities: Vec<String> =
            list(&container["securityContext"]["capabilities"]["add"]).iter().map(text).collect::<Result<_>>()?;
        if counts_maps_as_locked()? {
            // What the component for such kernels adds.
            capabilities.push("SYS_RESOURCE".to_owned());
        }
        Ok(Self {
            args: list(&container["args"]).iter().map(text).collect::<Result<_>>()?,
            env: env.collect::<Result<_>>()?,
            capabilities,
            mounts: mounts.collect::<Result<_>>()?,
            pod,
            container,
        })
    }

    /// What the ConfigMap sets.
    pub fn config() -> Result<Json> {
        deploy::yaml(CONFIG)?.pop().context("the configuration is empty")
    }
}

/// Whether this kernel is older than 5.11.
fn counts_maps_as_locked() -> Result<bool> {
    let name = nix::sys::utsname::uname().context("could not read the kernel's name")?;
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor) < (5, 11)),
        _ => bail!("the kernel calls itself {release}"),
    }
}

/// Where a node has its BPF file system.
const BPF: &str = "/sys/fs/bpf";

/// Where programs keep what is theirs on a node's disk.
const DISK: &str = "/var/lib";

/// A node of one container: a place to run containers of the image in, one after the other.
#[derive(Debug)]
pub struct FakeNode {
    manifest: Manifest,
    root: TempDir,
    config: TempDir,
    // In place of the node's, so that nothing of a test stays in that.
    bpf: BpfDir,
    // In place of its disk.
    disk: TempDir,
    cgroup: Cgroup,
}

impl FakeNode {
    /// Unpacks the image: one file.
    pub fn new(binary: &Path) -> Result<Self> {
        let manifest = Manifest::read()?;
        let [root, config, disk] = [(); 3].map(|()| tempfile::tempdir().context("could not make a directory"));
        let (root, config, disk) = (root?, config?, disk?);
        let agent = root.path().join("podmeter");
        fs::copy(binary, &agent).with_context(|| format!("could not copy {}", binary.display()))?;
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o555)).context("could not change the agent's mode")?;
        fs::write(config.path().join("config.yaml"), CONFIG).context("could not write the configuration")?;
        let points = manifest.mounts.iter().map(|mount| mount.path.as_str()).chain(["/proc", "/sys"]);
        for point in points {
            let point = inside(root.path(), point);
            fs::create_dir_all(&point).with_context(|| format!("could not make {}", point.display()))?;
        }
        let node = Self { manifest, root, config, bpf: BpfDir::of_node()?, disk, cgroup: Cgroup::new("daemonset")? };
        for mount in node.manifest.mounts.iter().filter(|mount| mount.create) {
            // What kubelet does for DirectoryOrCreate.
            let path = node.host_path(mount.host_path.as_deref().unwrap_or_default());
            fs::create_dir_all(&path).with_context(|| format!("could not make {}", path.display()))?;
        }
        Ok(node)
    }

    /// The manifest that containers are made by.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where this node has a path below `/sys/fs/bpf`.
    pub fn bpf_path(&self, path: &str) -> PathBuf {
        inside(self.bpf.path(), path.strip_prefix(BPF).unwrap_or(path))
    }

    /// Where this node has one of its directories.
    fn host_path(&self, path: &str) -> PathBuf {
        if path.starts_with(BPF) { self.bpf_path(path) } else { inside(self.disk.path(), path) }
    }

    /// What is pinned on this node.
    pub fn pins(&self) -> Result<Vec<String>> {
        Ok(self.bpf.directories()?.iter().map(|name| name.to_string_lossy().into_owned()).collect())
    }

    /// Runs the agent as in the manifest, but exporting to standard output every second, and answering probes on a free port of
    /// this machine.
    pub fn run(&self) -> Result<Agent> {
        let address = http::free_address()?;
        let own = [
            ("PODMETER_EXPORT_EXPORTER", "stdout".to_owned()),
            ("PODMETER_INTERVAL", "1s".to_owned()),
            ("PODMETER_LISTEN", address.to_string()),
        ];
        let args: Vec<&str> = self.manifest.args.iter().map(String::as_str).collect();
        let (process, keep) = self.start(&args, &self.manifest.capabilities, &own)?;
        Ok(Agent::adopt(process, address, Box::new(keep)))
    }

    /// Runs the agent with other arguments, and the manifest's capabilities but `without`, to its end.
    pub fn output(&self, args: &[&str], without: Option<&str>) -> Result<Output> {
        let mut capabilities = self.manifest.capabilities.clone();
        capabilities.retain(|capability| Some(capability.as_str()) != without);
        let (process, keep) = self.start(args, &capabilities, &[])?;
        let output = process.wait_with_output().context("could not wait for podmeter")?;
        drop(keep);
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Output { code: output.status.code(), stdout, stderr })
    }

    /// Starts a container. It dies with the thread that the returned sender keeps alive.
    fn start(&self, args: &[&str], capabilities: &[String], env: &[(&str, String)]) -> Result<(Child, mpsc::Sender<()>)> {
        let plan = ContainerPlan::new(self, capabilities)?;
        let mut command = Command::new("/podmeter");
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_configuration(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.envs(self.manifest.env.iter().map(|(name, value)| (name, value)));
        command.envs(env.iter().map(|(name, value)| (name, value)));
        // SAFETY: `enter` makes system calls only: what it needs was put together before the fork.
        unsafe {
            command.pre_exec(move || plan.enter());
        }
        let (started, child) = mpsc::channel();
        let (keep, until) = mpsc::channel();
        // Children of this thread, and of no other, get a PID namespace, in which the agent is process 1 as in a container.
        thread::spawn(move || {
            let unshared = unshare(CloneFlags::CLONE_NEWPID).context("could not make a PID namespace");
            let process = unshared.and_then(|()| command.spawn().context("could not start the container"));
            if started.send(process).is_ok() {
                // Ends when the other end is dropped.
                let _ = until.recv();
            }
        });
        Ok((child.recv().context("the container's thread ended")??, keep))
    }
}

/// A path of the container as the test sees it.
fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// What a child does between fork and exec.
struct ContainerPlan {
    procs: fs::File,
    root: CString,
    proc: CString,
    sys: CString,
    cgroups: CString,
    /// Source, target, read-only.
    binds: Vec<(CString, CString, bool)>,
    /// Where the node's bpffs is seen, and podmeter's directory in it. This fake node's is elsewhere, so that the machine's has none.
    bpf: (CString, CString),
    confinement: Confinement,
}

impl ContainerPlan {
    fn new(node: &FakeNode, capabilities: &[String]) -> Result<Self> {
        let path = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).context("a path holds a NUL");
        let root = node.root.path();
        let binds = node.manifest.mounts.iter().map(|mount| {
            let source = match mount.host_path.as_deref() {
                None => node.config.path(),
                // Where a node with cgroup v2 has it; on a hybrid machine it is below.
                Some("/sys/fs/cgroup") => cgroup::mount_point()?,
                Some("/") => Path::new("/"),
                Some(own) if own.starts_with(BPF) || own.starts_with(DISK) => &node.host_path(own),
                Some(other) => bail!("this harness does not know the node's directory {other}"),
            };
            Ok((path(source)?, path(&inside(root, &mount.path))?, mount.read_only))
        });
        let bpf = node.manifest.mounts.iter().find(|mount| mount.host_path.as_deref().is_some_and(|own| own.starts_with(BPF)));
        let bpf = inside(root, &bpf.context("the manifest mounts no bpffs")?.path);
        let procs = node.cgroup.dir().join("cgroup.procs");
        Ok(Self {
            procs: fs::File::options().write(true).open(&procs).with_context(|| format!("could not open {}", procs.display()))?,
            root: path(root)?,
            proc: path(&root.join("proc"))?,
            sys: path(&root.join("sys"))?,
            cgroups: path(&root.join("sys/fs/cgroup"))?,
            binds: binds.collect::<Result<_>>()?,
            bpf: (path(bpf.parent().context("bpffs is mounted at /")?)?, path(&bpf)?),
            confinement: Confinement::new(capabilities)?,
        })
    }

    /// Does what a runtime does.
    fn enter(&self) -> std::io::Result<()> {
        const NONE: Option<&str> = None;
        const HARMLESS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        (&self.procs).write_all(b"0")?;
        let namespaces =
            CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        unshare(namespaces)?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        let root = self.root.as_c_str();
        mount(Some(root), root, NONE, MsFlags::MS_BIND, NONE)?;
        mount(Some("proc"), self.proc.as_c_str(), Some("proc"), HARMLESS, NONE)?;
        mount(Some("sysfs"), self.sys.as_c_str(), Some("sysfs"), HARMLESS | MsFlags::MS_RDONLY, NONE)?;
        // What a container sees there: itself.
        mount(Some("cgroup2"), self.cgroups.as_c_str(), Some("cgroup2"), HARMLESS | MsFlags::MS_RDONLY, NONE)?;
        for (source, target, read_only) in &self.binds {
            let target = target.as_c_str();
            if target == self.bpf.1.as_c_str() {
                mount(Some("tmpfs"), self.bpf.0.as_c_str(), Some("tmpfs"), HARMLESS, NONE)?;
                nix::unistd::mkdir(target, Mode::S_IRWXU)?;
            }
            mount(Some(source.as_c_str()), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
            if *read_only {
                mount(NONE, target, NONE, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, NONE)?;
            }
        }
        mount(NONE, root, NONE, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, NONE)?;
        nix::unistd::chdir(root)?;
        match nix::unistd::pivot_root(".", ".") {
            Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
            // The root of a virtual machine that has only an initramfs cannot be put aside.
            Err(Errno::EINVAL) => {
                mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE)?;
                nix::unistd::chroot(".")?;
            }
            Err(errno) => return Err(errno.into()),
        }
        nix::unistd::chdir("/")?;
        self.confinement.enter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_understood() {
        let manifest = Manifest::read().unwrap();
        assert_eq!(manifest.args, ["run", "--config", "/etc/podmeter/config.yaml"]);
        assert!(manifest.env.contains(&("NODE_NAME".to_owned(), NODE_NAME.to_owned())));
        assert_eq!(
            manifest.mounts.iter().map(|mount| mount.volume.as_str()).collect::<Vec<_>>(),
            ["config", "node", "cgroups", "bpf", "journal"]
        );
    }
}
