//! What is known of a session or connection when it has ended: one record for each, at both roles.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::relay::{CloseReason, DataPath, Party};

/// A session that was joined, and has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRecord {
    /// Names the session in the logs of both sides.
    pub session: String,
    /// Name of the service, as the configuration has it.
    pub service: Arc<str>,
    /// Verified identity of the device; `None` where it has none.
    pub device: Option<Arc<str>>,
    /// Address of the agent as the gateway saw it.
    pub agent: SocketAddr,
    /// Who else took part.
    pub way: Way,
    /// How its bytes went.
    pub path: DataPath,
    /// Worker that relayed it.
    pub worker: u32,
    /// Payload from the agent to the server, in bytes.
    pub bytes_to_server: u64,
    /// Payload from the server to the agent, in bytes.
    pub bytes_to_agent: u64,
    /// How long each stage took.
    pub stages: Stages,
    /// From accept to the end; at the server from the arrival of the invitation.
    pub duration: Duration,
    /// Why it ended.
    pub reason: CloseReason,
}

/// The part of a session's way that the process saw which wrote the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Seen by a gateway.
    Gateway {
        /// Name of the listener that the agent came to.
        listener: Arc<str>,
        /// Name of the server that the session was joined to.
        server: Arc<str>,
    },
    /// Seen by a server.
    Server {
        /// The gateway that sent the invitation, as the configuration has it.
        gateway: Arc<str>,
        /// The backend that the session was delivered to.
        backend: Arc<str>,
    },
}

/// A connection that became no session, or was never to become one, and has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionRecord {
    /// Address of the other end.
    pub peer: SocketAddr,
    /// Who the other end proved to be; `None` for strangers.
    pub identity: Option<(Party, Arc<str>)>,
    /// Name of the listener, or of the gateway that was dialled.
    pub place: Arc<str>,
    /// The service that was asked for, where it got that far.
    pub service: Option<Arc<str>>,
    /// From accept to the end.
    pub duration: Duration,
    /// Why it ended.
    pub reason: CloseReason,
}

/// A stretch of a session's way to being joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// From accept to the whole `ClientHello`.
    AcceptToHello,
    /// The TLS handshake, from the whole `ClientHello` on; at the server, dialling the gateway and TLS
    /// with it.
    Handshake,
    /// From admission until the invitation was written to a signal connection.
    AdmissionToInvitation,
    /// From the invitation until a valid claim.
    InvitationToClaim,
    /// From the claim until the session was joined: the backend's connection.
    ClaimToJoined,
    /// The whole way; at the server from the arrival of the invitation.
    AcceptToJoined,
}

impl Stage {
    /// Every stage, in the order of the way.
    pub const ALL: [Self; 6] = [
        Self::AcceptToHello,
        Self::Handshake,
        Self::AdmissionToInvitation,
        Self::InvitationToClaim,
        Self::ClaimToJoined,
        Self::AcceptToJoined,
    ];

    /// The one word for this stage in log, metric and status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::AcceptToHello => "accept_to_hello",
            Self::Handshake => "handshake",
            Self::AdmissionToInvitation => "admission_to_invitation",
            Self::InvitationToClaim => "invitation_to_claim",
            Self::ClaimToJoined => "claim_to_joined",
            Self::AcceptToJoined => "accept_to_joined",
        }
    }
}

/// How long each stage took, of those that the session went through and this process saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages([Option<Duration>; Stage::ALL.len()]);

impl Stages {
    /// Notes the time of a stage.
    pub fn set(&mut self, stage: Stage, took: Duration) {
        self.0[stage as usize] = Some(took);
    }

    /// The time of a stage; `None` where there was no such stage.
    pub fn get(&self, stage: Stage) -> Option<Duration> {
        self.0[stage as usize]
    }
}

/// A session that finished after 3 s, as a gateway saw it.
#[cfg(test)]
pub(super) fn sample(session: &str) -> SessionRecord {
    let mut stages = Stages::default();
    stages.set(Stage::Handshake, Duration::from_micros(1_250));
    stages.set(Stage::AcceptToJoined, Duration::from_millis(8));
    SessionRecord {
        session: session.to_owned(),
        service: "web".into(),
        device: Some("dns:laptop-7.example.com".into()),
        agent: SocketAddr::from(([192, 0, 2, 7], 50_000)),
        way: Way::Gateway { listener: "agents".into(), server: "server-1.lan".into() },
        path: DataPath::Tls,
        worker: 0,
        bytes_to_server: 1_500,
        bytes_to_agent: 64_000,
        stages,
        duration: Duration::from_secs(3),
        reason: CloseReason::Finished,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_own_time() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index, "{} stands in its order", stage.word());
            let mut stages = Stages::default();
            stages.set(stage, Duration::from_millis(3));
            let set = Stage::ALL.into_iter().filter(|&each| stages.get(each).is_some());
            assert_eq!(set.collect::<Vec<_>>(), [stage]);
        }
    }
}
