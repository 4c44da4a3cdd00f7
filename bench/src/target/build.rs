//! Builds of vestibule that are compared with each other, and with the peers.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize};
use vestibule::config::RelayMode;
use vestibule::engine::EventLoop;

use super::Target;
use crate::setup::Threads;

const FORM: &str =
    "a build is NAME=PATH, perhaps with ,workers=N and ,event_loop=epoll and ,relay=ktls";

/// `NAME=PATH`, perhaps with `,workers=N` for a gateway with more workers than one, and with
/// `,event_loop=epoll` or `,event_loop=io_uring`, and with `,relay=ktls` and the like, for gateway and server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Build {
    /// What the results call it.
    pub(crate) name: BuildName,
    /// Its binary.
    pub(crate) program: PathBuf,
    /// What it runs on.
    pub(crate) threads: Threads,
}

/// The name of a build. Kept for the life of the process, so that a [`Target`] can be copied: one
/// command knows few of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct BuildName(pub(crate) &'static str);

impl From<String> for BuildName {
    fn from(name: String) -> Self {
        Self(name.leak())
    }
}

impl From<BuildName> for String {
    fn from(name: BuildName) -> Self {
        name.0.to_owned()
    }
}

impl<'de> Deserialize<'de> for BuildName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl FromStr for Build {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or(FORM)?;
        let mut parts = rest.split(',');
        let program = parts.next().unwrap_or_default();
        if name.is_empty() || program.is_empty() {
            return Err(FORM.to_owned());
        }
        let mut threads = Threads::USUAL;
        for part in parts {
            match part.split_once('=') {
                Some(("workers", count)) => {
                    let count = count.parse().ok().filter(|&count| count > 0);
                    threads.workers =
                        count.ok_or(format!("{part}: that is no number of workers"))?;
                }
                Some(("event_loop", word)) => {
                    let known = [EventLoop::IoUring, EventLoop::Epoll];
                    let chosen = known.into_iter().find(|event_loop| event_loop.word() == word);
                    threads.event_loop =
                        Some(chosen.ok_or(format!("{part}: choose io_uring or epoll"))?);
                }
                Some(("relay", word)) => {
                    let chosen = RelayMode::ALL.into_iter().find(|relay| relay.word() == word);
                    let advice = "choose userspace, ktls or ktls_splice";
                    threads.relay = Some(chosen.ok_or(format!("{part}: {advice}"))?);
                }
                _ => return Err(format!("{part}: {FORM}")),
            }
        }
        if Target::from_str(name, false).is_ok() {
            return Err(format!("{name} is the name of another target; choose one of your own"));
        }
        Ok(Self { name: name.to_owned().into(), program: program.into(), threads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_a_name_a_program_and_perhaps_what_it_runs_on() {
        let build = Build::from_str("two=/b/vestibule,workers=2").expect("it has all three");
        assert_eq!(build.name, BuildName("two"));
        assert_eq!(build.program, PathBuf::from("/b/vestibule"));
        assert_eq!(build.threads, Threads { workers: 2, ..Threads::USUAL });
        let build = Build::from_str("one=/b/vestibule").expect("a name and a program");
        assert_eq!(build.threads, Threads::USUAL);
        let epoll = Some(EventLoop::Epoll);
        for (text, workers) in [
            ("e=/b/v,event_loop=epoll", 1),
            ("e=/b/v,workers=3,event_loop=epoll", 3),
            ("e=/b/v,event_loop=epoll,workers=3", 3),
        ] {
            let build = Build::from_str(text).expect("in either order");
            let threads = Threads { workers, event_loop: epoll, relay: None };
            assert_eq!(build.threads, threads, "{text}");
        }
        let build = Build::from_str("k=/b/v,relay=ktls_splice").expect("a third");
        assert_eq!(build.threads.relay, Some(RelayMode::KernelSplice));
    }

    #[test]
    fn a_build_that_says_something_else_is_refused_with_that_part() {
        for wrong in ["/b/vestibule", "relay=/b/v", "=/b/v", "a=", "a=,workers=2"] {
            assert!(Build::from_str(wrong).is_err(), "{wrong}");
        }
        let wrong = [
            "workers=0",
            "workers=many",
            "event_loop=auto",
            "event_loop",
            "relay=tls",
            "turns=2",
            "",
        ];
        for part in wrong {
            let error = Build::from_str(&format!("a=/b,{part}")).expect_err("no such part");
            assert!(error.starts_with(&format!("{part}: ")), "{error}");
        }
    }

    #[test]
    fn results_name_a_build_as_they_name_any_target() {
        let targets = [Target::Relay, Target::Build(BuildName("h64"))];
        let text = serde_json::to_string(&targets).expect("names are text");
        assert_eq!(text, r#"["relay","h64"]"#);
        assert_eq!(serde_json::from_str::<[Target; 2]>(&text).expect("names"), targets);
    }
}
