//! Load, churn, rudeness and faults, round after round, for as long as one likes: what gateway and server
//! hold stays flat.
//!
//! `VESTIBULE_SOAK_SECONDS=3600` makes it an hour; `VESTIBULE_SOAK_SEED` repeats a run.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::network::DMZ_OUTSIDE;
use super::process::{Footprint, PATIENCE, wait_for};
use super::scene::{KNOWN_AFTER, MESSAGE, Scene, Witnesses};
use super::site::MEMORY_SLACK_KB;

const WITNESSES: usize = 20;
/// Sessions, rude devices and strangers of a round.
const VISITS: usize = 40;
/// Rounds after which processes have allocated what they keep.
const WARM_UP: usize = 3;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a whole number")))
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn what_is_held_stays_flat_under_load_churn_and_faults() {
    let duration = Duration::from_secs(number("VESTIBULE_SOAK_SECONDS").unwrap_or(120));
    let seed = number("VESTIBULE_SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("VESTIBULE_SOAK_SEED={seed}");
    Scene::test(|scene| {
        let mut dice = Dice(seed | 1);
        let mut held: Vec<[Footprint; 2]> = Vec::new();
        let start = Instant::now();
        while held.len() <= WARM_UP || start.elapsed() < duration {
            let fault = Fault::ALL[dice.below(Fault::ALL.len())];
            let echoed = round(scene, &mut dice, fault);
            scene.site.wait_until_ready();
            scene.site.wait_until_at_rest();
            let [gateway, server] =
                [&scene.site.gateway, &scene.site.server].map(super::site::Role::footprint);
            let seconds = start.elapsed().as_secs();
            println!("{seconds} s, {fault:?}: {echoed} bytes; gateway {gateway}; server {server}");
            held.push([gateway, server]);
        }
        let (before, after) = (held[WARM_UP - 1], held[held.len() - 1]);
        for (before, after) in before.into_iter().zip(after) {
            // That of the page which was just read may still be there.
            assert!(after.descriptors <= before.descriptors + 1, "{before} before, {after} after");
            let bound = before.memory_kb + MEMORY_SLACK_KB;
            assert!(after.memory_kb <= bound, "{before} before, {after} after");
        }
    });
}

/// What befalls everybody in a round.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    LinkCut,
    ServerStopped,
    GatewayStopped,
    SignalSilent,
}

impl Fault {
    const ALL: [Self; 5] =
        [Self::None, Self::LinkCut, Self::ServerStopped, Self::GatewayStopped, Self::SignalSilent];

    fn happen(self, scene: &Scene<'_>) {
        let site = &scene.site;
        let while_stopped = |role: &super::site::Role| {
            role.signal(Signal::STOP);
            thread::sleep(Duration::from_secs(1));
            role.signal(Signal::CONT);
        };
        match self {
            Self::None => {}
            Self::LinkCut => {
                let cut = site.network.cut();
                thread::sleep(Duration::from_secs(1));
                drop(cut);
            }
            Self::ServerStopped => while_stopped(&site.server),
            Self::GatewayStopped => while_stopped(&site.gateway),
            Self::SignalSilent => {
                let old = site.signal_connection().expect("it is up");
                let rule = format!("iifname \"lan\" tcp sport {}", old.port());
                let silence = site.network.swallow(&rule);
                wait_for("the gateway knows it", KNOWN_AFTER, || {
                    (site.signal_connection() != Some(old)).then_some(())
                });
                drop(silence);
            }
        }
    }
}

/// Returns the bytes that came back to those who noticed nothing.
fn round(scene: &Scene<'_>, dice: &mut Dice, fault: Fault) -> u64 {
    let witnesses = Witnesses::start(scene, WITNESSES);
    let mut strangers = Vec::new();
    for visit in 0..VISITS {
        let address = SocketAddr::new(DMZ_OUTSIDE, 13_000);
        match dice.below(4) {
            0 => scene.on_the_internet(|| {
                let mut session = scene.device.open().expect("the gateway takes it");
                session.exchange(MESSAGE).expect("it lives");
                session.finish().expect("a clean end");
            }),
            1 => scene.on_the_internet(|| {
                let mut rude = scene.device.open().expect("the gateway takes it");
                rude.exchange(MESSAGE).expect("it lives");
                // Dropped: neither `close_notify` nor anything else.
            }),
            kind => strangers.extend(scene.on_the_internet(|| {
                let mut stranger = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
                // A hello that does not end, or no TLS at all.
                let bytes: &[u8] = if kind == 2 { &[22, 3, 1, 2, 0, 1] } else { b"GET / HTTP/1.0" };
                stranger.write_all(bytes).ok()?;
                Some(stranger)
            })),
        }
        if visit == VISITS / 2 {
            fault.happen(scene);
        }
    }
    witnesses.wait_for_answers(WITNESSES as u64);
    witnesses.finish()
}

/// Xorshift (Marsaglia, 2003): a run can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }
}
