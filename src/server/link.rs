//! One gateway, as the control thread of a server holds it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::config::{self, HostPort};
use crate::control::GatewayLink;
use crate::engine::SignalSender;
use crate::limits::MAX_CACHED_HINTS;
use crate::tls::gateway_resumption;
use crate::wire::FromServer;
use crate::wire::alpn::{self, Hint};

/// A gateway's number in this process. A gateway that was taken out and comes back gets another.
pub(super) type GatewayId = u64;

/// A gateway, as orders and records name it.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) id: GatewayId,
    /// Host and port as configured, for logs.
    pub(super) address: Arc<str>,
    /// Name that its certificate must bear.
    pub(super) name: ServerName<'static>,
    /// Sessions that it has; see [`Seats`](super::seats::Seats).
    pub(super) seats_taken: AtomicUsize,
}

/// The signal connection to one gateway.
pub(super) struct Link {
    pub(super) gateway: Arc<Gateway>,
    pub(super) configured: config::Gateway,
    pub(super) machine: GatewayLink,
    /// The latest attempt to connect: news of an earlier one is not taken for this one's.
    pub(super) attempt: Option<u64>,
    pub(super) open: Option<Open>,
    /// Orders that have not ended.
    pub(super) sessions: usize,
    /// The worker of each spare.
    pub(super) spares: HashMap<u64, usize>,
    /// The link to the process that this one's is to succeed.
    pub(super) predecessor: Option<GatewayId>,
    /// A reload took the gateway out: this link goes as soon as its last actions are carried out.
    pub(super) removed: bool,
    /// TLS of data connections by worker of the gateway, for one instance of it.
    hints: HashMap<u32, Arc<ClientConfig>>,
    /// Shared by all of those.
    resumption: Resumption,
}

/// A signal connection that stands.
pub(super) struct Open {
    pub(super) sender: SignalSender<FromServer>,
    pub(super) address: SocketAddr,
    pub(super) since: Instant,
    /// What the gateway proved itself by.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

impl Link {
    pub(super) fn new(id: GatewayId, configured: &config::Gateway, machine: GatewayLink) -> Self {
        let name = ServerName::try_from(configured.name.clone())
            .expect("`check` holds names of gateways to this");
        let address = configured.address.to_string().into();
        Self {
            resumption: gateway_resumption(name.clone()),
            gateway: Arc::new(Gateway { id, address, name, seats_taken: AtomicUsize::new(0) }),
            configured: configured.clone(),
            machine,
            attempt: None,
            open: None,
            sessions: 0,
            spares: HashMap::new(),
            predecessor: None,
            removed: false,
            hints: HashMap::new(),
        }
    }

    /// Whether invitations can come.
    pub(super) fn is_up(&self) -> bool {
        self.machine.is_up()
    }

    /// Whether another link has its place, for good.
    pub(super) fn was_succeeded(&self) -> bool {
        self.machine.is_stopped() && self.machine.is_succeeded()
    }

    /// Where to dial it.
    pub(super) fn host(&self) -> &HostPort {
        &self.configured.address
    }

    /// Forgets the hints of an instance that this link has lost.
    pub(super) fn forget_hints(&mut self) {
        self.hints.clear();
    }

    /// Forgets all TLS of data connections: nothing resumes by what a reload has replaced.
    pub(super) fn forget_tls(&mut self) {
        self.hints.clear();
        self.resumption = gateway_resumption(self.gateway.name.clone());
    }

    /// The configuration of data connections to one worker of the gateway.
    pub(super) fn data_tls(
        &mut self,
        gateway_tls: &ClientConfig,
        instance: &str,
        worker: u32,
    ) -> Arc<ClientConfig> {
        if let Some(known) = self.hints.get(&worker) {
            return Arc::clone(known);
        }
        let hint = Hint { instance: instance.to_owned(), worker };
        let mut config = gateway_tls.clone();
        config.alpn_protocols = vec![alpn::DATA.to_vec(), hint.to_alpn()];
        config.resumption = self.resumption.clone();
        let config = Arc::new(config);
        if self.hints.len() < MAX_CACHED_HINTS {
            self.hints.insert(worker, Arc::clone(&config));
        }
        config
    }
}
