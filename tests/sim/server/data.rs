//! Data connections of a server, from the order to the end of the session.

use std::time::Duration;

use vestibule::control::GatewayEvent;
use vestibule::limits::DIAL_TIMEOUT;
use vestibule::relay::{CloseReason, Ending, Party};
use vestibule::wire::{
    Accepted, Claim, FrameDecoder, FromDataConnection, RefusalReason, Refused, SessionHeader,
    Taken, ToDataConnection, from_data_connection::Message, to_data_connection,
};

use super::{HERE, Order, Purpose, Server, Stage};
use crate::sim::nature::{Nature, Occurrence, ProcessId};
use crate::sim::network::{Broken, ConnectionId, Hello};
use crate::sim::session::{Leg, Session};

/// Time for a backend to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

impl Server {
    /// Opens a data connection, unless it was a spare that nobody wants any more.
    pub(in crate::sim) fn follow(&mut self, order: Order, nature: &mut Nature) {
        let (gateway, invitation) = (order.gateway, order.invitation);
        let is_spare = matches!(order.purpose, Purpose::Spare { .. }) && !order.is_extra;
        let wanted = &self.links[gateway].spares;
        if is_spare && !wanted.contains_key(&invitation) {
            return;
        }
        let hello = Hello::Data { server: self.index, hint: order.hint.clone() };
        let id = nature.dial(self.id(), ProcessId::Gateway(gateway), hello);
        if is_spare {
            self.links[gateway].spares.insert(invitation, Some(id));
        }
        let now = self.clock.read(nature.now);
        self.deadlines.insert(id, order.expires.min(now + DIAL_TIMEOUT).max(now));
        self.stages.insert(id, Stage::Dialing(order));
    }

    pub(super) fn data_dialed(&mut self, id: ConnectionId, through: bool, nature: &mut Nature) {
        match self.stages.get(&id) {
            Some(Stage::Dialing(_)) if through => self.claim(id, nature),
            Some(Stage::Dialing(_)) => {
                self.data_failed(id, CloseReason::GatewayUnreachable, nature);
            }
            Some(Stage::Connecting { data }) => {
                let data = *data;
                if through {
                    self.join(data, id, nature);
                } else {
                    self.refuse(data, id, RefusalReason::BackendRefused, nature);
                }
            }
            _ => {}
        }
    }

    pub(super) fn data_ready(&mut self, id: ConnectionId, nature: &mut Nature) {
        match self.stages.get(&id) {
            Some(Stage::Claiming { .. }) => self.read_header(id, nature),
            Some(Stage::Delivering { backend }) if nature.network.has_ended(id, HERE) => {
                // The agent has left.
                let backend = *backend;
                self.release_seat();
                self.abort(backend, nature);
                self.abort(id, nature);
            }
            Some(Stage::Joined { data }) => self.run_session(*data, nature),
            _ => {}
        }
    }

    pub(super) fn connection_is_due(&mut self, id: ConnectionId, nature: &mut Nature) {
        match self.stages.get(&id) {
            Some(Stage::Dialing(_)) => {
                self.data_failed(id, CloseReason::GatewayUnreachable, nature);
            }
            Some(Stage::Claiming { order, .. }) => {
                let is_spare = matches!(order.purpose, Purpose::Spare { .. });
                let reason = if is_spare {
                    CloseReason::SpareUnused
                } else {
                    CloseReason::GatewayUnreachable
                };
                self.data_failed(id, reason, nature);
            }
            Some(Stage::Connecting { data }) => {
                self.refuse(*data, id, RefusalReason::BackendTimeout, nature);
            }
            _ => {}
        }
    }

    fn claim(&mut self, id: ConnectionId, nature: &mut Nature) {
        let Some(Stage::Dialing(order)) = self.stages.remove(&id) else { return };
        let claim = Claim { id: order.invitation, ticket: order.ticket.clone() };
        nature.say(id, HERE, &FromDataConnection { message: Some(Message::Claim(claim)) });
        if let Purpose::Spare { life } = order.purpose {
            self.deadlines.insert(id, self.clock.read(nature.now) + life);
            if !nature.calm && nature.random.percent(self.settings.sickness / 2) {
                nature.after(Duration::ZERO, 8_000, Occurrence::Act(self.id(), id));
            }
        }
        self.stages.insert(id, Stage::Claiming { order, decoder: FrameDecoder::default() });
        self.read_header(id, nature);
    }

