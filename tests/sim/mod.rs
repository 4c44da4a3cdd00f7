//! Simulated worlds, each drawn from one seed: several gateways with their workers, several servers
//! with a link to every gateway, agents that ask one gateway after the other, backends, a network,
//! and everything that may go wrong between them. The code under test is the pure control plane
//! (`Dispatcher`, `Tickets`, `GatewayLink`), the pure relay and the frames of the wire. Time is a
//! number, so that a minute of a world takes some milliseconds, and a seed is a test case.
//!
//! **What goes wrong.** The network keeps what TCP promises: within one connection bytes come in
//! order, complete and once, for as long as it lives. So loss and delay are connections that stall, are
//! reset, fall silent in one direction or both, or are never answered; reordering is between
//! connections and between mailboxes; duplicates and replays are what peers send. Processes are
//! killed, with or without their host, and come back under a new name; they are stopped and find
//! everything at once when they go on; they drain; their clocks differ in time and pace. Gateways reload:
//! servers and services come off the list, and bounds become lower. Servers and
//! gateways that are allowed in say anything at any time; agents leave at any moment.
//!
//! **What is checked.** `checks::Check` is the list. Most are looked at after every step.
//!
//! **Where to look.** `world` and `world/faults`: what happens, and what goes wrong. `network`: the
//! connections. `gateway`, `worker`, `server`, `agent`, `backend`, `hostile`: a kind of process each.
//! `session` and `program`: the relay between two connections, and who talks through it. `ledger` and
//! `checks`: what must hold. `planted`: bugs of others, which the checks must find.
//!
//! `VESTIBULE_SIM_WORLDS` is the number of worlds, `VESTIBULE_SIM_SECONDS` ends them early, and
//! `VESTIBULE_SIM_SEED` runs a single one.

mod agent;
mod backend;
mod checks;
mod gateway;
mod hostile;
mod ledger;
mod nature;
mod network;
mod planted;
mod program;
mod random;
mod server;
mod session;
mod worker;
mod world;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vestibule::relay::{CloseReason, Party};
use vestibule::wire::RefusalReason;

use checks::{FailedSpare, Failure, Sight};
use planted::Planted;
use world::{Report, World};

/// Worlds of an ordinary test run, at some 6 ms of CPU each.
const WORLDS: u64 = 3_000;
/// Worlds that are to show every race.
const WORLDS_FOR_RACES: u64 = 600;
/// Worlds within which each planted bug has to be found. The rarest race of them is in one of some thousand.
const WORLDS_FOR_A_BUG: u64 = 20_000;
/// After so many worlds the run says how far it is.
const PROGRESS: u64 = 10_000;

/// Names the world that failed, on the way out of a panic in the code under test.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", how_to_run(self.0));
        }
    }
}

fn how_to_run(seed: u64) -> String {
    format!(
        "run this world alone: VESTIBULE_SIM_SEED={seed} cargo test --locked --test tests \
         in_every_world"
    )
}

fn run(seed: u64) -> Report {
    let _named_on_failure = Seed(seed);
    if let Ok(report) = World::new(seed, None, false).run() {
        return report;
    }
    // The same once more, and this time it is written down.
    match World::new(seed, None, true).run() {
        Ok(_) => panic!("the world of seed {seed} fails, and not when it is run again"),
        Err(fall) => panic!(
            "the world of seed {seed} fails at step {}: {:?}: {}\nits last events:\n{}",
            fall.steps, fall.failure.check, fall.failure.what, fall.journal,
        ),
    }
}

