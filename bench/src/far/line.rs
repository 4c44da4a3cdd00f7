//! One direction of a long link, as a decision: when a packet that comes now arrives at the other
//! end, or whether it is lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What a link does to packets, each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Bytes a second that it carries, headers of IP included.
    pub(crate) bytes_per_second: u64,
    /// From one end to the other, in milliseconds.
    pub(crate) delay_ms: u64,
    /// Bytes that wait before it, at most; what comes when these wait is lost.
    pub(crate) queue_bytes: u64,
}

/// The packets on their way. They leave one after the other, at the rate of the link, and arrive a
/// delay later.
#[derive(Debug)]
pub(super) struct Line<P> {
    shape: Shape,
    /// When all that came has left.
    idle_at: Instant,
    travelling: VecDeque<(Instant, P)>,
}

impl Shape {
    /// How long it takes to send so many bytes.
    fn time_for(self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl<P> Line<P> {
    /// An empty one.
    pub(super) fn new(shape: Shape, now: Instant) -> Self {
        Self { shape, idle_at: now, travelling: VecDeque::new() }
    }

    /// Takes a packet of so many bytes, or gives it back where the queue is full.
    pub(super) fn offer(&mut self, packet: P, bytes: u64, now: Instant) -> Result<(), P> {
        let begins = self.idle_at.max(now);
        let gone = begins + self.shape.time_for(bytes);
        if gone - now > self.shape.time_for(self.shape.queue_bytes) {
            return Err(packet);
        }
        self.idle_at = gone;
        self.travelling.push_back((gone + Duration::from_millis(self.shape.delay_ms), packet));
        Ok(())
    }

    /// The next packet that has arrived.
    pub(super) fn arrived(&mut self, now: Instant) -> Option<P> {
        match self.travelling.front() {
            Some(&(arrives, _)) if arrives <= now => {
                self.travelling.pop_front().map(|(_, packet)| packet)
            }
            _ => None,
        }
    }

    /// How long until the next one arrives.
    pub(super) fn next_arrival(&self, now: Instant) -> Option<Duration> {
        self.travelling.front().map(|(arrives, _)| arrives.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { bytes_per_second: 1_000_000, delay_ms: 50, queue_bytes: 10_000 };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_packet_arrives_a_delay_after_it_was_sent() {
        let start = Instant::now();
        let mut line = Line::new(SHAPE, start);
        line.offer('a', 1_000, start).expect("the queue is empty");
        assert_eq!(line.next_arrival(start), Some(ms(51)));
        assert_eq!(line.arrived(start + ms(50)), None);
        assert_eq!(line.arrived(start + ms(51)), Some('a'));
        assert_eq!(line.next_arrival(start + ms(51)), None);
    }

    #[test]
    fn packets_that_come_together_arrive_one_after_the_other_at_the_rate() {
        let start = Instant::now();
        let mut line = Line::new(SHAPE, start);
        for packet in ['a', 'b'] {
            line.offer(packet, 2_000, start).expect("both fit the queue");
        }
        assert_eq!(line.arrived(start + ms(52)), Some('a'));
        assert_eq!(line.arrived(start + ms(53)), None);
        assert_eq!(line.arrived(start + ms(54)), Some('b'));
    }

    #[test]
    fn a_line_that_was_idle_has_saved_up_nothing() {
        let start = Instant::now();
        let mut line = Line::new(SHAPE, start);
        let later = start + ms(1_000);
        line.offer('a', 5_000, later).expect("the queue is empty");
        line.offer('b', 5_000, later).expect("it just fits");
        assert_eq!(line.arrived(later + ms(55)), Some('a'));
        assert_eq!(line.arrived(later + ms(59)), None);
        assert_eq!(line.arrived(later + ms(60)), Some('b'));
    }

    #[test]
    fn what_comes_to_a_full_queue_is_lost_until_some_has_left() {
        let start = Instant::now();
        let mut line = Line::new(SHAPE, start);
        line.offer('a', 10_000, start).expect("as much as the queue holds");
        assert_eq!(line.offer('b', 1_000, start), Err('b'));
        // Packets on their way do not fill the queue.
        line.offer('c', 1_000, start + ms(1)).expect("1,000 bytes have left");
        assert_eq!(line.offer('d', 1_000, start + ms(1)), Err('d'));
    }
}
