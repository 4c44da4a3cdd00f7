//! `vestibule check`.

use std::io::{self, Write};

use vestibule::check::check;

use super::CheckOptions;
use super::failure::Failure;

/// Checks each configuration, with the files that it names, and prints all that is wrong.
pub(super) fn run(options: &CheckOptions) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    let mut failed = 0;
    for file in &options.files {
        let report = check(file, options.role);
        writeln!(output, "{report}")?;
        failed += usize::from(!report.passed());
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Check { failed, checked: options.files.len() }),
    }
}
