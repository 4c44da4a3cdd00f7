//! Builds of vestibule that are compared with each other, and with the peers.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize};

use super::Target;

/// `NAME=PATH`, or `NAME=PATH,workers=N` for a gateway with more workers than one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Build {
    /// What the results call it.
    pub(crate) name: BuildName,
    /// Its binary.
    pub(crate) program: PathBuf,
    /// Workers of its gateway.
    pub(crate) workers: u16,
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
        let (name, rest) =
            text.split_once('=').ok_or("a build is NAME=PATH or NAME=PATH,workers=N")?;
        let (program, workers) = match rest.split_once(",workers=") {
            None => (rest, 1),
            Some((program, workers)) => (
                program,
                workers.parse().map_err(|_| format!("{workers} is no number of workers"))?,
            ),
        };
        if name.is_empty() || program.is_empty() || workers == 0 {
            return Err("a build has a name, a program and at least one worker".to_owned());
        }
        if Target::from_str(name, false).is_ok() {
            return Err(format!("{name} is the name of another target; choose one of your own"));
        }
        Ok(Self { name: name.to_owned().into(), program: program.into(), workers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_a_name_a_program_and_perhaps_workers() {
        let build = Build::from_str("two=/b/vestibule,workers=2").expect("it has all three");
        assert_eq!(build.name, BuildName("two"));
        assert_eq!((build.program, build.workers), (PathBuf::from("/b/vestibule"), 2));
        assert_eq!(Build::from_str("one=/b/vestibule").expect("one worker").workers, 1);
        for wrong in ["/b/vestibule", "relay=/b/v", "=/b/v", "a=", "a=/b,workers=0"] {
            assert!(Build::from_str(wrong).is_err(), "{wrong}");
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
