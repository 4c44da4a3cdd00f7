use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use vestibule::telemetry::status::Status;

use super::{LONG, wait_until};

/// The telemetry listener of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Telemetry(pub(crate) SocketAddr);

impl Telemetry {
    /// Waits until new sessions are possible.
    pub(crate) fn wait_ready(self) {
        wait_until("the process is ready", || {
            self.page("/readyz").is_some_and(|page| page.starts_with("HTTP/1.1 200"))
        });
    }

    /// Waits until no new sessions are possible.
    pub(crate) fn wait_unready(self) {
        wait_until("the process is not ready", || {
            self.page("/readyz").is_some_and(|page| page.starts_with("HTTP/1.1 503"))
        });
    }

    /// Value of a sample, by its name and labels as written; 0 where there is none.
    pub(crate) fn metric(self, sample: &str) -> u64 {
        self.metrics([sample])[0]
    }

    /// The same for several, of one moment.
    pub(crate) fn metrics<const N: usize>(self, samples: [&str; N]) -> [u64; N] {
        let page = self.page("/metrics").expect("the process runs");
        samples.map(|sample| {
            let mut values = page.lines().filter_map(|line| line.strip_prefix(sample));
            let value = values.find_map(|rest| rest.strip_prefix(' '));
            value.map_or(0, |value| value.parse().expect("a whole number"))
        })
    }

    /// Waits until a sample has this value.
    pub(crate) fn wait_for(self, sample: &str, value: u64) {
        wait_until(&format!("{sample} is {value}"), || self.metric(sample) == value);
    }

    /// Waits until a signal connection carries invitations for that service.
    pub(crate) fn wait_for_service(self, service: &str) {
        wait_until(&format!("{service} is served"), || {
            let status = self.status();
            let mut links = status.signal_connections.iter();
            links.any(|link| link.services.iter().any(|served| served == service))
        });
    }

    /// The status page.
    pub(crate) fn status(self) -> Status {
        let page = self.page("/status").expect("the process runs");
        let (_, body) = page.split_once("\r\n\r\n").expect("an answer");
        serde_json::from_str(body).expect("a status page")
    }

    /// `None` where nobody answers.
    fn page(self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.0).ok()?;
        stream.set_read_timeout(Some(LONG)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: vestibule\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }
}
