//! Arrivals: new sessions by the clock, beside bulk.

use std::io;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Gate;
use super::bulk::Companion;
use super::dial::{self, Dialer};
use super::pace::Pace;
use super::tally::{SharedTally, Tally};
use crate::error::BenchError;

/// Bytes of the echo.
const ECHO_LEN: u64 = 64;

/// The bulk sessions are warm before the first session is due.
pub(super) async fn run(
    dialer: &Dialer,
    pace: Pace,
    bulk: u64,
    background: &Handle,
    gate: &mut Gate,
) -> Result<Tally, BenchError> {
    let mut tally = Tally::default();
    let companions = Companion::open_all(dialer, bulk, background, &mut tally).await;
    let start = gate.pass().await?;

    let (mut sessions, mut transfers) = (JoinSet::new(), JoinSet::new());
    for companion in companions {
        transfers.spawn_on(companion.transfer_until(start + pace.length()), background);
    }
    let capacity = usize::try_from(pace.count()).unwrap_or(usize::MAX);
    let (clock, mut due) = mpsc::channel(capacity.max(1));
    let keeping = tokio::task::spawn_blocking(move || pace.keep(start, &[clock]));
    let counts = SharedTally::default();
    let mut number = 0;
    while let Some(due) = due.recv().await {
        let (dialer, counts) = (dialer.clone(), counts.clone());
        sessions.spawn(async move {
            let end = session(&dialer, number, due, &counts).await;
            counts.lock().count_end(end);
        });
        number += 1;
    }
    tally.merge(keeping.await.expect("the clock does not panic"));
    while let Some(session) = sessions.join_next().await {
        session.expect("sessions don't panic");
    }
    tally.merge(counts.lock().clone());
    while let Some(transferred) = transfers.join_next().await {
        tally.merge(transferred.expect("transfers don't panic"));
    }
    Ok(tally)
}

/// The latency is what a user waits for: from when he wanted a session to the echo.
async fn session(
    dialer: &Dialer,
    number: u64,
    due: Instant,
    counts: &SharedTally,
) -> io::Result<()> {
    let mut stream = dialer.dial().await?;
    dial::echo(&mut stream, number, ECHO_LEN).await?;
    counts.lock().count_message(due.elapsed());
    dial::close(stream).await
}
