//! What runs on the pretend node, and starting and ending it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::load::{Load, Order};
use super::tree::{Qos, Resources, Tree};
use crate::truth::last_cpu;

/// A container, alone in its pod.
struct Pod {
    /// Its UID and its container's id consist of this digit.
    digit: char,
    load: Load,
    qos: Qos,
    resources: Resources,
    /// On the CPU that all pinned pods share.
    pinned: bool,
    about: &'static str,
}

/// In thousandths of a CPU; 0 is none.
const fn resources(request: u64, limit: u64) -> Resources {
    Resources {
        request_millis: if request == 0 { None } else { Some(request) },
        limit_millis: if limit == 0 { None } else { Some(limit) },
    }
}

const PODS: &[Pod] = &[
    Pod {
        digit: '1',
        load: Load::Steady,
        qos: Qos::Burstable,
        resources: resources(250, 500),
        pinned: false,
        about: "a steady service, a fifth of a CPU",
    },
    Pod {
        digit: '2',
        load: Load::Bursty,
        qos: Qos::Burstable,
        resources: resources(100, 200),
        pinned: false,
        about: "bursts of 30 ms: a tenth of a CPU on average",
    },
    Pod {
        digit: '3',
        load: Load::Spin,
        qos: Qos::Burstable,
        resources: resources(500, 0),
        pinned: true,
        about: "fights with 4 for one CPU, requested more",
    },
    Pod {
        digit: '4',
        load: Load::Spin,
        qos: Qos::Burstable,
        resources: resources(250, 0),
        pinned: true,
        about: "fights with 3 for one CPU, requested less",
    },
    Pod {
        digit: '5',
        load: Load::Spin,
        qos: Qos::Guaranteed,
        resources: resources(200, 200),
        pinned: false,
        about: "wants a whole CPU, is throttled at a fifth",
    },
];

/// The pod of the short jobs.
const JOBS: char = '6';

/// How long a job lives, and how often one starts.
const JOB: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));

/// The running pods; dropping them ends their processes.
#[derive(Debug)]
pub struct Pods {
    children: Vec<Child>,
    stop: Arc<AtomicBool>,
    jobs: Option<JoinHandle<()>>,
}

impl Pods {
    /// Starts all pods that make sense here, each for at most `life`, and returns when they are in their cgroups.
    ///
    /// # Errors
    /// A cgroup or a process that cannot be made, a process that does not come up.
    pub fn start(tree: &Arc<Tree>, life: Duration) -> Result<Self> {
        let mut pods = Self { children: Vec::new(), stop: Arc::default(), jobs: None };
        let shared_cpu = last_cpu()?;
        for pod in wanted(tree) {
            let id = pod.digit.to_string().repeat(64);
            let cgroup = tree.container(pod.qos, &uid(pod.digit), &id, pod.resources)?;
            let child = spawn(pod.load, &cgroup, life, pod.pinned.then_some(shared_cpu))?;
            pods.children.push(child);
            wait_until_inside(&cgroup, pods.children.last_mut())?;
        }
        let (tree, stop) = (Arc::clone(tree), Arc::clone(&pods.stop));
        let end = Instant::now() + life;
        let jobs = std::thread::Builder::new().name("jobs".into());
        pods.jobs = Some(jobs.spawn(move || run_jobs(&tree, &stop, end)).context("could not start the thread that starts jobs")?);
        Ok(pods)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for child in &mut self.children {
            // One that has ended by itself needs no killing, only the wait.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(jobs) = self.jobs.take() {
            let _ = jobs.join();
        }
    }
}

