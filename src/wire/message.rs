//! The messages of `vestibule.proto` in Rust. A test reads the proto file and compares field by field.

use super::{CrlOutcome, RefusalReason};

/// A message that is the whole of a frame.
pub trait Message: prost::Message + Default {
    /// Name of the message in `vestibule.proto`, for errors.
    const NAME: &'static str;
}

/// What a server says on a signal connection.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FromServer {
    /// `None` where the sender used a message that this release does not know.
    #[prost(oneof = "from_server::Message", tags = "1, 2, 3, 4, 5, 6")]
    pub message: Option<from_server::Message>,
}

impl Message for FromServer {
    const NAME: &'static str = "FromServer";
}

/// The choices of [`FromServer`].
pub mod from_server {
    /// One of them.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Message {
        /// See [`ServerHello`](super::ServerHello).
        #[prost(message, tag = "1")]
        ServerHello(super::ServerHello),
        /// See [`Decline`](super::Decline).
        #[prost(message, tag = "2")]
        Decline(super::Decline),
        /// See [`Ping`](super::Ping).
        #[prost(message, tag = "3")]
        Ping(super::Ping),
        /// See [`Pong`](super::Pong).
        #[prost(message, tag = "4")]
        Pong(super::Pong),
        /// See [`Goodbye`](super::Goodbye).
        #[prost(message, tag = "5")]
        Goodbye(super::Goodbye),
        /// See [`Crl`](super::Crl). Only to a gateway whose hello says that it takes them.
        #[prost(message, tag = "6")]
        Crl(super::Crl),
    }
}

/// What a gateway says on a signal connection.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ToServer {
    /// `None` where the sender used a message that this release does not know.
    #[prost(oneof = "to_server::Message", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub message: Option<to_server::Message>,
}

impl Message for ToServer {
    const NAME: &'static str = "ToServer";
}

/// The choices of [`ToServer`].
pub mod to_server {
    /// One of them.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Message {
        /// See [`GatewayHello`](super::GatewayHello).
        #[prost(message, tag = "1")]
        GatewayHello(super::GatewayHello),
        /// See [`Invitation`](super::Invitation).
        #[prost(message, tag = "2")]
        Invitation(super::Invitation),
        /// See [`Withdraw`](super::Withdraw).
        #[prost(message, tag = "3")]
        Withdraw(super::Withdraw),
        /// See [`Ping`](super::Ping).
        #[prost(message, tag = "4")]
        Ping(super::Ping),
        /// See [`Pong`](super::Pong).
        #[prost(message, tag = "5")]
        Pong(super::Pong),
        /// See [`Goodbye`](super::Goodbye).
        #[prost(message, tag = "6")]
        Goodbye(super::Goodbye),
        /// See [`CrlAnswer`](super::CrlAnswer). Only in answer to a `Crl`.
        #[prost(message, tag = "7")]
        CrlAnswer(super::CrlAnswer),
        /// See [`Successor`](super::Successor).
        #[prost(message, tag = "8")]
        Successor(super::Successor),
    }
}

/// First message of a server, said again when it has changed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ServerHello {
    /// Services that this server can serve; the gateway's allow-list is applied on top.
    #[prost(string, repeated, tag = "1")]
    pub services: Vec<String>,
    /// Sessions that it will hold at once; 0 means that it states no bound.
    #[prost(uint32, tag = "2")]
    pub capacity: u32,
    /// Version of the software, for the log and the status page only.
    #[prost(string, tag = "3")]
    pub software: String,
    /// Spares that it will hold at once for this gateway; 0: it knows of none.
    #[prost(uint32, tag = "4")]
    pub spares: u32,
    /// Whether it knows of [`Successor`].
    #[prost(bool, tag = "5")]
    pub successors: bool,
    /// Places in `services`, from 0, of those whose agents keep their TLS to themselves beyond the gateway.
    #[prost(uint32, repeated, tag = "6")]
    pub passthrough: Vec<u32>,
}

