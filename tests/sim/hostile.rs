//! Hostile peers. They have a certificate, so that they get in, and then say anything at any time.

use std::collections::BTreeMap;
use std::time::Duration;

use vestibule::control::ServiceOffer;
use vestibule::wire::alpn::Hint;
use vestibule::wire::{
    Accepted, Claim, Decline, FrameDecoder, FromDataConnection, FromServer, GatewayHello, Goodbye,
    Invitation, Opened, Ping, Pong, RefusalReason, Refused, ServerHello, SessionHeader, Taken,
    ToAgent, ToDataConnection, ToServer, Withdraw, from_data_connection, from_server, to_agent,
    to_data_connection, to_server,
};

use super::nature::{Nature, Occurrence, ProcessId};
use super::network::{ConnectionId, End, Hello};

/// Between two ideas.
const IDEA_MS: u64 = 1_500;

/// A server that is allowed at the gateways.
pub(super) struct HostileServer {
    index: usize,
    services: Vec<ServiceOffer>,
    /// By gateway.
    signals: BTreeMap<usize, (ConnectionId, FrameDecoder)>,
    data: Vec<ConnectionId>,
    /// What it was invited for, with the gateway.
    invited: Vec<(usize, Invitation)>,
    instances: BTreeMap<usize, String>,
}

impl HostileServer {
    pub(super) fn new(index: usize, services: Vec<ServiceOffer>) -> Self {
        Self {
            index,
            services,
            signals: BTreeMap::new(),
            data: Vec::new(),
            invited: Vec::new(),
            instances: BTreeMap::new(),
        }
    }

    fn id(&self) -> ProcessId {
        ProcessId::Server(self.index)
    }

    pub(super) fn dialed(&mut self, id: ConnectionId, through: bool, nature: &mut Nature) {
        let Some(gateway) = self.gateway_of(id) else {
            if through {
                self.claim(id, nature);
            }
            return;
        };
        if !through {
            nature.abort(id, End::Dialer);
            self.signals.remove(&gateway);
        } else if nature.random.percent(95) {
            let hello = ServerHello {
                services: self.services.iter().map(|service| service.name.clone()).collect(),
                capacity: u32::try_from(nature.random.below(4)).expect("small"),
                software: "\u{1b}[2J".to_owned(),
                spares: u32::try_from(nature.random.below(9)).expect("small"),
                successors: nature.random.percent(50),
                passthrough: if nature.random.percent(5) { vec![0] } else { Vec::new() },
            };
            let message = from_server::Message::ServerHello(hello);
            nature.say(id, End::Dialer, &FromServer { message: Some(message) });
        }
    }

    fn gateway_of(&self, id: ConnectionId) -> Option<usize> {
        self.signals.iter().find_map(|(gateway, (signal, _))| (*signal == id).then_some(*gateway))
    }

    pub(super) fn ready(&mut self, id: ConnectionId, nature: &mut Nature) {
        let Some(gateway) = self.gateway_of(id) else {
            return self.answer(id, nature);
        };
        loop {
            let Some((_, decoder)) = self.signals.get_mut(&gateway) else { return };
            let message = match nature.read_message::<ToServer>(id, End::Dialer, decoder) {
                Ok(Some(ToServer { message })) => message,
                Ok(None) => return,
                Err(_) => {
                    nature.abort(id, End::Dialer);
                    self.signals.remove(&gateway);
                    return;
                }
            };
            match message {
                Some(to_server::Message::GatewayHello(hello)) => {
                    self.instances.insert(gateway, hello.instance);
                }
                Some(to_server::Message::Invitation(invitation)) => {
                    self.invited.push((gateway, invitation));
                    if nature.random.percent(70) {
                        self.open_data(nature);
                    }
                }
                Some(to_server::Message::Ping(Ping { nonce })) if nature.random.percent(90) => {
                    let pong = from_server::Message::Pong(Pong { nonce });
                    nature.say(id, End::Dialer, &FromServer { message: Some(pong) });
                }
                _ => {}
            }
        }
    }

    /// What comes into its mind.
    pub(super) fn act(&mut self, gateways: usize, nature: &mut Nature) {
        let gateway = nature.random.below(gateways);
        match self.signals.get(&gateway).map(|(id, _)| *id) {
            None => {
                let hello = Hello::Signal { server: self.index };
                let id = nature.dial(self.id(), ProcessId::Gateway(gateway), hello);
                self.signals.insert(gateway, (id, FrameDecoder::default()));
            }
            Some(id) if nature.random.percent(60) => self.babble(id, nature),
            Some(_) => self.open_data(nature),
        }
        nature.after(Duration::ZERO, IDEA_MS, Occurrence::Act(self.id(), 0));
    }

