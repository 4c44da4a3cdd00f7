//! The comparison: every scenario on every target, several times. Rounds follow each other, and in
//! each the targets of a scenario alternate, so that a machine that gets slower or faster meanwhile
//! does so for all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::error::BenchError;
use crate::extent::Extent;
use crate::machine::{self, Machine};
use crate::measure::{self, Watch};
use crate::picture;
use crate::process::{Process, free_addresses};
use crate::results::{Outcome, Results, Sample};
use crate::scenario::{Scenario, Size, Work};
use crate::setup::{self, Threads};
use crate::table;
use crate::target::{Build, Ground, Peer, Target, start_backend};
use crate::tls::{Group, Pki};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct CompareArguments {
    /// Scenarios, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Targets, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    targets: Vec<Target>,
    /// Another vestibule to compare; may be given several times
    #[arg(
        long = "build",
        value_name = "NAME=PATH[,workers=N][,event_loop=epoll|io_uring][,relay=ktls]"
    )]
    builds: Vec<Build>,
    #[command(flatten)]
    extent: Extent,
    /// File for the picture, as SVG
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Folder for where the time goes: a file for each scenario and target, by perf, as root. The
    /// figures of such a run are not for keeping
    #[arg(long)]
    profiles: Option<PathBuf>,
    /// The vestibule binary [default: the one beside this binary]
    #[arg(long)]
    vestibule: Option<PathBuf>,
    /// Folder of certificates made before, instead of new ones by `vestibule pki`
    #[arg(long)]
    pki: Option<PathBuf>,
    /// What the first relay offers to the second. Vestibule offers the post-quantum group between
    /// server and gateway, which no peer on OpenSSL 3.0 can
    #[arg(long, default_value = "x25519")]
    relay_group: Group,
}

impl CompareArguments {
    /// Of builds alone, with certificates of their own.
    pub(crate) fn of_builds(
        builds: Vec<Build>,
        scenarios: &[Scenario],
        extent: Extent,
        vestibule: PathBuf,
    ) -> Self {
        Self {
            scenarios: scenarios.to_vec(),
            targets: vec![],
            builds,
            extent,
            svg: None,
            profiles: None,
            vestibule: Some(vestibule),
            pki: None,
            relay_group: Group::X25519,
        }
    }
}

/// Takes all samples, prints the table, and writes the file. Samples that are not clean are an
/// error, after everything else has been done.
pub(crate) fn compare(arguments: &CompareArguments) -> Result<(), BenchError> {
    let mut targets = installed(&arguments.targets);
    targets.extend(arguments.builds.iter().map(|build| Target::Build(build.name)));
    let results = take(arguments, &targets)?;
    print!("{}", table::render(&results));
    if let Some(path) = &arguments.svg {
        picture::write(&results, path)?;
    }
    results.expect_clean()
}

/// Takes all samples of these targets, and writes the file.
pub(crate) fn take(
    arguments: &CompareArguments,
    targets: &[Target],
) -> Result<Results, BenchError> {
    let scenarios = match &arguments.scenarios[..] {
        [] => Scenario::ALL.to_vec(),
        chosen => chosen.to_vec(),
    };
    let (size, runs) = (arguments.extent.size(), arguments.extent.rounds());
    let plan: Vec<(usize, Scenario, Target)> = (0..runs)
        .flat_map(|run| scenarios.iter().map(move |scenario| (run, *scenario)))
        .flat_map(|(run, scenario)| {
            order(targets, scenario, run).into_iter().map(move |target| (run, scenario, target))
        })
        .collect();
    if plan.is_empty() {
        return Err(BenchError::Nothing);
    }

    let folder = tempfile::tempdir().map_err(BenchError::io("making a temporary folder"))?;
    let (ground, backend) = prepare(folder.path(), targets, arguments)?;
    let machine = Machine::here(&ground.vestibule);
    let mut peers = stand_apart(targets, arguments.relay_group);
    peers.extend(ground.builds.iter().map(|build| (build.name.into(), describe(build))));
    let mut results = Results { machine, peers, size, samples: vec![] };
    for (number, &(run, scenario, target)) in (1..).zip(&plan) {
        let (name, all) = (target.name(), plan.len());
        eprintln!("{number} of {all}: {} on {name}, run {} of {runs}", scenario.name(), run + 1);
        let sample = sample(scenario, target, run, size, &ground);
        for complaint in sample.complaints() {
            eprintln!("  {complaint}");
        }
        results.samples.push(sample);
        // After each sample: a run takes long, and what was measured must not be lost with it.
        if let Some(path) = &arguments.extent.json {
            results.write(path)?;
        }
    }
    backend.stop()?;
    Ok(results)
}