/// Keeps the other threads from going on after a failure.
struct StopOthers<'a>(&'a AtomicU64);

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(u64::MAX / 2, Ordering::Relaxed);
        }
    }
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs them all, on all cores. Returns what was seen.
fn run_many(worlds: u64, time: Option<Duration>) -> BTreeSet<Sight> {
    let started = Instant::now();
    let sights = Mutex::new(BTreeSet::new());
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let _on_failure = StopOthers(&next);
                while time.is_none_or(|time| started.elapsed() < time) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= worlds {
                        break;
                    }
                    let report = run(seed);
                    sights.lock().expect("nobody panics there").extend(report.seen);
                    if (seed + 1).is_multiple_of(PROGRESS) {
                        eprintln!("{} worlds, {:.0?}", seed + 1, started.elapsed());
                    }
                }
            });
        }
    });
    let count = next.into_inner().min(worlds);
    eprintln!("{count} worlds simulated in {:.1?}", started.elapsed());
    sights.into_inner().expect("nobody panics there")
}

#[test]
fn in_every_world_each_session_ends_once_and_all_that_must_hold_does() {
    if let Some(seed) = number_from_environment("VESTIBULE_SIM_SEED") {
        run(seed);
        return;
    }
    let worlds = number_from_environment("VESTIBULE_SIM_WORLDS").unwrap_or(WORLDS);
    run_many(worlds, number_from_environment("VESTIBULE_SIM_SECONDS").map(Duration::from_secs));
}

#[test]
fn a_seed_is_always_the_same_world() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}

#[test]
fn the_simulation_catches_every_planted_bug() {
    for bug in Planted::ALL {
        let found = (0..WORLDS_FOR_A_BUG).find_map(|seed| {
            let fall = World::new(seed, Some(bug), false).run().err()?;
            Some((seed, fall.failure))
        });
        let (seed, failure) = found.unwrap_or_else(|| panic!("{bug:?} is never found"));
        let Failure { check, what } = &failure;
        assert!(bug.is_caught_by().contains(check), "{bug:?}, seed {seed}: {check:?}: {what}");
        run(seed);
        eprintln!("{bug:?}: {:?}, after {} worlds", failure.check, seed + 1);
    }
}

#[test]
fn the_worlds_are_not_too_tame_to_show_every_race() {
    let seen = run_many(WORLDS_FOR_RACES, None);
    for sight in [
        Sight::Refused(RefusalReason::NoServer),
        Sight::Refused(RefusalReason::QueueFull),
        Sight::Refused(RefusalReason::InvitationTimeout),
        Sight::Refused(RefusalReason::ServerFull),
        Sight::Refused(RefusalReason::BackendRefused),
        Sight::Refused(RefusalReason::InternalError),
        Sight::Refused(RefusalReason::Draining),
        Sight::Refused(RefusalReason::ServiceUnknown),
        Sight::Refused(RefusalReason::DeviceFull),
        Sight::Refused(RefusalReason::ServiceFull),
        Sight::Moved,
        Sight::ClaimCrossedWithMove,
        Sight::ClaimCrossedWithRefusal,
        Sight::SessionOutlivedLink,
        Sight::LinkClosed,
        Sight::SpareTookAgent,
        Sight::SpareFailed(FailedSpare::Gone),
        Sight::SpareFailed(FailedSpare::Silent),
        Sight::SpareFailed(FailedSpare::Refused),
        Sight::ClaimTurnedAway,
        Sight::OfferOfAnotherKind,
        Sight::GatewayRefused,
        Sight::OtherGateway,
        Sight::Resumed,
        Sight::ServerDrained,
        Sight::WholeSession,
        Sight::Ended(CloseReason::Finished),
        Sight::Ended(CloseReason::IdleTimeout),
        Sight::Ended(CloseReason::HalfClosedTimeout),
        Sight::Ended(CloseReason::DrainTimeout),
        Sight::Ended(CloseReason::AgentLeft),
        Sight::Ended(CloseReason::Reset(Party::Agent)),
        Sight::Ended(CloseReason::Reset(Party::Server)),
        Sight::Ended(CloseReason::Truncated(Party::Agent)),
        Sight::Ended(CloseReason::Truncated(Party::Server)),
    ] {
        assert!(seen.contains(&sight), "{sight:?} in none of the worlds");
    }
}
