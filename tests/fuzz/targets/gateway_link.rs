//! A hostile gateway at a server: whatever it says on the signal connection and in session headers, the
//! server follows invitations for its own services only, keeps no more spares than it bears, and lets
//! nothing into its log or to a backend that has no place there.
#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use vestibule::control::{GatewayAction, GatewayEvent, GatewayLink, ServiceOffer};
use vestibule::limits::{
    MAX_CRL_PIECE_LEN, MAX_FRAME_LEN, MAX_IDENTITY_LEN, MAX_PRINTED_LEN, TICKET_LEN,
};
use vestibule::server::Visitor;
use vestibule::wire::alpn::Hint;
use vestibule::wire::{
    CrlAnswer, FrameDecoder, FromServer, GatewayHello, Goodbye, Invitation, Ping, Pong,
    RefusalReason, SessionHeader, ToServer, Withdraw, from_server, to_server,
};

const SERVICES: [&str; 2] = ["web", "ssh"];
const SPARES: u32 = 3;
/// Lists of revoked certificates that the server brings.
const LISTS: usize = 2;

#[derive(Debug, Arbitrary)]
enum Step {
    Dialed,
    DialFailed,
    /// A frame of these bytes.
    Bytes(Vec<u8>),
    Say(Said),
    Closed,
    Decline {
        id: u8,
        reason: i32,
    },
    SpareEnded {
        spare: u8,
    },
    Header(Header),
    Pass {
        ms: u16,
    },
    Drain,
}

#[derive(Debug, Arbitrary)]
enum Said {
    Hello { instance: Option<String> },
    Invitation { id: u8, ticket_len: Option<u8>, service: Service, worker: u32, spare_for_ms: u32 },
    Withdraw { id: u8 },
    Ping { nonce: u64 },
    Pong { nonce: u64 },
    Goodbye,
    CrlAnswer { transfer: u8, outcome: i32 },
}

#[derive(Debug, Arbitrary)]
enum Service {
    Known(bool),
    Any(String),
}

#[derive(Debug, Arbitrary)]
struct Header {
    session: String,
    service: Service,
    device: String,
    agent_ip: Vec<u8>,
    agent_port: u32,
    listener_ip: [u8; 4],
    sni: String,
    alpn: String,
}

