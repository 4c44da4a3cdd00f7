//! `vestibule check`: everything that is wrong with a configuration and with the files that it names,
//! at once, and nothing started.

mod files;
mod lists;

use std::fmt;
use std::path::{Path, PathBuf};

pub use files::{FileProblem, Severity, files_of_agent, files_of_gateway, files_of_server};

use crate::config::{
    Checked, Problems, Role, guess_role, parse_agent, parse_gateway, parse_server, read_text,
};

/// What is wrong with a configuration and its files, as text for its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The configuration, as it was named to us.
    pub file: PathBuf,
    /// What prevents work. Where the configuration itself has errors, its files are not looked at.
    pub errors: Vec<String>,
    /// What works, but is weak or ends soon.
    pub warnings: Vec<String>,
}

/// Checks the configuration at `path`, whose role is guessed from its tables unless given.
pub fn check(path: &Path, role: Option<Role>) -> Report {
    let mut report = Report { file: path.to_owned(), errors: vec![], warnings: vec![] };
    let text = match read_text(path) {
        Ok(text) => text,
        Err(problems) => {
            report.add_problems(&problems);
            return report;
        }
    };
    match role.or_else(|| guess_role(&text)) {
        Some(Role::Gateway) => report.add(parse_gateway(&text, path), files_of_gateway),
        Some(Role::Server) => report.add(parse_server(&text, path), files_of_server),
        Some(Role::Agent) => report.add(parse_agent(&text, path), files_of_agent),
        None => report.errors.push(format!(
            "{}: neither a gateway's configuration (it would have listeners) nor a server's \
             (gateways and services) nor an agent's (gateways and forwards)",
            path.display()
        )),
    }
    report
}

impl Report {
    /// Whether vestibule would start with this configuration.
    pub fn passed(&self) -> bool {
        self.errors.is_empty()
    }

    fn add<T>(
        &mut self,
        result: Result<Checked<T>, Problems>,
        files_of: impl FnOnce(&T) -> Vec<FileProblem>,
    ) {
        let checked = match result {
            Ok(checked) => checked,
            Err(problems) => return self.add_problems(&problems),
        };
        self.warnings.extend(checked.warnings.iter().map(ToString::to_string));
        for problem in files_of(&checked.config) {
            match problem.severity {
                Severity::Error => self.errors.push(problem.message),
                Severity::Warning => self.warnings.push(problem.message),
            }
        }
    }

    fn add_problems(&mut self, problems: &Problems) {
        self.errors.extend(problems.problems().iter().map(ToString::to_string));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "error: {error}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        let count = |items: &[String], noun: &str| match items.len() {
            0 => format!("no {noun}s"),
            1 => format!("1 {noun}"),
            many => format!("{many} {noun}s"),
        };
        let (errors, warnings) = (count(&self.errors, "error"), count(&self.warnings, "warning"));
        write!(f, "{}: {errors}, {warnings}", self.file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Folder};

    const AGENT: &str = "certificate = \"pc.crt\"\nkey = \"pc.key\"\n\
        gateway_ca = \"gateways-ca.crt\"\n\
        [[gateways]]\naddress = \"gw.example.com:13000\"\n\
        [[forwards]]\naddress = \"127.0.0.1:2222\"\nservice = \"ssh\"\n";

    fn folder_of_agent() -> Folder {
        let folder = Folder::new();
        Authority::new(&folder, "gateways-ca");
        Authority::new(&folder, "devices-ca").issue("pc");
        folder
    }

    #[test]
    fn a_good_configuration_with_good_files_passes() {
        let folder = folder_of_agent();
        let path = folder.write("agent.toml", AGENT);
        let report = check(&path, None);
        assert!(report.passed(), "{report}");
        assert_eq!(report, check(&path, Some(Role::Agent)));
    }

    #[test]
    fn a_key_that_nobody_knows_is_reported_with_its_line() {
        let folder = folder_of_agent();
        let path = folder.write("agent.toml", &AGENT.replace("service", "servise"));
        let report = check(&path, None).to_string();
        assert!(report.contains("agent.toml:8:1: "), "{report}");
        assert!(report.contains("servise") && report.ends_with(", no warnings"), "{report}");
    }

    #[test]
    fn every_missing_file_is_reported() {
        let folder = Folder::new();
        let path = folder.write("agent.toml", AGENT);
        let report = check(&path, None);
        assert_eq!(report.errors.len(), 2, "{report}");
        assert!(report.to_string().ends_with("agent.toml: 2 errors, no warnings"), "{report}");
    }

    #[test]
    fn a_file_of_no_known_role_is_an_error_and_no_guess() {
        let folder = Folder::new();
        let path = folder.write("other.toml", "a = 1\n");
        let report = check(&path, None);
        assert!(!report.passed() && report.errors[0].contains("neither a gateway"), "{report}");
    }
}
