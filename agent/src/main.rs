//! podmeter: what every container on this node really uses, measured in the kernel, exported as OTLP.
//!
//! Exit codes: 0 success, 1 failed while running, 2 invalid usage or configuration, 3 not allowed by this kernel or these permissions,
//! 4 another agent runs.

mod addresses;
mod aggregate;
mod backoff;
mod bound;
mod budget;
mod causes;
mod cgroups;
mod check;
mod config;
mod connect;
mod cpu_list;
mod event;
mod export;
mod failure_log;
mod files;
#[cfg(test)]
mod fuzzing;
mod health;
mod histogram;
mod interrupt;
mod join;
mod journal;
mod kernel;
mod live;
mod logging;
mod metric;
mod moment;
mod overhead;
mod pipeline;
mod pods;
mod protobuf;
mod pull;
mod rate_limit;
mod registry;
mod replay;
mod run;
mod signals;
mod snapshot;
mod span;
mod telemetry;
mod top;
mod url;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{ArgGroup, Args, Parser, Subcommand};

use causes::chain;
use config::{Config, ConfigError, Overrides};
use export::history::{self, HistoryError};
use interrupt::Interrupt;
use kernel::pin::{PinError, Uninstalled};
use live::{
    LiveSource,
    pod_names::{FIRST_LIST, PodNames},
};
use pipeline::{
    StartError,
    settings::{PipelineSettings, follow_settings},
};
use replay::{Machine, Replay};
use run::RunError;
use snapshot::document::Snapshot;
use telemetry::Telemetry;
use top::Abilities;

/// Measures at kernel level what every container on this node really uses, and exports it as OTLP.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 success, 1 failed while running, 2 invalid usage or configuration, \
    3 not allowed by this kernel or these permissions, 4 another agent runs."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure and export until SIGTERM or SIGINT.
    Run(RunArgs),
    /// Show what every workload uses now, or with --at and --replay what it used in the past. Works without Kubernetes, configuration and a
    /// running agent.
    Top(TopArgs),
    /// Check what this kernel supports: each signal on or off, and why. Exit code 1 if no signal can run. With --endpoint, test the receivers.
    Check(CheckArgs),
    /// List every metric.
    Metrics {
        /// As Markdown, the format of METRICS.md.
        #[arg(long, conflicts_with = "json")]
        markdown: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the configuration file's reference: every key with its default and its environment variable.
    Config,
    /// Write what an agent on this node has exported as OTLP JSON, one request a line, out of its journal (journal.directory). Works beside
    /// an agent that runs.
    Export(ExportArgs),
    /// Remove the programs and maps that an agent left pinned in the kernel, and their counts.
    Uninstall(UninstallArgs),
}

#[derive(Args)]
struct UninstallArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Keep running until SIGTERM after the removal: a DaemonSet restarts what exits.
    #[arg(long)]
    stay: bool,
}

#[derive(Args)]
struct ExportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// From when: a time of day in UTC (02:00), a date (2026-11-28T02:00:00Z), or how long ago (90m).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: SystemTime,
    /// Until when; now if it is left out.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<SystemTime>,
    /// The journal's directory, in place of the configuration's journal.directory.
    #[arg(long, value_name = "DIRECTORY")]
    journal: Option<PathBuf>,
}

fn moment(text: &str) -> Result<SystemTime, String> {
    moment::parse(text, SystemTime::now())
}

#[derive(Args)]
struct ConfigArgs {
    /// Configuration file (YAML); `podmeter config` prints its reference.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Check the configuration and send one empty request to each OTLP receiver, instead of checking the kernel. Needs no
    /// privileges. Exit code 1 if a receiver does not accept it.
    #[arg(long)]
    endpoint: bool,
    /// One JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// Set any key of the configuration, such as `--set export.timeout=5s`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where metrics go, in place of the configuration's export.exporter: otlp, stdout (one line of OTLP JSON per export), none.
    #[arg(long, value_name = "EXPORTER")]
    exporter: Option<String>,
    /// Log what the programs in the kernel meet, as the configuration's bpf.log does.
    #[arg(long)]
    kernel_log: bool,
    /// Set any key of the configuration, such as `--set export.timeout=5s`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
#[command(group(ArgGroup::new("past").args(["at", "replay"]).multiple(true)))]
struct TopArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Measure one interval, print it and exit. With --at or --replay: print what is in the journal of that time.
    #[arg(long)]
    once: bool,
    /// With --once: one JSON document instead of a table.
    #[arg(long, requires = "once")]
    json: bool,
    /// Time between two refreshes: 100ms to 300s.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = interval)]
    interval: Duration,
    /// Show the past, out of the journal of an agent on this node: the collection at this time or just before it. A time of day in UTC
    /// (03:10), a date (2026-11-28T03:10:00Z), or how long ago (90m). Needs no privileges but to read the journal.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<SystemTime>,
    /// Show the past, from the newest collection or from --at on; ? lists the keys that lead to others.
    #[arg(long)]
    replay: bool,
    /// With --at or --replay: the journal's directory, in place of the configuration's journal.directory.
    #[arg(long, value_name = "DIRECTORY", requires = "past")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    options: top::TopOptions,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match interval.as_millis() {
        100..=300_000 => Ok(interval),
        _ => Err("expected 100ms to 300s".to_owned()),
    }
}

