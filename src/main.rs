//! The command line: a subcommand for each role.

fn main() {}
