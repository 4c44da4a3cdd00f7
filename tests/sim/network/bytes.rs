//! Bytes on their way: sent in pieces, received in others, and the messages among them.

use std::time::Instant;

use vestibule::wire::{FrameDecoder, Message, encode};

use super::{Broken, ConnectionId, End, Packet, Received};
use crate::sim::nature::{Nature, Occurrence};

impl Nature {
    /// When what `from` sends now arrives.
    pub(super) fn arrival(&mut self, id: ConnectionId, from: End) -> Instant {
        let arrival = self.now + self.random.millis(self.network.latency_ms);
        let last = &mut self.network.socket_mut(id, from).last_arrival;
        *last = arrival.max(*last);
        *last
    }

    pub(super) fn fly(&mut self, id: ConnectionId, to: End, packet: Packet) {
        let arrival = self.arrival(id, to.other());
        self.at(arrival, Occurrence::Packet(id, to, packet));
    }

    fn fly_bytes(&mut self, id: ConnectionId, from: End, mut bytes: &[u8]) {
        self.network.socket_mut(id, from).in_flight += bytes.len();
        while !bytes.is_empty() {
            let whole = !self.random.percent(self.network.crumbs);
            let len = if whole { bytes.len() } else { self.random.between(1, bytes.len()) };
            let (piece, rest) = bytes.split_at(len);
            self.fly(id, from.other(), Packet::Bytes(piece.to_vec()));
            bytes = rest;
        }
    }

    /// A packet arrives. Returns whether the process at that end is to be told.
    pub(in crate::sim) fn deliver(&mut self, id: ConnectionId, to: End, packet: Packet) -> bool {
        let keeps_unread = self.random.percent(50);
        let sender = self.network.socket_mut(id, to.other());
        let is_from_here = matches!(packet, Packet::Lost);
        let is_mute = sender.crashed && !matches!(packet, Packet::Reset);
        if (sender.cut || sender.silent || is_mute) && !is_from_here {
            return false;
        }
        if let Packet::Bytes(bytes) = &packet {
            sender.in_flight -= bytes.len();
        }
        let receiver = self.network.socket_mut(id, to);
        if !receiver.open {
            // Nobody has this connection any more, and the kernel says so.
            let asks = matches!(packet, Packet::Bytes(_) | Packet::End { .. });
            if asks && !receiver.silent {
                self.fly(id, to.other(), Packet::Reset);
            }
            return false;
        }
        match packet {
            Packet::Bytes(_) if receiver.failed => {}
            Packet::Bytes(bytes) => receiver.received.extend(bytes),
            Packet::End { clean } => receiver.ended = Some(clean),
            Packet::Reset | Packet::Lost => {
                receiver.failed = true;
                if !keeps_unread {
                    receiver.received.clear();
                }
            }
            Packet::Room => {}
        }
        true
    }

    /// Sends as much as the network takes now.
    pub(in crate::sim) fn send(
        &mut self,
        id: ConnectionId,
        end: End,
        bytes: &[u8],
    ) -> Result<usize, Broken> {
        let unread = self.network.socket(id, end.other()).received.len();
        let window = self.network.window;
        let socket = self.network.socket_mut(id, end);
        if socket.failed || !socket.open {
            return Err(Broken::Reset);
        }
        let room = window.saturating_sub(socket.in_flight + unread);
        let most = room.min(bytes.len());
        let is_whole = most == 0 || !self.random.percent(self.network.crumbs);
        let len = if is_whole { most } else { self.random.between(1, most) };
        self.network.socket_mut(id, end).wants_room = len < bytes.len();
        self.fly_bytes(id, end, &bytes[..len]);
        Ok(len)
    }

    /// Sends a message as a whole: they are short.
    pub(in crate::sim) fn say<M: Message>(&mut self, id: ConnectionId, end: End, message: &M) {
        let mut frame = Vec::new();
        encode(message, &mut frame);
        self.say_bytes(id, end, &frame);
    }

    pub(in crate::sim) fn say_bytes(&mut self, id: ConnectionId, end: End, bytes: &[u8]) {
        let socket = self.network.socket(id, end);
        if socket.open && !socket.failed && !socket.ended_writing {
            self.fly_bytes(id, end, bytes);
        }
    }

    pub(in crate::sim) fn receive(
        &mut self,
        id: ConnectionId,
        end: End,
        at_most: usize,
    ) -> Received {
        let socket = self.network.socket(id, end);
        let most = at_most.min(socket.received.len());
        if most == 0 {
            return match (socket.failed, socket.ended) {
                (true, _) => Received::Reset,
                (false, Some(true)) => Received::End,
                (false, Some(false)) => Received::Truncated,
                (false, None) => Received::Nothing,
            };
        }
        let is_whole = !self.random.percent(self.network.crumbs);
        let len = if is_whole { most } else { self.random.between(1, most) };
        let received = &mut self.network.socket_mut(id, end).received;
        let bytes = received.drain(..len).collect();
        self.give_room(id, end);
        Received::Payload(bytes)
    }

    /// The next message, if it is whole. Not a byte is taken that belongs to what follows it.
    pub(in crate::sim) fn read_message<M: Message>(
        &mut self,
        id: ConnectionId,
        end: End,
        decoder: &mut FrameDecoder,
    ) -> Result<Option<M>, Broken> {
        let socket = self.network.socket_mut(id, end);
        let mut bytes: &[u8] = socket.received.make_contiguous();
        let before = bytes.len();
        let result = decoder.decode::<M>(&mut bytes);
        let used = before - bytes.len();
        socket.received.drain(..used);
        let (failed, ended) = (socket.failed, socket.ended);
        if used > 0 {
            self.give_room(id, end);
        }
        match result {
            Err(_) => Err(Broken::Frame),
            Ok(Some(message)) => Ok(Some(message)),
            Ok(None) if failed => Err(Broken::Reset),
            Ok(None) => match ended {
                None => Ok(None),
                Some(true) if !decoder.is_mid_frame() => Err(Broken::Ended),
                Some(_) => Err(Broken::Truncated),
            },
        }
    }

    fn give_room(&mut self, id: ConnectionId, reader: End) {
        let writer = self.network.socket_mut(id, reader.other());
        if std::mem::take(&mut writer.wants_room) {
            self.fly(id, reader.other(), Packet::Room);
        }
    }
}
