//! Three hosts and the firewall between two of them, as network namespaces.
//!
//! ```text
//! internet ───── dmz ───── firewall ───── lan
//!   198.18.0.2    .1                                 fd00:180::/64
//!            198.18.1.1    .254                      fd00:181::/64
//!                          10.99.0.254    .2         fd00:99::/64
//! ```

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::panic;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The DMZ host as the internet sees it.
pub(super) const DMZ_OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
pub(super) const DMZ_OUTSIDE_V6: IpAddr =
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x180, 0, 0, 0, 0, 0, 1));
/// The DMZ host as the LAN sees it.
pub(super) const DMZ_INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 1, 1));
/// The host in the LAN.
pub(super) const LAN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2));
pub(super) const LAN_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 2));

/// Begins the name of every namespace of these tests, and of no other.
const NAME_PREFIX: &str = "vestibule-test";

/// Interfaces are named after the host at the other end.
const LINKS: &str = "
link add dmz netns INTERNET type veth peer name internet netns DMZ
link add firewall netns DMZ type veth peer name dmz netns FIREWALL
link add lan netns FIREWALL type veth peer name firewall netns LAN";

/// `nodad`: an address is usable at once, without a second of duplicate detection.
const ADDRESSES: &str = "
INTERNET 198.18.0.2/24 fd00:180::2/64 dmz
DMZ 198.18.0.1/24 fd00:180::1/64 internet
DMZ 198.18.1.1/24 fd00:181::1/64 firewall
FIREWALL 198.18.1.254/24 fd00:181::254/64 dmz
FIREWALL 10.99.0.254/24 fd00:99::254/64 lan
LAN 10.99.0.2/24 fd00:99::2/64 firewall";

/// The dmz knows the way to the lan: were it not for the firewall, its packets would arrive.
const ROUTES: &str = "
DMZ 10.99.0.0/24 198.18.1.254
DMZ fd00:99::/64 fd00:181::254
LAN 198.18.0.0/15 10.99.0.254
LAN fd00:180::/31 fd00:99::254";

/// What the DMZ may send into the LAN: answers. `new_connections` must stay at zero; `strays` are
/// late packets of connections that have ended, such as one that a killed process reset.
const RULES: &str = r#"
table inet vestibule {
    counter new_connections {}
    counter strays {}
    chain forward {
        type filter hook forward priority filter; policy drop;
        iifname "lan" accept
        ct state established ct direction reply accept
        ct state related accept
        ct state new counter name new_connections drop
        counter name strays drop
    }
}"#;

/// One host.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run on this host, as root.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does it in a thread on this host: sockets made there, and threads begun there, are its own.
    pub(super) fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            self.enter();
            act()
        };
        let result = thread::scope(|scope| scope.spawn(entered).join());
        result.unwrap_or_else(|cause| panic::resume_unwind(cause))
    }

    /// Moves the calling thread, for good.
    pub(super) fn enter(&self) {
        let path = Path::new("/run/netns").join(&self.name);
        let file = File::open(&path).expect("the namespace lives as long as its name");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter a namespace");
    }

    fn set(&self, setting: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(setting);
        self.run(|| fs::write(&path, value).expect("a setting of the kernel"));
    }

    fn nft(&self, script: &str) {
        feed(self.command("nft").args(["-f", "-"]), script);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// The hosts, connected. Its namespaces are removed when it is dropped, after a panic as well.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) internet: Namespace,
    pub(super) dmz: Namespace,
    pub(super) firewall: Namespace,
    pub(super) lan: Namespace,
}

impl Network {
    pub(super) fn new() -> Self {
        static LEFTOVERS: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        LEFTOVERS.call_once(remove_leftovers);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let host = |word: &str| {
            let name = format!("{NAME_PREFIX}-{}-{number}-{word}", std::process::id());
            ip(&format!("netns add {name}"));
            Namespace { name }
        };
        let network = Self {
            internet: host("internet"),
            dmz: host("dmz"),
            firewall: host("firewall"),
            lan: host("lan"),
        };
        network.connect();
        network.guard();
        network
    }

