//! The verbs of operators: each asks a running process over its socket.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use vestibule::config::{self, Role};
use vestibule::operator::{
    Answer, Asked, Block, DevicePattern, Range, Request, Selection, SessionList, Target, ask,
    unix_now,
};

use super::duration;
use super::failure::Failure;

/// Which process.
#[derive(Debug, Args)]
pub(super) struct Where {
    /// The operator's socket; a server's is /run/vestibule/server.sock
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/vestibule/gateway.sock",
        conflicts_with = "config"
    )]
    socket: PathBuf,
    /// Take the socket from its configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Which sessions: all that is named has to hold.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Of this device, by its name in the log; * stands for any characters
    #[arg(long, value_name = "NAME")]
    device: Option<DevicePattern>,
    /// Of agents from this address or range, such as 203.0.113.0/24
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Range>,
    /// To this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Over this server; at a server, over this gateway (host:port)
    #[arg(long, visible_alias = "gateway", value_name = "NAME")]
    server: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct SessionsOptions {
    #[command(flatten)]
    which: Which,
    /// Print JSON, on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, Args)]
pub(super) struct EndOptions {
    /// By their names, as `vestibule sessions` and the logs have them
    #[arg(value_name = "SESSION")]
    sessions: Vec<String>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    at: Where,
}

/// Somebody to keep out, or to let in again.
#[derive(Debug, Subcommand)]
pub(super) enum Whom<T: Args> {
    /// A device, by its name in the log; * stands for any characters
    Device {
        /// Such as laptop-7.example.com
        #[arg(value_name = "NAME")]
        name: DevicePattern,
        #[command(flatten)]
        rest: T,
    },
    /// An address, or a range of them
    Address {
        /// Such as 203.0.113.7 or 203.0.113.0/24
        #[arg(value_name = "ADDRESS")]
        range: Range,
        #[command(flatten)]
        rest: T,
    },
}

#[derive(Debug, Args)]
pub(super) struct BlockOptions {
    /// Let it in again after this time, for example 30min or 2h
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
    time: Option<Duration>,
    /// For whoever reads it later
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, Args)]
pub(super) struct BlocksOptions {
    /// Print JSON, on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, Args)]
pub(super) struct DrainOptions {
    /// Only this server, and not the process: it gets no new sessions
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, Args)]
pub(super) struct UndrainOptions {
    /// The server that is to get new sessions again
    #[arg(long, value_name = "NAME")]
    server: String,
    #[command(flatten)]
    at: Where,
}

pub(super) fn sessions(options: SessionsOptions) -> Result<(), Failure> {
    let answer = send(&options.at, Request::Sessions(options.which.into_selection(Vec::new())))?;
    match answer {
        Answer::Sessions(list) if options.json => print(&json(&list)),
        Answer::Sessions(list) => print(&sessions_page(&list)),
        other => print(&said(&other)),
    }
}

pub(super) fn end(options: EndOptions) -> Result<(), Failure> {
    let selection = options.which.into_selection(options.sessions);
    print(&said(&send(&options.at, Request::End(selection))?))
}

pub(super) fn block(whom: Whom<BlockOptions>) -> Result<(), Failure> {
    let (target, BlockOptions { time, why, at }) = whom.split();
    let for_s = time.map(|time| time.as_secs().max(1));
    print(&said(&send(&at, Request::Block { target, for_s, why })?))
}

pub(super) fn unblock(whom: Whom<Where>) -> Result<(), Failure> {
    let (target, at) = whom.split();
    print(&said(&send(&at, Request::Unblock { target })?))
}

pub(super) fn blocks(options: &BlocksOptions) -> Result<(), Failure> {
    match send(&options.at, Request::Blocks)? {
        Answer::Blocks(blocks) if options.json => print(&json(&blocks)),
        Answer::Blocks(blocks) => print(&blocks_page(&blocks, unix_now())),
        other => print(&said(&other)),
    }
}

pub(super) fn drain(options: DrainOptions) -> Result<(), Failure> {
    let request = match options.server {
        Some(server) => Request::DrainServer { server },
        None => Request::Drain,
    };
    print(&said(&send(&options.at, request)?))
}

pub(super) fn undrain(options: UndrainOptions) -> Result<(), Failure> {
    let UndrainOptions { server, at } = options;
    print(&said(&send(&at, Request::UndrainServer { server })?))
}

impl Which {
    fn into_selection(self, sessions: Vec<String>) -> Selection {
        let Self { device, address, service, server: peer } = self;
        Selection { sessions, device, address, service, peer }
    }
}

impl<T: Args> Whom<T> {
    fn split(self) -> (Target, T) {
        match self {
            Self::Device { name, rest } => (Target::Device(name), rest),
            Self::Address { range, rest } => (Target::Address(range), rest),
        }
    }
}

fn send(at: &Where, request: Request) -> Result<Answer, Failure> {
    let socket = match &at.config {
        Some(file) => configured_socket(file)?,
        None => at.socket.clone(),
    };
    let sudo_user = std::env::var("SUDO_USER").ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(ask(&socket, &Asked { sudo_user, request }))?)
}

