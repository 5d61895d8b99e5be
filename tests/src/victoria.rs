//! A real backend: VictoriaMetrics, which takes OTLP and answers PromQL.

use std::{
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::http;

/// Where it takes OTLP.
pub const OTLP_PATH: &str = "/opentelemetry/v1/metrics";

/// The executable that `cargo xtask setup` has put into `PODMETER_TOOLS`.
fn binary() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("PODMETER_TOOLS")?).join("victoria-metrics");
    path.is_file().then_some(path)
}

/// A running VictoriaMetrics with an empty storage of its own, gone when this value is dropped.
#[derive(Debug)]
pub struct VictoriaMetrics {
    process: Child,
    address: SocketAddr,
    _storage: TempDir,
}

impl VictoriaMetrics {
    /// Starts it for this test; `None`, with a line on standard error, where there is none.
    pub fn for_test(test: &str) -> Result<Option<Self>> {
        let Some(binary) = binary() else {
            eprintln!("SKIPPED {test}: needs victoria-metrics in PODMETER_TOOLS (cargo xtask setup)");
            return Ok(None);
        };
        Self::start(&binary, None).map(Some)
    }

    /// The same, which fetches `/metrics` at an address every second.
    pub fn scraping(test: &str, target: SocketAddr) -> Result<Option<Self>> {
        let Some(binary) = binary() else {
            eprintln!("SKIPPED {test}: needs victoria-metrics in PODMETER_TOOLS (cargo xtask setup)");
            return Ok(None);
        };
        let scrape = json!({"job_name": "podmeter", "scrape_interval": "1s", "honor_labels": true,
            "static_configs": [{"targets": [target.to_string()]}]});
        Self::start(&binary, Some(json!({"scrape_configs": [scrape]}))).map(Some)
    }

    /// What an agent is configured with, under `export`, to fill it.
    pub fn exporter(&self) -> Json {
        let endpoint = format!("http://{}{OTLP_PATH}", self.address);
        json!({"exporter": "otlp", "protocol": "http/protobuf", "endpoint": endpoint})
    }

    /// Repeats a query until `condition` holds for its answer.
    pub fn wait_for_value(&self, promql: &str, condition: impl Fn(f64) -> bool) -> Result<f64> {
        // A busy machine takes long to start an agent, and longer to start another in its place.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.value(promql)? {
                Some(value) if condition(value) => return Ok(value),
                answer => ensure!(Instant::now() < deadline, "{promql} answers {answer:?}; known names: {:?}", self.names()?),
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Starts it and waits until it answers.
    fn start(binary: &std::path::Path, scrapes: Option<Json>) -> Result<Self> {
        let address = http::free_address()?;
        let storage = tempfile::tempdir().context("could not make a directory for the storage")?;
        let mut command = Command::new(binary);
        command
            .arg(format!("-httpListenAddr={address}"))
            .arg(format!("-storageDataPath={}", storage.path().display()))
            // Names as Prometheus has them, and answers that do not lag by half a minute.
            .args(["-opentelemetry.usePrometheusNaming", "-search.latencyOffset=0s", "-search.disableCache"])
            // It looks back for as long as Prometheus does.
            .arg("-search.minStalenessInterval=5m")
            .args(["-loggerLevel=ERROR", "-memory.allowedBytes=128MB", "-retentionPeriod=1d"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(scrapes) = scrapes {
            let file = storage.path().join("scrapes.yaml");
            std::fs::write(&file, scrapes.to_string()).context("could not write what to scrape")?;
            command.arg(format!("-promscrape.config={}", file.display()));
        }
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?));
        }
        let process = command.spawn().with_context(|| format!("could not start {}", binary.display()))?;
        let mut started = Self { process, address, _storage: storage };
        let deadline = Instant::now() + Duration::from_secs(30);
        while http::get(address, "/health").map(|(status, _)| status).unwrap_or(0) != 200 {
            if let Some(status) = started.process.try_wait().context("could not wait for VictoriaMetrics")? {
                bail!("VictoriaMetrics ended at start: {status}");
            }
            ensure!(Instant::now() < deadline, "VictoriaMetrics does not answer at {address}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(started)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The answer to an instant query of now: labels and value of every series.
    pub fn query(&self, promql: &str) -> Result<Vec<(Json, f64)>> {
        // What came in lately is otherwise seen after a second or two.
        http::get(self.address, "/internal/force_flush")?;
        let (status, body) = http::get(self.address, &format!("/api/v1/query?query={}", http::percent_encoded(promql)))?;
        ensure!(status == 200, "query {promql}: {status} {body}");
        let answer: Json = serde_json::from_str(&body).with_context(|| format!("query {promql}: no JSON: {body}"))?;
        let series = answer["data"]["result"].as_array().with_context(|| format!("query {promql}: no result in {body}"))?;
        let value = |series: &Json| -> Option<(Json, f64)> {
            Some((series["metric"].clone(), series["value"][1].as_str()?.parse().ok()?))
        };
        series.iter().map(|series| value(series).with_context(|| format!("query {promql}: no value in {series}"))).collect()
    }

    /// The value of the only series that answers an instant query; `None` when none does.
    pub fn value(&self, promql: &str) -> Result<Option<f64>> {
        let series = self.query(promql)?;
        ensure!(series.len() <= 1, "query {promql}: {} series instead of one: {series:?}", series.len());
        Ok(series.first().map(|(_, value)| *value))
    }

    /// The names of all metrics it has.
    pub fn names(&self) -> Result<Vec<String>> {
        let (_, body) = http::get(self.address, "/api/v1/label/__name__/values")?;
        let answer: Json = serde_json::from_str(&body).with_context(|| format!("no JSON: {body}"))?;
        Ok(answer["data"].as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect())
    }
}

impl Drop for VictoriaMetrics {
    fn drop(&mut self) {
        // It holds nothing that is worth a clean end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
