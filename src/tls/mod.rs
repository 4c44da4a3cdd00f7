//! TLS without sockets: certificates and keys from their files, the names in a peer's certificate,
//! and the rustls configurations of each role.

mod credentials;
mod identity;
mod roles;
#[cfg(test)]
mod testing;

pub use credentials::{
    CredentialError, expiry, key_file_warning, load_certificates, load_credentials, load_roots,
};
#[cfg(feature = "pki")]
pub(crate) use credentials::{date, read_pem_file};
pub use identity::{Identity, IdentityError};
pub use roles::{ListenerRoles, backend_config, client_config, listener_roles, provider};