/// What ends the program, and its exit code.
enum CommandError {
    Config(ConfigError),
    Run(RunError),
    Other(Box<dyn std::error::Error>),
    /// It was reported already.
    Reported,
    /// The user wanted to end.
    Interrupted,
}

impl<E: Into<Box<dyn std::error::Error>>> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

impl CommandError {
    fn report(&self) -> ExitCode {
        let (code, text) = match self {
            Self::Config(error) => (2, chain(error)),
            Self::Run(error) => (error.exit_code(), chain(error)),
            Self::Other(error) => {
                let code = match (error.downcast_ref::<StartError>(), error.downcast_ref::<PinError>()) {
                    (Some(error), _) if error.is_in_use() => 4,
                    (Some(_), _) => 3,
                    (None, Some(error)) if error.is_in_use() => 4,
                    (None, _) => 1,
                };
                (code, chain(&**error))
            }
            Self::Reported => return ExitCode::from(1),
            Self::Interrupted => return ExitCode::from(Interrupt::CODE),
        };
        let _ = writeln!(std::io::stderr(), "podmeter: {text}");
        ExitCode::from(code)
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Top(args) => top(&args),
        Command::Check(args) => check(&args),
        Command::Metrics { markdown, json } => print(&registry::render(markdown, json)),
        Command::Config => print(&Config::reference()),
        Command::Export(args) => export(&args),
        Command::Uninstall(args) => uninstall(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// The configuration, and the variables of the environment that look like podmeter's and are not.
fn load(file: Option<&Path>, overrides: Overrides) -> Result<(Config, Vec<String>), CommandError> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = config::unknown_variables(names).map_err(CommandError::Config)?;
    let config = Config::load(file, &|name| std::env::var(name).ok(), overrides).map_err(CommandError::Config)?;
    Ok((config, unknown))
}

fn overrides(set: &[String]) -> Result<Overrides, CommandError> {
    let mut overrides = Overrides::default();
    for (i, text) in set.iter().enumerate() {
        // What was written may be a secret by mistake.
        let expected = || CommandError::Config(ConfigError::NoAssignment { which: i + 1 });
        let (key, value) = text.split_once('=').ok_or_else(expected)?;
        overrides.set(key, value);
    }
    Ok(overrides)
}

fn run(args: &RunArgs) -> Result<(), CommandError> {
    let mut overrides = overrides(&args.set)?;
    if let Some(exporter) = &args.exporter {
        overrides.set("export.exporter", exporter.as_str());
    }
    if args.kernel_log {
        overrides.set("bpf.log", "true");
    }
    let (config, unknown) = load(args.config.config.as_deref(), overrides)?;
    let runtime = run::runtime().map_err(CommandError::Run)?;
    let telemetry = Telemetry::start(&config, runtime.handle()).map_err(|error| CommandError::Run(error.into()))?;
    logging::start(&config.log, telemetry.bridge());
    for name in unknown {
        tracing::warn!("unknown environment variable {name}; `podmeter config` lists those that podmeter reads");
    }
    run::run(&config, runtime, telemetry).map_err(CommandError::Run)
}

fn top(args: &TopArgs) -> Result<(), CommandError> {
    let (config, _) = load(args.config.config.as_deref(), Overrides::default())?;
    if args.replay || args.at.is_some() {
        return look_back(args, &config);
    }
    let mut settings = PipelineSettings::of(&config);
    // Ends with the process, beside an agent or without one.
    settings.pin = false;
    // What a start leaves half-done in the kernel must be taken back.
    let interrupt = Interrupt::watch()?;
    let names = follow_settings(&config).map(PodNames::follow).transpose().map_err(CommandError::Run)?;
    if let Some(Err(why)) = names.as_ref().filter(|_| args.once).map(|names| names.wait(FIRST_LIST)) {
        let _ = writeln!(std::io::stderr(), "podmeter: pod names are not available: {why}");
    }
    let source = LiveSource::start(settings, names)?;
    if !args.once {
        return Ok(top::live(Box::new(source), args.interval, &args.options, &interrupt)?);
    }
    let snapshot =
        source.once(args.interval, &interrupt).map_err(|error| CommandError::Other(error))?.ok_or(CommandError::Interrupted)?;
    print_snapshot(&snapshot, args)
}

fn print_snapshot(snapshot: &Snapshot, args: &TopArgs) -> Result<(), CommandError> {
    if args.json {
        return print(&top::once::json(snapshot, &args.options));
    }
    let text = top::once::text(snapshot, &args.options, top::once::columns());
    print(&if Abilities::from_environment().unicode { text } else { top::to_ascii(&text).into_owned() })
}

/// Nothing of the kernel is read for the past, and no agent need run.
fn look_back(args: &TopArgs, config: &Config) -> Result<(), CommandError> {
    let directory = journal_directory(args.journal.as_ref(), config)?;
    let cores = kernel::facts::online_cpus().map_or(0, |cpus| cpus.len());
    let mut past = Replay::open(&directory, Machine { name: config.node_name.clone(), cores: cores as f64 })?;
    let at_ns = args.at.map(moment::unix_ns);
    if !args.once {
        at_ns.into_iter().for_each(|ns| past.near(ns));
        return Ok(top::replay(&mut past, &args.options, &Interrupt::watch()?)?);
    }
    at_ns.map_or(Ok(()), |ns| past.at(ns))?;
    let snapshot = past.snapshot()?;
    report_damaged(past.damaged()?);
    print_snapshot(&snapshot, args)
}

fn report_damaged(requests: u64) {
    if requests > 0 {
        let _ = writeln!(std::io::stderr(), "podmeter: {requests} requests in the journal are damaged and left out");
    }
}

/// The journal's directory.
fn journal_directory(option: Option<&PathBuf>, config: &Config) -> Result<PathBuf, CommandError> {
    let directory = option.or(config.export.journal.directory.as_ref());
    Ok(directory.ok_or("no journal is configured: set journal.directory, or give its directory with --journal")?.clone())
}

fn check(args: &CheckArgs) -> Result<(), CommandError> {
    let (config, unknown) = load(args.config.config.as_deref(), overrides(&args.set)?)?;
    for name in unknown {
        let _ = writeln!(
            std::io::stderr(),
            "podmeter: unknown environment variable {name}; `podmeter config` lists those that podmeter reads"
        );
    }
    if args.endpoint {
        let report = check::endpoint::check(&config).map_err(CommandError::Run)?;
        print(&if args.json { report.json() } else { report.table() })?;
        return if report.is_well() { Ok(()) } else { Err(CommandError::Reported) };
    }
    // What a start leaves half-done in the kernel must be taken back.
    let interrupt = Interrupt::watch()?;
    let report = check::check(PipelineSettings::of(&config));
    if interrupt.came() {
        return Err(CommandError::Interrupted);
    }
    print(&if args.json { report.json() } else { report.table() })?;
    if report.can_measure() { Ok(()) } else { Err(CommandError::Reported) }
}

fn export(args: &ExportArgs) -> Result<(), CommandError> {
    let (config, _) = load(args.config.config.as_deref(), Overrides::default())?;
    let directory = journal_directory(args.journal.as_ref(), &config)?;
    let until_ns = args.until.map_or(u64::MAX, moment::unix_ns);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written = match history::write(&directory, moment::unix_ns(args.since), until_ns, &mut out) {
        Err(HistoryError::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        written => written?,
    };
    report_damaged(written.damaged);
    if written.lines == 0 {
        let _ = writeln!(std::io::stderr(), "podmeter: the journal in {} has nothing of that time", directory.display());
    }
    Ok(())
}

fn uninstall(args: &UninstallArgs) -> Result<(), CommandError> {
    let interrupt = args.stay.then(Interrupt::watch).transpose()?;
    let (config, _) = load(args.config.config.as_deref(), Overrides::default())?;
    let directory = config.bpf.directory.display();
    print(&match kernel::pin::uninstall(&config.bpf.directory)? {
        Uninstalled::Nothing => format!("nothing is pinned in {directory}"),
        Uninstalled::Removed => format!("removed {directory}"),
        // In a container it is a mount point, and empty now.
        Uninstalled::Emptied(why) => format!("removed all that was pinned in {directory}; the empty directory stays: {why}"),
    })?;
    while interrupt.as_ref().is_some_and(|interrupt| !interrupt.came()) {
        std::thread::sleep(STAYING);
    }
    Ok(())
}

/// How often `uninstall --stay` looks whether it may end.
const STAYING: Duration = Duration::from_millis(200);

/// Prints to stdout; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<(), CommandError> {
    match writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n')) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        let takes = |arguments: &[&str]| Cli::try_parse_from([&["podmeter", "top"], arguments].concat()).is_ok();
        assert!(takes(&["--at", "03:10", "--journal", "/j", "--once", "--json"]) && takes(&["--replay", "--at", "1h"]));
        assert!(!takes(&["--journal", "/j"]) && !takes(&["--at", "soon"]));
    }
}
