//! A run: every scenario on every target, several times. Targets alternate, so that a machine that
//! gets slower or faster meanwhile does so for all of them.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::load::LoadProcess;
use crate::machine::{self, Machine};
use crate::process::{Process, free_addresses};
use crate::results::{Outcome, ProcessUsage, Results, Sample};
use crate::scenario::{Scenario, Size, Work};
use crate::setup;
use crate::table;
use crate::target::{Ground, Running, Target, start_backend};
use crate::tls::Pki;
use crate::usage::Usage;

/// Samples of each scenario and target unless told otherwise.
const RUNS: usize = 3;
/// The same for `--quick`.
const QUICK_RUNS: usize = 1;

/// Longest wait for the sessions of the warm-up to be gone: above the time that a gateway lingers.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at them.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArguments {
    /// Scenarios, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Targets, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    targets: Vec<Target>,
    /// Samples of each scenario and target [default: 3, with --quick 1]
    #[arg(long)]
    runs: Option<NonZeroUsize>,
    /// Little work: shows in seconds whether everything works; not for figures
    #[arg(long)]
    quick: bool,
    /// File for all samples, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// The vestibule binary [default: the one beside this binary]
    #[arg(long)]
    vestibule: Option<PathBuf>,
    /// Folder of certificates made before, instead of new ones by `vestibule pki`
    #[arg(long)]
    pki: Option<PathBuf>,
}

/// Takes all samples, prints the table, and writes the file. Samples that are not clean are an
/// error, after everything else has been done.
pub(crate) fn run(arguments: RunArguments) -> Result<(), BenchError> {
    let RunArguments { scenarios, targets, runs, quick, json, vestibule, pki } = arguments;
    let scenarios = if scenarios.is_empty() { Scenario::ALL.to_vec() } else { scenarios };
    let targets = if targets.is_empty() { Target::ALL.to_vec() } else { targets };
    let size = if quick { Size::Quick } else { Size::Full };
    let runs = runs.map_or(if quick { QUICK_RUNS } else { RUNS }, usize::from);
    if scenarios.iter().all(|scenario| order(&targets, *scenario, 0).is_empty()) {
        return Err(BenchError::Nothing);
    }

    let folder = tempfile::tempdir().map_err(BenchError::io("making a temporary folder"))?;
    let (ground, backend) = prepare(folder.path(), &targets, vestibule, pki)?;
    let mut results = Results { machine: Machine::here(&ground.vestibule), size, samples: vec![] };
    for &scenario in &scenarios {
        for run in 0..runs {
            for target in order(&targets, scenario, run) {
                eprintln!("{} on {}, run {} of {runs}", scenario.name(), target.name(), run + 1);
                let sample = sample(scenario, target, run, size, &ground);
                for complaint in sample.complaints() {
                    eprintln!("  {complaint}");
                }
                results.samples.push(sample);
            }
        }
    }
    backend.stop()?;
    print!("{}", table::render(&results));
    if let Some(path) = json {
        results.write(&path)?;
    }
    match results.unclean() {
        0 => Ok(()),
        unclean => Err(BenchError::Unclean(unclean)),
    }
}

/// Finds the binaries, makes the certificates, and starts the backend.
fn prepare(
    folder: &Path,
    targets: &[Target],
    vestibule: Option<PathBuf>,
    pki: Option<PathBuf>,
) -> Result<(Ground, Process), BenchError> {
    let bench = std::env::current_exe().map_err(BenchError::io("finding the bench itself"))?;
    let vestibule = vestibule.unwrap_or_else(|| bench.with_file_name("vestibule"));
    let pki = if let Some(made) = pki {
        // Configurations stand in another folder, and their paths would be relative to it.
        Pki::new(
            made.canonicalize().map_err(BenchError::io(format!("opening {}", made.display())))?,
        )
    } else {
        let pki = Pki::new(folder.join("pki"));
        if targets.iter().any(|target| target.speaks_tls()) {
            setup::make_pki(&vestibule, &pki)?;
        }
        pki
    };
    let [address]: [SocketAddr; 1] = free_addresses()?;
    let backend = start_backend(&bench, folder, address)?;
    let ground = Ground { folder: folder.to_owned(), vestibule, bench, pki, backend: address };
    Ok((ground, backend))
}

/// The targets of one round; each round starts with another.
fn order(targets: &[Target], scenario: Scenario, run: usize) -> Vec<Target> {
    let fits = |target: &Target| *target != Target::Floor || scenario.has_floor();
    let mut order: Vec<Target> = targets.iter().copied().filter(fits).collect();
    let turn = run % order.len().max(1);
    order.rotate_left(turn);
    order
}

/// One sample; what goes wrong is part of it.
fn sample(scenario: Scenario, target: Target, run: usize, size: Size, ground: &Ground) -> Sample {
    let started = machine::now();
    let work = scenario.work(size);
    let outcome = measure(target, work.clone(), ground)
        .unwrap_or_else(|error| Outcome::Failed { what: error.to_string() });
    Sample { scenario, target, run, started, work, outcome }
}

fn measure(target: Target, work: Work, ground: &Ground) -> Result<Outcome, BenchError> {
    let mut running = target.start(ground)?;
    let started = running.usages()?;
    let warm_up = running.plan(Work::warm_up());
    let warmed_up = LoadProcess::prepare(&warm_up)?.work()?;
    if !warmed_up.errors.is_empty() {
        // Its errors are those of the sample: nothing more can be measured.
        let (processes, afterwards) = (Vec::new(), None);
        return Ok(Outcome::Measured { load: warmed_up, processes, afterwards });
    }
    let before = settled(&mut running, &started)?;
    let load = LoadProcess::prepare(&running.plan(work))?;
    let ready = running.usages()?;
    let load = load.work()?;
    let end = running.usages()?;
    let names: Vec<&str> = running.processes.iter().map(Process::name).collect();
    let processes = names
        .into_iter()
        .zip(before.into_iter().zip(ready).zip(end))
        .map(|(name, ((before, ready), end))| ProcessUsage {
            name: name.to_owned(),
            before,
            ready,
            end,
        })
        .collect();
    let afterwards = running.stop().err().map(|error| error.to_string());
    Ok(Outcome::Measured { load, processes, afterwards })
}

/// The usages once the sessions of the warm-up are gone from the processes too: those that linger
/// would be missing in the growth of the sample. What a process opened for good in the warm-up may
/// stay.
fn settled(running: &mut Running, started: &[Usage]) -> Result<Vec<Usage>, BenchError> {
    let start = Instant::now();
    loop {
        let now = running.usages()?;
        let gone = now.iter().zip(started).all(|(now, then)| now.descriptors <= then.descriptors);
        if gone || start.elapsed() > SETTLE_DEADLINE {
            return Ok(now);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_starts_with_another_target_and_has_all_of_them() {
        let first = |run| order(&Target::ALL, Scenario::BulkUp, run)[0];
        assert_eq!(
            [first(0), first(1), first(2), first(3)].map(Target::name),
            ["vestibule", "relay", "floor", "vestibule"]
        );
        assert_eq!(order(&Target::ALL, Scenario::BulkUp, 5).len(), 3);
    }

    #[test]
    fn the_floor_is_there_for_bulk_only() {
        assert!(!order(&Target::ALL, Scenario::Idle, 0).contains(&Target::Floor));
        assert!(order(&[Target::Floor], Scenario::Idle, 2).is_empty());
    }
}
