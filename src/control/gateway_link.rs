use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use super::crl::{Answered, Delivery};
use super::{Lists, Liveness, ServiceOffer, Vital, backoff};
use crate::limits::{
    DIAL_TIMEOUT, SIGNAL_HELLO_TIMEOUT, SIGNAL_SOUND_AFTER, SUCCESSOR_INTERVAL, TICKET_LEN,
};
use crate::relay::CloseReason;
use crate::wire::alpn::Hint;
use crate::wire::{
    CrlOutcome, Decline, FromServer, GatewayHello, Goodbye, Invitation, Ping, Pong, RefusalReason,
    ServerHello, ToServer, Withdraw, from_server, to_server,
};

mod crls;
#[cfg(test)]
mod tests;

/// What happened to a [`GatewayLink`]. After [`GatewayAction::Close`], [`Closed`](Self::Closed) or
/// [`DialFailed`](Self::DialFailed) nothing more is reported of that connection.
#[derive(Debug, Clone, PartialEq)]
pub enum GatewayEvent {
    /// The connection asked for by [`GatewayAction::Dial`] stands, its handshake is done.
    Dialed,
    /// There is no such connection.
    DialFailed,
    /// A frame came.
    Message(ToServer),
    /// The connection ended.
    Closed,
    /// This server will not open a data connection for an invitation.
    Decline {
        /// Which.
        id: u64,
        /// Why.
        reason: RefusalReason,
    },
    /// From now on these lists of revoked certificates are to be brought, in DER.
    Crls(Lists),
    /// A spare ended, or became a session: there is room for another.
    SpareEnded {
        /// The invitation that asked for it.
        id: u64,
    },
    /// A reload was applied: what this server says of itself from now on, as for [`GatewayLink::new`].
    Reconfigured {
        /// Services that it serves.
        services: Vec<ServiceOffer>,
        /// Sessions that it will hold.
        capacity: u32,
        /// Spares that it will hold.
        spares: u32,
    },
    /// The connection, or the attempt, was made with what a reload has replaced: it ends, and the gateway
    /// is dialled again.
    Outdated(CloseReason),
    /// A reload took the gateway out of the configuration.
    Removed,
    /// A successor of this link was made, or is no more: while there is one, this link does not dial again.
    Succeeded(bool),
    /// The link that this one is to succeed has ended, or its gateway has said goodbye: from now on this one
    /// is kept like any other.
    PredecessorGone,
    /// This server takes part in no new sessions from now on.
    Drain,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum GatewayAction {
    /// Dial the gateway; TCP and handshake.
    Dial,
    /// Write a frame.
    Send(FromServer),
    /// End the connection, or the attempt to dial.
    Close(CloseReason),
    /// Open a data connection, claim the ticket and deliver the session, or keep the spare.
    Invited {
        /// Well-formed; for a spare, or for a service that this server serves.
        invitation: Invitation,
        /// Of the gateway's process, for the ALPN hint.
        instance: String,
    },
    /// The invitation is void. The session may have been claimed already: then it lives on.
    Withdrawn {
        /// Which.
        id: u64,
    },
    /// The gateway has said what becomes of a list.
    CrlAnswered {
        /// Its place among those to be brought.
        list: usize,
        /// What becomes of it.
        outcome: CrlOutcome,
    },
    /// End a spare, or the attempt to open one. [`GatewayEvent::SpareEnded`] is awaited, except when
    /// its connection is lost.
    CloseSpare {
        /// The invitation that asked for it.
        id: u64,
    },
    /// Another process of the gateway is to take its place: a link beside this one, made by
    /// [`GatewayLink::successor`], is to dial it.
    OpenSuccessor,
}

/// A server's signal connection to one gateway: dials it, keeps it, dials again.
#[derive(Debug)]
pub struct GatewayLink {
    hello: ServerHello,
    /// To be brought on each connection whose gateway takes them.
    crls: Lists,
    state: State,
    actions: VecDeque<GatewayAction>,
    /// The process of the gateway that another one is to succeed, to which this link leads. While that is
    /// not settled, the link is tried once.
    predecessor: Option<String>,
    /// Whether a link beside this one stands for what follows.
    succeeded: bool,
    successor_after: Option<Instant>,
}

/// `failures` counts the connections in a row that did not last, this one not included.
#[derive(Debug)]
enum State {
    /// Dials when `until` has come.
    Waiting { until: Instant, failures: u32 },
    /// TCP and TLS.
    Dialing { deadline: Instant, failures: u32 },
    /// Our hello is said, the gateway's awaited.
    Greeting { deadline: Instant, failures: u32 },
    /// Both hellos are said.
    Up(Up),
    /// This server drains, or the gateway was removed, and nothing is left to keep.
    Stopped,
}

#[derive(Debug)]
struct Up {
    instance: String,
    since: Instant,
    failures: u32,
    liveness: Liveness,
    /// Invitations for spares that were followed and have not ended.
    spares: BTreeSet<u64>,
    /// The gateway said goodbye. The connection is kept: a gateway that was restarted is behind a
    /// new one, and this one ends when its last session has.
    gateway_drains: bool,
    /// `None` where the gateway takes no lists.
    delivery: Option<Delivery>,
    /// We said goodbye.
    server_drains: bool,
}

impl GatewayLink {
    /// Dials at once. `services`, `capacity` (0: no bound) and `spares` (how many of them at once) are
    /// told to the gateway.
    pub fn new(services: &[ServiceOffer], capacity: u32, spares: u32, now: Instant) -> Self {
        Self {
            hello: hello(services, capacity, spares),
            crls: Lists::default(),
            state: State::Waiting { until: now, failures: 0 },
            actions: VecDeque::new(),
            predecessor: None,
            succeeded: false,
            successor_after: None,
        }
    }

