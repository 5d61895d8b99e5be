//! 200 short-lived pods on a real back end: `sum`, `rate` and `increase` over them, against `cpu.stat` and the requests of their
//! specs. Nothing of them goes on after their end.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    MS,
    agent::Agent,
    is_emulated,
    kubernetes::{ApiOptions, Cluster, Container, Driver, Pod, RunningPod},
    load::Load,
    root_test,
    truth::Tolerance,
    victoria::VictoriaMetrics,
};
use serde_json::json;

/// How long a pod of a Job is there.
const LIFE: Duration = Duration::from_millis(300);

/// Of one per cent.
const PRECISE: Tolerance = Tolerance::new(0.01, 0.0);

/// Makes a pod of one container that requests half a CPU and 64 MiB.
fn run(cluster: &Cluster, name: &str) -> Result<RunningPod> {
    let app = Container::started("app").with_resources(json!({"cpu": "500m", "memory": "64Mi"}), json!({}));
    cluster.run_pod(Pod::new(name, vec![app]))
}

/// So many pods at once that compute for 20 ms and are gone after 300; the CPU seconds that they used by `cpu.stat`.
fn wave(cluster: &Cluster, number: usize, size: usize) -> Result<f64> {
    let pods: Vec<_> = (0..size).map(|n| run(cluster, &format!("job-{number}-{n}"))).collect::<Result<_>>()?;
    let begin = Instant::now();
    let loads: Vec<_> = pods.iter().map(|pod| Load::burn(20 * MS).start(&pod.container)).collect::<Result<_>>()?;
    loads.into_iter().try_for_each(|load| load.wait().map(drop))?;
    thread::sleep(LIFE.saturating_sub(begin.elapsed()));
    let mut used = 0.0;
    for RunningPod { container, cgroup, mut pod } in pods {
        used += container.cpu_stat()?.usage_seconds();
        pod.succeed();
        cluster.server.set_pod(&pod);
        container.remove()?;
        drop(cgroup);
        // Jobs leave their pods behind: every second one is not deleted.
        if number.is_multiple_of(2) {
            cluster.server.delete_pod(&pod);
        }
    }
    Ok(used)
}

root_test! {
    fn of_200_short_lived_pods_sum_rate_and_increase_are_what_they_used_and_nothing_goes_on_after_their_end() {
        let Some(backend) = VictoriaMetrics::for_test(TEST)? else { return Ok(()) };
        let cluster = Cluster::new(Driver::Systemd, ApiOptions::default())?;
        let stays = run(&cluster, "stays")?;
        let mut config = cluster.server.agent_config()?;
        config["export"] = backend.exporter();
        config["cgroups"] = json!({"slots": 4096});
        let agent = Agent::spawn(config)?;
        let of = |metric: &str| format!(r#"{metric}{{k8s_namespace_name="shop", podmeter_workload_kind="Container"}}"#);
        backend.wait_for_value(&format!("count({})", of("container_cpu_time_seconds_total")), |n| n == 1.0)?;
        let before = stays.container.cpu_stat()?.usage_seconds();

        let (waves, size) = if is_emulated() { (8, 5) } else { (20, 10) };
        let mut truth = 0.0;
        for number in 0..waves {
            truth += wave(&cluster, number, size)?;
        }
        println!("{} pods used {truth} s", waves * size);
        let time = of("container_cpu_time_seconds_total");
        // All final values are there: one that has no name yet waits for some seconds.
        let jobs = format!("count(count_over_time({time}[10m]))");
        backend.wait_for_value(&jobs, |n| n == (waves * size + 1) as f64)?;
        truth += stays.container.cpu_stat()?.usage_seconds() - before;
        let answers = [
            // As VictoriaMetrics counts, as Prometheus does but for its extrapolation, and README's.
            format!("sum(increase({time}[10m]))"),
            format!("sum(increase_prometheus({time}[10m]))"),
            format!("sum(max_over_time({time}[10m]) - min_over_time({time}[10m]))"),
            format!("sum(rate_prometheus({time}[10m])) * 600"),
        ];
        for promql in answers {
            let found = backend
                .wait_for_value(&promql, |seconds| PRECISE.check_quietly(&promql, seconds, truth).is_ok())
                .with_context(|| format!("cpu.stat has {truth}"))?;
            println!("{promql} = {found}");
        }

        // The back end looks back for five minutes, as Prometheus does.
        let one_pod = [("podmeter_pod_cpu_request", 0.5), ("podmeter_pod_memory_request_bytes", f64::from(64 << 20))];
        for (metric, request) in one_pod {
            let found = backend.wait_for_value(&format!(r#"sum({metric}{{k8s_namespace_name="shop"}})"#), |sum| sum == request)?;
            println!("sum({metric}) = {found}");
        }
        let slack = backend.wait_for_value(r#"sum(podmeter_cpu_slack{k8s_namespace_name="shop"})"#, |sum| {
            PRECISE.check_quietly("slack", sum, 0.5).is_ok()
        })?;
        println!("sum(podmeter_cpu_slack) = {slack}");
        for gauge in ["container_cpu_usage", "podmeter_cpu_slack"] {
            let promql = format!(r#"count({gauge}{{k8s_namespace_name="shop", k8s_container_name="app"}})"#);
            backend.wait_for_value(&promql, |series| series == 1.0)?;
        }
        let running = r#"sum(k8s_pod_status_phase{k8s_namespace_name="shop", k8s_pod_status_phase="Running"})"#;
        backend.wait_for_value(running, |pods| pods == 1.0)?;
        ensure!(agent.stderr().lines().all(|line| !line.contains("this is a bug")), "{}", agent.stderr());
        agent.stop().map(drop)
    }
}
