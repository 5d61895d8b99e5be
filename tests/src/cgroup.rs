//! Cgroups of the cgroup2 hierarchy, made for one test and gone after it.
//!
//! On a hybrid host the hierarchy is at `/sys/fs/cgroup/unified` and has no controllers; elsewhere it is `/sys/fs/cgroup`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long the processes of a cgroup may take to go away once they were killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// Where the cgroup2 hierarchy is mounted, from `/proc/self/mountinfo`.
pub fn mount_point() -> Result<&'static Path> {
    static MOUNT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = MOUNT.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        mounts.lines().find_map(|line| {
            // "31 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
            let (mount, source) = line.split_once(" - ")?;
            (source.split(' ').next() == Some("cgroup2")).then(|| mount.split(' ').nth(4).map(PathBuf::from))?
        })
    });
    found.as_deref().context("no cgroup2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

/// Number of cgroups in one with this directory, itself included.
pub fn cgroups_in(directory: &Path) -> Result<u64> {
    let mut all = 1;
    for entry in fs::read_dir(directory).with_context(|| format!("could not list {}", directory.display()))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all += cgroups_in(&entry.path())?;
        }
    }
    Ok(all)
}

/// True when the hierarchy's root offers this controller (`cpu`, `io`, `memory`, `pids`).
pub fn has_controller(name: &str) -> Result<bool> {
    let file = mount_point()?.join("cgroup.controllers");
    Ok(read(&file)?.split_whitespace().any(|controller| controller == name))
}

/// Whether there are these controllers; where one is missing, `what` is reported as skipped.
pub fn has_controllers(what: &str, names: &[&str]) -> Result<bool> {
    let has = names.iter().map(|name| has_controller(name)).collect::<Result<Vec<_>>>()?;
    let all = has.iter().all(|has| *has);
    if !all {
        let controllers = if names.len() == 1 { "controller" } else { "controllers" };
        eprintln!("SKIPPED {what}: needs the {} {controllers} in the cgroup2 hierarchy", names.join(" and "));
    }
    Ok(all)
}

/// `cpu.stat` of one cgroup, descendants included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    /// CPU time in µs.
    pub usage_usec: u64,
    /// Of that, in user mode, in µs; scaled by ticks, so not exact.
    pub user_usec: u64,
    /// Of that, in the kernel, in µs; scaled by ticks, so not exact.
    pub system_usec: u64,
    /// Enforcement periods; only with the cpu controller.
    pub nr_periods: Option<u64>,
    /// Periods in which the limit was reached; only with the cpu controller.
    pub nr_throttled: Option<u64>,
    /// Time its CPUs' queues were throttled in µs; only with the cpu controller.
    pub throttled_usec: Option<u64>,
}

impl CpuStat {
    /// CPU time in s.
    pub fn usage_seconds(&self) -> f64 {
        self.usage_usec as f64 / 1e6
    }

    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        };
        Ok(Self {
            usage_usec: field("usage_usec").context("cpu.stat has no usage_usec")?,
            user_usec: field("user_usec").unwrap_or(0),
            system_usec: field("system_usec").unwrap_or(0),
            nr_periods: field("nr_periods"),
            nr_throttled: field("nr_throttled"),
            throttled_usec: field("throttled_usec"),
        })
    }
}

/// `cpu.stat` of the cgroup with this path from the hierarchy's root, for cgroups that no test made.
pub fn cpu_stat_of(path: &str) -> Result<CpuStat> {
    let file = mount_point()?.join(path.trim_start_matches('/')).join("cpu.stat");
    CpuStat::parse(&read(&file)?)
}

/// A cgroup that is removed, with all that is in it, when this value is dropped.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    path: String,
}

