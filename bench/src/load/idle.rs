//! Idle: sessions that have moved bytes both ways and then rest. They end with an echo, so that a
//! session that died at rest is an error and not a saving.

use std::io;
use std::time::Duration;

use tokio::task::JoinSet;

use super::dial::{self, Dialer, ROWS, Stream, stride, within};
use super::tally::Tally;
use super::{Gate, PREPARE_DEADLINE};
use crate::error::BenchError;
use crate::exchange;

/// Bytes of the echo at the end.
const ECHO_LEN: u64 = 64;

/// Ready when all sessions are at rest and the rest has lasted.
pub(super) async fn run(
    dialer: &Dialer,
    sessions: u64,
    bytes: u64,
    rest: Duration,
    gate: &mut Gate,
) -> Result<Tally, BenchError> {
    let mut opening = JoinSet::new();
    for row in 0..ROWS {
        let dialer = dialer.clone();
        opening.spawn(async move { open_row(&dialer, row, sessions, bytes).await });
    }
    let mut tally = Tally::default();
    let mut rows = Vec::new();
    while let Some(row) = opening.join_next().await {
        let (streams, opened) = row.expect("rows don't panic");
        rows.push(streams);
        tally.merge(opened);
    }
    tokio::time::sleep(rest).await;
    gate.pass().await?;

    let mut ending = JoinSet::new();
    for streams in rows {
        ending.spawn(end_row(streams));
    }
    while let Some(row) = ending.join_next().await {
        tally.merge(row.expect("rows don't panic"));
    }
    Ok(tally)
}

async fn open_row(dialer: &Dialer, row: u64, sessions: u64, bytes: u64) -> (Vec<Stream>, Tally) {
    let mut tally = Tally::default();
    let mut streams = Vec::new();
    for number in (row..sessions).step_by(stride(ROWS)) {
        match within(PREPARE_DEADLINE, "open", open(dialer, number, bytes)).await {
            Ok(stream) => {
                tally.bytes_up += bytes;
                tally.bytes_down += bytes;
                streams.push(stream);
            }
            Err(error) => tally.fail(&error),
        }
    }
    (streams, tally)
}

async fn open(dialer: &Dialer, number: u64, bytes: u64) -> io::Result<Stream> {
    let mut stream = dialer.dial().await?;
    exchange::upload(&mut stream, number, bytes).await?;
    exchange::download(&mut stream, number, bytes).await?;
    Ok(stream)
}

async fn end_row(streams: Vec<Stream>) -> Tally {
    let mut tally = Tally::default();
    for (number, mut stream) in (0..).zip(streams) {
        if let Err(error) = dial::echo(&mut stream, number, ECHO_LEN).await {
            tally.fail(&error);
            continue;
        }
        tally.messages += 1;
        tally.count_end(dial::close(stream).await);
    }
    tally
}