    fn babble(&mut self, id: ConnectionId, nature: &mut Nature) {
        let known = self.invited.iter().map(|(_, invitation)| invitation.id).next_back();
        let id_of_any = nature.any_leaked().map_or(7, |leaked| leaked.claim.id);
        let invitation = known.filter(|_| nature.random.percent(70)).unwrap_or(id_of_any);
        let message = match nature.random.below(9) {
            0 => None,
            1 => Some(from_server::Message::ServerHello(ServerHello::default())),
            2 => Some(from_server::Message::Goodbye(Goodbye {})),
            3 => Some(from_server::Message::Pong(Pong { nonce: nature.random.next() })),
            4 => Some(from_server::Message::Ping(Ping { nonce: nature.random.next() })),
            5 => return say_garbage(id, End::Dialer, nature),
            _ => {
                let reason = i32::try_from(nature.random.below(19)).expect("small");
                Some(from_server::Message::Decline(Decline { id: invitation, reason }))
            }
        };
        nature.say(id, End::Dialer, &FromServer { message });
    }

    fn open_data(&mut self, nature: &mut Nature) {
        let leaked = nature.any_leaked();
        let gateway = leaked.as_ref().map_or(0, |leaked| leaked.gateway);
        let gateway = self.invited.last().map_or(gateway, |(gateway, _)| *gateway);
        let instance = self.instances.get(&gateway).cloned().unwrap_or_default();
        let worker = u32::try_from(nature.random.below(4)).expect("small");
        let worker = self.invited.last().map_or(worker, |(_, invitation)| invitation.worker);
        let hello = Hello::Data { server: self.index, hint: Hint { instance, worker } };
        self.data.push(nature.dial(self.id(), ProcessId::Gateway(gateway), hello));
    }

    /// Its own ticket, that of another, a wrong one, or no claim at all.
    fn claim(&self, id: ConnectionId, nature: &mut Nature) {
        let own = self
            .invited
            .last()
            .map(|(_, invitation)| Claim { id: invitation.id, ticket: invitation.ticket.clone() });
        let leaked = nature.any_leaked().map(|leaked| leaked.claim);
        let claim = match nature.random.below(6) {
            0..=2 => own.or(leaked),
            3 => leaked,
            4 => own.map(|own| Claim { ticket: own.ticket[..15].to_vec(), ..own }),
            _ => return say_garbage(id, End::Dialer, nature),
        };
        if let Some(claim) = claim {
            let message = from_data_connection::Message::Claim(claim);
            nature.say(id, End::Dialer, &FromDataConnection { message: Some(message) });
        }
    }

    /// Whatever was said to it on a data connection.
    fn answer(&mut self, id: ConnectionId, nature: &mut Nature) {
        if nature.network.has_ended(id, End::Dialer) || !self.data.contains(&id) {
            return nature.abort(id, End::Dialer);
        }
        let message = match nature.random.below(10) {
            0..=2 => Some(from_data_connection::Message::Accepted(Accepted {})),
            3..=5 => Some(from_data_connection::Message::Taken(Taken {})),
            6 => {
                let reason = i32::try_from(nature.random.below(19)).expect("small");
                let refused = Refused { reason, retry_after_ms: u32::MAX };
                Some(from_data_connection::Message::Refused(refused))
            }
            7 => return say_garbage(id, End::Dialer, nature),
            8 => return nature.truncate(id, End::Dialer),
            _ => return,
        };
        nature.say(id, End::Dialer, &FromDataConnection { message });
    }
}

/// A gateway that was taken over.
pub(super) struct HostileGateway {
    index: usize,
    signals: Vec<ConnectionId>,
    invitations: u64,
}

impl HostileGateway {
    pub(super) fn new(index: usize) -> Self {
        Self { index, signals: Vec::new(), invitations: 0 }
    }

