//! `vestibule check`: everything that is wrong with a configuration and with the files that it names,
//! at once, and nothing started.

mod files;

pub use files::{FileProblem, Severity, files_of_agent, files_of_gateway, files_of_server};
