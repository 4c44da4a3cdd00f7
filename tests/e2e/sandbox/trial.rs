//! A wish in a process of its own: this test program again, which gives up what it is told to, and tries.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use rustix::process::Signal;
use vestibule::config::{read_gateway, read_server};
use vestibule::sandbox::{self, Needs, Options, Part, Thread};

use super::wishes;
use crate::e2e::harness::{GatewayFile, ServerFile, World};

const WISH: &str = "VESTIBULE_TEST_WISH";
const GIVEN_UP: &str = "VESTIBULE_TEST_GIVEN_UP";
const THREAD: &str = "VESTIBULE_TEST_THREAD";
const ARENA: &str = "VESTIBULE_TEST_ARENA";

/// What a process has given up before its wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    Nothing,
    All,
    /// By Landlock alone; this part is what counts.
    Landlock(Part),
    SystemCalls,
    Capabilities,
}

/// What became of a wish.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Granted,
    /// With what the kernel said.
    Denied(String),
    /// The kernel ended the process.
    Killed,
    /// The kernel lacks this part.
    Unsupported(String),
}

impl GivenUp {
    const ALL: [Self; 7] = [
        Self::Nothing,
        Self::All,
        Self::Landlock(Part::Files),
        Self::Landlock(Part::Tcp),
        Self::Landlock(Part::Scope),
        Self::SystemCalls,
        Self::Capabilities,
    ];

    fn word(self) -> String {
        format!("{self:?}")
    }

    /// The parts that stay off.
    fn without(self) -> Vec<Part> {
        use Part::{Capabilities, CoreDumps, Files, Scope, SystemCalls, Tcp};
        match self {
            Self::Nothing | Self::All => Vec::new(),
            Self::Landlock(_) => vec![SystemCalls, Capabilities, CoreDumps],
            Self::SystemCalls => vec![Files, Tcp, Scope, Capabilities, CoreDumps],
            Self::Capabilities => vec![Files, Tcp, Scope, SystemCalls, CoreDumps],
        }
    }
}

/// What is around the process, for it to reach for.
pub(super) struct Trial {
    world: World,
    arena: Arena,
    /// Those who are reached for take what comes into their backlogs.
    _held: ([TcpListener; 2], UdpSocket, UnixListener),
}

/// Where that is.
#[derive(Debug, Clone)]
pub(super) struct Arena {
    pub(super) tcp: std::net::SocketAddr,
    pub(super) configured: std::net::SocketAddr,
    pub(super) udp: std::net::SocketAddr,
    pub(super) abstract_name: String,
    pub(super) config: PathBuf,
    is_server: bool,
}

impl Trial {
    /// Of a gateway.
    pub(super) fn new() -> Self {
        Self::with(false)
    }

    /// Of a server, whose backend is there.
    pub(super) fn of_server() -> Self {
        Self::with(true)
    }

    fn with(is_server: bool) -> Self {
        let world = World::new();
        // Ports that no configuration names, and the one of the backend.
        let tcp = TcpListener::bind((world.ip(9), 0)).expect("a world of our own");
        let backend = TcpListener::bind((world.ip(9), 8080)).expect("a world of our own");
        let udp = UdpSocket::bind((world.ip(9), 0)).expect("a world of our own");
        let abstract_name = format!("vestibule-test-{}", world.ip(9));
        let unix = UnixAddress::from_abstract_name(&abstract_name).expect("a short name");
        let unix = UnixListener::bind_addr(&unix).expect("a name of our own");
        let config = if is_server {
            let services = [("echo", backend.local_addr().expect("bound"))];
            world.write_server(&ServerFile::new(&world, &services))
        } else {
            std::fs::create_dir(world.path("state")).expect("a world of our own");
            let more = "[operator]\nstate = \"state/blocks.toml\"\n";
            world.write_gateway(&GatewayFile { more, ..GatewayFile::DEFAULT })
        };
        let arena = Arena {
            tcp: tcp.local_addr().expect("bound"),
            configured: backend.local_addr().expect("bound"),
            udp: udp.local_addr().expect("bound"),
            abstract_name,
            config,
            is_server,
        };
        Self { world, arena, _held: ([tcp, backend], udp, unix) }
    }

