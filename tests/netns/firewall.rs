//! The network itself: whatever the other tests conclude from it holds only if these do.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::panic;
use std::process::Command;
use std::time::Duration;

use super::network::{self, DMZ_INSIDE, LAN, LAN_V6, Namespace, Network};

/// Long enough for a first packet, its repetition, and an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

fn listen(host: &Namespace, address: IpAddr) -> TcpListener {
    host.run(|| TcpListener::bind((address, 0)).expect("a free port"))
}

fn connect(host: &Namespace, address: SocketAddr) -> io::Result<TcpStream> {
    host.run(|| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT))
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_connection_from_the_dmz_to_the_lan_is_dropped_and_counted() {
    let network = Network::new();
    for address in [LAN, LAN_V6] {
        let before = network.attempts_to_enter();
        let listener = listen(&network.lan, address);
        let target = listener.local_addr().expect("it is bound");
        let error = connect(&network.dmz, target).expect_err("the firewall drops it");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "dropped, not refused: {error}");
        assert!(network.attempts_to_enter() > before, "{target}");
        connect(&network.lan, target).expect("it is only the way from the dmz that is closed");
    }
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_connection_from_the_lan_to_the_dmz_carries_both_ways_and_is_not_counted() {
    let network = Network::new();
    let listener = listen(&network.dmz, DMZ_INSIDE);
    let address = listener.local_addr().expect("it is bound");
    let mut inner = connect(&network.lan, address).expect("the way out is open");
    let (mut outer, peer) = listener.accept().expect("it has come");
    assert_eq!(peer.ip(), LAN, "nobody translates addresses on the way");
    let mut bytes = [0; 4];
    inner.write_all(b"ping").and_then(|()| outer.read_exact(&mut bytes)).expect("out");
    assert_eq!(&bytes, b"ping");
    outer.write_all(b"pong").and_then(|()| inner.read_exact(&mut bytes)).expect("back");
    assert_eq!(&bytes, b"pong");
    assert_eq!(network.attempts_to_enter(), 0);
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_cut_link_is_silent_and_a_restored_one_delivers_what_was_sent_meanwhile() {
    let network = Network::new();
    let listener = listen(&network.dmz, DMZ_INSIDE);
    let mut inner = connect(&network.lan, listener.local_addr().expect("it is bound"))
        .expect("the way out is open");
    let (mut outer, _) = listener.accept().expect("it has come");
    outer.set_read_timeout(Some(Duration::from_millis(300))).expect("an option");
    let cut = network.cut();
    inner.write_all(b"ping").expect("the kernel takes it");
    let mut bytes = [0; 4];
    let error = outer.read_exact(&mut bytes).expect_err("nothing arrives");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "silence, no reset: {error}");
    drop(cut);
    outer.set_read_timeout(Some(Duration::from_secs(20))).expect("an option");
    outer.read_exact(&mut bytes).expect("TCP sends it again");
    assert_eq!(&bytes, b"ping");
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn the_internet_has_no_way_into_the_lan() {
    let network = Network::new();
    let listener = listen(&network.lan, LAN);
    let target = listener.local_addr().expect("it is bound");
    let error = connect(&network.internet, target).expect_err("there is no route");
    assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable, "{error}");
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_test_that_panics_leaves_no_namespace_and_no_process() {
    let mut host = String::new();
    let mut sleeper = None;
    let failed = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let network = Network::new();
        network.lan.name().clone_into(&mut host);
        assert!(network::existing().contains(&host));
        let mut sleep = network.lan.command("sleep");
        sleeper = Some(sleep.arg("1000").spawn().expect("it is installed"));
        panic!("as a failed test does");
    }));
    assert!(failed.is_err() && sleeper.is_some());
    assert!(!network::existing().contains(&host));
    let status = sleeper.expect("it was started").wait().expect("it is our child");
    assert!(!status.success(), "it was killed");
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn namespaces_of_a_killed_run_are_removed() {
    let mut child = Command::new("true").spawn().expect("it is installed");
    let dead = child.id();
    child.wait().expect("it is our child");
    let name = format!("vestibule-test-{dead}-0-lan");
    network::output(Command::new("ip").args(["netns", "add", &name]));
    assert!(network::existing().contains(&name));
    network::remove_leftovers();
    assert!(!network::existing().contains(&name));
}
