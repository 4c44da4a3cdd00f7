use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::TARGET;
use super::dial::{Endpoint, OpenError, OpenedSession};
use super::relay::Relay;
use crate::limits::HALF_CLOSED_TIMEOUT_MS;
use crate::relay::{CloseReason, Party};

/// The gateways of an agent, shared by its sessions. Never empty.
pub(super) struct Gateways {
    pub(super) endpoints: Vec<Endpoint>,
    /// Index of the one that gave the latest session: the next session asks it first.
    pub(super) last_good: AtomicUsize,
}

impl Gateways {
    /// Asks one gateway after the other. Says what the last one asked answered, and which it was.
    async fn open(&self, service: &str) -> (&Endpoint, Result<OpenedSession, OpenError>) {
        let mut answer = None;
        for index in order(self.endpoints.len(), self.last_good.load(Ordering::Relaxed)) {
            let gateway = &self.endpoints[index];
            let opened = gateway.open(service).await;
            let goes_on = match &opened {
                Ok(_) => {
                    self.last_good.store(index, Ordering::Relaxed);
                    false
                }
                Err(error) => {
                    tracing::warn!(target: TARGET, service, gateway = %gateway.address, %error, "no session");
                    error.leads_to_next_gateway()
                }
            };
            answer = Some((gateway, opened));
            if !goes_on {
                break;
            }
        }
        answer.expect("a checked configuration names at least one gateway")
    }
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
}
