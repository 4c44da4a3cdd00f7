//! Starts the roles. Each is there or says that this package was built without it.

use vestibule::config::Role;
#[cfg(any(feature = "gateway", feature = "server", feature = "agent"))]
use vestibule::config::{self, Checked, Problems};
use vestibule::telemetry::log::LogFormat;

use super::failure::Failure;
use super::{DemoOptions, RoleOptions};

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
pub(super) fn gateway(options: &RoleOptions) -> Result<(), Failure> {
    #[cfg(feature = "demo")]
    follow_parent(options)?;
    keep_pages_small();
    let config = checked(config::read_gateway(&options.config))?;
    Ok(vestibule::gateway::run(config, &options.config)?)
}

#[cfg(feature = "server")]
pub(super) fn server(options: &RoleOptions) -> Result<(), Failure> {
    #[cfg(feature = "demo")]
    follow_parent(options)?;
    keep_pages_small();
    let config = checked(config::read_server(&options.config))?;
    Ok(vestibule::server::run(config, &options.config)?)
}

#[cfg(feature = "agent")]
pub(super) fn agent(options: &RoleOptions) -> Result<(), Failure> {
    #[cfg(feature = "demo")]
    follow_parent(options)?;
    Ok(vestibule::agent::start(checked(config::read_agent(&options.config))?)?)
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
pub(super) fn gateway(_options: &RoleOptions) -> Result<(), Failure> {
    Err(Failure::BuiltWithout("gateway"))
}

#[cfg(not(feature = "server"))]
pub(super) fn server(_options: &RoleOptions) -> Result<(), Failure> {
    Err(Failure::BuiltWithout("server"))
}

#[cfg(not(feature = "agent"))]
pub(super) fn agent(_options: &RoleOptions) -> Result<(), Failure> {
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

/// A process of the demo ends when the demo does, however that ends.
#[cfg(feature = "demo")]
fn follow_parent(options: &RoleOptions) -> Result<(), Failure> {
    Ok(options.with_parent.map_or(Ok(()), vestibule::demo::follow_parent)?)
}

/// Keeps the memory of this process in small pages. The allocator asks for huge ones, and a few bytes in
/// each of those keep 2 MB resident: with them a session at rest takes up to 3 KB more, bulk no less CPU.
#[cfg(any(feature = "gateway", feature = "server"))]
fn keep_pages_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on: a session at rest takes more memory");
    }
}

/// A configuration that may be used; its warnings go to the log.
#[cfg(any(feature = "gateway", feature = "server", feature = "agent"))]
fn checked<T>(read: Result<Checked<T>, Problems>) -> Result<T, Problems> {
    let Checked { config, warnings } = read?;
    for warning in warnings {
        let line = warning.place.as_ref().map(|place| place.line);
        tracing::warn!(file = %warning.file.display(), line, "{}", warning.message);
    }
    Ok(config)
}
