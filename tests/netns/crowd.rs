//! Many agents at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand;
use vestibule::telemetry::status::Status;

use super::echo::{Device, EchoBackend, spawn};
use super::network::DMZ_OUTSIDE;
use super::process::{PATIENCE, wait_for};
use super::site::{Baseline, ECHO_BACKEND, Site};

const AGENTS: u64 = 1_000;
/// Agents that dial at the same time: far fewer than the handshakes that a gateway allows at once,
/// of which each agent takes two, one for its data connection.
const DIALLING: u64 = 64;
/// Of the block that messages are cut from: agents that get each other's bytes would notice.
const BLOCK_LEN: usize = 1 << 18;
const MAX_MESSAGE_LEN: usize = 16 * 1024;
/// Between two messages of one agent: all together send about 8 MB/s, which leaves two slow cores
/// time for the rest.
const PAUSE: Duration = Duration::from_secs(1);

/// How long all of them talk; `VESTIBULE_CROWD_SECONDS` shortens it.
fn duration() -> Duration {
    let seconds = std::env::var("VESTIBULE_CROWD_SECONDS");
    Duration::from_secs(seconds.map_or(60, |number| number.parse().expect("a number of seconds")))
}

#[derive(Debug, Default)]
struct Progress {
    talking: AtomicU64,
    enough: AtomicBool,
}

/// Talks until it is enough, and returns the bytes that it sent and got back.
fn talk(device: &Device, number: u64, block: &[u8], progress: &Progress) -> u64 {
    let mut session = device.open().expect("the gateway takes it");
    let first = usize::try_from(number).expect("a small number") * 257;
    let mut at = first;
    while !progress.enough.load(Ordering::Relaxed) {
        // Two primes: lengths and places vary, and no two agents send the same for long.
        let start = at * 7_919 % (BLOCK_LEN - MAX_MESSAGE_LEN);
        let len = at * 104_729 % MAX_MESSAGE_LEN + 1;
        session.exchange(&block[start..start + len]).expect("the session lives");
        if at == first {
            progress.talking.fetch_add(1, Ordering::Relaxed);
        }
        at += 1;
        thread::sleep(PAUSE);
    }
    session.finish().expect("a clean end")
}

fn finished(status: &Status) -> u64 {
    let ended = status.totals.ended.sessions.iter();
    ended.filter(|end| end.reason == "finished").map(|end| end.count).sum()
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn of_a_thousand_agents_at_once_each_byte_arrives_and_returns() {
    Site::test(|site| {
        let backend = EchoBackend::start(&site.network.lan, ECHO_BACKEND);
        let device = Device::new(site, SocketAddr::new(DMZ_OUTSIDE, 13_000));
        let mut block = vec![0; BLOCK_LEN];
        rand::fill(&mut block).expect("random bytes");
        let block = Arc::new(block);
        // What a process keeps for as many as it once had is no leak: a second crowd shows one.
        crowd(site, &device, &block, AGENTS, Duration::ZERO);
        site.wait_until_at_rest();
        let baselines = [Baseline::of(&site.gateway), Baseline::of(&site.server)];
        let before = (site.gateway_status(), site.server_status(), backend.received());

        let echoed = crowd(site, &device, &block, AGENTS, duration());

        site.wait_until_at_rest();
        println!("{AGENTS} agents sent {echoed} bytes and got them back");
        assert_eq!(backend.received() - before.2, echoed, "at the backend");
        for (before, after) in [(before.0, site.gateway_status()), (before.1, site.server_status())]
        {
            let role = after.role;
            let (old, new) = (&before.totals, &after.totals);
            assert_eq!(new.bytes_to_server - old.bytes_to_server, echoed, "{role:?}, inward");
            assert_eq!(new.bytes_to_agent - old.bytes_to_agent, echoed, "{role:?}, outward");
            assert_eq!(finished(&after) - finished(&before), AGENTS, "{:?}", new.ended);
        }
        baselines[0].wait_for_return(&site.gateway);
        baselines[1].wait_for_return(&site.server);
        assert_eq!(backend.open(), 0);
        backend.stop(&site.network.lan);
    });
}

/// Lets so many agents talk at once for so long. Returns the bytes that they got back.
fn crowd(
    site: &Site,
    device: &Device,
    block: &Arc<Vec<u8>>,
    agents: u64,
    duration: Duration,
) -> u64 {
    let progress = Arc::new(Progress::default());
    let start = |number| {
        let (device, block, progress) = (device.clone(), Arc::clone(block), Arc::clone(&progress));
        spawn(move || talk(&device, number, &block, &progress))
    };
    let wait_for_talkers = |count| {
        wait_for(&format!("{count} agents talk"), PATIENCE, || {
            (progress.talking.load(Ordering::Relaxed) >= count).then_some(())
        });
    };
    // Threads begun on a host are on that host.
    let agents_running = site.network.internet.run(|| {
        let mut running = Vec::new();
        for number in 0..agents {
            wait_for_talkers(number.saturating_sub(DIALLING));
            running.push(start(number));
        }
        running
    });
    wait_for_talkers(agents);
    // The page learns of a session a few milliseconds after it began.
    wait_for("both pages show all sessions", PATIENCE, || {
        let live = [site.gateway_status(), site.server_status()].map(|page| page.sessions.live);
        (live == [agents; 2]).then_some(())
    });
    thread::sleep(duration);
    assert_eq!(site.gateway_status().sessions.live, agents, "all live to the end");
    progress.enough.store(true, Ordering::Relaxed);
    agents_running.into_iter().map(|agent| agent.join().expect("it is content")).sum()
}
