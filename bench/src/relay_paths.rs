//! Which `relay` is better on this host: gateway and server with each, side by side.

use std::path::PathBuf;

use vestibule::config::RelayMode;
use vestibule::engine;

use crate::compare::{self, CompareArguments};
use crate::error::BenchError;
use crate::extent::Extent;
use crate::figures::{CPU_PER_GB, Part, Subject};
use crate::results::Results;
use crate::scenario::Scenario;
use crate::setup::Threads;
use crate::table;
use crate::target::{Build, Target};

/// Bulk is what the kernel might do better; messages tell what it costs them.
const SCENARIOS: [Scenario; 3] = [Scenario::BulkUp, Scenario::BulkDown, Scenario::MessagesFew];
/// What has to be saved, of the CPU of userspace, before another way is advised: less is within the noise.
const WORTH_WHILE: f64 = 0.9;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct RelayPathsArguments {
    #[command(flatten)]
    extent: Extent,
    /// The vestibule binary [default: the one beside this binary]
    #[arg(long)]
    vestibule: Option<PathBuf>,
}

/// Measures each way that this kernel has, prints the table, and says what to configure.
pub(crate) fn run(arguments: &RelayPathsArguments) -> Result<(), BenchError> {
    if let Err(error) = engine::RelayMode::test(RelayMode::Kernel) {
        println!("relay = \"userspace\" is what serves here, and needs no line: {error}");
        return Ok(());
    }
    let bench = std::env::current_exe().map_err(BenchError::io("finding the bench itself"))?;
    let vestibule =
        arguments.vestibule.clone().unwrap_or_else(|| bench.with_file_name("vestibule"));
    let build = |relay: RelayMode| Build {
        name: relay.word().to_owned().into(),
        program: vestibule.clone(),
        threads: Threads { relay: Some(relay), ..Threads::USUAL },
    };
    let builds: Vec<_> = RelayMode::ALL.map(build).into();
    let compared = CompareArguments::of_builds(
        builds.clone(),
        &SCENARIOS,
        arguments.extent.clone(),
        vestibule,
    );
    let targets: Vec<_> = builds.iter().map(|build| Target::Build(build.name)).collect();
    let results = compare::take(&compared, &targets)?;
    print!("{}\n{}", table::render(&results), advice(&builds, &results));
    results.expect_clean()
}

/// What to write into gateway.toml and server.toml.
fn advice(builds: &[Build], results: &Results) -> String {
    let multiple = |build: &Build, scenario| {
        let target = |build: &Build| Target::Build(build.name);
        let on = |target| Subject { scenario, target, part: Part::Together, metric: CPU_PER_GB };
        Some(on(target(build)).over(on(target(&builds[0])), results)?.median)
    };
    let worse = |build: &Build| {
        let bulk = [Scenario::BulkUp, Scenario::BulkDown].map(|scenario| multiple(build, scenario));
        bulk.into_iter().try_fold(0_f64, |worse, multiple| Some(worse.max(multiple?)))
    };
    let measured = builds.iter().skip(1).filter_map(|build| Some((build, worse(build)?)));
    match measured.min_by(|one, other| one.1.total_cmp(&other.1)) {
        Some((build, multiple)) if multiple <= WORTH_WHILE => format!(
            "relay = \"{}\" needs {multiple:.2} of the CPU of \"userspace\" for bulk, in the direction in which it \
             saves less: write that line into gateway.toml and server.toml of this kind of host.\n",
            String::from(build.name),
        ),
        Some((build, multiple)) => format!(
            "Leave `relay` out: \"{}\", the better of the others, needs {multiple:.2} of the CPU of \"userspace\" for \
             bulk, in the direction in which it saves less.\n",
            String::from(build.name),
        ),
        None => "Nothing is advised: no run was clean.\n".to_owned(),
    }
}
