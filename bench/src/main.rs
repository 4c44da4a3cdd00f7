//! `vestibule-bench`: measures gateway and server, the floor below them, and peers beside them, in
//! the same run. It starts everything itself. `bench/README.md` says what each figure
//! means.

mod backend;
mod budgets;
mod compare;
mod error;
mod exchange;
mod extent;
mod far;
mod figures;
#[cfg(test)]
mod fixture;
mod floor;
mod herd;
mod load;
mod machine;
mod measure;
mod namespaces;
mod pattern;
mod picture;
mod process;
mod profile;
mod relay;
mod relay_paths;
mod results;
mod scenario;
mod setup;
mod shape;
mod shapes;
mod site;
mod slow;
mod syscalls;
mod table;
mod target;
mod tls;
mod usage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::budgets::BudgetArguments;
use crate::compare::CompareArguments;
use crate::error::BenchError;
use crate::far::FarArguments;
use crate::herd::HerdArguments;
use crate::relay::RelayArguments;
use crate::relay_paths::RelayPathsArguments;
use crate::results::Results;
use crate::shape::ShapeArguments;
use crate::shapes::ShapesArguments;
use crate::slow::SlowArguments;

/// Measures Vestibule, its floor and its peers, side by side
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure everything, print the table, keep the samples, draw the picture
    Compare(CompareArguments),
    /// Print the table of results that were kept, and draw their picture
    Table {
        /// A file that `compare --json` has written
        file: PathBuf,
        /// File for the picture, as SVG
        #[arg(long)]
        svg: Option<PathBuf>,
    },
    /// Judge the marks of budgets.toml by results that were kept
    Budgets(BudgetArguments),
    /// Measure throughput over a long fat link, with Vestibule and without; needs root
    Far(FarArguments),
    /// Measure what thousands of peers that don't read make gateway, server and kernel hold; needs root
    SlowReaders(SlowArguments),
    /// Measure the return of a fleet after its gateway was killed and started again
    Herd(HerdArguments),
    /// The backend: echo, sink and source
    Backend {
        /// Address to listen on
        #[arg(long)]
        listen: SocketAddr,
    },
    /// The floor: a plain copy with two AEAD passes
    Floor {
        /// Address to listen on
        #[arg(long)]
        listen: SocketAddr,
        /// Address of the backend
        #[arg(long)]
        backend: SocketAddr,
        /// Without the passes
        #[arg(long)]
        bare: bool,
    },
    /// A plain relay on tokio-rustls, as a peer
    Relay(RelayArguments),
    /// Measure which `relay` is better on this host, and say what to configure
    RelayPaths(RelayPathsArguments),
    /// Measure relays that differ in how they receive, and one of them with other settings
    Shapes(ShapesArguments),
    /// A relay of one shape, from plain TCP to plain TCP
    Shape(ShapeArguments),
    /// The load generator; `compare` talks to it
    #[command(hide = true)]
    Load,
}

fn main() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vestibule-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<(), BenchError> {
    match command {
        Command::Compare(arguments) => compare::compare(&arguments),
        Command::Table { file, svg } => {
            let results = Results::read(&file)?;
            print!("{}", table::render(&results));
            if let Some(path) = svg {
                picture::write(&results, &path)?;
            }
            results.expect_clean()
        }
        Command::Budgets(arguments) => budgets::run(&arguments),
        Command::Far(arguments) => far::run(&arguments),
        Command::SlowReaders(arguments) => slow::run(&arguments),
        Command::Herd(arguments) => herd::run(&arguments),
        Command::Backend { listen } => backend::run(listen),
        Command::Floor { listen, backend, bare } => floor::run(listen, backend, bare),
        Command::Relay(arguments) => relay::run(arguments),
        Command::RelayPaths(arguments) => relay_paths::run(&arguments),
        Command::Shapes(arguments) => shapes::shapes(&arguments),
        Command::Shape(arguments) => shape::run(arguments),
        Command::Load => load::run(),
    }
}
