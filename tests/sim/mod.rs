//! Simulated worlds: one gateway with its workers, several servers, a network, and everything that
//! may go wrong between them, all drawn from one seed. The code under test is the pure control plane;
//! time is a number, so that a minute of a world takes a millisecond.
//!
//! `gateway` and `worker` hold the code under test beside a ledger of what it was told and did; each
//! step is checked against the ledger. `world` is the rest: network, servers, agents, faults.

mod gateway;
mod random;
mod server;
mod worker;
mod world;

use std::collections::BTreeSet;

use vestibule::wire::RefusalReason;

use gateway::{FailedSpare, Sight};
use world::World;

/// Worlds of an ordinary test run: a few seconds.
const WORLDS: u64 = 4_000;

/// Seeds that once found a bug, and which.
const REGRESSIONS: &[(u64, &str)] = &[(
    0xc,
    "a server's decline could name a reason that is the gateway's own, such as a full queue",
)];

/// Names the world that failed, on the way out.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the world that failed has the seed {:#x}", self.0);
        }
    }
}

fn run(seed: u64) -> BTreeSet<Sight> {
    let _named_on_failure = Seed(seed);
    World::new(seed).run()
}

#[test]
fn in_every_world_each_agent_ends_once_and_no_ticket_is_honoured_twice() {
    let worlds = std::env::var("VESTIBULE_SIM_WORLDS");
    let worlds = worlds.map_or(WORLDS, |number| number.parse().expect("a number of worlds"));
    for seed in 0..worlds {
        run(seed);
    }
}

#[test]
fn worlds_that_once_found_a_bug_stay_well() {
    for (seed, _) in REGRESSIONS {
        run(*seed);
    }
}

#[test]
fn the_worlds_are_not_too_tame_to_show_every_race() {
    let seen: BTreeSet<Sight> = (0..300).flat_map(run).collect();
    for sight in [
        Sight::Refused(RefusalReason::NoServer),
        Sight::Refused(RefusalReason::QueueFull),
        Sight::Refused(RefusalReason::InvitationTimeout),
        Sight::Refused(RefusalReason::ServerFull),
        Sight::Refused(RefusalReason::BackendRefused),
        Sight::Refused(RefusalReason::InternalError),
        Sight::Refused(RefusalReason::Draining),
        Sight::Moved,
        Sight::ClaimCrossedWithMove,
        Sight::ClaimCrossedWithRefusal,
        Sight::SessionOutlivedLink,
        Sight::LinkClosed,
        Sight::Reloaded,
        Sight::SpareTookAgent,
        Sight::SpareFailed(FailedSpare::Gone),
        Sight::SpareFailed(FailedSpare::Silent),
        Sight::SpareFailed(FailedSpare::Refused),
    ] {
        assert!(seen.contains(&sight), "{sight:?} in none of the worlds");
    }
}