    /// The link to the process that takes the place of this one's, dialled at once, or a little later where
    /// there was one just now; `None` where this link is not up.
    pub fn successor(&mut self, now: Instant) -> Option<Self> {
        let State::Up(up) = &self.state else { return None };
        let until = self.successor_after.map_or(now, |after| after.max(now));
        self.successor_after = Some(until + SUCCESSOR_INTERVAL);
        Some(Self {
            hello: self.hello.clone(),
            crls: Lists::clone(&self.crls),
            state: State::Waiting { until, failures: 0 },
            actions: VecDeque::new(),
            predecessor: Some(up.instance.clone()),
            succeeded: false,
            successor_after: None,
        })
    }

    /// Takes one event. `random` fills a slice with random bytes, for the jitter.
    pub fn handle(&mut self, event: GatewayEvent, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        match event {
            GatewayEvent::Dialed => self.greet(now),
            GatewayEvent::DialFailed | GatewayEvent::Closed => self.lose(now, random),
            GatewayEvent::Message(message) => {
                if let Err(reason) = self.receive(message.message, now) {
                    self.close(reason, now, random);
                }
            }
            GatewayEvent::Decline { id, reason } => {
                // Without the connection of its invitation, a decline has nowhere to go.
                if matches!(self.state, State::Up(_)) {
                    self.decline(id, reason);
                }
            }
            GatewayEvent::Crls(lists) => self.replace_crls(lists),
            GatewayEvent::SpareEnded { id } => {
                if let State::Up(up) = &mut self.state {
                    up.spares.remove(&id);
                }
            }
            GatewayEvent::Reconfigured { services, capacity, spares } => {
                self.say_again(hello(&services, capacity, spares));
            }
            GatewayEvent::Outdated(reason) => {
                if !matches!(self.state, State::Waiting { .. } | State::Stopped) {
                    self.close(reason, now, random);
                }
            }
            GatewayEvent::Removed => {
                self.actions.push_back(GatewayAction::Close(CloseReason::Finished));
                self.lose(now, random);
                self.state = State::Stopped;
            }
            GatewayEvent::Succeeded(succeeded) => self.succeeded = succeeded,
            GatewayEvent::PredecessorGone => {
                let was_tried = self.predecessor.take().is_some();
                if was_tried && matches!(self.state, State::Stopped) {
                    self.state = State::Waiting { until: now, failures: 1 };
                }
            }
            GatewayEvent::Drain => self.drain(),
        }
    }

    /// Does what is due: dials, pings, gives up.
    pub fn handle_timeout(&mut self, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        match &mut self.state {
            State::Waiting { until, failures } if *until <= now => {
                let failures = *failures;
                self.state = State::Dialing { deadline: now + DIAL_TIMEOUT, failures };
                self.actions.push_back(GatewayAction::Dial);
            }
            State::Dialing { deadline, .. } | State::Greeting { deadline, .. }
                if *deadline <= now =>
            {
                self.close(CloseReason::SignalSilent, now, random);
            }
            State::Up(up) => match up.liveness.handle_timeout(now) {
                Some(Vital::Ping { nonce }) => {
                    self.send(from_server::Message::Ping(Ping { nonce }));
                }
                Some(Vital::Dead) => self.close(CloseReason::SignalSilent, now, random),
                None => {}
            },
            _ => {}
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_action(&mut self) -> Option<GatewayAction> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until, .. } => Some(*until),
            State::Dialing { deadline, .. } | State::Greeting { deadline, .. } => Some(*deadline),
            State::Up(up) => Some(up.liveness.next_timeout()),
            State::Stopped => None,
        }
    }