    /// Ends a spare for no reason, which a server may.
    pub(in crate::sim) fn tire_of_spare(&mut self, id: ConnectionId, nature: &mut Nature) {
        if let Some(Stage::Claiming { order, .. }) = self.stages.get(&id)
            && matches!(order.purpose, Purpose::Spare { .. })
        {
            self.data_failed(id, CloseReason::SpareUnused, nature);
            self.act(nature);
        }
    }

    fn read_header(&mut self, id: ConnectionId, nature: &mut Nature) {
        let Some(Stage::Claiming { order, decoder }) = self.stages.get_mut(&id) else { return };
        let is_spare = matches!(order.purpose, Purpose::Spare { .. });
        let reason = match nature.read_message::<ToDataConnection>(id, HERE, decoder) {
            Ok(None) => return,
            Ok(Some(ToDataConnection { message: Some(message) })) => match message {
                to_data_connection::Message::SessionHeader(header) => {
                    return self.take_header(id, &header, nature);
                }
                to_data_connection::Message::Refused(refused) => {
                    CloseReason::Refused(refused.reason())
                }
            },
            Ok(Some(_)) => CloseReason::MessageUnknown,
            Err(Broken::Ended) if is_spare => CloseReason::SpareUnused,
            Err(broken) => broken.close_reason(Party::Gateway),
        };
        self.data_failed(id, reason, nature);
    }

    fn take_header(&mut self, id: ConnectionId, header: &SessionHeader, nature: &mut Nature) {
        let Some(Stage::Claiming { order, .. }) = self.stages.get(&id) else { return };
        let objection = match self.settings.offer(&header.service) {
            None => Some(RefusalReason::ServiceUnknown),
            Some(offer) if offer.passthrough != header.passthrough => {
                Some(RefusalReason::PassthroughMismatch)
            }
            Some(_) => None,
        };
        let (is_extra, purpose) = (order.is_extra, order.purpose.clone());
        match purpose {
            Purpose::Session { service } if service != header.service => {
                return self.data_failed(id, CloseReason::FrameInvalid, nature);
            }
            Purpose::Session { .. } if let Some(reason) = objection => {
                nature.say(id, HERE, &FromDataConnection { message: Some(refused(reason)) });
                return self.data_failed(id, CloseReason::Refused(reason), nature);
            }
            Purpose::Session { .. } if is_extra && !self.take_seat() => {
                return self.data_failed(id, CloseReason::ConnectionsFull, nature);
            }
            Purpose::Session { .. } => {}
            Purpose::Spare { .. } => {
                let is_sick = !nature.calm && nature.random.percent(self.settings.sickness / 2);
                let refusal = if is_sick {
                    Some(*nature.random.pick(&RefusalReason::ALL))
                } else if objection.is_some() {
                    objection
                } else if !self.take_seat() {
                    Some(RefusalReason::ServerFull)
                } else {
                    None
                };
                if is_sick && nature.random.percent(50) {
                    // Nothing is said, and the header is lost with it.
                    return;
                }
                let answer = match refusal {
                    None => Message::Taken(Taken {}),
                    Some(reason) => refused(reason),
                };
                nature.say(id, HERE, &FromDataConnection { message: Some(answer) });
                if let Some(reason) = refusal {
                    return self.data_failed(id, CloseReason::Refused(reason), nature);
                }
            }
        }
        self.deliver(id, header, nature);
    }

    /// It has its seat, and stops being a spare if it was one.
    fn deliver(&mut self, id: ConnectionId, header: &SessionHeader, nature: &mut Nature) {
        let Some(Stage::Claiming { order, .. }) = self.stages.remove(&id) else { return };
        if let Purpose::Spare { .. } = order.purpose
            && !order.is_extra
        {
            self.spare_ended(order.gateway, order.invitation, nature);
        }
        let service = header.service.rsplit('-').next().and_then(|index| index.parse().ok());
        let hello = Hello::Backend {
            service: service.unwrap_or(usize::MAX),
            device: header.device.clone(),
        };
        let backend = nature.dial(self.id(), ProcessId::Backends, hello);
        self.deadlines.remove(&id);
        self.deadlines.insert(backend, self.clock.read(nature.now) + CONNECT_TIMEOUT);
        self.stages.insert(id, Stage::Delivering { backend });
        self.stages.insert(backend, Stage::Connecting { data: id });
        self.data_ready(id, nature);
    }

