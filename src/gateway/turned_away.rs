//! Connections that were closed at accept. In a flood they are thousands a second: they are summed up,
//! so that they cost the control thread a few mails.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::limits::TURNED_AWAY_INTERVAL;
use crate::relay::CloseReason;
use crate::telemetry::record::ConnectionRecord;

/// How many were turned away since the last mail, for each reason, and the first of them.
#[derive(Default)]
pub(super) struct TurnedAway {
    counts: BTreeMap<CloseReason, (ConnectionRecord, u64)>,
    due: Option<Instant>,
}

impl TurnedAway {
    pub(super) fn note(&mut self, record: ConnectionRecord, now: Instant) {
        self.due.get_or_insert(now + TURNED_AWAY_INTERVAL);
        self.counts.entry(record.reason).or_insert((record, 0)).1 += 1;
    }

    /// When there is something to be mailed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// One record for each reason, and how many it stands for; none before the time has come, unless
    /// it is the `last` call.
    pub(super) fn take(&mut self, now: Instant, last: bool) -> Vec<(ConnectionRecord, u64)> {
        if !last && self.due.is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.due = None;
        std::mem::take(&mut self.counts).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;

    fn record(port: u16, reason: CloseReason) -> ConnectionRecord {
        ConnectionRecord {
            peer: SocketAddr::from(([192, 0, 2, 1], port)),
            identity: None,
            place: "internet".into(),
            service: None,
            duration: Duration::ZERO,
            reason,
        }
    }

    #[test]
    fn a_flood_is_one_record_for_each_reason_in_each_interval() {
        let start = Instant::now();
        let mut turned_away = TurnedAway::default();
        assert_eq!((turned_away.due(), turned_away.take(start, true)), (None, vec![]));
        for port in 1..=1_000 {
            turned_away.note(record(port, CloseReason::AddressFull), start);
        }
        turned_away.note(record(7, CloseReason::HandshakesFull), start);
        assert_eq!(turned_away.take(start, false), []);
        let due = turned_away.due().expect("there is something");
        let mut taken = turned_away.take(due, false);
        taken.sort_by_key(|(_, count)| *count);
        let expected = [
            (record(7, CloseReason::HandshakesFull), 1),
            (record(1, CloseReason::AddressFull), 1_000),
        ];
        assert_eq!((taken.as_slice(), turned_away.due()), (&expected[..], None));
    }
}