impl Cgroup {
    /// Makes `/podmeter-test-<pid>-<n>-<name>`, a new cgroup below the hierarchy's root.
    pub fn new(name: &str) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        Self::make(format!("/podmeter-test-{}-{n}-{name}", std::process::id()))
    }

    /// Makes a cgroup in this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make(format!("{}/{name}", self.path))
    }

    fn make(path: String) -> Result<Self> {
        let dir = mount_point()?.join(&path[1..]);
        fs::create_dir(&dir).with_context(|| format!("could not make cgroup {}", dir.display()))?;
        Ok(Self { dir, path })
    }

    /// Its path from the hierarchy's root, starting with '/': what the agent exports as `podmeter.cgroup.path`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its CPU time so far.
    pub fn cpu_stat(&self) -> Result<CpuStat> {
        CpuStat::parse(&self.read("cpu.stat")?)
    }

    /// The processes in it, zombies left out.
    pub fn procs(&self) -> Result<Vec<i32>> {
        Ok(self.read("cgroup.procs")?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Moves a process with all its threads into it.
    pub fn attach(&self, pid: i32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Lets its children have a controller, and so on up to the root. It must not hold processes itself.
    pub fn delegate(&self, controller: &str) -> Result<()> {
        let root = mount_point()?;
        let mut above: Vec<&Path> = self.dir.ancestors().take_while(|dir| dir.starts_with(root)).collect();
        above.reverse();
        for dir in above {
            write(&dir.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        Ok(())
    }

    /// Limits its CPU time to `quota` per `period` (`cpu.max`). Its parent must have delegated the cpu controller.
    pub fn limit_cpu(&self, quota: Duration, period: Duration) -> Result<()> {
        self.write("cpu.max", &format!("{} {}", quota.as_micros(), period.as_micros()))
    }

    /// Sets `cpu.weight` (1 to 10000, 100 by default). Its parent must have delegated the cpu controller.
    pub fn weigh_cpu(&self, weight: u32) -> Result<()> {
        self.write("cpu.weight", &weight.to_string())
    }

    /// A number that is all of one of its files, such as `memory.current`; `None` when the file is not there or holds `max`.
    pub fn number(&self, file: &str) -> Option<u64> {
        self.read(file).ok()?.trim().parse().ok()
    }

    /// A number from a file of lines of names and numbers, such as `memory.stat`.
    pub fn field(&self, file: &str, name: &str) -> Option<u64> {
        self.read(file).ok()?.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// Reads one of its files.
    pub fn read(&self, file: &str) -> Result<String> {
        read(&self.dir.join(file))
    }

    /// Writes one of its files.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        write(&self.dir.join(file), value)
    }

    /// Kills what runs in it and below and waits until nothing does.
    pub fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + EMPTY_WITHIN;
        // cgroup.kill exists since 5.14; before that, a process may fork while its cgroup is being killed: again and again then.
        let at_once = self.write("cgroup.kill", "1").is_ok();
        while self.populated()? {
            if !at_once {
                kill_each(&self.dir);
            }
            if Instant::now() > deadline {
                bail!("cgroup {} still holds {:?} {EMPTY_WITHIN:?} after they were killed", self.path, self.procs()?);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// True while a process is in it or below.
    pub fn populated(&self) -> Result<bool> {
        Ok(self.read("cgroup.events")?.lines().any(|line| line == "populated 1"))
    }

    /// Removes it and all below. What still runs there is killed.
    pub fn remove(self) -> Result<()> {
        self.clear()
        // Dropping then finds nothing left to do.
    }

    fn clear(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        self.kill()?;
        remove_tree(&self.dir)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("could not remove cgroup {}: {error:#}", self.path);
        }
    }
}

/// Does something while this process is in a cgroup: what it makes there, such as sockets, belongs to the cgroup for good.
///
/// # Errors
/// When it cannot move, or what `what` fails with.
pub fn inside<T>(cgroup: &Cgroup, what: impl FnOnce() -> Result<T>) -> Result<T> {
    let pid = std::process::id() as i32;
    let text = read(Path::new("/proc/self/cgroup"))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).context("this process is in no cgroup of version 2")?;
    let back = mount_point()?.join(own).join("cgroup.procs");
    cgroup.attach(pid)?;
    let done = what();
    write(&back, &pid.to_string())?;
    done
}

/// Kills the processes of a cgroup and of those below it, one by one.
fn kill_each(dir: &Path) {
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines().filter_map(|line| line.parse().ok()) {
        // It may have ended since it was listed.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    children(dir).iter().for_each(|child| kill_each(child));
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Removes a cgroup and those below it, leaves first. The kernel may report EBUSY for a moment after the last process has gone.
fn remove_tree(dir: &Path) -> Result<()> {
    for child in children(dir) {
        remove_tree(&child)?;
    }
    let deadline = Instant::now() + EMPTY_WITHIN;
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("could not remove cgroup {}", dir.display())),
        }
    }
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))
}

fn write(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).with_context(|| format!("could not write \"{value}\" to {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_stat_without_the_controller_has_no_throttling() {
        let stat = CpuStat::parse("usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n").expect("parses");
        assert_eq!((stat.usage_usec, stat.user_usec, stat.system_usec, stat.throttled_usec), (1500, 1000, 500, None));
    }

    #[test]
    fn a_cpu_stat_with_the_controller_has_its_throttling() {
        let text = "usage_usec 9\nuser_usec 8\nsystem_usec 1\nnr_periods 7\nnr_throttled 6\nthrottled_usec 5\nnr_bursts 0\n";
        let stat = CpuStat::parse(text).expect("parses");
        assert_eq!((stat.nr_periods, stat.nr_throttled, stat.throttled_usec), (Some(7), Some(6), Some(5)));
    }
}