    fn connect(&self) {
        let lines = |table: &'static str| table.lines().filter(|line| !line.is_empty());
        for link in lines(LINKS) {
            ip(&self.named(link));
        }
        for host in [&self.internet, &self.dmz, &self.firewall, &self.lan] {
            ip(&format!("-n {} link set lo up", host.name));
        }
        for line in lines(ADDRESSES) {
            let words = self.named(line);
            let [host, v4, v6, device] = words.split(' ').collect::<Vec<_>>()[..] else {
                panic!("not an address: {line}")
            };
            ip(&format!("-n {host} link set {device} up"));
            ip(&format!("-n {host} address add {v4} dev {device}"));
            ip(&format!("-n {host} address add {v6} dev {device} nodad"));
        }
        self.firewall.set("ipv4/ip_forward", "1");
        self.firewall.set("ipv6/conf/all/forwarding", "1");
        for line in lines(ROUTES) {
            let words = self.named(line);
            let [host, to, via] = words.split(' ').collect::<Vec<_>>()[..] else {
                panic!("not a route: {line}")
            };
            ip(&format!("-n {host} route add {to} via {via}"));
        }
    }

    /// Without `tcp_loose`, a packet in the middle of a connection that nobody opened is no start of
    /// one: what the dmz makes up does not count as an answer.
    fn guard(&self) {
        self.firewall.nft(RULES);
        self.firewall.set("netfilter/nf_conntrack_tcp_loose", "0");
    }

    fn named(&self, line: &str) -> String {
        line.replace("INTERNET", &self.internet.name)
            .replace("DMZ", &self.dmz.name)
            .replace("FIREWALL", &self.firewall.name)
            .replace("LAN", &self.lan.name)
    }

    /// Packets that tried to open something in the lan from the dmz.
    pub(super) fn attempts_to_enter(&self) -> u64 {
        self.counter("new_connections")
    }

    /// Packets from the dmz that belonged to no connection any more.
    pub(super) fn strays(&self) -> u64 {
        self.counter("strays")
    }

    fn counter(&self, name: &str) -> u64 {
        let mut nft = self.firewall.command("nft");
        let text = output(nft.args(["-j", "list", "counter", "inet", "vestibule", name]));
        let page: serde_json::Value = serde_json::from_str(&text).expect("nft speaks JSON");
        let mut objects = page["nftables"].as_array().into_iter().flatten();
        let counter = objects.find_map(|object| object.get("counter"));
        counter.and_then(|counter| counter["packets"].as_u64()).expect("the counter is there")
    }

    /// Swallows every packet between dmz and lan, without a word to either, until the end of the
    /// returned value.
    pub(super) fn cut(&self) -> Silence<'_> {
        self.silence("drop")
    }

    /// Swallows what `rule` matches, in the words of nftables: `iifname "lan" tcp sport 4711`.
    pub(super) fn swallow(&self, rule: &str) -> Silence<'_> {
        self.silence(&format!("{rule} drop"))
    }

    /// Swallows what comes to the gateway's host and matches `rule`.
    pub(super) fn swallow_at_the_gateway(&self, rule: &str) -> Silence<'_> {
        Silence::on(&self.dmz, "input", &format!("{rule} drop"))
    }

    fn silence(&self, rule: &str) -> Silence<'_> {
        Silence::on(&self.firewall, "forward", rule)
    }
}

/// Packets are swallowed while it lives.
#[derive(Debug)]
pub(super) struct Silence<'a> {
    host: &'a Namespace,
}

impl<'a> Silence<'a> {
    fn on(host: &'a Namespace, hook: &str, rule: &str) -> Self {
        host.nft(&format!(
            "table inet silence {{
                chain silence {{
                    type filter hook {hook} priority filter - 10; policy accept;
                    {rule}
                }}
            }}"
        ));
        Self { host }
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.host.nft("delete table inet silence");
    }
}

/// Names of those of our namespaces that exist on this machine.
pub(super) fn existing() -> Vec<String> {
    let folder = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = folder.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(NAME_PREFIX)).collect()
}

/// Removes the namespaces of test processes that were killed, with whatever still runs in them.
pub(super) fn remove_leftovers() {
    for name in existing() {
        let owner = name.split('-').nth(2).unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    for pid in pids.unwrap_or_default().lines().filter_map(|line| line.trim().parse().ok()) {
        // A thread of this process may be inside: it ends by itself.
        if pid != std::process::id().cast_signed()
            && let Some(pid) = Pid::from_raw(pid)
        {
            // One that ended meanwhile is as dead as it should be.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
}

fn ip(words: &str) {
    output(Command::new("ip").args(words.split(' ')));
}

/// Runs it to its end, which must be a good one.
pub(super) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn feed(command: &mut Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("the program is installed");
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(input.as_bytes()).expect("it reads its input");
    drop(stdin);
    let status = child.wait().expect("it is our child");
    assert!(status.success(), "{command:?}: {status}: {input}");
}
