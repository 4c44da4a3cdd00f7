//! `shapes`: the relays of [`crate::shape`] side by side, and the worker's own shape with one setting
//! changed at a time, so that the reasons for what the worker does stay measured.

mod case;
mod results;
mod table;

use std::path::PathBuf;
use std::process::Command;

use self::case::{Case, Set, Trial};
use self::results::{ShapeResults, ShapeSample};
use crate::error::BenchError;
use crate::extent::Extent;
use crate::load::Ends;
use crate::machine::{self, Machine};
use crate::measure::{self, Watch};
use crate::process::free_addresses;
use crate::results::Outcome;
use crate::scenario::Size;
use crate::shape::Shape;
use crate::target::{Running, start_backend, start_own};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct ShapesArguments {
    /// The shapes, the settings of the worker's shape, or both, separated by commas [default: both]
    #[arg(long, value_delimiter = ',')]
    sets: Vec<Set>,
    /// Shapes, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<Shape>,
    /// Trials, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    trials: Vec<Trial>,
    #[command(flatten)]
    extent: Extent,
    /// Measure nothing, and print the tables of results that were kept
    #[arg(long, value_name = "FILE", exclusive = true)]
    kept: Option<PathBuf>,
}

/// Where everything of a run is.
struct Ground {
    folder: PathBuf,
    bench: PathBuf,
    backend: std::net::SocketAddr,
}

/// Takes all samples and prints the tables, or prints those of samples that were kept. Samples that
/// are not clean are an error, after everything else has been done.
pub(crate) fn shapes(arguments: &ShapesArguments) -> Result<(), BenchError> {
    let results = match &arguments.kept {
        Some(path) => crate::results::read(path)?,
        None => take(arguments)?,
    };
    print!("{}", table::render(&results));
    match results.unclean() {
        0 => Ok(()),
        unclean => Err(BenchError::Unclean(unclean)),
    }
}

fn take(arguments: &ShapesArguments) -> Result<ShapeResults, BenchError> {
    let (size, runs) = (arguments.extent.size(), arguments.extent.rounds());
    let cases = case::cases(&arguments.sets, &arguments.shapes);
    let chosen = |trial: &Trial| arguments.trials.is_empty() || arguments.trials.contains(trial);
    let plan: Vec<(usize, Trial, Case)> = (0..runs)
        .flat_map(|run| Trial::ALL.into_iter().filter(chosen).map(move |trial| (run, trial)))
        .flat_map(|(run, trial)| order(&cases, trial, run).map(move |case| (run, trial, case)))
        .collect();
    if plan.is_empty() {
        return Err(BenchError::Nothing);
    }
    let folder = tempfile::tempdir().map_err(BenchError::io("making a temporary folder"))?;
    let bench = std::env::current_exe().map_err(BenchError::io("finding the bench itself"))?;
    let [address] = free_addresses()?;
    let backend = start_backend(&bench, folder.path(), address)?;
    let ground = Ground { folder: folder.path().to_owned(), bench, backend: address };
    let machine = Machine::here(&ground.bench);
    let mut results = ShapeResults { machine, size, samples: vec![] };
    for (number, (run, trial, case)) in (1..).zip(&plan) {
        let all = plan.len();
        eprintln!("{number} of {all}: {} on {case}, run {} of {runs}", trial.name(), run + 1);
        let sample = sample(*trial, case, *run, size, &ground);
        for complaint in sample.complaints() {
            eprintln!("  {complaint}");
        }
        results.samples.push(sample);
        // After each sample, as `compare` does.
        if let Some(path) = &arguments.extent.json {
            crate::results::write(&results, path)?;
        }
    }
    backend.stop()?;
    Ok(results)
}

/// The cases of one round; each round starts with another.
fn order(cases: &[Case], trial: Trial, run: usize) -> impl Iterator<Item = Case> + use<> {
    let mut order: Vec<Case> =
        cases.iter().filter(|case| case.takes_part(trial, run)).cloned().collect();
    let turn = run % order.len().max(1);
    order.rotate_left(turn);
    order.into_iter()
}

/// One sample; what goes wrong is part of it.
fn sample(trial: Trial, case: &Case, run: usize, size: Size, ground: &Ground) -> ShapeSample {
    let started = machine::now();
    let work = trial.work(size);
    let watch = match trial {
        Trial::Syscalls => Watch::Syscalls(&ground.folder),
        _ => Watch::Usage,
    };
    let outcome = start(case, ground)
        .and_then(|running| measure::measure(running, work.clone(), watch))
        .unwrap_or_else(|error| Outcome::Failed { what: error.to_string() });
    ShapeSample { trial, case: case.clone(), run, started, work, outcome }
}

fn start(case: &Case, ground: &Ground) -> Result<Running, BenchError> {
    let [listen] = free_addresses()?;
    let mut command = Command::new(&ground.bench);
    command.args(["shape", "--shape", case.shape.name()]);
    command.args(["--listen", &listen.to_string(), "--backend", &ground.backend.to_string()]);
    command.args(case.settings.arguments());
    let process = start_own(case.shape.name(), &mut command, &ground.folder, listen)?;
    Ok(Running {
        address: listen,
        pki: None,
        passthrough: false,
        ends: Ends::Answered,
        processes: vec![process],
    })
}
