//! Throughput over a long fat link, with Vestibule and without. Two hosts are joined by a link of our
//! own ([`link`]), and every way from a device to the backend crosses it once.

mod ends;
mod line;
mod link;
mod report;

use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::ends::{Ends, Transfer};
use self::line::Shape;
use self::link::Link;
use self::report::{FarResults, FarSample, Figures, Measured};
use crate::error::BenchError;
use crate::load::nanoseconds;
use crate::machine::{self, Machine};
use crate::namespaces::{self, Namespace};
use crate::process::Process;
use crate::scenario::Direction;
use crate::site::{Site, TLS_PORT};

/// Both ends of the link.
const NETWORK: &str = "198.18.7.0/24";
/// The device's end.
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 1);
/// The backend's end.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 2);
const BACKEND_PORT: u16 = 7_000;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct FarArguments {
    /// Rounds
    #[arg(long, default_value = "3")]
    runs: NonZeroUsize,
    /// Megabits a second of the link, each way
    #[arg(long, default_value_t = 1_000)]
    mbit: u64,
    /// Milliseconds there and back
    #[arg(long, default_value_t = 100)]
    rtt_ms: u64,
    /// Megabytes of each transfer, over all its sessions
    #[arg(long, default_value_t = 1_000)]
    megabytes: u64,
    /// Sessions at once, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4])]
    sessions: Vec<u64>,
    /// Ways, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    ways: Vec<Way>,
    /// Congestion control of every socket: Linux has this one unless told otherwise
    #[arg(long, default_value = "cubic")]
    congestion: String,
    /// The largest `tcp_rmem` and `tcp_wmem` of both hosts, in bytes
    #[arg(long, default_value_t = 64 * 1024 * 1024)]
    largest_buffer: u64,
    /// File for all samples, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// The vestibule binary [default: the one beside this binary]
    #[arg(long)]
    vestibule: Option<PathBuf>,
}

/// From a device to the backend.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// Plain TCP over the link
    Direct,
    /// Over the link to the gateway; server and backend are beside it
    FarDevice,
    /// To a gateway beside the device; server and backend are across the link
    FarServer,
}

impl Way {
    /// All, in the order of the table.
    const ALL: [Self; 3] = [Self::Direct, Self::FarDevice, Self::FarServer];
}

/// One sample, before it is taken.
#[derive(Debug, Clone, Copy)]
struct Case {
    run: usize,
    way: Way,
    direction: Direction,
    sessions: u64,
}

/// Everything that lives as long as the run. What is first here ends first.
struct Ground {
    ends: Ends,
    link: Link,
    near: Namespace,
    far: Namespace,
    site: Site,
    bytes: u64,
}