impl Service {
    fn name(self) -> String {
        match self {
            Self::Known(first) => SERVICES[usize::from(first)].to_owned(),
            Self::Any(name) => name,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    None,
    Dialing,
    /// Our hello is the next that is said.
    Silent,
    Up,
}

/// The server around the link.
struct World {
    link: GatewayLink,
    now: Instant,
    connection: Connection,
    spares: BTreeSet<u64>,
    drains: bool,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut link = GatewayLink::new(&SERVICES.map(ServiceOffer::new), 100, SPARES, now);
        let lists: [Arc<[u8]>; LISTS] =
            [vec![1_u8; 2 * MAX_CRL_PIECE_LEN], vec![2_u8]].map(Into::into);
        link.handle(GatewayEvent::Crls(lists.into()), now, &mut |_| {});
        Self { link, now, connection: Connection::None, spares: BTreeSet::new(), drains: false }
    }

    fn handle(&mut self, event: GatewayEvent) {
        self.link.handle(event, self.now, &mut |bytes| bytes.fill(0x80));
        self.act();
    }

    fn act(&mut self) {
        let bound = self.spares.len() + 2;
        let mut count = 0;
        while let Some(action) = self.link.poll_action() {
            self.carry_out(action);
            count += 1;
        }
        assert!(count <= bound, "{count} actions");
        assert!(self.spares.len() <= 2 * SPARES as usize);
    }

    fn carry_out(&mut self, action: GatewayAction) {
        let standing = matches!(self.connection, Connection::Silent | Connection::Up);
        match action {
            GatewayAction::Dial => {
                assert_eq!(self.connection, Connection::None, "one connection at a time");
                self.connection = Connection::Dialing;
            }
            GatewayAction::Send(FromServer { message }) => {
                assert!(standing, "nothing is said to nobody");
                let is_hello = matches!(message, Some(from_server::Message::ServerHello(_)));
                assert_eq!(is_hello, self.connection == Connection::Silent, "hello comes first");
                self.connection = Connection::Up;
            }
            GatewayAction::OpenSuccessor => {}
            GatewayAction::Close(_) => {
                assert_ne!(self.connection, Connection::None, "a connection is closed once");
                self.connection = Connection::None;
            }
            GatewayAction::Invited { invitation, instance } => {
                assert!(self.connection == Connection::Up && !self.drains);
                assert_eq!(invitation.ticket.len(), TICKET_LEN);
                let hint = Hint { instance, worker: invitation.worker };
                assert_eq!(Hint::from_alpn(&hint.to_alpn()), Some(hint));
                if invitation.spare_for_ms > 0 {
                    assert!(self.spares.insert(invitation.id), "an id stands for one spare");
                } else {
                    assert!(SERVICES.contains(&&*invitation.service), "a service of ours");
                }
            }
            GatewayAction::CrlAnswered { list, .. } => assert!(list < LISTS),
            GatewayAction::Withdrawn { id } => assert!(!self.spares.contains(&id)),
            GatewayAction::CloseSpare { id } => {
                assert!(self.spares.contains(&id), "a spare that was asked for");
                // Its end is awaited, unless the connection is lost.
                if self.connection == Connection::None {
                    self.spares.remove(&id);
                }
            }
        }
    }

    fn lose(&mut self, event: GatewayEvent) {
        self.connection = Connection::None;
        self.handle(event);
        assert!(self.spares.is_empty(), "spares end with their signal connection");
    }

    fn step(&mut self, step: Step) {
        match (step, self.connection) {
            (Step::Dialed, Connection::Dialing) => {
                self.connection = Connection::Silent;
                self.handle(GatewayEvent::Dialed);
            }
            (Step::DialFailed, Connection::Dialing) => self.lose(GatewayEvent::DialFailed),
            (Step::Closed, Connection::Silent | Connection::Up) => self.lose(GatewayEvent::Closed),
            (Step::Bytes(bytes), Connection::Up) => self.receive(&bytes),
            (Step::Say(said), Connection::Up) => {
                self.handle(GatewayEvent::Message(ToServer { message: Some(said.message()) }));
            }
            (Step::Decline { id, reason }, _) => {
                let reason = RefusalReason::try_from(reason).unwrap_or(RefusalReason::Unspecified);
                self.handle(GatewayEvent::Decline { id: id.into(), reason });
            }
            (Step::SpareEnded { spare }, _) => {
                let len = self.spares.len().max(1);
                let ended = self.spares.iter().nth(usize::from(spare) % len).copied();
                if let Some(id) = ended {
                    self.spares.remove(&id);
                    self.handle(GatewayEvent::SpareEnded { id });
                }
            }
            (Step::Header(header), _) => header.check(),
            (Step::Pass { ms }, _) => {
                self.now += Duration::from_millis(ms.into());
                self.link.handle_timeout(self.now, &mut |bytes| bytes.fill(0x80));
                self.act();
            }
            (Step::Drain, _) => {
                self.drains = true;
                self.handle(GatewayEvent::Drain);
            }
            _ => {}
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(MAX_FRAME_LEN)];
        let len = u32::try_from(bytes.len()).expect("bounded above").to_be_bytes();
        let frame = [&len, bytes].concat();
        match FrameDecoder::default().decode(&mut &frame[..]) {
            Ok(message) => {
                self.handle(GatewayEvent::Message(message.expect("the frame is whole")));
            }
            Err(_) => self.lose(GatewayEvent::Closed),
        }
    }
}

impl Said {
    fn message(self) -> to_server::Message {
        match self {
            Self::Hello { instance } => to_server::Message::GatewayHello(GatewayHello {
                instance: instance.unwrap_or_else(|| "00112233445566ff".to_owned()),
                services: Vec::new(),
                software: String::new(),
                takes_crls: true,
            }),
            Self::Invitation { id, ticket_len, service, worker, spare_for_ms } => {
                let ticket = vec![7; ticket_len.map_or(TICKET_LEN, usize::from)];
                let (id, service) = (id.into(), service.name());
                let expires_in_ms = 10_000;
                let invitation =
                    Invitation { id, ticket, service, worker, expires_in_ms, spare_for_ms };
                to_server::Message::Invitation(invitation)
            }
            Self::Withdraw { id } => to_server::Message::Withdraw(Withdraw { id: id.into() }),
            Self::Ping { nonce } => to_server::Message::Ping(Ping { nonce }),
            Self::Pong { nonce } => to_server::Message::Pong(Pong { nonce }),
            Self::Goodbye => to_server::Message::Goodbye(Goodbye {}),
            Self::CrlAnswer { transfer, outcome } => {
                to_server::Message::CrlAnswer(CrlAnswer { transfer: transfer.into(), outcome })
            }
        }
    }
}

impl Header {
    /// What comes of it, on a data connection for the first service.
    fn check(self) {
        let header = SessionHeader {
            session: self.session,
            service: self.service.name(),
            device: self.device,
            agent_ip: self.agent_ip,
            agent_port: self.agent_port,
            listener_ip: self.listener_ip.to_vec(),
            listener_port: 13_000,
            passthrough: self.sni.len() % 2 == 1,
            sni: self.sni,
            alpn: self.alpn,
        };
        let service = header.service.clone();
        let Ok(visitor) = Visitor::of(header, SERVICES[0]) else { return };
        assert_eq!(service, SERVICES[0], "no other service than that of the invitation");
        let device = visitor.device.as_deref().unwrap_or_default();
        assert!(device.len() <= MAX_IDENTITY_LEN);
        for text in [&visitor.session, &visitor.sni, &visitor.alpn] {
            assert!(text.len() <= MAX_PRINTED_LEN);
        }
        for text in [&visitor.session, &visitor.sni, &visitor.alpn, device] {
            assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    for step in steps {
        world.step(step);
    }
});
