use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::client::TlsStream;

use super::socket::finish;
use crate::limits::{AGENT_BUFFER_LEN, STEPS_PER_TURN};
use crate::relay::{CloseReason, Party};

/// A local connection and a session at the gateway, joined. Dropping it passes a failure on: the
/// gateway gets no `close_notify`, and the local program a reset.
pub(super) struct Relay {
    local: TcpStream,
    gateway: TlsStream<TcpStream>,
    outward: Flow,
    inward: Flow,
}

impl Relay {
    pub(super) fn new(local: TcpStream, gateway: TlsStream<TcpStream>) -> Self {
        Self { local, gateway, outward: Flow::new(), inward: Flow::new() }
    }

    /// Moves bytes both ways until both directions ended or one failed. May be dropped at any time.
    pub(super) async fn run(&mut self, half_closed_timeout: Duration) -> CloseReason {
        let mut quiet = pin!(sleep(half_closed_timeout));
        let mut moved_when_last_polled = None;
        poll_fn(|cx| {
            if let Poll::Ready(reason) = self.poll_flows(cx) {
                return Poll::Ready(reason);
            }
            if !self.outward.source_ended() && !self.inward.source_ended() {
                return Poll::Pending;
            }
            let moved = self.bytes_out() + self.bytes_in();
            if moved_when_last_polled.replace(moved) != Some(moved) {
                quiet.as_mut().reset(Instant::now() + half_closed_timeout);
            }
            quiet.as_mut().poll(cx).map(|()| CloseReason::HalfClosedTimeout)
        })
        .await
    }

    /// Bytes that went to the gateway.
    pub(super) fn bytes_out(&self) -> u64 {
        self.outward.moved
    }

    /// Bytes that came from the gateway.
    pub(super) fn bytes_in(&self) -> u64 {
        self.inward.moved
    }

    /// Closes both legs cleanly, after `run` said `Finished`.
    pub(super) fn finish(self) {
        finish(self.local);
    }

    fn poll_flows(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let outward = self.outward.poll(cx, &mut self.local, &mut self.gateway);
        if let Poll::Ready(Err(failure)) = outward {
            return Poll::Ready(failure.reason(Party::Local, Party::Gateway));
        }
        let inward = self.inward.poll(cx, &mut self.gateway, &mut self.local);
        if let Poll::Ready(Err(failure)) = inward {
            return Poll::Ready(failure.reason(Party::Gateway, Party::Local));
        }
        if outward.is_ready() && inward.is_ready() {
            Poll::Ready(CloseReason::Finished)
        } else {
            Poll::Pending
        }
    }
}

/// Why a leg that was lost is lost. A TLS leg tells a truncation from a reset; TCP alone can't.
pub(super) fn loss(party: Party, error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => CloseReason::Truncated(party),
        io::ErrorKind::InvalidData => CloseReason::Corrupt(party),
        _ => CloseReason::Reset(party),
    }
}

/// One direction.
struct Flow {
    state: FlowState,
    buffer: Box<[u8]>,
    moved: u64,
}

enum FlowState {
    /// Waits for bytes of the source.
    Reading,
    /// Bytes of the buffer that the sink has not taken.
    Writing { start: usize, end: usize },
    /// The sink took all, and has not sent all. Nothing more is read meanwhile: backpressure.
    Flushing,
    /// The source ended; the sink is being told.
    Ending,
    /// The sink was told.
    Ended,
}

/// Where a flow failed.
enum FlowError {
    Source(io::Error),
    Sink(io::Error),
}

impl Flow {
    fn new() -> Self {
        Self {
            state: FlowState::Reading,
            buffer: vec![0; AGENT_BUFFER_LEN].into_boxed_slice(),
            moved: 0,
        }
    }

    fn source_ended(&self) -> bool {
        matches!(self.state, FlowState::Ending | FlowState::Ended)
    }

    /// Goes on until it has to wait, has ended, or has taken its steps: a flood in one direction stops
    /// neither the other one nor other sessions.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), FlowError>> {
        let mut sink = Pin::new(sink);
        let mut steps = 0;
        loop {
            self.state = match self.state {
                FlowState::Reading if steps == STEPS_PER_TURN => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                FlowState::Reading => {
                    let mut buffer = ReadBuf::new(&mut self.buffer);
                    ready!(Pin::new(&mut *source).poll_read(cx, &mut buffer))
                        .map_err(FlowError::Source)?;
                    match buffer.filled().len() {
                        0 => FlowState::Ending,
                        end => FlowState::Writing { start: 0, end },
                    }
                }
                FlowState::Writing { start, end } => {
                    let written = ready!(sink.as_mut().poll_write(cx, &self.buffer[start..end]))
                        .and_then(
                            |n| if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) },
                        )
                        .map_err(FlowError::Sink)?;
                    self.moved += written as u64;
                    if start + written < end {
                        FlowState::Writing { start: start + written, end }
                    } else {
                        FlowState::Flushing
                    }
                }
                FlowState::Flushing => {
                    ready!(sink.as_mut().poll_flush(cx)).map_err(FlowError::Sink)?;
                    steps += 1;
                    FlowState::Reading
                }
                FlowState::Ending => {
                    ready!(sink.as_mut().poll_shutdown(cx)).map_err(FlowError::Sink)?;
                    FlowState::Ended
                }
                FlowState::Ended => return Poll::Ready(Ok(())),
            };
        }
    }
}

impl FlowError {
    fn reason(&self, source: Party, sink: Party) -> CloseReason {
        match self {
            Self::Source(error) => loss(source, error),
            Self::Sink(error) => loss(sink, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_flow_that_never_has_to_wait_ends_its_turn() {
        let mut flow = Flow::new();
        let mut cx = Context::from_waker(Waker::noop());
        let polled = flow.poll(&mut cx, &mut tokio::io::repeat(b'x'), &mut tokio::io::sink());
        assert!(polled.is_pending());
        assert_eq!(flow.moved, (STEPS_PER_TURN * AGENT_BUFFER_LEN) as u64);
    }
}
