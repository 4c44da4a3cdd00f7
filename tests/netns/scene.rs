//! A site at work: a backend behind it, a device, and sessions whose every byte is checked.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::echo::{Device, EchoBackend, Session, spawn};
use super::network::DMZ_OUTSIDE;
use super::process::{PATIENCE, wait_for};
use super::site::{ECHO_BACKEND, Site};

/// A dead peer is promised to be known within 10 s; the rest is for a busy machine.
pub(super) const KNOWN_AFTER: Duration = Duration::from_secs(10 + 3);
/// Sessions that live when something is lost.
const SESSIONS: usize = 100;
pub(super) const MESSAGE: &[u8] = b"what is said in one session";

/// A site with a backend, and a device that has been there before: whatever is allocated with the
/// first sessions belongs to the baselines.
pub(super) struct Scene<'a> {
    pub(super) site: &'a mut Site,
    pub(super) backend: EchoBackend,
    pub(super) device: Device,
}

impl Scene<'_> {
    pub(super) fn test(test: impl FnOnce(&mut Scene<'_>)) {
        Site::test(|site| {
            let backend = EchoBackend::start(&site.network.lan, ECHO_BACKEND);
            let device = Device::new(site, SocketAddr::new(DMZ_OUTSIDE, 13_000));
            let mut scene = Scene { site, backend, device };
            for mut session in scene.open_sessions() {
                scene.on_the_internet(|| session.exchange(MESSAGE)).expect("it lives");
                scene.on_the_internet(|| session.finish()).expect("a clean end");
            }
            scene.site.wait_until_at_rest();
            test(&mut scene);
            let Scene { site, backend, .. } = scene;
            site.wait_until_at_rest();
            wait_for("the backend has no connection left", PATIENCE, || {
                (backend.open() == 0).then_some(())
            });
            backend.stop(&site.network.lan);
        });
    }

    pub(super) fn on_the_internet<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.site.network.internet.run(act)
    }

    pub(super) fn open_sessions(&self) -> Vec<Session> {
        let open = || {
            let mut session = self.device.open()?;
            session.exchange(MESSAGE)?;
            Ok::<_, io::Error>(session)
        };
        self.on_the_internet(|| (0..SESSIONS).map(|_| open().expect("sessions flow")).collect())
    }

    /// Every session ends now, and none as if all had been said.
    pub(super) fn expect_broken(&self, sessions: Vec<Session>) {
        for session in sessions {
            let end = self.on_the_internet(|| session.wait_for_end());
            let error = end.expect_err("what is cut off must not look finished");
            assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "it hangs: {error}");
        }
    }

    /// Tries until a session carries a message there and back; prints how long that took.
    pub(super) fn wait_until_sessions_flow(&self, since_what: &str, since: Instant) {
        let mut session = wait_for("sessions flow again", PATIENCE, || {
            self.on_the_internet(|| {
                let mut session = self.device.open().ok()?;
                session.exchange(MESSAGE).ok()?;
                Some(session)
            })
        });
        println!("sessions flow again {:.2} s after {since_what}", since.elapsed().as_secs_f64());
        session.exchange(MESSAGE).expect("it lives");
        session.finish().expect("a clean end");
    }
}

/// Sessions that talk all the time while something happens to others, or to all.
pub(super) struct Witnesses {
    talking: Vec<JoinHandle<io::Result<u64>>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    enough: AtomicBool,
    exchanges: AtomicU64,
}

impl Witnesses {
    /// Returns once each has had an answer.
    pub(super) fn start(scene: &Scene<'_>, count: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let talk = |mut session: Session| {
            let shared = Arc::clone(&shared);
            spawn(move || {
                while !shared.enough.load(Ordering::Relaxed) {
                    session.exchange(MESSAGE)?;
                    shared.exchanges.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
                session.finish()
            })
        };
        let sessions: Vec<_> = scene.on_the_internet(|| {
            let open = |_| scene.device.open().expect("the gateway takes it");
            (0..count).map(open).collect()
        });
        let talking = sessions.into_iter().map(talk).collect();
        let witnesses = Self { talking, shared: Arc::clone(&shared) };
        witnesses.wait_for_answers(count as u64);
        witnesses
    }

    /// Waits until so many more messages have come back: the sessions are not only there, they work.
    pub(super) fn wait_for_answers(&self, count: u64) {
        let enough = self.shared.exchanges.load(Ordering::Relaxed) + count;
        wait_for("witnesses get answers", PATIENCE, || {
            (self.shared.exchanges.load(Ordering::Relaxed) >= enough).then_some(())
        });
    }

    /// Ends them, and asserts that none has noticed anything: what each sent came back, byte by byte,
    /// up to a clean end. Returns how many bytes that were.
    pub(super) fn finish(self) -> u64 {
        self.shared.enough.store(true, Ordering::Relaxed);
        let finished = self.talking.into_iter().map(|thread| thread.join().expect("no panic"));
        finished.map(|end| end.expect("a witness goes on to its end")).sum()
    }
}
