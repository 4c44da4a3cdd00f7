//! Ping-pong: the next message of a session leaves when the one before is back, so that all
//! sessions are always busy.

use std::time::Instant;

use tokio::task::JoinSet;

use super::Gate;
use super::dial::{self, Dialer, Stream};
use super::tally::{SharedTally, Tally};
use crate::error::BenchError;

/// Bytes of a message.
const MESSAGE_LEN: u64 = 64;

/// All sessions are open, up to the backend, before the work starts.
pub(super) async fn run(
    dialer: &Dialer,
    sessions: u64,
    messages: u64,
    gate: &mut Gate,
) -> Result<Tally, BenchError> {
    let mut tally = Tally::default();
    let streams = dial::open_answered(dialer, sessions, &mut tally).await;
    gate.pass().await?;
    let mut tasks = JoinSet::new();
    let counts = SharedTally::default();
    for (number, stream) in (0..).zip(streams) {
        tasks.spawn(play(stream, number, messages, counts.clone()));
    }
    let mut streams = Vec::new();
    while let Some(task) = tasks.join_next().await {
        streams.extend(task.expect("sessions don't panic"));
    }
    tally.merge(counts.lock().clone());
    gate.end().await?;
    dial::close_all(streams, &mut tally).await;
    Ok(tally)
}

/// Returns the session when its last message is back.
async fn play(
    mut stream: Stream,
    number: u64,
    messages: u64,
    counts: SharedTally,
) -> Option<Stream> {
    for _ in 0..messages {
        let sent = Instant::now();
        if let Err(error) = dial::echo(&mut stream, number, MESSAGE_LEN).await {
            counts.lock().fail(&error);
            return None;
        }
        counts.lock().count_message(sent.elapsed());
    }
    Some(stream)
}
