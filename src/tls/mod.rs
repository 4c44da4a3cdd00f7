//! TLS without sockets: certificates and keys from their files, the names in a peer's certificate,
//! who a ClientHello is for, the rustls configuration of each role, and handshakes and records over
//! byte slices.

mod alert;
mod client_hello;
mod connection;
mod credentials;
mod expiry;
mod failure;
mod hkdf;
mod identity;
mod known_chains;
mod record;
mod resumption;
mod revocation;
mod roles;
mod rustls_end;
#[cfg(test)]
pub(crate) mod testing;
mod version;

pub use alert::Alert;
pub use client_hello::{ClientHello, HelloError, HelloReader, looks_like_tls};
pub use connection::{TlsConnection, TlsError};
pub use credentials::{
    CredentialError, expiry, key_file_warning, load_certificates, load_credentials, load_roots,
    warn_of_key_file,
};
#[cfg(feature = "pki")]
pub(crate) use credentials::{date, read_pem_file};
pub use expiry::Expiry;
pub use failure::handshake_failure;
pub use identity::{Identity, IdentityError, name_matches};
pub use record::{
    APPLICATION_DATA, CLOSE_NOTIFY, HANDSHAKE, KernelKey, KeyUpdate, NextKey, OUR_KEY_UPDATE,
    Pieces, RecordError,
};
pub use resumption::{RoleConfig, check_dates, gateway_resumption};
pub use revocation::{
    Anchor, BroughtLists, CertificateId, Crl, CrlDates, CrlError, CrlSource, CrlVerdict, HeldList,
    Revocation, load_lists, read_lists,
};
pub use roles::{
    ListenerRoles, agent_end, backend_config, client_config, gateway_verifier, listener_roles,
    provider,
};
pub use version::TlsVersion;
