//! `vestibule check`.

use std::io::{self, Write};
use std::path::Path;

use vestibule::config::{self, Checked, Problem, Problems, Role};

use super::CheckOptions;
use super::failure::Failure;
use super::role;

/// Reads each file and prints all that is wrong with it.
pub(super) fn run(options: &CheckOptions) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    let mut failed = 0;
    for file in &options.files {
        match check(file, options.role) {
            Ok((role, warnings)) => {
                for warning in warnings {
                    writeln!(output, "warning: {warning}")?;
                }
                writeln!(output, "{}: ok, for vestibule {}", file.display(), role::word(role))?;
            }
            Err(problems) => {
                failed += 1;
                writeln!(output, "{problems}")?;
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Check { failed, checked: options.files.len() }),
    }
}

/// The role that the file is for, and what its operator should know nevertheless.
fn check(file: &Path, role: Option<Role>) -> Result<(Role, Vec<Problem>), Problems> {
    let text = config::read_text(file)?;
    let unknown = || Problem {
        file: file.to_owned(),
        place: None,
        message:
            "neither [[listeners]] of a gateway, nor [[gateways]] and [[services]] of a server, \
                  nor [[forwards]] of an agent are in it; if that is meant so, say --role"
                .to_owned(),
    };
    let role = role.or_else(|| config::guess_role(&text)).ok_or_else(unknown)?;
    let warnings = match role {
        Role::Gateway => warnings(config::parse_gateway(&text, file)?),
        Role::Server => warnings(config::parse_server(&text, file)?),
        Role::Agent => warnings(config::parse_agent(&text, file)?),
    };
    Ok((role, warnings))
}

fn warnings<T>(checked: Checked<T>) -> Vec<Problem> {
    checked.warnings
}
