//! The signal connection carries invitations, and no payload.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use vestibule::wire::alpn;

use super::harness::{Backend, GatewayFile, ServerFile, Site, World, payload};

/// Between a server and its gateway: counts the bytes of each role. The ALPN of the ClientHello,
/// which TLS 1.3 does not hide, tells them apart.
#[derive(Default)]
struct Tap {
    signal: AtomicU64,
    data: AtomicU64,
}

impl Tap {
    fn start(self: &Arc<Self>, listen: SocketAddr, gateway: SocketAddr) {
        let listener = TcpListener::bind(listen).expect("an address of this world");
        let tap = Arc::clone(self);
        thread::spawn(move || {
            for server in listener.incoming().map_while(Result::ok) {
                let tap = Arc::clone(&tap);
                thread::spawn(move || tap.relay(&server, gateway));
            }
        });
    }

    fn relay(self: Arc<Self>, server: &TcpStream, gateway: SocketAddr) {
        // A gateway that is gone: the server sees the end of its connection.
        let Ok(gateway) = TcpStream::connect(gateway) else { return };
        let mut hello = vec![0; 16 * 1024];
        let Ok(len) = (&*server).read(&mut hello) else { return };
        let is_signal = hello[..len].windows(alpn::SIGNAL.len()).any(|part| part == alpn::SIGNAL);
        let count = || if is_signal { &self.signal } else { &self.data };
        count().fetch_add(len as u64, Ordering::Relaxed);
        if (&gateway).write_all(&hello[..len]).is_err() {
            return;
        }
        thread::scope(|scope| {
            scope.spawn(|| copy(server, &gateway, count()));
            copy(&gateway, server, count());
        });
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, count: &AtomicU64) {
    let mut portion = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut portion) {
        count.fetch_add(len as u64, Ordering::Relaxed);
        if to.write_all(&portion[..len]).is_err() {
            break;
        }
    }
    // It may be closed in both directions.
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn the_signal_connection_carries_no_payload_byte() {
    const PAYLOAD_LEN: usize = 4 * 1024 * 1024;
    let tap = Arc::new(Tap::default());
    let echo = Backend::echo();
    let site = Site::with(&GatewayFile::DEFAULT, |world: &World| {
        let listen = world.address(9, 13_000);
        tap.start(listen, world.address(1, 13_000));
        let file = ServerFile::new(world, &[("echo", echo)]);
        ServerFile { gateways: vec![listen.to_string()], ..file }
    });
    for seed in 0..3 {
        let mut agent = site.world.foreign_agent(&site.gateway);
        agent.expect_echo(&payload(seed, PAYLOAD_LEN));
        agent.end();
        agent.ending();
    }
    site.assert_ended("finished", 3);
    let (signal, data) = (tap.signal.load(Ordering::Relaxed), tap.data.load(Ordering::Relaxed));
    assert!(data > 3 * 2 * PAYLOAD_LEN as u64, "{data} bytes on the data connections");
    // Two handshakes' worth of certificates, and some hundred bytes for each session.
    assert!(signal < 16 * 1024, "{signal} bytes on the signal connection");
}