    /// Whether the gateway knows this server: both hellos are said, and neither drains.
    pub fn is_up(&self) -> bool {
        matches!(&self.state, State::Up(up) if !up.gateway_drains && !up.server_drains)
    }

    /// Whether it will not dial again by itself.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    /// Whether a link beside this one stands for what follows.
    pub fn is_succeeded(&self) -> bool {
        self.succeeded
    }

    /// Whether the gateway has said goodbye.
    pub fn gateway_drains(&self) -> bool {
        matches!(&self.state, State::Up(up) if up.gateway_drains)
    }
}

// ---- transitions ----

impl GatewayLink {
    fn greet(&mut self, now: Instant) {
        let State::Dialing { failures, .. } = self.state else { return };
        self.state = State::Greeting { deadline: now + SIGNAL_HELLO_TIMEOUT, failures };
        self.send(from_server::Message::ServerHello(self.hello.clone()));
    }

    /// Says hello again where the gateway has heard the one before.
    fn say_again(&mut self, hello: ServerHello) {
        if hello == self.hello {
            return;
        }
        self.hello = hello;
        if matches!(self.state, State::Greeting { .. } | State::Up(_)) {
            self.send(from_server::Message::ServerHello(self.hello.clone()));
        }
    }

    /// An error is the reason to close the connection.
    fn receive(
        &mut self,
        message: Option<to_server::Message>,
        now: Instant,
    ) -> Result<(), CloseReason> {
        match &mut self.state {
            State::Waiting { .. } | State::Dialing { .. } | State::Stopped => Ok(()),
            State::Greeting { failures, .. } => {
                let failures = *failures;
                let up = match message.ok_or(CloseReason::MessageUnknown)? {
                    // The process of before still answers: there is no successor.
                    to_server::Message::GatewayHello(hello)
                        if self.predecessor.as_ref() == Some(&hello.instance) =>
                    {
                        return Err(CloseReason::Finished);
                    }
                    to_server::Message::GatewayHello(hello) => {
                        let crls = hello.takes_crls.then(|| Lists::clone(&self.crls));
                        Up::new(hello, crls, failures, now)?
                    }
                    _ => return Err(CloseReason::MessageUnexpected),
                };
                self.state = State::Up(up);
                self.bring_crl();
                Ok(())
            }
            State::Up(up) => {
                up.liveness.heard(now);
                self.receive_up(message.ok_or(CloseReason::MessageUnknown)?)
            }
        }
    }

    fn receive_up(&mut self, message: to_server::Message) -> Result<(), CloseReason> {
        let State::Up(up) = &mut self.state else { return Ok(()) };
        match message {
            to_server::Message::GatewayHello(_) => return Err(CloseReason::MessageUnexpected),
            to_server::Message::Invitation(_) if up.gateway_drains => {
                return Err(CloseReason::MessageUnexpected);
            }
            to_server::Message::Invitation(invitation) => {
                if invitation.ticket.len() != TICKET_LEN {
                    return Err(CloseReason::FrameInvalid);
                }
                let is_spare = invitation.spare_for_ms > 0;
                // Twice what was told: of those that the gateway has used or ended, some may still count
                // here. The bound holds against a gateway that was taken over, too.
                let full = is_spare && up.spares.len() >= self.hello.spares as usize * 2;
                if up.server_drains {
                    self.decline(invitation.id, RefusalReason::Draining);
                } else if full {
                    self.decline(invitation.id, RefusalReason::ServerFull);
                } else if is_spare || self.hello.services.contains(&invitation.service) {
                    // Else one id would stand for any number of them.
                    if is_spare && !up.spares.insert(invitation.id) {
                        return Err(CloseReason::MessageUnexpected);
                    }
                    let instance = up.instance.clone();
                    self.actions.push_back(GatewayAction::Invited { invitation, instance });
                } else {
                    self.decline(invitation.id, RefusalReason::ServiceUnknown);
                }
            }
            to_server::Message::Withdraw(Withdraw { id }) if up.spares.contains(&id) => {
                self.actions.push_back(GatewayAction::CloseSpare { id });
            }
            to_server::Message::Withdraw(Withdraw { id }) => {
                self.actions.push_back(GatewayAction::Withdrawn { id });
            }
            to_server::Message::Ping(Ping { nonce }) => {
                self.send(from_server::Message::Pong(Pong { nonce }));
            }
            to_server::Message::Pong(_) => {}
            to_server::Message::Goodbye(_) => up.gateway_drains = true,
            to_server::Message::CrlAnswer(answer) => {
                let delivery = up.delivery.as_mut().ok_or(CloseReason::MessageUnexpected)?;
                match delivery.answered(answer) {
                    Answered::Nothing => {}
                    Answered::Next(piece) => self.send(from_server::Message::Crl(piece)),
                    Answered::Over { list, outcome } => {
                        self.actions.push_back(GatewayAction::CrlAnswered { list, outcome });
                        self.bring_crl();
                    }
                }
            }
            // It crossed with our own goodbye, or came again.
            to_server::Message::Successor(_) if up.server_drains || self.succeeded => {}
            to_server::Message::Successor(_) => {
                self.actions.push_back(GatewayAction::OpenSuccessor);
            }
        }
        Ok(())
    }

