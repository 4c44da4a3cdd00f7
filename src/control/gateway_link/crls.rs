//! Lists of revoked certificates, brought to the gateway one after the other.

use super::{GatewayLink, State, Up};
use crate::control::Lists;
use crate::wire::from_server;

impl GatewayLink {
    pub(super) fn replace_crls(&mut self, lists: Lists) {
        if self.crls == lists {
            return;
        }
        self.crls = lists;
        if let State::Up(Up { delivery: Some(delivery), .. }) = &mut self.state {
            delivery.replace(Lists::clone(&self.crls));
            self.bring_crl();
        }
    }

    /// Begins with the next list, if it is time for one.
    pub(super) fn bring_crl(&mut self) {
        let State::Up(Up { delivery: Some(delivery), .. }) = &mut self.state else { return };
        if let Some(piece) = delivery.begin() {
            self.send(from_server::Message::Crl(piece));
        }
    }
}