/// First message of a gateway, in answer to the first ServerHello.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GatewayHello {
    /// Names this process of the gateway: data connections repeat it in their ALPN hint.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// Services of that ServerHello that the gateway will send invitations for.
    #[prost(string, repeated, tag = "2")]
    pub services: Vec<String>,
    /// Version of the software, for the log and the status page only.
    #[prost(string, tag = "3")]
    pub software: String,
    /// Whether it takes lists of revoked certificates.
    #[prost(bool, tag = "4")]
    pub takes_crls: bool,
}

/// An agent waits, or may soon: open a data connection and claim the ticket.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Invitation {
    /// Names the invitation on this signal connection.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The one-time secret, 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub ticket: Vec<u8>,
    /// Name of the service; empty for a spare.
    #[prost(string, tag = "3")]
    pub service: String,
    /// Worker that holds the agent; goes into the ALPN hint.
    #[prost(uint32, tag = "4")]
    pub worker: u32,
    /// Milliseconds that the ticket stays valid, counted from when the gateway wrote this.
    #[prost(uint32, tag = "5")]
    pub expires_in_ms: u32,
    /// 0: an agent waits. Else none does yet: claim, and keep this spare for so many milliseconds.
    #[prost(uint32, tag = "6")]
    pub spare_for_ms: u32,
}

/// The server will not open a data connection for this invitation.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Decline {
    /// Names the invitation on this signal connection.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Why.
    #[prost(enumeration = "RefusalReason", tag = "2")]
    pub reason: i32,
}

/// The invitation is void (the agent left, the deadline passed): do not claim it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Withdraw {
    /// Names the invitation on this signal connection.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// Asks for a [`Pong`] at once.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Ping {
    /// Comes back in the answer.
    #[prost(uint64, tag = "1")]
    pub nonce: u64,
}

/// Answers a [`Ping`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Pong {
    /// Comes back in the answer.
    #[prost(uint64, tag = "1")]
    pub nonce: u64,
}

/// The sender drains: it takes part in no new sessions; those that live go on.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Goodbye {}

/// A piece of a list of revoked certificates (RFC 5280, in DER).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Crl {
    /// Names the list on this signal connection.
    #[prost(uint32, tag = "1")]
    pub transfer: u32,
    /// Bytes that came before.
    #[prost(uint32, tag = "2")]
    pub offset: u32,
    /// Bytes of the whole list.
    #[prost(uint32, tag = "3")]
    pub total: u32,
    /// Some bytes of it.
    #[prost(bytes = "vec", tag = "4")]
    pub piece: Vec<u8>,
}

/// What the gateway makes of a piece, or of the whole list after its last one.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CrlAnswer {
    /// Names the list on this signal connection.
    #[prost(uint32, tag = "1")]
    pub transfer: u32,
    /// What it makes of it.
    #[prost(enumeration = "CrlOutcome", tag = "2")]
    pub outcome: i32,
}
/// Another process of this gateway is to take its place: open a second signal connection to it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Successor {}

/// What a server says on a data connection, before the bytes of the session.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FromDataConnection {
    /// `None` where the sender used a message that this release does not know.
    #[prost(oneof = "from_data_connection::Message", tags = "1, 2, 3, 4")]
    pub message: Option<from_data_connection::Message>,
}

impl Message for FromDataConnection {
    const NAME: &'static str = "FromDataConnection";
}

/// The choices of [`FromDataConnection`].
pub mod from_data_connection {
    /// One of them.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Message {
        /// See [`Claim`](super::Claim).
        #[prost(message, tag = "1")]
        Claim(super::Claim),
        /// See [`Accepted`](super::Accepted).
        #[prost(message, tag = "2")]
        Accepted(super::Accepted),
        /// See [`Refused`](super::Refused).
        #[prost(message, tag = "3")]
        Refused(super::Refused),
        /// See [`Taken`](super::Taken).
        #[prost(message, tag = "4")]
        Taken(super::Taken),
    }
}

/// What a gateway says on a data connection, before the bytes of the session.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ToDataConnection {
    /// `None` where the sender used a message that this release does not know.
    #[prost(oneof = "to_data_connection::Message", tags = "1, 2")]
    pub message: Option<to_data_connection::Message>,
}

