//! Lists of revoked certificates that servers bring: of each server one at a time, and not too many.

use std::time::Instant;

use super::Dispatcher;
use crate::control::crl::Received;
use crate::control::dispatcher::send;
use crate::control::{Action, LinkId};
use crate::limits::{CRL_WINDOW, CRLS_PER_WINDOW};
use crate::relay::CloseReason;
use crate::wire::{Crl, CrlAnswer, CrlOutcome, to_server};

impl Dispatcher {
    /// Takes a piece of a list. An error is the reason to close the link.
    pub(super) fn take_crl(
        &mut self,
        index: usize,
        piece: &Crl,
        now: Instant,
    ) -> Result<(), CloseReason> {
        let id = self.links[index].id;
        let Some(greeted) = self.links[index].greeted_mut() else { return Ok(()) };
        if greeted.crl.is_idle() {
            // It may not know yet that none is taken any more, and ends what it had begun.
            if !self.limits.takes_crls || !self.may_begin(index, now) {
                self.answer(id, piece.transfer, CrlOutcome::NotWanted);
                return Ok(());
            }
        }
        let Some(greeted) = self.links[index].greeted_mut() else { return Ok(()) };
        match greeted.crl.take(piece)? {
            Received::More(transfer) => self.answer(id, transfer, CrlOutcome::More),
            Received::Whole(transfer, list) => {
                self.push(Action::JudgeCrl { link: id, transfer, list });
            }
        }
        Ok(())
    }

    /// Counts the lists that a server begins, over all its connections. What it had begun on another one, which
    /// may be lost without anyone having noticed, is forgotten: it can't make us hold two.
    fn may_begin(&mut self, index: usize, now: Instant) -> bool {
        let server = self.links[index].server.clone();
        self.crls_begun.retain(|_, (since, _)| now < *since + CRL_WINDOW);
        let (_, begun) = self.crls_begun.entry(server.clone()).or_insert((now, 0));
        *begun += 1;
        if *begun > CRLS_PER_WINDOW {
            return false;
        }
        for link in self.links.iter_mut().filter(|link| link.server == server) {
            if let Some(greeted) = link.greeted_mut() {
                greeted.crl.abandon();
            }
        }
        true
    }

    pub(super) fn crl_judged(&mut self, id: LinkId, transfer: u32, outcome: CrlOutcome) {
        let link = self.links.iter_mut().find(|link| link.id == id);
        let awaited = link.and_then(|link| link.greeted_mut());
        // The connection may have ended meanwhile.
        if awaited.is_some_and(|greeted| greeted.crl.judged(transfer)) {
            self.answer(id, transfer, outcome);
        }
    }

    fn answer(&mut self, link: LinkId, transfer: u32, outcome: CrlOutcome) {
        let answer = CrlAnswer { transfer, outcome: outcome.into() };
        self.push(send(link, to_server::Message::CrlAnswer(answer)));
    }
}
