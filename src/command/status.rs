//! `vestibule status`.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use vestibule::config::{self, Role};
use vestibule::telemetry::status::{FetchError, Status, fetch, render};

use super::StatusOptions;
use super::failure::Failure;

/// Between two pages of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Cursor to the corner, and all below it cleared: flickers less than clearing first.
const TO_CORNER: &str = "\x1b[H\x1b[J";

pub(super) fn run(options: &StatusOptions) -> Result<(), Failure> {
    let address = match &options.config {
        Some(file) => configured_address(file)?,
        None => options.address,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shown = runtime.block_on(async {
        if options.watch {
            watch(address, options.json).await
        } else {
            print(&page(&fetch(address).await?, options.json))
        }
    });
    match shown {
        // Whoever reads, for example head(1), has seen enough.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Pages until Ctrl-C. A process that went away is reported, and awaited.
async fn watch(address: SocketAddr, json: bool) -> Result<(), Failure> {
    let before = if io::stdout().is_terminal() && !json { TO_CORNER } else { "" };
    loop {
        match fetch(address).await {
            Ok(status) => print(&format!("{before}{}", page(&status, json)))?,
            Err(error @ FetchError::Foreign { .. }) => return Err(error.into()),
            Err(error) => eprintln!("{before}{error}"),
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn page(status: &Status, json: bool) -> String {
    if json {
        let line = serde_json::to_string(status);
        format!("{}\n", line.expect("it came as JSON"))
    } else {
        render(status)
    }
}

fn print(page: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output.write_all(page.as_bytes())?;
    Ok(output.flush()?)
}

fn configured_address(file: &Path) -> Result<SocketAddr, Failure> {
    let text = config::read_text(file)?;
    let telemetry = match config::guess_role(&text) {
        Some(Role::Server) => config::parse_server(&text, file)?.config.telemetry,
        _ => config::parse_gateway(&text, file)?.config.telemetry,
    };
    telemetry.address.ok_or_else(|| Failure::TelemetryOff(file.to_owned()))
}