    fn close(&mut self, reason: CloseReason, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        self.actions.push_back(GatewayAction::Close(reason));
        self.lose(now, random);
    }

    /// The connection, or the attempt, is over.
    fn lose(&mut self, now: Instant, random: &mut dyn FnMut(&mut [u8])) {
        if let State::Up(up) = &mut self.state {
            let spares = std::mem::take(&mut up.spares).into_iter();
            self.actions.extend(spares.map(|id| GatewayAction::CloseSpare { id }));
        }
        let failures = match &self.state {
            State::Dialing { failures, .. } | State::Greeting { failures, .. } => *failures,
            State::Up(up) if up.server_drains => {
                self.state = State::Stopped;
                return;
            }
            State::Up(up) if now >= up.since + SIGNAL_SOUND_AFTER => 0,
            State::Up(up) => up.failures,
            State::Waiting { .. } | State::Stopped => return,
        };
        if self.succeeded || self.predecessor.is_some() {
            self.state = State::Stopped;
            return;
        }
        let until = now + backoff(failures, random);
        self.state = State::Waiting { until, failures: failures.saturating_add(1) };
    }

    fn drain(&mut self) {
        match &mut self.state {
            State::Up(up) if up.server_drains => {}
            State::Up(up) => {
                up.server_drains = true;
                self.send(from_server::Message::Goodbye(Goodbye {}));
            }
            State::Dialing { .. } | State::Greeting { .. } => {
                let reason = CloseReason::Refused(RefusalReason::Draining);
                self.actions.push_back(GatewayAction::Close(reason));
                self.state = State::Stopped;
            }
            State::Waiting { .. } | State::Stopped => self.state = State::Stopped,
        }
    }

    fn decline(&mut self, id: u64, reason: RefusalReason) {
        self.send(from_server::Message::Decline(Decline { id, reason: reason.into() }));
    }

    fn send(&mut self, message: from_server::Message) {
        self.actions.push_back(GatewayAction::Send(FromServer { message: Some(message) }));
    }
}

impl Up {
    fn new(
        hello: GatewayHello,
        crls: Option<Lists>,
        failures: u32,
        now: Instant,
    ) -> Result<Self, CloseReason> {
        let instance = hello.instance;
        let hint = Hint { instance: instance.clone(), worker: 0 };
        if Hint::from_alpn(&hint.to_alpn()).is_none() {
            return Err(CloseReason::FrameInvalid);
        }
        Ok(Self {
            instance,
            since: now,
            failures,
            liveness: Liveness::new(now),
            spares: BTreeSet::new(),
            delivery: crls.map(Delivery::new),
            gateway_drains: false,
            server_drains: false,
        })
    }
}

/// What a server says of itself.
fn hello(offers: &[ServiceOffer], capacity: u32, spares: u32) -> ServerHello {
    let software = concat!("vestibule ", env!("CARGO_PKG_VERSION")).to_owned();
    let (services, passthrough) = ServiceOffer::as_said(offers);
    ServerHello { services, capacity, software, spares, successors: true, passthrough }
}
