//! Hosts of a measurement, as network namespaces: what runs in one has interfaces, addresses, socket
//! settings and sockets of its own. Needs root and `ip`.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Runtime;

use crate::error::BenchError;

/// Begins the name of every namespace of the bench, and of no other.
const NAME_PREFIX: &str = "vestibule-bench";
/// Where `ip` keeps them.
const FOLDER: &str = "/run/netns";

/// One host. Removed when dropped; what runs in it must have ended by then.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    handle: Arc<File>,
}

impl Namespace {
    /// A new one with nothing but loopback. `word` tells it from others of this process.
    pub(crate) fn new(word: &str) -> Result<Self, BenchError> {
        let name = format!("{NAME_PREFIX}-{}-{word}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let path = Path::new(FOLDER).join(&name);
        let opened =
            File::open(&path).map_err(BenchError::io(format!("opening {}", path.display())));
        let host = opened.map(|file| Self { name: name.clone(), handle: Arc::new(file) });
        let host = host.inspect_err(|_| remove(&name))?;
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// Runs `ip` on this host.
    pub(crate) fn ip(&self, words: &str) -> Result<(), BenchError> {
        ip(&format!("-n {} {words}", self.name))
    }

    /// A command that will run on this host.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does it in a thread on this host: sockets made there are its own.
    pub(crate) fn run<T: Send>(
        &self,
        act: impl FnOnce() -> Result<T, BenchError> + Send,
    ) -> Result<T, BenchError> {
        let entered = || {
            enter(&self.handle).map_err(BenchError::io(format!("entering {}", self.name)))?;
            act()
        };
        let result = thread::scope(|scope| scope.spawn(entered).join());
        result.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    }

    /// Sets a value below `/proc/sys/net`.
    pub(crate) fn set(&self, setting: &str, value: &str) -> Result<(), BenchError> {
        let path = Path::new("/proc/sys/net").join(setting);
        self.run(|| {
            fs::write(&path, value)
                .map_err(BenchError::io(format!("setting {} to {value}", path.display())))
        })
    }

    /// A runtime with one thread, whose tasks run on this host; `block_on` alone does not.
    pub(crate) fn runtime(&self) -> Result<Runtime, BenchError> {
        let handle = Arc::clone(&self.handle);
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || enter(&handle).expect("root may enter a namespace"))
            .build()
            .map_err(BenchError::io("starting a runtime"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes the namespaces of benches that were killed.
pub(crate) fn remove_leftovers() {
    let folder = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let names = folder.filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| name.starts_with(NAME_PREFIX)) {
        let owner = name.split('-').nth(2).unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            remove(&name);
        }
    }
}

/// Joins two hosts by a cable: each end with its name and address, in a network of 256.
pub(crate) fn connect(ends: [(&Namespace, &str, Ipv4Addr); 2]) -> Result<(), BenchError> {
    let [(one, one_device, _), (other, other_device, _)] = ends;
    ip(&format!(
        "link add {one_device} netns {} type veth peer name {other_device} netns {}",
        one.name, other.name
    ))?;
    for (host, device, address) in ends {
        host.ip(&format!("address add {address}/24 dev {device}"))?;
        host.ip(&format!("link set {device} up"))?;
    }
    Ok(())
}

/// Moves the calling thread, for good.
fn enter(handle: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn ip(words: &str) -> Result<(), BenchError> {
    let mut command = Command::new("ip");
    command.args(words.split(' '));
    crate::setup::run(&mut command)
}

fn remove(name: &str) {
    // Fails where it is gone already.
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
}
