//! Latency: messages by the clock on many sessions, perhaps beside bulk ones. A message counts from
//! when it was *due*: one that had to wait for the answer to the message before it is late, and
//! shows it ("coordinated omission" would hide it).

use std::io;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Gate;
use super::bulk;
use super::dial::{self, Dialer, Stream};
use super::tally::{SharedTally, Tally};
use crate::error::BenchError;
use crate::scenario::Direction;

/// Bytes of a message.
const MESSAGE_LEN: u64 = 64;
/// Bytes of one bulk transfer; they follow each other until the last message was due.
const TRANSFER_LEN: u64 = 16_000_000;

/// The numbers of the scenario.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Sessions with messages.
    pub(super) sessions: u64,
    /// Messages a second, over all of them.
    pub(super) per_second: u64,
    /// How long.
    pub(super) seconds: u64,
    /// Bulk sessions beside them.
    pub(super) companions: u64,
}

impl Shape {
    /// Messages of all sessions.
    fn messages(self) -> u64 {
        self.per_second * self.seconds
    }

    /// When message `number` of the run is due after its start, spread evenly.
    fn due(self, number: u64) -> Duration {
        Duration::from_nanos(number * 1_000_000_000 / self.per_second)
    }
}

/// All sessions are open, up to the backend, before the first message is due.
pub(super) async fn run(
    dialer: &Dialer,
    shape: Shape,
    bulk: &Handle,
    gate: &mut Gate,
) -> Result<Tally, BenchError> {
    let mut tally = Tally::default();
    let streams = dial::open_answered(dialer, shape.sessions, &mut tally).await;
    let companions = open_companions(dialer, shape.companions, bulk, &mut tally).await;
    let start = gate.pass().await?;

    let (mut tasks, mut transfers) = (JoinSet::new(), JoinSet::new());
    let mut clocks = Vec::new();
    let counts = SharedTally::default();
    for (number, stream) in (0..).zip(streams) {
        // Holds all messages of the session: a message that is late must not delay the clock.
        let messages = shape.messages().div_ceil(shape.sessions);
        let capacity = usize::try_from(messages).unwrap_or(usize::MAX);
        let (clock, due) = mpsc::channel(capacity.max(1));
        clocks.push(clock);
        tasks.spawn(send_messages(stream, number, due, counts.clone()));
    }
    let end = start + Duration::from_secs(shape.seconds);
    for companion in companions {
        transfers.spawn_on(companion.transfer_until(end), bulk);
    }
    let pacer = tokio::task::spawn_blocking(move || pace(start, shape, &clocks));
    tally.merge(pacer.await.expect("the pacer does not panic"));
    let mut streams = Vec::new();
    while let Some(task) = tasks.join_next().await {
        streams.extend(task.expect("sessions don't panic"));
    }
    tally.merge(counts.lock().clone());
    while let Some(transferred) = transfers.join_next().await {
        tally.merge(transferred.expect("transfers don't panic"));
    }
    // The ends of thousands of sessions are no cost of messages.
    gate.end().await?;
    dial::close_all(streams, &mut tally).await;
    Ok(tally)
}

/// They live on the thread of bulk from the start: a socket stays with the thread that opened it.
async fn open_companions(
    dialer: &Dialer,
    companions: u64,
    bulk: &Handle,
    tally: &mut Tally,
) -> Vec<Companion> {
    let mut open = Vec::new();
    for number in 0..companions {
        let dialer = dialer.clone();
        let opening = bulk.spawn(async move { Companion::open(&dialer, number).await });
        match opening.await.expect("opening does not panic") {
            Ok(companion) => open.push(companion),
            Err(error) => tally.fail(&error),
        }
    }
    open
}

/// Hands each message to its session when it is due. A thread of its own, since tokio's timers
/// round to a millisecond.
fn pace(start: Instant, shape: Shape, clocks: &[mpsc::Sender<Instant>]) -> Tally {
    let mut tally = Tally::default();
    for (number, clock) in (0..shape.messages()).zip(clocks.iter().cycle()) {
        let due = start + shape.due(number);
        let now = Instant::now();
        std::thread::sleep(due.saturating_duration_since(now));
        tally.note_lateness(due.elapsed());
        // Fails only where the session has ended with an error, which is counted there.
        let _ = clock.try_send(due);
    }
    tally
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

/// A bulk session beside those with messages.
struct Companion {
    number: u64,
    direction: Direction,
    stream: Stream,
}

impl Companion {
    /// Every other one goes up, the rest down.
    async fn open(dialer: &Dialer, number: u64) -> io::Result<Self> {
        let direction = if number.is_multiple_of(2) { Direction::Up } else { Direction::Down };
        let stream = bulk::open(dialer, direction, number).await?;
        Ok(Self { number, direction, stream })
    }

    async fn transfer_until(mut self, end: Instant) -> Tally {
        let Self { number, direction, .. } = self;
        let mut tally = Tally::default();
        while Instant::now() < end {
            let transfer = bulk::transfer(&mut self.stream, direction, number, TRANSFER_LEN);
            if let Err(error) = transfer.await {
                tally.fail(&format!("transfer: {error}"));
                return tally;
            }
            tally.count_bytes(direction, TRANSFER_LEN);
        }
        tally.count_end(dial::close(self.stream).await);
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_evenly_over_the_time_of_the_run() {
        let shape = Shape { sessions: 500, per_second: 2_000, seconds: 20, companions: 2 };
        assert_eq!(shape.messages(), 40_000);
        assert_eq!(shape.due(0), Duration::ZERO);
        assert_eq!(shape.due(1), Duration::from_micros(500));
        assert_eq!(shape.due(shape.messages()), Duration::from_secs(20));
        // Each session has its next message a quarter of a second after the last.
        assert_eq!(shape.due(507), shape.due(7) + Duration::from_millis(250));
    }
}