impl Message for ToDataConnection {
    const NAME: &'static str = "ToDataConnection";
}

/// The choices of [`ToDataConnection`].
pub mod to_data_connection {
    /// One of them.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Message {
        /// See [`SessionHeader`](super::SessionHeader).
        #[prost(message, tag = "1")]
        SessionHeader(super::SessionHeader),
        /// See [`Refused`](super::Refused).
        #[prost(message, tag = "2")]
        Refused(super::Refused),
    }
}

/// Claims the ticket of an invitation.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Claim {
    /// Names the invitation on this signal connection.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The ticket of the invitation.
    #[prost(bytes = "vec", tag = "2")]
    pub ticket: Vec<u8>,
}

/// Who is at the other end. Sent once, in answer to a valid claim; on a spare once an agent is there.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SessionHeader {
    /// Names the session in the logs of both sides.
    #[prost(string, tag = "1")]
    pub session: String,
    /// Name of the service.
    #[prost(string, tag = "2")]
    pub service: String,
    /// Verified identity of the device; empty where it has none (plain, or no certificate).
    #[prost(string, tag = "3")]
    pub device: String,
    /// Address of the agent as the gateway saw it: 4 or 16 bytes, network order.
    #[prost(bytes = "vec", tag = "4")]
    pub agent_ip: Vec<u8>,
    /// Port of the agent.
    #[prost(uint32, tag = "5")]
    pub agent_port: u32,
    /// Address that the agent had connected to.
    #[prost(bytes = "vec", tag = "6")]
    pub listener_ip: Vec<u8>,
    /// Port of the listener.
    #[prost(uint32, tag = "7")]
    pub listener_port: u32,
    /// Server name of the agent's ClientHello; empty where there was none.
    #[prost(string, tag = "8")]
    pub sni: String,
    /// Protocol agreed with the agent by ALPN; empty where there was none.
    #[prost(string, tag = "9")]
    pub alpn: String,
    /// Whether TLS of the data connection ends behind Accepted, and what follows is the agent's own TLS.
    #[prost(bool, tag = "10")]
    pub passthrough: bool,
}

/// The server has the header that came over a spare, and connects the backend.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Taken {}

/// The backend is connected; the bytes of the session follow.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Accepted {}

/// What an agent says before the bytes of the session.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FromAgent {
    /// `None` where the sender used a message that this release does not know.
    #[prost(oneof = "from_agent::Message", tags = "1")]
    pub message: Option<from_agent::Message>,
}

impl Message for FromAgent {
    const NAME: &'static str = "FromAgent";
}

/// The choices of [`FromAgent`].
pub mod from_agent {
    /// One of them.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Message {
        /// See [`Open`](super::Open).
        #[prost(message, tag = "1")]
        Open(super::Open),
    }
}

/// What a gateway says to an agent before the bytes of the session.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ToAgent {
    /// `None` where the sender used a message that this release does not know.
    #[prost(oneof = "to_agent::Message", tags = "1, 2")]
    pub message: Option<to_agent::Message>,
}

impl Message for ToAgent {
    const NAME: &'static str = "ToAgent";
}

/// The choices of [`ToAgent`].
pub mod to_agent {
    /// One of them.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Message {
        /// See [`Opened`](super::Opened).
        #[prost(message, tag = "1")]
        Opened(super::Opened),
        /// See [`Refused`](super::Refused).
        #[prost(message, tag = "2")]
        Refused(super::Refused),
    }
}

/// Ask for a service by its name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Open {
    /// Name of the service.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// The session is joined; its bytes follow.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Opened {
    /// Names the session in the logs of both sides.
    #[prost(string, tag = "1")]
    pub session: String,
}

/// No session. The connection ends after this message.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Refused {
    /// Why.
    #[prost(enumeration = "RefusalReason", tag = "1")]
    pub reason: i32,
    /// Earliest time worth trying again; 0 means that waiting will not help.
    #[prost(uint32, tag = "2")]
    pub retry_after_ms: u32,
}
