//! What peers that don't read can cost: thousands of sessions through gateway and server in which one
//! end offers without end and the other takes little or nothing. Four hosts in a row: devices,
//! gateway, server, backend, so that the sockets of each are told apart.

mod ends;
mod report;
mod sockets;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use self::ends::{Case, Crowd};
use self::report::{Outcome, Role, SlowResults, SlowSample};
use self::sockets::Held;
use crate::error::BenchError;
use crate::load::{Dialer, Ends};
use crate::machine::{self, Machine};
use crate::namespaces::{self, Namespace, connect};
use crate::process::Process;
use crate::site::{Site, TLS_PORT};

const DEVICES: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
const GATEWAY_OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
const GATEWAY_INSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 1);
const SERVER_OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
const SERVER_INSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 1);
const BACKEND: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 2);
const BACKEND_PORT: u16 = 7_000;

/// Between two looks at what is held.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Longest wait until no more is held than at the look before. With the time to open all sessions,
/// well below the user timeout of 120 s, which ends sessions whose peer takes nothing at all.
const SETTLE_DEADLINE: Duration = Duration::from_secs(40);
/// How far two looks may differ.
const SETTLED_PERCENT: u64 = 1;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct SlowArguments {
    /// Sessions of each case. A process may have 20,000 descriptors, and a gateway has two for each
    #[arg(long, default_value_t = 9_000)]
    sessions: usize,
    /// Cases, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Case>,
    /// Bytes that are read fast by those that stop then
    #[arg(long, default_value_t = 4_000_000)]
    fast: u64,
    /// The largest receive buffer of devices and backend. What they hold is not counted, but the machine
    /// has one `tcp_mem` for all
    #[arg(long, default_value_t = 64 * 1024)]
    peer_buffer: u64,
    /// File for all samples, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// The vestibule binary [default: the one beside this binary]
    #[arg(long)]
    vestibule: Option<PathBuf>,
}

/// The hosts of a run.
struct Hosts {
    devices: Namespace,
    gateway: Namespace,
    server: Namespace,
    backend: Namespace,
}

/// Takes all samples, prints the table, and writes the file.
pub(crate) fn run(arguments: &SlowArguments) -> Result<(), BenchError> {
    let site = Site::prepare(arguments.vestibule.as_deref())?;
    namespaces::remove_leftovers();
    let hosts = Hosts::prepare(arguments.peer_buffer)?;
    let setting = |name: &str| {
        let value = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        (name.to_owned(), value.unwrap_or_default().trim().replace('\t', " "))
    };
    let mut results = SlowResults {
        machine: Machine::here(&site.vestibule),
        sessions: arguments.sessions,
        fast_bytes: arguments.fast,
        peer_buffer: arguments.peer_buffer,
        settings: hosts
            .gateway
            .run(|| Ok(["tcp_rmem", "tcp_wmem"].map(setting).into_iter().collect()))?,
        samples: Vec::new(),
    };
    // One for all hosts of a machine, and not to be seen in a namespace.
    results.settings.extend([setting("tcp_mem")]);
    let cases = if arguments.cases.is_empty() { &Case::ALL[..] } else { &arguments.cases };
    for (number, &case) in (1..).zip(cases) {
        eprintln!("{number} of {}: {case:?}", cases.len());
        let started = machine::now();
        let outcome = hosts.measure(&site, (case, arguments.sessions, arguments.fast));
        let outcome = outcome.unwrap_or_else(|error| Outcome::Failed { what: error.to_string() });
        results.samples.push(SlowSample { case, started, outcome });
        if let Some(path) = &arguments.json {
            crate::results::write(&results, path)?;
        }
    }
    print!("{}", report::render(&results));
    match results.failed() {
        0 => Ok(()),
        failed => Err(BenchError::Unclean(failed)),
    }
}

