//! Connections that became ready, and whose turn it is. Handshakes are the expensive part of a
//! stranger's visit, so what is already begun goes first, and among handshakes who is likely to be wanted.

use std::collections::VecDeque;

use crate::uring::Token;

/// How a connection waits once it became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Urgency {
    /// It needs no handshake now.
    #[default]
    Cheap,
    /// A handshake with one that says it is a server.
    Server,
    /// A handshake with one that says it resumes: a third of the work, and it was here before.
    Resuming,
    /// Any other handshake.
    Full,
}

/// A queue for each urgency. A connection stands in one of them, once.
#[derive(Debug, Default)]
pub(super) struct Ready {
    cheap: VecDeque<Token>,
    servers: VecDeque<Token>,
    resuming: VecDeque<Token>,
    full: VecDeque<Token>,
    turn: usize,
}

impl Ready {
    pub(super) fn push(&mut self, token: Token, urgency: Urgency) {
        self.queue(urgency).push_back(token);
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { cheap, servers, resuming, full, .. } = self;
        [cheap, servers, resuming, full].iter().all(|queue| queue.is_empty())
    }

    pub(super) fn cheap_len(&self) -> usize {
        self.cheap.len()
    }

    pub(super) fn next_cheap(&mut self) -> Option<Token> {
        self.cheap.pop_front()
    }

    /// Whoever pretends to be a server, or to resume, must not keep the others out: each kind comes
    /// first in one of four turns at least, and servers in two.
    pub(super) fn next_handshake(&mut self) -> Option<Token> {
        use Urgency::{Full, Resuming, Server};
        self.turn = (self.turn + 1) % 4;
        let order = match self.turn {
            0 | 2 => [Server, Resuming, Full],
            1 => [Resuming, Full, Server],
            _ => [Full, Resuming, Server],
        };
        order.into_iter().find_map(|urgency| self.queue(urgency).pop_front())
    }

    fn queue(&mut self, urgency: Urgency) -> &mut VecDeque<Token> {
        match urgency {
            Urgency::Cheap => &mut self.cheap,
            Urgency::Server => &mut self.servers,
            Urgency::Resuming => &mut self.resuming,
            Urgency::Full => &mut self.full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of each kind are in a number of turns of a worker that never gets to the end.
    fn served(kinds: &[(Urgency, u32)]) -> Vec<usize> {
        let mut ready = Ready::default();
        for &(urgency, kind) in kinds {
            for generation in 0..1_000 {
                ready.push(Token { index: kind, generation }, urgency);
            }
        }
        let turns: Vec<_> = (0..400).filter_map(|_| ready.next_handshake()).collect();
        let count = |kind| turns.iter().filter(|token| token.index == kind).count();
        kinds.iter().map(|&(_, kind)| count(kind)).collect()
    }

    #[test]
    fn servers_go_first_and_keep_nobody_out() {
        let kinds = [(Urgency::Server, 1), (Urgency::Resuming, 2), (Urgency::Full, 3)];
        assert_eq!(served(&kinds), [200, 100, 100]);
        assert_eq!(served(&kinds[1..]), [300, 100], "who resumes has the servers' turns");
        assert_eq!(served(&kinds[2..]), [400]);
    }

    #[test]
    fn handshakes_do_not_wait_in_the_way_of_what_is_cheap() {
        let mut ready = Ready::default();
        let [handshake, cheap] = [1, 2].map(|index| Token { index, generation: 0 });
        ready.push(handshake, Urgency::Full);
        ready.push(cheap, Urgency::Cheap);
        assert_eq!(ready.next_cheap(), Some(cheap));
        assert_eq!((ready.next_cheap(), ready.next_handshake()), (None, Some(handshake)));
        assert!(ready.is_empty());
    }
}