    fn join(&mut self, data: ConnectionId, backend: ConnectionId, nature: &mut Nature) {
        nature.say(
            data,
            HERE,
            &FromDataConnection { message: Some(Message::Accepted(Accepted {})) },
        );
        for leg in [data, backend] {
            self.deadlines.remove(&leg);
            self.stages.insert(leg, Stage::Joined { data });
        }
        let outer = Leg::new(data, HERE, Party::Gateway);
        let inner = Leg::new(backend, HERE, Party::Backend);
        let now = self.clock.read(nature.now);
        let session = Session::new(outer, inner, self.settings.relay, now, nature);
        self.sessions.insert(data, session);
        self.run_session(data, nature);
    }

    fn refuse(
        &mut self,
        data: ConnectionId,
        backend: ConnectionId,
        reason: RefusalReason,
        nature: &mut Nature,
    ) {
        nature.say(data, HERE, &FromDataConnection { message: Some(refused(reason)) });
        self.release_seat();
        self.abort(backend, nature);
        self.hang_up(data, nature);
    }

    fn run_session(&mut self, data: ConnectionId, nature: &mut Nature) {
        let now = self.clock.read(nature.now);
        let Some(session) = self.sessions.get_mut(&data) else { return };
        if let Some(ending) = session.run(now, nature) {
            self.session_over(data, ending, nature);
        }
    }

    pub(super) fn session_over(&mut self, data: ConnectionId, ending: Ending, nature: &mut Nature) {
        let Some(session) = self.sessions.remove(&data) else { return };
        session.part(ending, nature);
        for leg in session.legs() {
            self.stages.remove(&leg);
        }
        self.release_seat();
    }

    /// Ends a data connection that has no agent yet.
    pub(super) fn data_failed(
        &mut self,
        id: ConnectionId,
        reason: CloseReason,
        nature: &mut Nature,
    ) {
        let Some(Stage::Dialing(order) | Stage::Claiming { order, .. }) = self.stages.remove(&id)
        else {
            return;
        };
        self.hang_up(id, nature);
        self.release(&order, nature);
        // A gateway that refused the claim itself, or ended the spare, needs no decline.
        let decline = match reason {
            CloseReason::Refused(_) | CloseReason::SpareUnused => None,
            CloseReason::ConnectionsFull => Some(RefusalReason::ServerFull),
            _ => Some(RefusalReason::InternalError),
        };
        if let Some(reason) = decline.filter(|_| !order.is_extra) {
            let id = order.invitation;
            self.handle(order.gateway, GatewayEvent::Decline { id, reason }, nature);
        }
    }

    /// An order leads to nothing.
    pub(super) fn release(&mut self, order: &Order, nature: &mut Nature) {
        match order.purpose {
            _ if order.is_extra => {}
            Purpose::Session { .. } => self.release_seat(),
            Purpose::Spare { .. } => self.spare_ended(order.gateway, order.invitation, nature),
        }
    }

    pub(super) fn spare_ended(&mut self, gateway: usize, id: u64, nature: &mut Nature) {
        self.links[gateway].spares.remove(&id);
        self.handle(gateway, GatewayEvent::SpareEnded { id }, nature);
    }

    fn release_seat(&mut self) {
        self.seats_taken -= 1;
    }

    fn hang_up(&mut self, id: ConnectionId, nature: &mut Nature) {
        self.stages.remove(&id);
        self.deadlines.remove(&id);
        nature.close(id, HERE);
    }

    fn abort(&mut self, id: ConnectionId, nature: &mut Nature) {
        self.stages.remove(&id);
        self.deadlines.remove(&id);
        nature.abort(id, HERE);
    }
}

fn refused(reason: RefusalReason) -> Message {
    Message::Refused(Refused { reason: reason.into(), retry_after_ms: 0 })
}