/// Takes all samples, prints the table, and writes the file.
pub(crate) fn run(arguments: &FarArguments) -> Result<(), BenchError> {
    let shape = shape(arguments);
    let ground = Ground::prepare(arguments, shape)?;
    let mut results = FarResults {
        machine: Machine::here(&ground.site.vestibule),
        link: shape,
        congestion: arguments.congestion.clone(),
        mtu: link::MTU,
        settings: settings(arguments)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        samples: Vec::new(),
    };
    let plan = plan(arguments);
    for (number, case) in (1..).zip(&plan) {
        eprintln!("{number} of {}: {case:?}", plan.len());
        let started = machine::now();
        let measured = ground.measure(*case);
        let outcome = match measured {
            Ok(measured) => Figures::Measured(measured),
            Err(error) => Figures::Failed { what: error.to_string() },
        };
        let Case { run, way, direction, sessions } = *case;
        let sample =
            FarSample { run, way, direction, sessions, bytes: ground.bytes, started, outcome };
        results.samples.push(sample);
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

/// The queue holds as much as the link.
fn shape(arguments: &FarArguments) -> Shape {
    let bytes_per_second = arguments.mbit * 1_000_000 / 8;
    let queue_bytes = bytes_per_second * arguments.rtt_ms / 1_000;
    Shape { bytes_per_second, delay_ms: arguments.rtt_ms / 2, queue_bytes }
}

/// Of both hosts. Without the first, a connection would begin with what the one before it learnt.
fn settings(arguments: &FarArguments) -> [(&'static str, String); 3] {
    let largest = arguments.largest_buffer;
    [
        ("ipv4/tcp_no_metrics_save", "1".to_owned()),
        ("ipv4/tcp_rmem", format!("4096 131072 {largest}")),
        ("ipv4/tcp_wmem", format!("4096 16384 {largest}")),
    ]
}

/// Ways alternate within each kind of transfer, and each round begins with another.
fn plan(arguments: &FarArguments) -> Vec<Case> {
    let ways = if arguments.ways.is_empty() { &Way::ALL[..] } else { &arguments.ways };
    let mut plan = Vec::new();
    for run in 0..arguments.runs.get() {
        for &sessions in &arguments.sessions {
            for direction in [Direction::Up, Direction::Down] {
                let mut ways = ways.to_vec();
                let turn = run % ways.len();
                ways.rotate_left(turn);
                plan.extend(ways.into_iter().map(|way| Case { run, way, direction, sessions }));
            }
        }
    }
    plan
}

impl Ground {
    fn prepare(arguments: &FarArguments, shape: Shape) -> Result<Self, BenchError> {
        let site = Site::prepare(arguments.vestibule.as_deref())?;
        namespaces::remove_leftovers();
        let (near, far) = (Namespace::new("near")?, Namespace::new("far")?);
        for (setting, value) in settings(arguments) {
            near.set(setting, &value)?;
            far.set(setting, &value)?;
        }
        let (near_end, far_end) = (format!("{NEAR}/24"), format!("{FAR}/24"));
        let link = Link::between([(&near, &near_end), (&far, &far_end)], shape)?;
        for host in [&near, &far] {
            // By the route: for a whole namespace, the kernel allows what its default is alone.
            host.ip(&format!(
                "route add {NETWORK} dev {} congctl {}",
                link::DEVICE,
                arguments.congestion
            ))?;
        }
        let ends = Ends::start(&near, &far, BACKEND_PORT)?;
        let bytes = arguments.megabytes * 1_000_000;
        Ok(Self { ends, link, near, far, site, bytes })
    }

    fn measure(&self, case: Case) -> Result<Measured, BenchError> {
        let Case { way, direction, sessions, .. } = case;
        let mut roles = self.start_roles(way)?;
        let (address, pki) = match way {
            Way::Direct => ((FAR, BACKEND_PORT), None),
            Way::FarDevice => ((FAR, TLS_PORT), Some(&self.site.pki)),
            Way::FarServer => ((Ipv4Addr::LOCALHOST, TLS_PORT), Some(&self.site.pki)),
        };
        let dialer = ends::dialer(address.into(), pki)?;
        let usages = |roles: &mut Vec<Process>| -> Result<Vec<u64>, BenchError> {
            roles.iter_mut().map(|role| Ok(role.usage()?.cpu_ns)).collect()
        };
        let (before, carried) = (usages(&mut roles)?, self.link.carried());
        let pace =
            self.ends.transfer(dialer, Transfer { direction, sessions, bytes: self.bytes })?;
        let [up, down] = self.link.carried();
        let after = usages(&mut roles)?;
        let cpu_ns = roles.iter().zip(after.iter().zip(&before));
        let cpu_ns = cpu_ns.map(|(role, (after, before))| (role.name().to_owned(), after - before));
        let measured = Measured {
            whole_ns: nanoseconds(pace.whole),
            second_half_ns: nanoseconds(pace.second_half),
            link_up: up.since(carried[0]),
            link_down: down.since(carried[1]),
            cpu_ns: cpu_ns.collect(),
        };
        roles.into_iter().try_for_each(Process::stop)?;
        Ok(measured)
    }

    /// Gateway and server, fresh for each sample.
    fn start_roles(&self, way: Way) -> Result<Vec<Process>, BenchError> {
        let gateway = match way {
            Way::Direct => return Ok(Vec::new()),
            Way::FarDevice => (&self.far, Ipv4Addr::LOCALHOST.into()),
            Way::FarServer => (&self.near, NEAR.into()),
        };
        self.site.start(gateway, (&self.far, (Ipv4Addr::LOCALHOST, BACKEND_PORT).into()))
    }
}
