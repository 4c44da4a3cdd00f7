//! Lists of revoked certificates on a signal connection: cut into pieces by the server, put together by the gateway.
//! One list at a time, and of it one piece at a time: invitations and pings never wait behind them.

use std::sync::Arc;

use crate::limits::{MAX_CRL_LEN, MAX_CRL_PIECE_LEN};
use crate::relay::CloseReason;
use crate::wire::{Crl, CrlAnswer, CrlOutcome};

/// The lists that a server brings to one gateway, in DER.
pub type Lists = Arc<[Arc<[u8]>]>;

/// The server's end.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    lists: Lists,
    /// The list that is next, or under way.
    next: usize,
    /// How many of its bytes have gone; `None` where none is under way.
    sent: Option<usize>,
    transfer: u32,
    /// Others have come meanwhile: what is under way is finished, and then they are brought.
    newer: Option<Lists>,
}

impl Delivery {
    pub(super) fn new(lists: Lists) -> Self {
        Self { lists, ..Self::default() }
    }

    /// From now on these are to be brought.
    pub(super) fn replace(&mut self, lists: Lists) {
        if self.sent.is_some() {
            self.newer = Some(lists);
        } else {
            (self.lists, self.next) = (lists, 0);
        }
    }

    /// The first piece of the next list, if nothing is under way and there is one.
    pub(super) fn begin(&mut self) -> Option<Crl> {
        if self.sent.is_some() {
            return None;
        }
        self.lists.get(self.next)?;
        self.transfer = self.transfer.wrapping_add(1);
        self.sent = Some(0);
        self.piece()
    }

    /// What follows from an answer: the next piece, or what has become of the list of that index.
    pub(super) fn answered(&mut self, answer: CrlAnswer) -> Answered {
        if self.sent.is_none() || answer.transfer != self.transfer {
            return Answered::Nothing;
        }
        match answer.outcome() {
            CrlOutcome::More => self.piece().map_or(Answered::Nothing, Answered::Next),
            outcome => {
                let list = self.next;
                self.sent = None;
                self.next += 1;
                if let Some(lists) = self.newer.take() {
                    (self.lists, self.next) = (lists, 0);
                }
                Answered::Over { list, outcome }
            }
        }
    }

    fn piece(&mut self) -> Option<Crl> {
        let (list, sent) = (self.lists.get(self.next)?, self.sent?);
        let rest = &list[sent..];
        let piece = rest[..rest.len().min(MAX_CRL_PIECE_LEN)].to_vec();
        // Nothing is left to send: the answer of the whole is awaited.
        if piece.is_empty() {
            return None;
        }
        self.sent = Some(sent + piece.len());
        let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let (transfer, offset, total) = (self.transfer, number(sent), number(list.len()));
        Some(Crl { transfer, offset, total, piece })
    }
}

/// What follows from an answer of the gateway.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Nothing,
    Next(Crl),
    Over { list: usize, outcome: CrlOutcome },
}

/// The gateway's end, for one signal connection.
#[derive(Debug, Default)]
pub(super) enum Receipt {
    /// None is under way.
    #[default]
    Idle,
    /// These are the bytes that came.
    Coming { transfer: u32, total: usize, bytes: Vec<u8> },
    /// It is whole, and being judged.
    Judged { transfer: u32 },
}

/// What follows from a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The next one may come.
    More(u32),
    /// The list is whole.
    Whole(u32, Vec<u8>),
}

impl Receipt {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Takes the next piece. An error is the reason to close the connection.
    pub(super) fn take(&mut self, crl: &Crl) -> Result<Received, CloseReason> {
        let length = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let (offset, total) = (length(crl.offset), length(crl.total));
        let len = crl.piece.len();
        if len == 0 || len > MAX_CRL_PIECE_LEN || total > MAX_CRL_LEN || len > total {
            return Err(CloseReason::FrameInvalid);
        }
        let mut bytes = match std::mem::take(self) {
            Self::Idle if offset == 0 => Vec::new(),
            Self::Coming { transfer, total: said, bytes }
                if transfer == crl.transfer && said == total && offset == bytes.len() =>
            {
                bytes
            }
            _ => return Err(CloseReason::MessageUnexpected),
        };
        if len > total - bytes.len() {
            return Err(CloseReason::FrameInvalid);
        }
        bytes.extend_from_slice(&crl.piece);
        let transfer = crl.transfer;
        if bytes.len() == total {
            *self = Self::Judged { transfer };
            Ok(Received::Whole(transfer, bytes))
        } else {
            *self = Self::Coming { transfer, total, bytes };
            Ok(Received::More(transfer))
        }
    }