impl Hosts {
    fn prepare(peer_buffer: u64) -> Result<Self, BenchError> {
        let hosts = Self {
            devices: Namespace::new("devices")?,
            gateway: Namespace::new("gateway")?,
            server: Namespace::new("server")?,
            backend: Namespace::new("backend")?,
        };
        let cables = [
            [(&hosts.devices, "gateway", DEVICES), (&hosts.gateway, "devices", GATEWAY_OUTSIDE)],
            [
                (&hosts.gateway, "server", GATEWAY_INSIDE),
                (&hosts.server, "gateway", SERVER_OUTSIDE),
            ],
            [(&hosts.server, "backend", SERVER_INSIDE), (&hosts.backend, "server", BACKEND)],
        ];
        for cable in cables {
            connect(cable)?;
        }
        for peer in [&hosts.devices, &hosts.backend] {
            peer.set("ipv4/tcp_rmem", &format!("4096 16384 {peer_buffer}"))?;
            peer.set("ipv4/tcp_wmem", &format!("4096 16384 {peer_buffer}"))?;
        }
        Ok(hosts)
    }

    fn measure(&self, site: &Site, what: (Case, usize, u64)) -> Result<Outcome, BenchError> {
        let backend = (BACKEND, BACKEND_PORT).into();
        let mut roles =
            site.start((&self.gateway, GATEWAY_INSIDE.into()), (&self.server, backend))?;
        let before = rss(&mut roles)?;
        let address = (GATEWAY_OUTSIDE, TLS_PORT).into();
        let dialer = Dialer::new(address, Some(&site.pki), Ends::Answered)?;
        let crowd = Crowd::gather((&self.devices, &self.backend), BACKEND_PORT, dialer, what)?;
        let sockets = self.settled()?;
        let after = rss(&mut roles)?;
        let tcp_pages = sockets::tcp_pages();
        drop(crowd);
        let grown = after.iter().zip(before).map(|(after, before)| after.saturating_sub(before));
        let roles = roles.iter().zip(grown.zip(sockets));
        let roles = roles.map(|(role, (user_bytes, [outer, inner]))| {
            (role.name().to_owned(), Role { user_bytes, outer, inner })
        });
        let roles: BTreeMap<String, Role> = roles.collect();
        let (_, sessions, _) = what;
        let open = roles.values().map(|role| role.outer.sockets.min(role.inner.sockets)).min();
        if open.unwrap_or(0) < sessions as u64 {
            let what =
                format!("only {open:?} of {sessions} sessions were open when it was measured");
            return Ok(Outcome::Failed { what });
        }
        Ok(Outcome::Measured { roles, tcp_pages })
    }

    /// What the sockets of gateway and server hold once that grows no more: towards the device first,
    /// then towards the backend.
    fn settled(&self) -> Result<[[Held; 2]; 2], BenchError> {
        let towards = |one: Ipv4Addr, other: Ipv4Addr| [IpAddr::V4(one), IpAddr::V4(other)];
        let look = || -> Result<[[Held; 2]; 2], BenchError> {
            Ok([
                sockets::held(&self.gateway, towards(DEVICES, SERVER_OUTSIDE))?,
                sockets::held(&self.server, towards(GATEWAY_INSIDE, BACKEND))?,
            ])
        };
        let total =
            |held: &[[Held; 2]; 2]| -> u64 { held.iter().flatten().map(|held| held.total()).sum() };
        let start = Instant::now();
        let mut last = look()?;
        loop {
            thread::sleep(LOOK_INTERVAL);
            let now = look()?;
            let difference = total(&now).abs_diff(total(&last));
            let settled = difference * 100 <= total(&now) * SETTLED_PERCENT;
            if settled || start.elapsed() > SETTLE_DEADLINE {
                return Ok(now);
            }
            last = now;
        }
    }
}

fn rss(roles: &mut [Process]) -> Result<Vec<u64>, BenchError> {
    roles.iter_mut().map(|role| Ok(role.usage()?.rss_bytes)).collect()
}