/// The targets that were asked for, without those whose program is missing.
fn installed(asked: &[Target]) -> Vec<Target> {
    let asked = if asked.is_empty() { &Target::ALL[..] } else { asked };
    let is_there = |target: &Target| {
        let missing = target.peer().and_then(Peer::missing);
        if let Some(missing) = &missing {
            eprintln!("{} is skipped: {missing}", target.name());
        }
        missing.is_none()
    };
    asked.iter().copied().filter(is_there).collect()
}

/// What the results say of each peer: its version, or how it was set up.
fn stand_apart(targets: &[Target], relay_group: Group) -> BTreeMap<String, String> {
    let says = |target: &Target| match (target, target.peer()) {
        (Target::Relay, _) => Some(format!("tokio-rustls, {} within", relay_group.name())),
        (_, peer) => peer.map(Peer::version),
    };
    let said = |target: &Target| Some((target.name().to_owned(), says(target)?));
    targets.iter().filter_map(said).collect()
}

/// What the results say of a build.
fn describe(build: &Build) -> String {
    let Build { program, threads: Threads { workers, event_loop, relay }, .. } = build;
    let version = machine::first_line(program, &["--version"]);
    let waits =
        event_loop.map_or_else(String::new, |event_loop| format!(", on {}", event_loop.word()));
    let records = relay.map_or_else(String::new, |relay| format!(", relay {}", relay.word()));
    format!("{version} ({}), workers of the gateway: {workers}{waits}{records}", program.display())
}

/// Finds the binaries, makes the certificates, and starts the backend.
fn prepare(
    folder: &Path,
    targets: &[Target],
    arguments: &CompareArguments,
) -> Result<(Ground, Process), BenchError> {
    let bench = std::env::current_exe().map_err(BenchError::io("finding the bench itself"))?;
    let vestibule =
        arguments.vestibule.clone().unwrap_or_else(|| bench.with_file_name("vestibule"));
    let pki = if let Some(made) = &arguments.pki {
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
    let folder = folder.to_owned();
    let relay_group = arguments.relay_group;
    let builds = arguments.builds.clone();
    let profiles = arguments.profiles.clone();
    if let Some(profiles) = &profiles {
        let made = std::fs::create_dir_all(profiles);
        made.map_err(BenchError::io(format!("making {}", profiles.display())))?;
    }
    let ground =
        Ground { folder, vestibule, builds, bench, pki, backend: address, relay_group, profiles };
    Ok((ground, backend))
}

/// The targets of one round; each round starts with another.
fn order(targets: &[Target], scenario: Scenario, run: usize) -> Vec<Target> {
    let fits = |target: &Target| target.listener(scenario).is_some();
    let mut order: Vec<Target> = targets.iter().copied().filter(fits).collect();
    let turn = run % order.len().max(1);
    order.rotate_left(turn);
    order
}

/// One sample; what goes wrong is part of it.
fn sample(scenario: Scenario, target: Target, run: usize, size: Size, ground: &Ground) -> Sample {
    let started = machine::now();
    let work = scenario.work(size);
    let outcome = measure(scenario, target, work.clone(), ground)
        .unwrap_or_else(|error| Outcome::Failed { what: error.to_string() });
    Sample { scenario, target, run, started, work, outcome }
}

fn measure(
    scenario: Scenario,
    target: Target,
    work: Work,
    ground: &Ground,
) -> Result<Outcome, BenchError> {
    let listener = target.listener(scenario).ok_or(BenchError::Nothing)?;
    let running = target.start(ground, listener)?;
    let watch = match &ground.profiles {
        Some(folder) => {
            let file = format!("{}-{}.txt", scenario.name(), target.name());
            Watch::Profile(&ground.folder, folder.join(file))
        }
        None if scenario == Scenario::Syscalls => Watch::Syscalls(&ground.folder),
        None => Watch::Usage,
    };
    measure::measure(running, work, watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_starts_with_another_target_and_has_all_of_them() {
        let first = |run| order(&Target::ALL, Scenario::BulkUp, run)[0];
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(first).map(Target::name),
            ["vestibule", "relay", "haproxy", "nginx", "floor", "vestibule"]
        );
        assert_eq!(order(&Target::ALL, Scenario::BulkUp, 7).len(), 5);
    }

    #[test]
    fn targets_have_a_part_only_where_their_work_is_the_same() {
        assert!(!order(&Target::ALL, Scenario::Latency, 0).contains(&Target::Floor));
        assert!(order(&[Target::Floor], Scenario::Idle, 2).is_empty());
        assert_eq!(order(&[Target::Rathole], Scenario::PlainUp, 0), [Target::Rathole]);
        assert!(order(&[Target::Rathole], Scenario::BulkUp, 0).is_empty());
    }
}
