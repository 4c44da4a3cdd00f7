//! The parts of the sandbox by name, and whether each is on.

use std::fmt;
use std::io;

use thiserror::Error;
use tracing::{info, warn};

use super::ENTERED;
use crate::telemetry::status::SandboxPart;

/// A part of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// No program gives this process more rights than it has
    #[value(skip)]
    NoNewPrivileges,
    /// No core file holds a key, and no other process of this user reads its memory
    CoreDumps,
    /// No key is written to swap
    #[value(skip)]
    Swap,
    /// No capability
    Capabilities,
    /// No file but those that the configuration names and their folders
    Files,
    /// No TCP connection but those that the role opens, and no further listener
    Tcp,
    /// No abstract unix socket and no signal to another process
    Scope,
    /// No system call but those that each thread needs
    SystemCalls,
    /// No operation of a ring but those in use
    #[value(skip)]
    Rings,
}

impl Part {
    /// Its name, in log, status and command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoNewPrivileges => "no-new-privileges",
            Self::CoreDumps => "core-dumps",
            Self::Swap => "swap",
            Self::Capabilities => "capabilities",
            Self::Files => "files",
            Self::Tcp => "tcp",
            Self::Scope => "scope",
            Self::SystemCalls => "system-calls",
            Self::Rings => "rings",
        }
    }
}

/// What an operator asks of the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Options {
    /// Do not run where a part of the sandbox is off
    #[arg(long)]
    pub require_sandbox: bool,
    /// Turn parts of the sandbox off, to find out whether one is in the way
    #[arg(long, value_name = "PART", value_delimiter = ',', conflicts_with = "require_sandbox")]
    pub without_sandbox: Vec<Part>,
}

/// Whether a part is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Which.
    pub part: Part,
    /// Why not, and what to change; `None` where it is on.
    pub why_off: Option<String>,
}

/// Parts are off that `--require-sandbox` asks for. The operator's to mend.
#[derive(Debug, Error)]
pub struct NotAllOn(Vec<State>);

impl fmt::Display for NotAllOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("--require-sandbox: not every part is on")?;
        for State { part, why_off } in &self.0 {
            write!(f, "\n  {}: {}", part.word(), why_off.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// The steps into the sandbox, and what became of each.
pub(super) struct Steps<'o> {
    options: &'o Options,
    states: Vec<State>,
}

impl<'o> Steps<'o> {
    pub(super) fn new(options: &'o Options) -> Self {
        Self { options, states: Vec::new() }
    }

    /// Whether the operator wants it.
    pub(super) fn wants(&self, part: Part) -> bool {
        !self.options.without_sandbox.contains(&part)
    }

    /// Takes a step, unless the operator does not want it.
    pub(super) fn take<T>(
        &mut self,
        part: Part,
        step: impl FnOnce() -> Result<T, String>,
    ) -> Option<T> {
        if !self.wants(part) {
            self.note(part, Some("turned off by --without-sandbox".to_owned()));
            return None;
        }
        let (taken, why_off) = match step() {
            Ok(taken) => (Some(taken), None),
            Err(why) => (None, Some(why)),
        };
        self.note(part, why_off);
        taken
    }

    pub(super) fn note(&mut self, part: Part, why_off: Option<String>) {
        self.states.push(State { part, why_off });
    }

    /// An error where the operator wants all of them.
    pub(super) fn finish(self) -> Result<Vec<State>, NotAllOn> {
        let off: Vec<_> =
            self.states.iter().filter(|state| state.why_off.is_some()).cloned().collect();
        if self.options.require_sandbox && !off.is_empty() {
            return Err(NotAllOn(off));
        }
        Ok(self.states)
    }
}

pub(super) fn ring_advice(error: &io::Error) -> String {
    format!("the control thread's ring can't be found in /proc/self/fd ({error}): mount /proc")
}

fn states() -> &'static [State] {
    ENTERED.get().map_or(&[], |entered| &entered.states)
}

/// Each part, for the status page; none before the sandbox was entered.
pub fn status() -> Vec<SandboxPart> {
    let part = |State { part, why_off }: &State| SandboxPart {
        part: part.word().to_owned(),
        why_off: why_off.clone(),
    };
    states().iter().map(part).collect()
}

/// Tells the log what is on, and of each other part why not and what to change.
pub fn announce() {
    let on: Vec<_> =
        states().iter().filter(|s| s.why_off.is_none()).map(|s| s.part.word()).collect();
    info!(on = on.join(", "), "sandbox");
    for State { part, why_off } in states() {
        if let Some(why) = why_off {
            warn!(part = part.word(), %why, "this part of the sandbox is off");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn steps(options: &Options) -> Result<Vec<State>, NotAllOn> {
        let mut steps = Steps::new(options);
        steps.take(Part::Swap, || Err::<(), _>("this host swaps".to_owned()));
        steps.take(Part::Scope, || Ok(()));
        steps.finish()
    }

    #[test]
    fn a_part_that_is_off_is_fatal_only_where_all_are_required() {
        let states = steps(&Options::default()).expect("the best that the kernel can");
        assert_eq!(states[0].why_off.as_deref(), Some("this host swaps"));
        assert_eq!(states[1].why_off, None);
        let required = Options { require_sandbox: true, ..Options::default() };
        let error = steps(&required).expect_err("one is off");
        assert!(error.to_string().ends_with("\n  swap: this host swaps"), "{error}");
    }

    #[test]
    fn a_part_that_is_not_wanted_is_not_tried() {
        let options = Options { without_sandbox: vec![Part::Scope], ..Options::default() };
        let mut steps = Steps::new(&options);
        assert_eq!(steps.take(Part::Scope, || -> Result<(), _> { panic!("tried") }), None);
        let states = steps.finish().expect("nothing is required");
        assert!(states[0].why_off.as_deref().is_some_and(|why| why.contains("--without-sandbox")));
    }

    #[test]
    fn a_part_has_one_name_in_log_and_command_line() {
        for part in Part::value_variants() {
            if let Some(value) = part.to_possible_value() {
                assert_eq!(value.get_name(), part.word());
            }
        }
    }
}
