//! Reload: on SIGHUP, and when one of the files changes, the configuration and every file that it names
//! are read again, on a thread of their own. All of it holds and is given to the control thread, or
//! nothing changes.
//!
//! Changes are found by looking at each file every few seconds, and not by inotify: `stat` follows links,
//! so what certbot and Kubernetes do (a link, or one far up the path, is swapped) looks as what an editor
//! does, and a file that is not there yet is nothing special.

mod history;
mod thread;
mod watch;

use std::fmt;

use thiserror::Error;

pub use history::History;
pub use thread::{Outcome, Reloads, start};
pub use watch::Watch;

use crate::check::{FileProblem, Severity};
use crate::config::{Checked, Problem, Problems};
use crate::limits::REFUSAL_PROBLEMS;
use crate::tls::{CredentialError, Expiry};

/// How a role reads its configuration again. It lives on the thread of reloads, and knows what runs.
pub trait Reader: Send + 'static {
    /// What the role goes by from then on.
    type Loaded: Send;
    /// What else it may be asked for.
    type Errand: Send;
    /// What came of that.
    type Done: Send;
    /// Reads and checks everything. `watch` is told of the files as soon as they are known, so that it
    /// looks at those of a configuration that is refused as well.
    fn read(&mut self, watch: &mut Watch) -> Result<Self::Loaded, Refusal>;
    /// Does what it was asked for.
    fn run(&mut self, errand: Self::Errand) -> Self::Done;
    /// When the certificates in use end.
    fn certificates(&self) -> &[Expiry];
    /// What is to be said of lists of revoked certificates at that time, in seconds since 1970.
    fn list_warnings(&self, now: i64) -> Vec<String>;
}

/// Why a reload changed nothing: what is wrong, each with its file. The operator's to mend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Refusal(Vec<String>);

impl Refusal {
    /// What can't change while the process runs: by key, each with what to do.
    pub fn needs_restart(changes: Vec<String>) -> Self {
        Self(changes)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(REFUSAL_PROBLEMS)];
        f.write_str(&shown.join("; "))?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            rest => write!(f, "; and {rest} more: run vestibule check"),
        }
    }
}

impl From<CredentialError> for Refusal {
    fn from(error: CredentialError) -> Self {
        Self(vec![error.to_string()])
    }
}

/// The configuration, where `vestibule check` would let it pass with all its files; warnings go to the log.
pub fn checked<C>(
    read: Result<Checked<C>, Problems>,
    watch: &mut Watch,
    files: impl FnOnce(&C) -> Vec<&std::path::Path>,
    problems: impl FnOnce(&C) -> Vec<FileProblem>,
) -> Result<C, Refusal> {
    let Checked { config, warnings } = read
        .map_err(|problems| Refusal(problems.problems().iter().map(Problem::to_line).collect()))?;
    watch.follow(&files(&config));
    let (errors, weak): (Vec<_>, Vec<_>) =
        problems(&config).into_iter().partition(|problem| problem.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(Refusal(errors.into_iter().map(|problem| problem.message).collect()));
    }
    let warnings = warnings.iter().map(Problem::to_line);
    for warning in warnings.chain(weak.into_iter().map(|problem| problem.message)) {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_many_problems_is_one_line_that_says_how_to_see_the_rest() {
        let problems = (0..REFUSAL_PROBLEMS + 3).map(|n| format!("gw.toml:{n}:1: wrong"));
        let line = Refusal(problems.collect()).to_string();
        assert!(line.starts_with("gw.toml:0:1: wrong; gw.toml:1:1: wrong; "), "{line}");
        assert!(line.ends_with("; and 3 more: run vestibule check"), "{line}");
        assert_eq!(Refusal(vec!["a.crt: expired".to_owned()]).to_string(), "a.crt: expired");
    }
}
