//! A storm: newcomers in rows, each of which has the next when the one before was served.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::dial::{self, Dialer};
use super::tally::{SharedTally, Tally};
use crate::scenario::Newcomer;

/// Bytes of the echo of a session.
const ECHO_LEN: u64 = 64;

/// Who comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storm {
    /// At once.
    pub(super) rows: u64,
    /// What each does.
    pub(super) newcomer: Newcomer,
}

/// Until `end`; those that are being served then are waited for.
pub(super) async fn run(dialer: Dialer, storm: Storm, end: Instant) -> Tally {
    let counts = SharedTally::default();
    let hello = match dialer.hello() {
        Ok(hello) => Arc::<[u8]>::from(hello),
        Err(error) => {
            counts.lock().fail(&error);
            return counts.lock().clone();
        }
    };
    let mut rows = JoinSet::new();
    for row in 0..storm.rows {
        let (dialer, hello, counts) = (dialer.clone(), Arc::clone(&hello), counts.clone());
        rows.spawn(async move {
            while Instant::now() < end {
                let start = Instant::now();
                let served = match storm.newcomer {
                    Newcomer::Session => session(&dialer, row).await,
                    Newcomer::Hello => dialer.say_hello(&hello).await,
                };
                match served {
                    Ok(()) => counts.lock().count_newcomer(start.elapsed()),
                    Err(error) => counts.lock().fail(&error),
                }
            }
        });
    }
    while let Some(row) = rows.join_next().await {
        row.expect("rows don't panic");
    }
    counts.lock().clone()
}

async fn session(dialer: &Dialer, number: u64) -> io::Result<()> {
    let mut stream = dialer.dial().await?;
    dial::echo(&mut stream, number, ECHO_LEN).await?;
    dial::close(stream).await
}
