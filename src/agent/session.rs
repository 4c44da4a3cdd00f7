use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::TARGET;
use super::dial::{Endpoint, OpenError, OpenedSession};
use super::patience::Patience;
use super::relay::Relay;
use crate::limits::HALF_CLOSED_TIMEOUT_MS;
use crate::relay::{CloseReason, Party};

/// The gateways of an agent, shared by its sessions. Never empty.
pub(super) struct Gateways {
    pub(super) endpoints: Vec<Endpoint>,
    /// Index of the one that gave the latest session: the next session asks it first.
    pub(super) last_good: AtomicUsize,
    /// How long a local connection waits while none of them gives it a session.
    pub(super) retry_for: Duration,
}

/// What came of asking all gateways once.
struct Round<'g> {
    /// The last one asked.
    gateway: &'g Endpoint,
    answer: Result<OpenedSession, OpenError>,
    /// Whether one of them may answer otherwise later.
    may_pass: bool,
    /// When the first of them has told us to come back.
    retry_after: Option<Duration>,
}

impl Gateways {
    /// Asks one gateway after the other, and all of them again while that may help.
    async fn open(&self, service: &str) -> (&Endpoint, Result<OpenedSession, OpenError>) {
        let mut patience = Patience::new(Instant::now(), self.retry_for);
        loop {
            let Round { gateway, answer, may_pass, retry_after } = self.ask_all(service).await;
            if answer.is_ok() || !may_pass {
                return (gateway, answer);
            }
            match patience.next_wait(Instant::now(), retry_after, &mut fill_random) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return (gateway, answer),
            }
        }
    }

    async fn ask_all(&self, service: &str) -> Round<'_> {
        let (mut may_pass, mut retry_after) = (false, None::<Duration>);
        let mut last = None;
        for index in order(self.endpoints.len(), self.last_good.load(Ordering::Relaxed)) {
            let gateway = &self.endpoints[index];
            let answer = gateway.open(service).await;
            let goes_on = match &answer {
                Ok(_) => {
                    self.last_good.store(index, Ordering::Relaxed);
                    false
                }
                Err(error) => {
                    tracing::warn!(target: TARGET, service, gateway = %gateway.address, %error, "no session");
                    may_pass |= error.may_pass();
                    retry_after = retry_after.into_iter().chain(error.retry_after()).min();
                    error.leads_to_next_gateway()
                }
            };
            last = Some((gateway, answer));
            if !goes_on {
                break;
            }
        }
        let (gateway, answer) = last.expect("a checked configuration names at least one gateway");
        Round { gateway, answer, may_pass, retry_after }
    }
}

/// For the jitter of waits.
fn fill_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes)
        .expect("the system's random source does not fail once it has begun");
}

/// Serves one local connection to its end, and logs it. Ends early when `stop` turns true. Expects
/// that closing `local` is a reset, and makes it a clean close where the session finished.
pub(super) async fn serve(
    local: TcpStream,
    service: Arc<str>,
    gateways: Arc<Gateways>,
    mut stop: watch::Receiver<bool>,
) {
    let mut end = SessionEnd::new();
    let answer = tokio::select! {
        answer = gateways.open(&service) => answer,
        () = lost(&local) => return end.log(&service, CloseReason::Reset(Party::Local)),
        () = stopped(&mut stop) => return end.log(&service, CloseReason::DrainTimeout),
    };
    end.gateway = answer.0.address.to_string();
    let opened = match answer.1 {
        Ok(opened) => opened,
        Err(error) => return end.log(&service, error.reason()),
    };
    end.session = opened.name;

    let mut relay = Relay::new(local, opened.stream);
    let half_closed_timeout = Duration::from_millis(HALF_CLOSED_TIMEOUT_MS.default);
    let reason = tokio::select! {
        reason = relay.run(half_closed_timeout) => reason,
        () = stopped(&mut stop) => CloseReason::DrainTimeout,
    };
    end.bytes_out = relay.bytes_out();
    end.bytes_in = relay.bytes_in();
    if reason == CloseReason::Finished {
        relay.finish();
    }
    end.log(&service, reason);
}

/// What the one line at the end says.
struct SessionEnd {
    started: Instant,
    /// The last one asked; empty where none had answered.
    gateway: String,
    /// Empty where there was no session.
    session: String,
    bytes_out: u64,
    bytes_in: u64,
}

impl SessionEnd {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            gateway: String::new(),
            session: String::new(),
            bytes_out: 0,
            bytes_in: 0,
        }
    }

    fn log(&self, service: &str, reason: CloseReason) {
        tracing::info!(
            target: TARGET,
            service,
            gateway = self.gateway,
            session = self.session,
            bytes_out = self.bytes_out,
            bytes_in = self.bytes_in,
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            reason = reason.word(),
            "session ended"
        );
    }
}

/// The order in which gateways are asked, by index: the one that worked last, then the others as
/// they are configured.
fn order(count: usize, last_good: usize) -> impl Iterator<Item = usize> {
    iter::once(last_good).chain((0..count).filter(move |index| *index != last_good))
}

/// Waits for a reset of the local connection. Its bytes and its FIN are left for the relay: a
/// program may send all it has to say, end its direction, and wait.
async fn lost(local: &TcpStream) {
    // An error of the wait itself is as much a loss as the one waited for.
    let _ = local.ready(Interest::ERROR).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that the agent itself is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::RefusalReason;

    proptest! {
        #[test]
        fn every_gateway_is_asked_once_and_the_last_good_one_first(
            (count, last_good) in (1_usize..20).prop_flat_map(|count| (Just(count), 0..count))
        ) {
            let mut asked: Vec<_> = order(count, last_good).collect();
            prop_assert_eq!(asked[0], last_good);
            prop_assert!(asked[1..].is_sorted());
            asked.sort_unstable();
            prop_assert_eq!(asked, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_refusal_that_may_pass_leads_to_the_next_gateway_and_a_final_one_does_not() {
        for reason in RefusalReason::ALL {
            let error = OpenError::Refused { reason, retry_after_ms: 0 };
            assert_eq!(error.leads_to_next_gateway(), reason.is_transient(), "{reason}");
            assert_eq!(error.reason(), CloseReason::Refused(reason));
        }
        assert!(OpenError::DialTimeout.leads_to_next_gateway());
    }

    #[test]
    fn what_a_wrong_certificate_brings_is_not_asked_for_again_and_a_full_house_is() {
        let handshake = |error| OpenError::Handshake(std::io::Error::other(error));
        let alert = |alert| handshake(rustls::Error::AlertReceived(alert));
        assert!(!alert(rustls::AlertDescription::UnknownCA).may_pass());
        assert!(!handshake(rustls::CertificateError::Expired.into()).may_pass());
        assert!(alert(rustls::AlertDescription::InternalError).may_pass());
        assert!(OpenError::Handshake(std::io::ErrorKind::UnexpectedEof.into()).may_pass());
        assert!(!OpenError::NotAGateway.may_pass());
    }
}