fn configured_socket(file: &Path) -> Result<PathBuf, Failure> {
    let text = config::read_text(file)?;
    let operator = match config::guess_role(&text) {
        Some(Role::Server) => config::parse_server(&text, file)?.config.operator,
        _ => config::parse_gateway(&text, file)?.config.operator,
    };
    operator.socket.ok_or_else(|| Failure::OperatorOff(file.to_owned()))
}

/// Whoever reads, for example head(1), may have seen enough.
fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn json(value: &impl serde::Serialize) -> String {
    format!("{}\n", serde_json::to_string(value).expect("it came as JSON"))
}

/// What was done, in a sentence.
fn said(answer: &Answer) -> String {
    let sentence = match answer {
        Answer::Ended { sessions } => format!("{} ended", counted(*sessions, "session")),
        Answer::Blocked { sessions, waiting, kept } => {
            let lasts = if *kept {
                ""
            } else {
                "; it holds until the process ends, since its `[operator]` has no `state`"
            };
            format!(
                "blocked; ended {} and {} that waited{lasts}",
                counted(*sessions, "session"),
                counted(*waiting, "agent")
            )
        }
        Answer::Unblocked => "let in again".to_owned(),
        Answer::Draining { sessions } => {
            format!(
                "drains: {} may finish within `drain_timeout_ms`",
                counted(*sessions, "session")
            )
        }
        Answer::ServerDrained { sessions, unserved } => {
            let left = counted(*sessions, "session");
            let mut sentence = format!(
                "drained: it gets no new sessions, and {left} may finish; until `vestibule undrain` or \
                 a restart of the gateway"
            );
            if !unserved.is_empty() {
                let services = unserved.join(", ");
                let _ = write!(sentence, "\nno other server serves now: {services}");
            }
            sentence
        }
        Answer::ServerUndrained => "gets new sessions again".to_owned(),
        Answer::Sessions(_) | Answer::Blocks(_) => "what was not asked for".to_owned(),
    };
    format!("{sentence}\n")
}

fn sessions_page(list: &SessionList) -> String {
    if list.sessions.is_empty() {
        return "no such session lives\n".to_owned();
    }
    let mut rows =
        vec![["SESSION", "DEVICE", "AGENT", "SERVICE", "OVER", "PATH", "AGE"].map(str::to_owned)];
    rows.extend(list.sessions.iter().map(|session| {
        [
            session.session.clone(),
            session.device.clone().unwrap_or_else(|| "-".to_owned()),
            session.agent.to_string(),
            session.service.clone(),
            session.peer.clone(),
            session.path.clone(),
            age(session.age_s),
        ]
    }));
    let mut page = table(&rows);
    if list.more > 0 {
        let _ = writeln!(
            page,
            "and {} more: ask for a device, an address, a service or a server",
            list.more
        );
    }
    page
}

fn blocks_page(blocks: &[Block], now: u64) -> String {
    if blocks.is_empty() {
        return "nobody is blocked\n".to_owned();
    }
    let mut rows = vec![["WHOM", "SINCE", "LEFT", "BY", "WHY"].map(str::to_owned)];
    rows.extend(blocks.iter().map(|block| {
        [
            block.target.to_string(),
            format!("{} ago", age(now.saturating_sub(block.since))),
            block
                .until
                .map_or_else(|| "for good".to_owned(), |until| age(until.saturating_sub(now))),
            block.by.clone(),
            block.why.clone().unwrap_or_default(),
        ]
    }));
    table(&rows)
}

/// Columns as wide as their widest cells. A terminal obeys control characters, so there are none.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let printable = |cell: &String| cell.replace(char::is_control, "\u{fffd}");
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(printable)).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut page = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        page.push_str(line.trim_end());
        page.push('\n');
    }
    page
}

fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The two largest units of an age.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if minutes == 0 => format!("{seconds}s"),
        () if hours == 0 => format!("{minutes}m{}s", seconds % 60),
        () if days == 0 => format!("{hours}h{}m", minutes % 60),
        () => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use vestibule::operator::ListedSession;

    use super::*;

    #[test]
    fn a_page_of_sessions_lines_up_and_moves_no_cursor() {
        let session = |name: &str, device: Option<&str>| ListedSession {
            session: name.to_owned(),
            device: device.map(str::to_owned),
            agent: "192.0.2.7:50000".parse().expect("an address"),
            service: "web".to_owned(),
            peer: "server-1.lan".to_owned(),
            path: "tls".to_owned(),
            age_s: 3_700,
        };
        let sessions = vec![session("00ff-1", Some("laptop\u{1b}[2J")), session("00ff-10", None)];
        let page = sessions_page(&SessionList { sessions, more: 3 });
        let expected = "\
            SESSION  DEVICE      AGENT            SERVICE  OVER          PATH  AGE\n\
            00ff-1   laptop\u{fffd}[2J  192.0.2.7:50000  web      server-1.lan  tls   1h1m\n\
            00ff-10  -           192.0.2.7:50000  web      server-1.lan  tls   1h1m\n\
            and 3 more: ask for a device, an address, a service or a server\n";
        assert_eq!(page, expected);
    }
}