    /// The list was judged. Returns whether its server awaits that.
    pub(super) fn judged(&mut self, transfer: u32) -> bool {
        let awaited = matches!(self, Self::Judged { transfer: own } if *own == transfer);
        if awaited {
            *self = Self::Idle;
        }
        awaited
    }

    /// Forgets what has come: the same server brings a list elsewhere.
    pub(super) fn abandon(&mut self) {
        if matches!(self, Self::Coming { .. }) {
            *self = Self::Idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lists(lens: &[usize]) -> Lists {
        let list =
            |(index, len): (usize, &usize)| vec![u8::try_from(index).unwrap_or(0); *len].into();
        lens.iter().enumerate().map(list).collect()
    }

    fn answer(transfer: u32, outcome: CrlOutcome) -> CrlAnswer {
        CrlAnswer { transfer, outcome: outcome.into() }
    }

    /// Brings all lists, each of which is taken.
    fn bring_all(delivery: &mut Delivery) -> Vec<Vec<u8>> {
        let (mut receipt, mut whole) = (Receipt::default(), Vec::new());
        while let Some(mut piece) = delivery.begin() {
            loop {
                match receipt.take(&piece).expect("in order") {
                    Received::More(transfer) => {
                        let next = delivery.answered(answer(transfer, CrlOutcome::More));
                        let Answered::Next(next) = next else { panic!("there is more: {next:?}") };
                        piece = next;
                    }
                    Received::Whole(transfer, bytes) => {
                        whole.push(bytes);
                        assert!(receipt.judged(transfer));
                        let over = delivery.answered(answer(transfer, CrlOutcome::Taken));
                        assert!(matches!(over, Answered::Over { .. }), "{over:?}");
                        break;
                    }
                }
            }
        }
        whole
    }

    #[test]
    fn newer_lists_are_brought_once_the_present_one_is_over() {
        let mut delivery = Delivery::new(lists(&[MAX_CRL_PIECE_LEN + 1, 1]));
        let first = delivery.begin().expect("a list");
        delivery.replace(lists(&[3]));
        assert_eq!(delivery.begin(), None);
        let next = delivery.answered(answer(first.transfer, CrlOutcome::More));
        assert!(matches!(&next, Answered::Next(piece) if piece.piece.len() == 1), "{next:?}");
        assert_eq!(delivery.answered(answer(7, CrlOutcome::Taken)), Answered::Nothing);
        let over = delivery.answered(answer(first.transfer, CrlOutcome::Known));
        assert_eq!(over, Answered::Over { list: 0, outcome: CrlOutcome::Known });
        assert_eq!(delivery.begin().map(|piece| piece.total), Some(3));
    }

    #[test]
    fn a_gateway_that_asks_for_more_than_there_is_gets_nothing() {
        let mut delivery = Delivery::new(lists(&[5]));
        let first = delivery.begin().expect("a list");
        let more = answer(first.transfer, CrlOutcome::More);
        assert_eq!(delivery.answered(more), Answered::Nothing);
        assert_eq!(delivery.answered(more), Answered::Nothing);
    }

    proptest! {
        #[test]
        fn what_is_brought_is_what_arrives(
            lens in proptest::collection::vec(1..3 * MAX_CRL_PIECE_LEN, 0..4),
        ) {
            let lists = lists(&lens);
            let expected: Vec<Vec<u8>> = lists.iter().map(|list| list.to_vec()).collect();
            prop_assert_eq!(bring_all(&mut Delivery::new(lists)), expected);
        }

        /// Whatever comes, a receipt holds no more than the bound, and a list is whole only where its pieces came
        /// in order.
        #[test]
        fn pieces_in_any_order_and_size_make_no_list_that_was_not_sent(
            pieces in proptest::collection::vec(
                (0..3_u32, 0..40_u32, 0..40_u32, proptest::collection::vec(any::<u8>(), 0..20)),
                0..30,
            ),
        ) {
            let mut receipt = Receipt::default();
            let mut sent: Vec<u8> = Vec::new();
            for (transfer, offset, total, piece) in pieces {
                if offset == 0 && receipt.is_idle() {
                    sent.clear();
                }
                sent.extend_from_slice(&piece);
                match receipt.take(&Crl { transfer, offset, total, piece }) {
                    Ok(Received::More(_)) => prop_assert!(sent.len() < total as usize),
                    Ok(Received::Whole(transfer, bytes)) => {
                        prop_assert_eq!(&bytes, &sent);
                        prop_assert_eq!(bytes.len(), total as usize);
                        prop_assert!(receipt.judged(transfer));
                    }
                    Err(_) => {
                        receipt = Receipt::default();
                        sent.clear();
                    }
                }
            }
        }
    }
}
