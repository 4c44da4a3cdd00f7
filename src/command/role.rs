//! Starts the roles. Each is there or says that this package was built without it.

use std::path::Path;

use vestibule::config::Role;
#[cfg(any(feature = "gateway", feature = "server", feature = "agent"))]
use vestibule::config::{self, Checked, Problems};

use super::DemoOptions;
use super::failure::Failure;

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
pub(super) fn gateway(file: &Path) -> Result<(), Failure> {
    Ok(vestibule::gateway::run(checked(config::read_gateway(file))?)?)
}

#[cfg(feature = "server")]
pub(super) fn server(file: &Path) -> Result<(), Failure> {
    Ok(vestibule::server::run(checked(config::read_server(file))?)?)
}

#[cfg(feature = "agent")]
pub(super) fn agent(file: &Path) -> Result<(), Failure> {
    Ok(vestibule::agent::start(checked(config::read_agent(file))?)?)
}

#[cfg(feature = "demo")]
pub(super) fn demo(options: &DemoOptions) -> Result<(), Failure> {
    Ok(vestibule::demo::run(vestibule::demo::Options { duration: options.duration })?)
}

#[cfg(not(feature = "gateway"))]
pub(super) fn gateway(_file: &Path) -> Result<(), Failure> {
    Err(Failure::BuiltWithout("gateway"))
}

#[cfg(not(feature = "server"))]
pub(super) fn server(_file: &Path) -> Result<(), Failure> {
    Err(Failure::BuiltWithout("server"))
}

#[cfg(not(feature = "agent"))]
pub(super) fn agent(_file: &Path) -> Result<(), Failure> {
    Err(Failure::BuiltWithout("agent"))
}

#[cfg(not(feature = "demo"))]
pub(super) fn demo(_options: &DemoOptions) -> Result<(), Failure> {
    Err(Failure::BuiltWithout("demo"))
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
