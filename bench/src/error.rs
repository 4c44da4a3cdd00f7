//! What can go wrong around a measurement. Errors of sessions are not here: they are counted.

use std::io;
use std::path::PathBuf;

/// Ends a sample, or the whole run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A system call on something that the message names.
    #[error("{what}: {source}")]
    Io {
        /// What was done, to which file, address or process.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A process under test, or one that helps, is not as it should be.
    #[error("{process} {what}; the end of its log:\n{log}")]
    Process {
        /// Its name in the table.
        process: String,
        /// What it did, or failed to do.
        what: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// Something that the bench waits for has not come to be.
    #[error("after {seconds} s it was not yet so that {what}")]
    Late {
        /// What it waited for.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// A command that should have ended well.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// As typed.
        command: String,
        /// Exit status.
        status: String,
        /// What it printed.
        output: String,
    },
    /// A file that does not hold what it should.
    #[error("{path}: {what}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Certificates or keys that rustls refuses.
    #[error("TLS settings from {folder}: {source}", folder = folder.display())]
    Tls {
        /// The folder of the PKI.
        folder: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// Two processes of the bench do not understand each other.
    #[error("the load generator's {what} is not valid: {source}")]
    Conversation {
        /// Plan or report.
        what: &'static str,
        /// Where the JSON fails.
        source: serde_json::Error,
    },
    /// No target has a part in any scenario that the operator asked for.
    #[error("nothing to measure: none of these targets takes part in these scenarios")]
    Nothing,
    /// The operator chose something that this shape does not have.
    #[error("the shape {shape} has no {option}")]
    Unfit {
        /// Its name.
        shape: &'static str,
        /// What it can't be given.
        option: &'static str,
    },
    /// The program of a peer has gone since the run began.
    #[error("the program of a peer was not found; install it with `{0}`")]
    Missing(&'static str),
    /// `budgets.toml` says something else than the results.
    #[error("{0} of the marks are not what budgets.toml says of them")]
    Budgets(usize),
    /// Everything ran, but not everything was right.
    #[error("{0} of the samples have errors: see the table")]
    Unclean(usize),
}

impl BenchError {
    /// Names what was done when the system call failed.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}