    pub(super) fn wish(&self, wish: &str, given_up: GivenUp, thread: Thread) -> Answer {
        let output = self.run(wish, given_up, thread);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let answer = said.lines().find_map(|line| line.split_once("answer: ")).map(|(_, a)| a);
        match (answer, output.status.signal()) {
            (Some("granted"), None) => Answer::Granted,
            (Some(answer), None) => match answer.split_once(": ") {
                Some(("denied", why)) => Answer::Denied(why.to_owned()),
                Some(("unsupported", part)) => Answer::Unsupported(part.to_owned()),
                _ => panic!("{wish}: {output:?}"),
            },
            (None, Some(signal)) if signal == Signal::SYS.as_raw() => Answer::Killed,
            // Another program has taken its place.
            (None, None) if wish == "run-program" && output.status.success() => Answer::Granted,
            _ => panic!("{wish}: {output:?}"),
        }
    }

    /// The signal that ended a process after its wish, with all given up.
    pub(super) fn signal_of(&self, wish: &str, thread: Thread) -> Option<Signal> {
        self.run(wish, GivenUp::All, thread).status.signal().and_then(Signal::from_named_raw)
    }

    fn run(&self, wish: &str, given_up: GivenUp, thread: Thread) -> Output {
        let Arena { tcp, configured, udp, abstract_name, is_server, .. } = &self.arena;
        let config = self.arena.config.display();
        let arena = format!("{tcp} {configured} {udp} {abstract_name} {is_server} {config}");
        assert!(self.world.path("pki").exists(), "the world lives as long as the process");
        Command::new(std::env::current_exe().expect("it runs"))
            .args(["--exact", "e2e::sandbox::trial::wish", "--ignored", "--nocapture"])
            .env(WISH, wish)
            .env(GIVEN_UP, given_up.word())
            .env(THREAD, format!("{thread:?}"))
            .env(ARENA, arena)
            .output()
            .expect("it was built")
    }
}

impl Arena {
    fn read() -> Self {
        let text = std::env::var(ARENA).expect("given with the wish");
        let mut words = text.splitn(6, ' ');
        let mut next = || words.next().expect("six of them");
        Self {
            tcp: next().parse().expect("an address"),
            configured: next().parse().expect("an address"),
            udp: next().parse().expect("an address"),
            abstract_name: next().to_owned(),
            is_server: next() == "true",
            config: next().into(),
        }
    }
}

/// The process of a wish.
#[test]
#[ignore = "run by the other tests, each time in a process of its own"]
fn wish() {
    let Ok(wish) = std::env::var(WISH) else { return };
    let word = std::env::var(GIVEN_UP).expect("given with the wish");
    let given_up = GivenUp::ALL.into_iter().find(|g| g.word() == word).expect("one of them");
    let threads = [Thread::Worker, Thread::Control, Thread::Keeper];
    let word = std::env::var(THREAD).expect("given with the wish");
    let thread = threads.into_iter().find(|t| format!("{t:?}") == word).expect("one of them");
    let arena = Arena::read();
    let answer = match wishes::prepare(&wish, &arena) {
        None => panic!("there is no wish {wish}"),
        Some(tried) => match give_up(given_up, thread, &arena) {
            Err(part) => format!("unsupported: {part}"),
            Ok(()) => match tried() {
                Ok(()) => "granted".to_owned(),
                Err(error) => format!("denied: {error}"),
            },
        },
    };
    // On a line of its own: the test program has begun one.
    println!("\nanswer: {answer}");
    std::process::exit(0);
}

/// Enters the sandbox as a role does, on this thread alone. An error is the part that this kernel lacks.
fn give_up(given_up: GivenUp, thread: Thread, arena: &Arena) -> Result<(), String> {
    if given_up == GivenUp::Nothing {
        return Ok(());
    }
    let file = &arena.config;
    let needs = if arena.is_server {
        Needs::of_server(&read_server(file).expect("sound").config, file)
    } else {
        Needs::of_gateway(&read_gateway(file).expect("sound").config, file)
    };
    let options = Options { require_sandbox: false, without_sandbox: given_up.without() };
    sandbox::enter(needs, &options).expect("nothing is required");
    if let GivenUp::Landlock(part) = given_up {
        let is_off = |p: &vestibule::telemetry::status::SandboxPart| {
            p.part == part.word() && p.why_off.is_some()
        };
        if sandbox::status().iter().any(is_off) {
            return Err(part.word().to_owned());
        }
    }
    sandbox::close_doors().expect("the kernel does what it did before");
    sandbox::confine(thread).expect("the kernel does what it did before");
    Ok(())
}
