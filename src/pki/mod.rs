//! A public key infrastructure in a folder: a CA for each role, and one command for each certificate.
//! Certificates made by other means work as well; see the README for what must be in them.

mod authority;
mod command;
mod error;
mod files;
mod name;
mod renew;
mod request;
mod revoke;
mod show;

pub use authority::{Issued, LEAF_DAYS, Leaf, Pki, Role};
pub use command::{LeafOptions, PkiCommand, run};
pub use error::PkiError;
pub use name::{NameError, SubjectName};
pub use renew::{Key, Renewable};
pub use request::SigningRequest;
pub use revoke::{LIST_DAYS, WrittenList};
pub use show::describe;
