//! A fleet that loses its gateway and comes back: real agents of one process, each holding a session for
//! a local program; the gateway is killed and started again. How long until all are back, what that
//! costs, and how long a signal connection had to wait meanwhile.

mod programs;
mod report;
mod signal;

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use self::programs::Programs;
use self::report::{HerdResults, HerdSample, Measured, Outcome};
use self::signal::Probe;
use crate::error::BenchError;
use crate::machine::{self, Machine};
use crate::process::{Process, Readiness, free_addresses, wait_for_all};
use crate::setup::{self, Threads};
use crate::target::start_backend;
use crate::tls::Pki;

/// Longest wait until all sessions are open, or open again.
const DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks at the sessions.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// What the figures of a fleet at rest are taken over.
const REST: Duration = Duration::from_secs(2);

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct HerdArguments {
    /// Local programs, each with a session. The agents' process has two descriptors for each
    #[arg(long, default_value_t = 5_000)]
    programs: usize,
    /// How long the agents let a program wait (`retry_for_ms`), separated by commas; 0 resets it at
    /// once, and it dials again at once
    #[arg(long, value_delimiter = ',', default_values_t = [30_000, 0])]
    retry_for_ms: Vec<u64>,
    /// How long there is no gateway
    #[arg(long, default_value_t = 2_000)]
    down_ms: u64,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// File for all samples, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// The vestibule binary [default: the one beside this binary]
    #[arg(long)]
    vestibule: Option<PathBuf>,
}

/// What every sample needs.
struct Ground {
    bench: PathBuf,
    vestibule: PathBuf,
    folder: tempfile::TempDir,
    pki: Pki,
}

/// Takes all samples, prints the table, and writes the file.
pub(crate) fn run(arguments: &HerdArguments) -> Result<(), BenchError> {
    let ground = Ground::prepare(arguments.vestibule.clone())?;
    let mut results = HerdResults {
        machine: Machine::here(&ground.vestibule),
        programs: arguments.programs,
        down_ms: arguments.down_ms,
        samples: Vec::new(),
    };
    let count = arguments.runs * arguments.retry_for_ms.len();
    for run in 1..=arguments.runs {
        for &retry_for_ms in &arguments.retry_for_ms {
            let number = results.samples.len() + 1;
            eprintln!("{number} of {count}: retry_for_ms = {retry_for_ms}, run {run}");
            let started = machine::now();
            let outcome = ground.measure(arguments, retry_for_ms);
            let outcome =
                outcome.unwrap_or_else(|error| Outcome::Failed { what: error.to_string() });
            results.samples.push(HerdSample { run, retry_for_ms, started, outcome });
            if let Some(path) = &arguments.json {
                crate::results::write(&results, path)?;
            }
        }
    }
    print!("{}", report::render(&results));
    match results.failed() {
        0 => Ok(()),
        failed => Err(BenchError::Unclean(failed)),
    }
}

impl Ground {
    fn prepare(vestibule: Option<PathBuf>) -> Result<Self, BenchError> {
        let bench = std::env::current_exe().map_err(BenchError::io("finding the bench itself"))?;
        let vestibule = vestibule.unwrap_or_else(|| bench.with_file_name("vestibule"));
        let folder = tempfile::tempdir().map_err(BenchError::io("making a temporary folder"))?;
        let pki = Pki::new(folder.path().join("pki"));
        setup::make_pki(&vestibule, &pki)?;
        Ok(Self { bench, vestibule, folder, pki })
    }

    fn measure(&self, arguments: &HerdArguments, retry_for_ms: u64) -> Result<Outcome, BenchError> {
        let [tls, plain, telemetry, server_telemetry, forward, backend] = free_addresses()?;
        let _backend = start_backend(&self.bench, self.folder.path(), backend)?;
        let gateway_toml = setup::gateway_toml(&self.pki, Threads::USUAL, [tls, plain, telemetry]);
        let server_toml =
            setup::server_toml(&self.pki, Threads::USUAL, tls, backend, server_telemetry);
        let agent_toml = setup::agent_toml(&self.pki, tls, forward, retry_for_ms);
        let mut gateway = self.start("gateway", &gateway_toml)?;
        let mut server = self.start("server", &server_toml)?;
        let mut agent = self.start("agent", &agent_toml)?;
        wait_for_all(&mut [
            (&mut gateway, Readiness::Answers(telemetry)),
            (&mut server, Readiness::Answers(server_telemetry)),
            (&mut agent, Readiness::Accepts(forward)),
        ])?;
        let programs = Programs::start(forward, arguments.programs)?;
        wait("all sessions are open", || programs.up() == arguments.programs)?;
        let mut probe = Probe::start(&self.pki, tls)?;
        thread::sleep(REST);
        let stall_at_rest = probe.take_longest();

        let server_before = server.usage()?;
        drop(gateway);
        wait("all programs have heard of it", || programs.up() == 0)?;
        thread::sleep(Duration::from_millis(arguments.down_ms));
        let start = Instant::now();
        let mut gateway = self.start("gateway", &gateway_toml)?;
        let mut half = None;
        wait("all sessions are open again", || {
            let up = programs.up();
            if up * 2 >= arguments.programs {
                half.get_or_insert_with(|| start.elapsed());
            }
            up == arguments.programs
        })?;
        let all = start.elapsed();
        let stall = probe.take_longest();
        Ok(Outcome::Measured(Measured {
            half_ns: ns(half.unwrap_or(all)),
            all_ns: ns(all),
            gateway_cpu_ns: gateway.usage()?.cpu_ns,
            server_cpu_ns: server.usage()?.cpu_ns.saturating_sub(server_before.cpu_ns),
            dials: programs.dials() - arguments.programs as u64,
            stall_at_rest_ns: ns(stall_at_rest),
            stall_ns: ns(stall),
        }))
    }

    fn start(&self, role: &'static str, toml: &str) -> Result<Process, BenchError> {
        let path = self.folder.path().join(format!("{role}.toml"));
        std::fs::write(&path, toml)
            .map_err(BenchError::io(format!("writing {}", path.display())))?;
        let mut command = Command::new(&self.vestibule);
        // One line for each session and refusal would be part of what is measured, at the agents too.
        command.args(["--log-filter", "error", role, "--config"]).arg(&path);
        Process::start(role, &mut command, self.folder.path())
    }
}

/// Waits until something is so.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), BenchError> {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > DEADLINE {
            return Err(BenchError::Late { what: what.to_owned(), seconds: DEADLINE.as_secs() });
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
