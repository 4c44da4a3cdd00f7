//! Bulk: sessions side by side, each with many bytes one way.

use std::io;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::dial::{self, Dialer, Stream, within};
use super::tally::Tally;
use super::{Gate, PREPARE_DEADLINE};
use crate::error::BenchError;
use crate::exchange;
use crate::scenario::Direction;

/// Bytes of the exchange that makes a session warm before the work: the path to the backend is
/// open, and slow start is behind it.
const WARM_UP_LEN: u64 = 1_000_000;
/// Bytes of one transfer of a companion; they follow each other until others have what they need.
const COMPANION_LEN: u64 = 16_000_000;

/// All sessions are open before the work starts, so no handshake is in its figures.
pub(super) async fn run(
    dialer: &Dialer,
    direction: Direction,
    connections: u64,
    bytes: u64,
    gate: &mut Gate,
) -> Result<Tally, BenchError> {
    let mut tally = Tally::default();
    let mut streams = Vec::new();
    for number in 0..connections {
        match open(dialer, direction, number).await {
            Ok(stream) => streams.push(stream),
            Err(error) => tally.fail(&error),
        }
    }
    gate.pass().await?;
    let mut transfers = JoinSet::new();
    for (number, mut stream) in (0..).zip(streams) {
        transfers.spawn(async move {
            let mut tally = Tally::default();
            match transfer(&mut stream, direction, number, bytes).await {
                Ok(()) => tally.count_bytes(direction, bytes),
                Err(error) => tally.fail(&format!("transfer: {error}")),
            }
            tally.count_end(dial::close(stream).await);
            tally
        });
    }
    while let Some(transferred) = transfers.join_next().await {
        tally.merge(transferred.expect("transfers don't panic"));
    }
    Ok(tally)
}

/// A session that has carried its first bytes.
async fn open(dialer: &Dialer, direction: Direction, number: u64) -> io::Result<Stream> {
    let mut stream = dialer.dial().await?;
    let warm_up = transfer(&mut stream, direction, number, WARM_UP_LEN);
    within(PREPARE_DEADLINE, "warm-up", warm_up).await?;
    Ok(stream)
}

/// One transfer; its bytes differ from those of other sessions.
async fn transfer(
    stream: &mut Stream,
    direction: Direction,
    number: u64,
    bytes: u64,
) -> io::Result<()> {
    let position = number * 1009;
    match direction {
        Direction::Up => exchange::upload(stream, position, bytes).await,
        Direction::Down => exchange::download(stream, position, bytes).await,
    }
}

/// A bulk session beside those that are measured.
pub(super) struct Companion {
    number: u64,
    direction: Direction,
    stream: Stream,
}

impl Companion {
    /// They live on the thread of bulk from the start: a socket stays with the thread that opened
    /// it.
    pub(super) async fn open_all(
        dialer: &Dialer,
        count: u64,
        bulk: &Handle,
        tally: &mut Tally,
    ) -> Vec<Self> {
        let mut open = Vec::new();
        for number in 0..count {
            let dialer = dialer.clone();
            let opening = bulk.spawn(async move { Self::open(&dialer, number).await });
            match opening.await.expect("opening does not panic") {
                Ok(companion) => open.push(companion),
                Err(error) => tally.fail(&error),
            }
        }
        open
    }

    /// Every other one goes up, the rest down.
    async fn open(dialer: &Dialer, number: u64) -> io::Result<Self> {
        let direction = if number.is_multiple_of(2) { Direction::Up } else { Direction::Down };
        let stream = open(dialer, direction, number).await?;
        Ok(Self { number, direction, stream })
    }

    /// Moves bytes until then, and ends.
    pub(super) async fn transfer_until(mut self, end: Instant) -> Tally {
        let Self { number, direction, .. } = self;
        let mut tally = Tally::default();
        while Instant::now() < end {
            if let Err(error) = transfer(&mut self.stream, direction, number, COMPANION_LEN).await {
                tally.fail(&format!("transfer: {error}"));
                return tally;
            }
            tally.count_bytes(direction, COMPANION_LEN);
        }
        tally.count_end(dial::close(self.stream).await);
        tally
    }
}
