//! What whoever takes a process would do first.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, mpsc};

use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketType};
use rustix::process::{DumpableBehavior, dumpable_behavior, getppid, test_kill_process};
use vestibule::uring::{Ring, Waker, start_control};

use super::trial::Arena;

/// Connects with the first bytes (linux/socket.h).
const MSG_FASTOPEN: u32 = 0x2000_0000;

/// An attempt, made after everything was given up.
type Tried = Box<dyn FnOnce() -> io::Result<()>>;

/// Makes what the attempt begins with, as a process has it that is taken while it runs. `None` where there
/// is no wish of that name.
pub(super) fn prepare(wish: &str, arena: &Arena) -> Option<Tried> {
    let kinds = [of_files, of_processes, of_sockets, of_rings];
    kinds.iter().find_map(|of_kind| of_kind(wish, arena))
}

fn of_files(wish: &str, arena: &Arena) -> Option<Tried> {
    let arena = arena.clone();
    let tried: Tried = match wish {
        "read-passwd" => Box::new(|| File::open("/etc/passwd").map(drop)),
        "read-shadow" => Box::new(|| File::open("/etc/shadow").map(drop)),
        "read-environment-of-parent" => {
            let environment = format!("/proc/{}/environ", parent_id());
            Box::new(move || fs::read(environment).map(drop))
        }
        "read-configuration" => Box::new(move || fs::read(&arena.config).map(drop)),
        "read-replaced-files" => read_replaced_files(arena.config.parent().expect("a folder")),
        "read-own-process" => Box::new(|| {
            fs::read_to_string("/proc/self/status")?;
            fs::read_dir("/proc/self/fd")?.try_for_each(|entry| entry.map(drop))
        }),
        "write-blocks" => {
            let folder = arena.config.parent().expect("a folder").join("state");
            Box::new(move || {
                let (draft, blocks) = (folder.join("blocks.toml.new"), folder.join("blocks.toml"));
                let mut file = File::create(&draft)?;
                file.write_all(b"x")?;
                file.sync_all()?;
                fs::rename(draft, blocks)?;
                File::open(folder)?.sync_all()
            })
        }
        "write-file" => Box::new(move || fs::write(arena.config.with_extension("mine"), "x")),
        _ => return None,
    };
    Some(tried)
}

fn of_processes(wish: &str, _: &Arena) -> Option<Tried> {
    let tried: Tried = match wish {
        "run-program" => Box::new(|| Err(Command::new("/bin/true").exec())),
        "start-process" => Box::new(|| Command::new("/bin/true").status().map(drop)),
        "enter-name-space" => {
            let network = File::open("/proc/self/ns/net").expect("it is its own");
            Box::new(move || Ok(rustix::thread::move_into_link_name_space(network.as_fd(), None)?))
        }
        "signal-parent" => {
            let parent = getppid().expect("it lives");
            Box::new(move || Ok(test_kill_process(parent)?))
        }
        "be-dumped" => Box::new(|| match dumpable_behavior()? {
            DumpableBehavior::Dumpable => Ok(()),
            other => Err(io::Error::other(format!("{other:?}"))),
        }),
        "abort" => Box::new(|| std::process::abort()),
        _ => return None,
    };
    Some(tried)
}

fn of_sockets(wish: &str, arena: &Arena) -> Option<Tried> {
    let arena = arena.clone();
    let tried: Tried = match wish {
        "connect" => Box::new(move || TcpStream::connect(arena.tcp).map(drop)),
        "connect-configured" => Box::new(move || TcpStream::connect(arena.configured).map(drop)),
        "connect-abstract" => Box::new(move || {
            let address = UnixAddress::from_abstract_name(&arena.abstract_name)?;
            UnixStream::connect_addr(&address).map(drop)
        }),
        "send-datagram" => {
            let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
            Box::new(move || socket.send_to(b"x", arena.udp).map(drop))
        }
        "turn-listener-round" => {
            let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            Box::new(move || {
                rustix::net::shutdown(&listener, Shutdown::Read)?;
                let flags = SendFlags::from_bits_retain(MSG_FASTOPEN);
                Ok(rustix::net::sendto(&listener, b"x", flags, &arena.tcp).map(drop)?)
            })
        }
        "listen" => Box::new(|| TcpListener::bind(("127.0.0.1", 0)).map(drop)),
        "packet-socket" => Box::new(|| {
            Ok(rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None).map(drop)?)
        }),
        _ => return None,
    };
    Some(tried)
}

fn of_rings(wish: &str, arena: &Arena) -> Option<Tried> {
    let arena = arena.clone();
    let tried: Tried = match wish {
        "make-ring" => Box::new(|| {
            let waker = Arc::new(Waker::new()?);
            Ring::new(waker).map(drop).map_err(io::Error::other)
        }),
        "connect-by-ring" => Box::new(move || connect_by_ring(&arena)),
        "open-by-ring" => Box::new(move || tokio_uring::start(open_by_ring(&arena.config))),
        "open-by-control-ring" => Box::new(move || {
            start_control(open_by_ring(&arena.config)).map_err(io::Error::other)?
        }),
        _ => return None,
    };
    Some(tried)
}

fn connect_by_ring(arena: &Arena) -> io::Result<()> {
    // Where the kernel refuses rings, the runtime would panic.
    Ring::new(Arc::new(Waker::new()?)).map_err(io::Error::other)?;
    let address = arena.tcp;
    tokio_uring::start(async move { tokio_uring::net::TcpStream::connect(address).await.map(drop) })
}

async fn open_by_ring(file: &Path) -> io::Result<()> {
    tokio_uring::fs::File::open(file).await?.close().await
}

/// As certbot keeps certificates, a link in `live` leads to a file in `archive`: whoever renews one writes
/// another file and turns the link. Editors put another file in the place of the first.
fn read_replaced_files(folder: &Path) -> Tried {
    let (key, config) = (folder.join("pki/gateway.test.key"), folder.join("gateway-1.toml"));
    let archive = folder.join("archive");
    fs::create_dir(&archive).expect("a new folder");
    fs::rename(&key, archive.join("gw1.key")).expect("the same file system");
    symlink("../archive/gw1.key", &key).expect("it was moved");
    // Somebody outside: a thread from before the sandbox is not bound by it.
    let (ask, asked) = mpsc::channel::<()>();
    let outside = std::thread::spawn({
        let (key, config) = (key.clone(), config.clone());
        move || {
            asked.recv().expect("the attempt begins");
            fs::copy(archive.join("gw1.key"), archive.join("gw2.key")).expect("writable");
            let (link, copy) = (key.with_extension("new"), config.with_extension("new"));
            symlink("../archive/gw2.key", &link).expect("a new link");
            fs::rename(&link, &key).expect("the same folder");
            fs::copy(&config, &copy).expect("writable");
            fs::rename(&copy, &config).expect("the same folder");
        }
    });
    Box::new(move || {
        ask.send(()).expect("it waits");
        outside.join().expect("it could do all that");
        fs::read(&key)?;
        fs::read(&config).map(drop)
    })
}
