//! Files in, checked configurations or problems out.

use std::path::Path;
use std::{fs, io::Read};

use toml::de::DeTable;

use super::problem::{Checked, Problem, Problems, Report};
use super::table::Table;
use super::{AgentConfig, GatewayConfig, ServerConfig, agent, gateway, server};
use crate::limits::MAX_CONFIG_LEN;

/// Whose configuration a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `gateway.toml`.
    Gateway,
    /// `server.toml`.
    Server,
    /// `agent.toml`.
    Agent,
}

/// The role that a file is written for, by its tables; `None` where they fit none. Works on files
/// with errors too, as far as they can be read.
pub fn guess_role(text: &str) -> Option<Role> {
    let (file, _) = DeTable::parse_recoverable(text);
    let has = |key| file.get_ref().contains_key(key);
    if has("listeners") {
        Some(Role::Gateway)
    } else if has("forwards") {
        Some(Role::Agent)
    } else if has("gateways") && has("services") {
        Some(Role::Server)
    } else {
        None
    }
}

/// Reads `gateway.toml`. Paths in it are relative to its folder.
pub fn read_gateway(path: &Path) -> Result<Checked<GatewayConfig>, Problems> {
    parse_gateway(&read_text(path)?, path)
}

/// Reads `server.toml`. Paths in it are relative to its folder.
pub fn read_server(path: &Path) -> Result<Checked<ServerConfig>, Problems> {
    parse_server(&read_text(path)?, path)
}

/// Reads `agent.toml`. Paths in it are relative to its folder.
pub fn read_agent(path: &Path) -> Result<Checked<AgentConfig>, Problems> {
    parse_agent(&read_text(path)?, path)
}

/// [`read_gateway`] without the file system: `text` is what `file` holds.
pub fn parse_gateway(text: &str, file: &Path) -> Result<Checked<GatewayConfig>, Problems> {
    parse(text, file, gateway::read)
}

/// [`read_server`] without the file system: `text` is what `file` holds.
pub fn parse_server(text: &str, file: &Path) -> Result<Checked<ServerConfig>, Problems> {
    parse(text, file, server::read)
}

/// [`read_agent`] without the file system: `text` is what `file` holds.
pub fn parse_agent(text: &str, file: &Path) -> Result<Checked<AgentConfig>, Problems> {
    parse(text, file, agent::read)
}

fn parse<T>(
    text: &str,
    file: &Path,
    read: impl FnOnce(&Table<'_>) -> Option<T>,
) -> Result<Checked<T>, Problems> {
    let report = Report::new(text, file);
    let config = match DeTable::parse(text) {
        Ok(document) => Table::read_file(&report, document.get_ref(), read),
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            report.error(span.into(), format!("not well-formed TOML: {}", error.message()));
            None
        }
    };
    report.finish(config)
}

/// The text of a configuration file, for [`guess_role`] and the `parse` functions.
pub fn read_text(path: &Path) -> Result<String, Problems> {
    let problem = |message| Problem { file: path.to_owned(), place: None, message };
    let mut bytes = Vec::new();
    fs::File::open(path)
        // One byte more tells a file that is too long from one that just fits.
        .and_then(|file| file.take(MAX_CONFIG_LEN as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| problem(format!("can't be read: {error}")))?;
    if bytes.len() > MAX_CONFIG_LEN {
        let message = format!("longer than {MAX_CONFIG_LEN} bytes: this is no configuration");
        return Err(problem(message).into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let text = String::from_utf8_lossy(error.as_bytes());
        let report = Report::new(&text, path);
        let at = error.utf8_error().valid_up_to();
        let message = "not UTF-8 from here on: save the file as UTF-8".to_owned();
        report.problem(Some((at..at).into()), message).into()
    })
}
