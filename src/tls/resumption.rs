//! Resumption that crosses no role, and outlives no certificate.
//!
//! rustls resumes TLS 1.3 on suite and SNI alone: it ignores ALPN, and does not look again at the chain
//! that a ticket holds. So each role of each listener has ticket keys of its own, and whoever resumes
//! is verified again, at both ends, before it counts as authenticated.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ProducesTickets;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error, NamedGroup, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::CredentialError;
use crate::limits::{MAX_KEPT_TICKETS, MAX_TICKET_LEN, TICKETS_PER_HANDSHAKE};

/// One role of one listener: its configuration, and the verifier of those who connect.
#[derive(Debug, Clone)]
pub struct RoleConfig {
    /// Shared by all workers, with the ticket keys of this role.
    pub config: Arc<ServerConfig>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

impl RoleConfig {
    /// With keys for this role alone: rustls would take any ticket that it can open. They are those that the role
    /// had `before`, if it is the same.
    pub(super) fn with_tickets(mut self, before: Option<&Self>) -> Result<Self, CredentialError> {
        let config = Arc::make_mut(&mut self.config);
        config.ticketer = match before {
            Some(before) => Arc::clone(&before.config.ticketer),
            None => Arc::new(RoleTickets(Ticketer::new()?)),
        };
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        Ok(self)
    }

    /// Verifies the chain of a peer as in a full handshake; empty where it has none. For those that resumed,
    /// and those that an earlier configuration let in.
    pub fn check_chain(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let verifier = &self.verifier;
        match chain.split_first() {
            None if verifier.offer_client_auth() && verifier.client_auth_mandatory() => {
                Err(Error::NoCertificatesPresented)
            }
            None => Ok(()),
            Some((leaf, intermediates)) if verifier.offer_client_auth() => {
                verifier.verify_client_cert(leaf, intermediates, now).map(|_| ())
            }
            // A role that asks for no certificate trusts no CA; its verifier panics when asked.
            Some(_) => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}

/// Whether each certificate of a peer that we resumed with is valid at this time. The same verifier found
/// it good under the same name, or rustls would not have resumed: time alone can have changed that.
pub fn check_dates(chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    for certificate in chain {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let validity = parsed.validity();
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
    }
    Ok(())
}

/// Tickets of one role: those of rustls, stateless, with keys of their own that rotate.
#[derive(Debug)]
struct RoleTickets(Arc<dyn ProducesTickets>);

impl ProducesTickets for RoleTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain).filter(|ticket| ticket.len() <= MAX_TICKET_LEN)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(ticket)
    }
}

/// Lets connections to the gateway of that name resume those before them. Each clone shares what
/// is kept; gateways of the same name get one each, since their ticket keys differ.
pub fn gateway_resumption(name: ServerName<'static>) -> Resumption {
    Resumption::store(Arc::new(KeptTickets { name, tickets: Mutex::default() }))
}

/// Tickets of one gateway. rustls's own store keeps eight for a name, fewer than the data connections
/// that begin at once.
#[derive(Debug)]
struct KeptTickets {
    name: ServerName<'static>,
    /// The newest last.
    tickets: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl KeptTickets {
    fn tickets(&self) -> MutexGuard<'_, VecDeque<Tls13ClientSessionValue>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for KeptTickets {
    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        if name != self.name {
            return;
        }
        let mut tickets = self.tickets();
        if tickets.len() == MAX_KEPT_TICKETS {
            tickets.pop_front();
        }
        tickets.push_back(ticket);
    }

    /// The newest: the gateway may have dropped the keys of the oldest.
    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        (*name == self.name).then(|| self.tickets().pop_back())?
    }

    // A gateway takes the first group that we offer, and speaks TLS 1.3 only.

    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
}

#[cfg(test)]
mod tests;
