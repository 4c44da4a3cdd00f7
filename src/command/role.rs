//! Starts the roles. Each is there or says that this package was built without it.

#[cfg(any(feature = "gateway", feature = "server"))]
use std::io;
#[cfg(any(feature = "gateway", feature = "server"))]
use std::os::fd::OwnedFd;

use vestibule::config::Role;
#[cfg(any(feature = "gateway", feature = "server", feature = "agent"))]
use vestibule::config::{self, Checked};
#[cfg(any(feature = "gateway", feature = "server"))]
use vestibule::engine::RelayMode;
#[cfg(feature = "gateway")]
use vestibule::gateway::{RunError, Start};
#[cfg(any(feature = "gateway", feature = "server"))]
use vestibule::operator::Door;
#[cfg(any(feature = "gateway", feature = "server"))]
use vestibule::sandbox::{self, Needs};
use vestibule::telemetry::log::{LogError, LogFormat, LogGuard};
#[cfg(any(feature = "gateway", feature = "server"))]
use vestibule::telemetry::notify;

#[cfg(feature = "demo")]
use super::ParentOptions;
use super::failure::Failure;
use super::{AgentOptions, DemoOptions, GatewayOptions, RoleOptions};

/// Starts the log of this process.
pub(super) trait StartLog: FnOnce() -> Result<LogGuard, LogError> + Send {}

impl<F: FnOnce() -> Result<LogGuard, LogError> + Send> StartLog for F {}

/// The subcommand that runs a role.
pub(super) fn word(role: Role) -> &'static str {
    match role {
        Role::Gateway => "gateway",
        Role::Server => "server",
        Role::Agent => "agent",
    }
}

/// The role of a [`word`].
pub(super) fn parse(name: &str) -> Result<Role, &'static str> {
    let roles = [Role::Gateway, Role::Server, Role::Agent];
    let role = roles.into_iter().find(|&role| word(role) == name);
    role.ok_or("write gateway, server or agent")
}

#[cfg(feature = "gateway")]
pub(super) fn gateway(options: &GatewayOptions, start_log: impl StartLog) -> Result<(), Failure> {
    let GatewayOptions { role: options, take_over } = options;
    let read = config::read_gateway(&options.config)?;
    let needs = Needs::of_gateway(&read.config, &options.config);
    let socket = read.config.upgrade_socket.as_deref();
    let mut start = Start::prepare(socket, *take_over).map_err(RunError::Upgrade)?;
    let operator = open_door(&read.config.operator, start.take_operator())?;
    let relay = RelayMode::test(read.config.relay);
    let _log = prepare(options, needs, start_log)?;
    Ok(vestibule::gateway::run(checked(read), &options.config, start, operator, relay)?)
}

#[cfg(feature = "server")]
pub(super) fn server(options: &RoleOptions, start_log: impl StartLog) -> Result<(), Failure> {
    let read = config::read_server(&options.config)?;
    let needs = Needs::of_server(&read.config, &options.config);
    let door = open_door(&read.config.operator, None)?;
    let relay = RelayMode::test(read.config.relay);
    let _log = prepare(options, needs, start_log)?;
    Ok(vestibule::server::run(checked(read), &options.config, door, relay)?)
}

#[cfg(feature = "agent")]
pub(super) fn agent(options: &AgentOptions) -> Result<(), Failure> {
    #[cfg(feature = "demo")]
    follow_parent(&options.parent)?;
    Ok(vestibule::agent::start(checked(config::read_agent(&options.config)?))?)
}

#[cfg(feature = "demo")]
pub(super) fn demo(
    options: &DemoOptions,
    log_format: LogFormat,
    log_filter: Option<String>,
) -> Result<(), Failure> {
    let duration = options.duration;
    Ok(vestibule::demo::run(&vestibule::demo::Options { duration, log_format, log_filter })?)
}

#[cfg(not(feature = "gateway"))]
pub(super) fn gateway(_options: &GatewayOptions, _log: impl StartLog) -> Result<(), Failure> {
    Err(Failure::BuiltWithout("gateway"))
}

#[cfg(not(feature = "server"))]
pub(super) fn server(_options: &RoleOptions, _log: impl StartLog) -> Result<(), Failure> {
    Err(Failure::BuiltWithout("server"))
}

#[cfg(not(feature = "agent"))]
pub(super) fn agent(_options: &AgentOptions) -> Result<(), Failure> {
    Err(Failure::BuiltWithout("agent"))
}

#[cfg(not(feature = "demo"))]
pub(super) fn demo(
    _options: &DemoOptions,
    _log_format: LogFormat,
    _log_filter: Option<String>,
) -> Result<(), Failure> {
    Err(Failure::BuiltWithout("demo"))
}

/// Binds the operator's socket, before the process gives up making sockets and files.
#[cfg(any(feature = "gateway", feature = "server"))]
fn open_door(
    operator: &config::Operator,
    of_before: Option<OwnedFd>,
) -> Result<Option<Door>, Failure> {
    let Some(path) = operator.socket.as_deref() else { return Ok(None) };
    Ok(Some(match of_before {
        Some(socket) => Door::inherit(path, socket)?,
        None => Door::bind(path)?,
    }))
}

/// Enters the sandbox, which is to come before every other thread, and starts the log inside.
#[cfg(any(feature = "gateway", feature = "server"))]
fn prepare(
    options: &RoleOptions,
    needs: Needs,
    start_log: impl StartLog,
) -> Result<LogGuard, Failure> {
    #[cfg(feature = "demo")]
    follow_parent(&options.parent)?;
    let pages_kept_small = keep_pages_small();
    notify::connect();
    sandbox::enter(needs, &options.sandbox)?;
    let log = sandbox::confined(start_log)??;
    sandbox::announce();
    if let Err(error) = pages_kept_small {
        tracing::debug!(%error, "huge pages stay on: a session at rest takes more memory");
    }
    Ok(log)
}

/// A process of the demo ends when the demo does, however that ends.
#[cfg(feature = "demo")]
fn follow_parent(options: &ParentOptions) -> Result<(), Failure> {
    Ok(options.with_parent.map_or(Ok(()), vestibule::demo::follow_parent)?)
}

/// Keeps the memory of this process in small pages. The allocator asks for huge ones, and a few bytes in
/// each of those keep 2 MB resident: with them a session at rest takes up to 3 KB more, bulk no less CPU.
#[cfg(any(feature = "gateway", feature = "server"))]
fn keep_pages_small() -> io::Result<()> {
    Ok(rustix::thread::disable_transparent_huge_pages(true)?)
}

/// A configuration that may be used; its warnings go to the log.
#[cfg(any(feature = "gateway", feature = "server", feature = "agent"))]
fn checked<T>(read: Checked<T>) -> T {
    for warning in read.warnings {
        let line = warning.place.as_ref().map(|place| place.line);
        tracing::warn!(file = %warning.file.display(), line, "{}", warning.message);
    }
    read.config
}
