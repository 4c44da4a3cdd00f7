//! Bulk: sessions side by side, each with many bytes one way.

use std::io;

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
pub(super) async fn open(dialer: &Dialer, direction: Direction, number: u64) -> io::Result<Stream> {
    let mut stream = dialer.dial().await?;
    let warm_up = transfer(&mut stream, direction, number, WARM_UP_LEN);
    within(PREPARE_DEADLINE, "warm-up", warm_up).await?;
    Ok(stream)
}

/// One transfer; its bytes differ from those of other sessions.
pub(super) async fn transfer(
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
