//! Session rate: connect, full handshake, an echo of 64 bytes, a clean end, and the next.

use std::io;
use std::time::Instant;

use tokio::task::JoinSet;

use super::Gate;
use super::dial::{self, Dialer};
use super::tally::Tally;
use crate::error::BenchError;

/// Bytes of the echo.
const ECHO_LEN: u64 = 64;

/// Rows of sessions side by side; within a row the next starts when the last has ended.
pub(super) async fn run(
    dialer: &Dialer,
    sessions: u64,
    concurrency: u64,
    gate: &mut Gate,
) -> Result<Tally, BenchError> {
    gate.pass().await?;
    let mut rows = JoinSet::new();
    for row in 0..concurrency {
        let dialer = dialer.clone();
        rows.spawn(async move {
            let mut tally = Tally::default();
            for number in (row..sessions).step_by(dial::stride(concurrency)) {
                let end = session(&dialer, number, &mut tally).await;
                tally.count_end(end);
            }
            tally
        });
    }
    let mut tally = Tally::default();
    while let Some(row) = rows.join_next().await {
        tally.merge(row.expect("rows don't panic"));
    }
    Ok(tally)
}

/// The latency is what a user waits for: from before the connect to the echo.
async fn session(dialer: &Dialer, number: u64, tally: &mut Tally) -> io::Result<()> {
    let start = Instant::now();
    let mut stream = dialer.dial().await?;
    dial::echo(&mut stream, number, ECHO_LEN).await?;
    tally.count_message(start.elapsed());
    dial::close(stream).await
}
