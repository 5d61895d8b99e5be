//! The agent in namespaces: of process ids, of clocks, of cgroups.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::command::{As, spawn};

/// Starts it as the first process of a PID namespace, in which it sees no process but itself, as in a pod.
pub(super) fn spawn_among_its_own(mut command: Command) -> Result<Child> {
    let apart = thread::spawn(move || {
        // What this thread starts from now on is in the new namespace; the thread itself, and all others, stay.
        unshare(CloneFlags::CLONE_NEWPID).context("could not make a PID namespace")?;
        command.spawn().with_context(|| format!("could not start {}", command.get_program().display()))
    });
    apart.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Starts it where CLOCK_BOOTTIME is so many seconds ahead. `None` where the kernel has no such namespaces (CONFIG_TIME_NS).
pub(super) fn spawn_ahead(mut command: Command, seconds: u64) -> Result<Option<Child>> {
    const CLONE_NEWTIME: i32 = 0x80;
    if !Path::new("/proc/self/ns/time").exists() {
        return Ok(None);
    }
    let apart = thread::spawn(move || {
        // Only children of this thread are in the new namespace; the offset can be set until the first process is in it.
        unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME)).context("could not make a time namespace")?;
        let offsets = format!("/proc/{}/timens_offsets", nix::unistd::gettid());
        fs::write(&offsets, format!("boottime {seconds} 0")).with_context(|| format!("could not write {offsets}"))?;
        // SAFETY: nothing is done. It makes a fork of what would be a `vfork`, which older kernels refuse here (before 6.3
        // `copy_namespaces` lets no child share memory with a parent in another time namespace).
        unsafe { command.pre_exec(|| Ok(())) };
        command.spawn().map(Some).with_context(|| format!("could not start {}", command.get_program().display()))
    });
    apart.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Starts it in the cgroup with this directory as the root of a cgroup namespace, whose hierarchy is mounted at `root` for it
/// alone.
pub(super) fn spawn_in_cgroup_namespace(mut command: Command, cgroup: &Path, root: &Path) -> Result<Child> {
    let [procs, root] = [cgroup.join("cgroup.procs"), root.to_owned()];
    let enter = move || {
        fs::write(&procs, "0")?;
        unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("none"), &root, Some("cgroup2"), MsFlags::empty(), none)?;
        Ok(())
    };
    // SAFETY: the child has one thread, and what it allocates it does not share.
    unsafe { command.pre_exec(enter) };
    spawn(command, As::Root)
}

/// Starts it where so many CPUs are possible, as far as it can see: in a mount namespace in which the kernel's list is another
/// file. Maps with a part for each CPU are as long as on such a machine.
pub(super) fn spawn_with_cpus(mut command: Command, list: &Path) -> Result<Child> {
    const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
    let list = list.to_owned();
    let enter = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some(&list), POSSIBLE, none, MsFlags::MS_BIND, none)?;
        Ok(())
    };
    // SAFETY: the child has one thread, and what it allocates it does not share.
    unsafe { command.pre_exec(enter) };
    spawn(command, As::Root)
}
