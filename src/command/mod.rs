//! Subcommands, their options and exit codes.

mod check;
mod duration;
mod failure;
#[cfg(feature = "engine")]
mod operator;
mod role;
#[cfg(feature = "engine")]
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use vestibule::config::Role;
use vestibule::telemetry::log::{LogFormat, init_log};

use failure::Failure;

/// A connection gateway for the DMZ that never opens a connection inward.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
    /// Form of the log on standard error
    #[arg(long, global = true, value_enum, default_value_t)]
    log: LogFormat,
    #[arg(long, global = true, value_name = "FILTER", help = LOG_FILTER_HELP)]
    log_filter: Option<String>,
}

const LOG_FILTER_HELP: &str = "What is logged, for example \"info,vestibule=debug\"; \
    without it, what VESTIBULE_LOG says, or info";

const AFTER_HELP: &str = "\
Examples:
  vestibule demo --for 10s                          all of it on this machine, for ten seconds
  vestibule pki init --dir pki                      the first step of a real one
  vestibule check /etc/vestibule/gateway.toml       what is wrong with a configuration
  vestibule gateway --config /etc/vestibule/gateway.toml
  vestibule status --watch                          what the running gateway does
  vestibule block device laptop-7.example.com       shut a device out, now

Exit codes:
   0  all was well
   1  failed while running; the last line says why
   2  the command line is wrong
  69  nothing answers at the telemetry address or the operator's socket, or this package was built
      without that role
  71  the kernel refuses a part of the sandbox, and --require-sandbox asks for all
  77  this user may not: root and the user of the process alone
  78  the configuration is wrong";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a gateway, in the DMZ
    #[command(after_help = "Example:\n  vestibule gateway --config /etc/vestibule/gateway.toml")]
    Gateway(GatewayOptions),
    /// Run a server, in the LAN: it delivers sessions to backends
    #[command(after_help = "Example:\n  vestibule server --config /etc/vestibule/server.toml")]
    Server(RoleOptions),
    /// Run an agent, on a device: it forwards local ports to services
    #[command(after_help = "Example:\n  vestibule agent --config /etc/vestibule/agent.toml")]
    Agent(AgentOptions),
    /// Make, renew and show certificates
    #[cfg(feature = "pki")]
    #[command(subcommand)]
    Pki(vestibule::pki::PkiCommand),
    /// Say what is wrong with a configuration, with the line and what to write instead
    #[command(after_help = "Example:\n  vestibule check gateway.toml server.toml")]
    Check(CheckOptions),
    /// Show what a running gateway or server is doing
    #[cfg(feature = "engine")]
    #[command(after_help = "Examples:\n  vestibule status --watch\n  \
        vestibule status --config /etc/vestibule/server.toml --json")]
    Status(StatusOptions),
    /// List the sessions that live in a running gateway or server
    #[cfg(feature = "engine")]
    #[command(after_help = "Examples:\n  vestibule sessions --device 'laptop-*'\n  \
        vestibule sessions --socket /run/vestibule/server.sock --json")]
    Sessions(operator::SessionsOptions),
    /// End sessions of a running gateway or server, with a reset at both ends
    #[cfg(feature = "engine")]
    #[command(after_help = "Examples:\n  vestibule end 5f0c3a9e11d2b764-1a000003f7\n  \
        vestibule end --device laptop-7.example.com --service ssh")]
    End(operator::EndOptions),
    /// Keep a device or an address out of a running gateway; its sessions end
    #[cfg(feature = "engine")]
    #[command(
        subcommand,
        after_help = "Examples:\n  vestibule block device laptop-7.example.com --why stolen\n  \
        vestibule block address 203.0.113.0/24 --for 2h"
    )]
    Block(operator::Whom<operator::BlockOptions>),
    /// Let a device or an address in again
    #[cfg(feature = "engine")]
    #[command(subcommand, after_help = "Example:\n  vestibule unblock device laptop-7.example.com")]
    Unblock(operator::Whom<operator::Where>),
    /// List who is blocked at a running gateway
    #[cfg(feature = "engine")]
    #[command(after_help = "Example:\n  vestibule blocks")]
    Blocks(operator::BlocksOptions),
    /// Let a running process finish its sessions and end, as SIGTERM does; or give a server no new ones
    #[cfg(feature = "engine")]
    #[command(after_help = "Examples:\n  vestibule drain --server admin-1.example.com\n  \
        vestibule drain")]
    Drain(operator::DrainOptions),
    /// Give a drained server new sessions again
    #[cfg(feature = "engine")]
    #[command(after_help = "Example:\n  vestibule undrain --server admin-1.example.com")]
    Undrain(operator::UndrainOptions),
    /// Show everything working on this machine, with real traffic and without root
    #[command(after_help = "Examples:\n  vestibule demo\n  vestibule demo --for 10s")]
    Demo(DemoOptions),
}