    pub(super) fn knock(&mut self, id: ConnectionId, nature: &mut Nature) {
        nature.answer_dial(id, true);
        match nature.network.hello(id).clone() {
            Hello::Signal { .. } => {
                self.signals.push(id);
                let instance = if nature.random.percent(90) { "00112233445566ff" } else { "\n" };
                let hello =
                    GatewayHello { instance: instance.to_owned(), ..GatewayHello::default() };
                let message = to_server::Message::GatewayHello(hello);
                nature.say(id, End::Acceptor, &ToServer { message: Some(message) });
            }
            Hello::Data { .. } => Self::give_header(id, nature),
            Hello::Agent { device } => {
                if let Ok(device) = device.parse() {
                    nature.checks.taint(device);
                }
                Self::answer_agent(id, nature);
            }
            Hello::Backend { .. } => {}
        }
    }

    fn give_header(id: ConnectionId, nature: &mut Nature) {
        let service = format!("service-{}", nature.random.below(4));
        let header =
            SessionHeader { service, device: "nobody".to_owned(), ..SessionHeader::default() };
        let message = match nature.random.below(6) {
            0..=2 => Some(to_data_connection::Message::SessionHeader(header)),
            3 => {
                let reason = i32::try_from(nature.random.below(19)).expect("small");
                let refused = Refused { reason, retry_after_ms: 0 };
                Some(to_data_connection::Message::Refused(refused))
            }
            4 => None,
            _ => return say_garbage(id, End::Acceptor, nature),
        };
        nature.say(id, End::Acceptor, &ToDataConnection { message });
        if nature.random.percent(50) {
            say_garbage(id, End::Acceptor, nature);
        }
    }

    fn answer_agent(id: ConnectionId, nature: &mut Nature) {
        let message = match nature.random.below(6) {
            0 => Some(to_agent::Message::Opened(Opened { session: "\n".to_owned() })),
            1..=3 => {
                let reason = *nature.random.pick(&RefusalReason::ALL);
                let refused = Refused { reason: reason.into(), retry_after_ms: 0 };
                Some(to_agent::Message::Refused(refused))
            }
            4 => None,
            _ => return say_garbage(id, End::Acceptor, nature),
        };
        nature.say(id, End::Acceptor, &ToAgent { message });
    }

    /// Reads nothing, and ends with whoever ends.
    pub(super) fn ready(&mut self, id: ConnectionId, nature: &mut Nature) {
        if nature.network.has_ended(id, End::Acceptor) {
            nature.abort(id, End::Acceptor);
            self.signals.retain(|signal| *signal != id);
        }
    }

    pub(super) fn act(&mut self, nature: &mut Nature) {
        for signal in self.signals.clone() {
            for _ in 0..nature.random.below(4) {
                self.babble(signal, nature);
            }
        }
        nature.after(Duration::ZERO, IDEA_MS, Occurrence::Act(ProcessId::Gateway(self.index), 0));
    }

    fn babble(&mut self, id: ConnectionId, nature: &mut Nature) {
        let known = nature.random.below(usize::try_from(self.invitations).expect("few") + 1) as u64;
        let message = match nature.random.below(20) {
            0 => None,
            1 => Some(to_server::Message::GatewayHello(GatewayHello::default())),
            2 => Some(to_server::Message::Goodbye(Goodbye {})),
            3 => Some(to_server::Message::Pong(Pong { nonce: 0 })),
            4..=6 => Some(to_server::Message::Ping(Ping { nonce: nature.random.next() })),
            7 => return say_garbage(id, End::Acceptor, nature),
            8..=10 => Some(to_server::Message::Withdraw(Withdraw { id: known })),
            _ => Some(to_server::Message::Invitation(self.invitation(known, nature))),
        };
        nature.say(id, End::Acceptor, &ToServer { message });
    }

    fn invitation(&mut self, known: u64, nature: &mut Nature) -> Invitation {
        self.invitations += 1;
        let is_known = nature.random.percent(10);
        let ticket_len = if nature.random.percent(95) { 16 } else { 15 };
        let is_spare = nature.random.percent(60);
        Invitation {
            id: if is_known { known } else { self.invitations },
            ticket: vec![7; ticket_len],
            service: format!("service-{}", nature.random.below(4)),
            worker: u32::MAX,
            expires_in_ms: *nature.random.pick(&[0, 1_000, 8_000]),
            spare_for_ms: if is_spare { *nature.random.pick(&[1, 5_000, 12_000]) } else { 0 },
        }
    }
}

/// Bytes that may or may not begin a frame.
fn say_garbage(id: ConnectionId, end: End, nature: &mut Nature) {
    let mut garbage = [0; 20];
    nature.random.fill(&mut garbage);
    if nature.random.percent(70) {
        garbage[..4].copy_from_slice(&[0, 0, 0, 9]);
    }
    nature.say_bytes(id, end, &garbage);
}