/// Which pod is what: ids are all that is known of a pod without Kubernetes.
pub fn legend(tree: &Tree) -> String {
    let mut text = format!("{:<10} {:>8} {:>6}  {}\n", "pod", "request", "limit", "what it does");
    let cores =
        |millis: Option<u64>| millis.filter(|_| tree.has_cpu()).map_or("-".into(), |m| format!("{:.2}", m as f64 / 1000.0));
    for pod in wanted(tree) {
        let (request, limit) = (cores(pod.resources.request_millis), cores(pod.resources.limit_millis));
        text += &format!("{:<10} {request:>8} {limit:>6}  {}\n", &uid(pod.digit)[..9], pod.about);
    }
    text += &format!("{:<10} {:>8} {:>6}  jobs that live 300 ms, a new container every second\n", &uid(JOBS)[..9], "-", "-");
    if !tree.has_cpu() {
        text += "This cgroup2 hierarchy has no cpu controller: no requests, no limits, and no pod that is throttled.\n";
    }
    text
}

/// A pod that is there to be throttled is left out where nothing can throttle it.
fn wanted(tree: &Tree) -> impl Iterator<Item = &'static Pod> {
    let has_cpu = tree.has_cpu();
    PODS.iter().filter(move |pod| has_cpu || pod.qos != Qos::Guaranteed)
}

/// A UUID of version 4 that is recognised at a glance.
fn uid(digit: char) -> String {
    let run = |n: usize| digit.to_string().repeat(n);
    format!("{}-{}-4{}-8{}-{}", run(8), run(4), run(3), run(3), run(12))
}

fn run_jobs(tree: &Tree, stop: &AtomicBool, end: Instant) {
    let done = || stop.load(Ordering::Relaxed) || Instant::now() >= end;
    let mut number = 0_u16;
    while !done() {
        let next = Instant::now() + JOB.1;
        if let Err(error) = run_job(tree, number) {
            if !done() {
                eprintln!("demo: no more jobs: {error:#}");
            }
            return;
        }
        number = number.wrapping_add(1);
        while !done() && Instant::now() < next {
            sleep(Duration::from_millis(20));
        }
    }
}

/// One job from the start of its container to its end.
fn run_job(tree: &Tree, number: u16) -> Result<()> {
    // The number is among the first twelve digits, those that people see.
    let id = format!("{}{number:04x}{}", JOBS.to_string().repeat(8), JOBS.to_string().repeat(52));
    let cgroup = tree.container(Qos::BestEffort, &uid(JOBS), &id, Resources::default())?;
    spawn(Load::Spin, &cgroup, JOB.0, None)?.wait().context("could not wait for a job")?;
    tree.remove(&cgroup)
}

/// Starts this program again, as a load. It must be called from a thread that outlives the load, which dies with it.
fn spawn(load: Load, cgroup: &Path, life: Duration, cpu: Option<usize>) -> Result<Child> {
    let order = Order {
        load,
        cgroup: cgroup.to_owned(),
        parent: std::process::id().cast_signed(),
        millis: u64::try_from(life.as_millis()).unwrap_or(u64::MAX),
        cpu,
    };
    let program: PathBuf = std::env::current_exe().context("could not find this program's own file")?;
    Command::new(&program)
        .args(order.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("could not start {} as a load", program.display()))
}

fn wait_until_inside(cgroup: &Path, child: Option<&mut Child>) -> Result<()> {
    let Some(child) = child else { return Ok(()) };
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let inside = std::fs::read_to_string(cgroup.join("cgroup.procs")).context("could not read the processes of a cgroup")?;
        if inside.lines().any(|pid| pid.parse() == Ok(child.id())) {
            return Ok(());
        }
        if let Some(status) = child.try_wait().context("could not look after a load")? {
            bail!("the load for {} ended at once: {status}", cgroup.display());
        }
        if Instant::now() > deadline {
            bail!("the load for {} did not enter it within 5 s", cgroup.display());
        }
        sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_recognised_and_well_formed() {
        assert_eq!(uid('3'), "33333333-3333-4333-8333-333333333333");
        let mut digits: Vec<char> = PODS.iter().map(|pod| pod.digit).chain([JOBS]).collect();
        digits.dedup();
        assert_eq!(digits.len(), PODS.len() + 1, "each pod has its own digit");
        assert!(digits.iter().all(char::is_ascii_hexdigit));
    }
}