#[derive(Debug, Args)]
struct RoleOptions {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[cfg(feature = "engine")]
    #[command(flatten)]
    sandbox: vestibule::sandbox::Options,
    #[cfg(feature = "demo")]
    #[command(flatten)]
    parent: ParentOptions,
}

#[derive(Debug, Args)]
struct GatewayOptions {
    #[command(flatten)]
    role: RoleOptions,
    /// Take the place of the gateway that runs, if one does, without losing a connection: see `[upgrade]`
    #[arg(long)]
    take_over: bool,
}

#[derive(Debug, Args)]
struct AgentOptions {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[cfg(feature = "demo")]
    #[command(flatten)]
    parent: ParentOptions,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
struct ParentOptions {
    /// Ends with its parent, which has this process id: how the demo leaves nothing behind
    #[arg(long, value_name = "PID", hide = true)]
    with_parent: Option<u32>,
}

#[derive(Debug, Args)]
struct CheckOptions {
    /// Configurations of any role
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What the files are for, where their tables do not show it
    #[arg(long, value_parser = role::parse)]
    role: Option<Role>,
}

#[cfg(feature = "engine")]
#[derive(Debug, Args)]
struct StatusOptions {
    /// Where it serves its telemetry; a server's default is 127.0.0.1:9114
    #[arg(long, default_value = "127.0.0.1:9113", conflicts_with = "config")]
    address: std::net::SocketAddr,
    /// Take the address from its configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON, on one line
    #[arg(long)]
    json: bool,
    /// Print again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
struct DemoOptions {
    /// End after this time, for example 10s or 2min; without it, on Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
    duration: Option<Duration>,
}

/// Does what the command line asks for.
pub(crate) fn run() -> ExitCode {
    let line = CommandLine::parse();
    match line.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

impl CommandLine {
    /// What runs for long has a log; what answers and ends prints to standard output.
    fn execute(self) -> Result<(), Failure> {
        let start_log = || init_log(self.log, self.log_filter.as_deref());
        match self.command {
            Command::Gateway(options) => role::gateway(&options, start_log),
            Command::Server(options) => role::server(&options, start_log),
            Command::Agent(options) => {
                let _log = start_log()?;
                role::agent(&options)
            }
            Command::Demo(options) => role::demo(&options, self.log, self.log_filter),
            #[cfg(feature = "pki")]
            Command::Pki(command) => Ok(vestibule::pki::run(command)?),
            Command::Check(options) => check::run(&options),
            #[cfg(feature = "engine")]
            Command::Status(options) => status::run(&options),
            #[cfg(feature = "engine")]
            Command::Sessions(options) => operator::sessions(options),
            #[cfg(feature = "engine")]
            Command::End(options) => operator::end(options),
            #[cfg(feature = "engine")]
            Command::Block(whom) => operator::block(whom),
            #[cfg(feature = "engine")]
            Command::Unblock(whom) => operator::unblock(whom),
            #[cfg(feature = "engine")]
            Command::Blocks(options) => operator::blocks(&options),
            #[cfg(feature = "engine")]
            Command::Drain(options) => operator::drain(options),
            #[cfg(feature = "engine")]
            Command::Undrain(options) => operator::undrain(options),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_exit_code_is_documented() {
        for code in failure::EXIT_CODES {
            assert!(AFTER_HELP.contains(&format!("\n{code:>4}  ")), "{code}");
        }
    }

    #[test]
    fn the_log_may_be_chosen_before_and_after_the_subcommand() {
        for line in [
            ["vestibule", "--log", "json", "gateway", "--config", "g.toml"],
            ["vestibule", "gateway", "--config", "g.toml", "--log", "json"],
        ] {
            let line = CommandLine::try_parse_from(line).expect("a command line");
            assert_eq!(line.log, LogFormat::Json);
        }
    }
}
