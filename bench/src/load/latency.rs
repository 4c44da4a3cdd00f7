//! Latency: messages by the clock on many sessions, perhaps beside bulk ones or a storm.

use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Gate;
use super::bulk::Companion;
use super::dial::{self, Dialer, Stream};
use super::pace::Pace;
use super::storm::{self, Storm};
use super::tally::{SharedTally, Tally};
use crate::error::BenchError;

/// Bytes of a message.
const MESSAGE_LEN: u64 = 64;

/// What there is beside the messages, on a thread of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Beside {
    /// So many bulk sessions; there may be none.
    Bulk(u64),
    /// Newcomers.
    Storm(Storm),
}

/// All sessions are open, up to the backend, before the first message is due.
pub(super) async fn run(
    dialer: &Dialer,
    sessions: u64,
    pace: Pace,
    beside: Beside,
    background: &Handle,
    gate: &mut Gate,
) -> Result<Tally, BenchError> {
    let mut tally = Tally::default();
    let streams = dial::open_answered(dialer, sessions, &mut tally).await;
    let companions = match beside {
        Beside::Bulk(count) => Companion::open_all(dialer, count, background, &mut tally).await,
        Beside::Storm(_) => Vec::new(),
    };
    let (mut tasks, mut others) = (JoinSet::new(), JoinSet::new());
    let mut clocks = Vec::new();
    let counts = SharedTally::default();
    for (number, stream) in (0..).zip(streams) {
        // Holds all messages of the session: a message that is late must not delay the clock.
        let messages = pace.count().div_ceil(sessions);
        let capacity = usize::try_from(messages).unwrap_or(usize::MAX);
        let (clock, due) = mpsc::channel(capacity.max(1));
        clocks.push(clock);
        tasks.spawn(send_messages(stream, number, due, counts.clone()));
    }
    // Thousands of tasks take long to start: the first messages must not wait for that.
    let start = gate.pass().await?;

    let end = start + pace.length();
    for companion in companions {
        others.spawn_on(companion.transfer_until(end), background);
    }
    if let Beside::Storm(storm) = beside {
        others.spawn_on(storm::run(dialer.clone(), storm, end), background);
    }
    let clock = tokio::task::spawn_blocking(move || pace.keep(start, &clocks));
    tally.merge(clock.await.expect("the clock does not panic"));
    let mut streams = Vec::new();
    while let Some(task) = tasks.join_next().await {
        streams.extend(task.expect("sessions don't panic"));
    }
    tally.merge(counts.lock().clone());
    while let Some(other) = others.join_next().await {
        tally.merge(other.expect("transfers and storms don't panic"));
    }
    // The ends of thousands of sessions are no cost of messages.
    gate.end().await?;
    dial::close_all(streams, &mut tally).await;
    Ok(tally)
}

/// Returns the session when its last message is back.
async fn send_messages(
    mut stream: Stream,
    number: u64,
    mut due: mpsc::Receiver<Instant>,
    counts: SharedTally,
) -> Option<Stream> {
    while let Some(due) = due.recv().await {
        if let Err(error) = dial::echo(&mut stream, number, MESSAGE_LEN).await {
            counts.lock().fail(&error);
            return None;
        }
        counts.lock().count_message(due.elapsed());
    }
    Some(stream)
}
