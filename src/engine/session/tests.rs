use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use socket2::SockRef;

use super::*;
use crate::config::DeviceCertificates;
use crate::limits::RECEIVE_LEN;
use crate::relay::{CloseReason, Party, RelayLimits};
use crate::tls::testing::{Authority, Folder, gateway_config};
use crate::tls::{BroughtLists, TlsConnection, client_config, listener_roles, load_roots};
use crate::uring::Readiness;
use crate::wire::{FrameDecoder, FromAgent, alpn};

const LIMITS: RelayLimits =
    RelayLimits { idle_timeout: None, half_closed_timeout: Duration::from_secs(60) };

/// A leg of ours and the blocking socket of its peer.
fn leg() -> (Leg, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let far = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let (near, _) = listener.accept().expect("accepts");
    near.set_nonblocking(true).expect("a socket");
    far.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    (Leg::plain(near), far)
}

/// A session that is told of everything all the time, as if the ring had news of each socket.
struct Pair {
    outer: Leg,
    inner: Leg,
    relay: Relay,
    moved: Moved,
    scratch: Scratch,
}

impl Pair {
    fn new(outer: Leg, inner: Leg) -> Self {
        let relay = Relay::new(Party::Agent, Party::Server, LIMITS, Instant::now());
        Self { outer, inner, relay, moved: Moved::default(), scratch: Scratch::default() }
    }

    fn turn(&mut self) -> Turn {
        let Self { outer, inner, relay, moved, scratch } = self;
        run(relay, moved, outer, inner, scratch, Instant::now())
    }

    /// Lets the session run until `done`, with news of both sockets before each turn.
    fn run_until(&mut self, mut done: impl FnMut(&mut Self, Turn) -> bool) {
        let news = Readiness { readable: true, writable: true, ..Readiness::default() };
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            self.outer.note(news);
            self.inner.note(news);
            let turn = self.turn();
            if done(self, turn) {
                return;
            }
            assert!(Instant::now() < end, "nothing came of it for 20 s");
            thread::yield_now();
        }
    }
}

fn finished() -> Turn {
    Turn::Over(Ending { reason: CloseReason::Finished, reset: false })
}

#[test]
fn half_close_keeps_the_return_path_open() {
    let ((outer, mut agent), (inner, mut server)) = (leg(), leg());
    let mut pair = Pair::new(outer, inner);
    agent.write_all(b"question").expect("sends");
    agent.shutdown(Shutdown::Write).expect("ends its direction");
    pair.run_until(|pair, _| pair.relay.has_ended(Side::Outer));
    let mut heard = String::new();
    pair.turn();
    server.read_to_string(&mut heard).expect("up to the end");
    assert_eq!(heard, "question");
    server.write_all(b"answer").expect("the return path is open");
    drop(server);
    pair.run_until(|_, turn| turn == finished());
    heard.clear();
    agent.read_to_string(&mut heard).expect("up to the end");
    assert_eq!((heard.as_str(), pair.moved), ("answer", Moved { inward: 8, outward: 6 }));
}

#[test]
fn a_reader_that_stops_makes_the_writer_stop_and_loses_nothing() {
    const LEN: usize = 64 << 20;
    let ((outer, mut agent), (inner, mut server)) = (leg(), leg());
    let mut pair = Pair::new(outer, inner);
    let writer = thread::spawn(move || {
        agent.write_all(&vec![7; LEN]).expect("all is taken in the end");
        agent
    });
    pair.run_until(|pair, turn| {
        assert!(pair.inner.outbox_len() <= RECEIVE_LEN, "no more than one receive is held");
        turn == Turn::Waits && pair.inner.outbox_len() > 0
    });
    let stopped = pair.moved.inward;
    assert!(stopped < LEN as u64, "the writer is held back");
    let reader = thread::spawn(move || {
        let mut buffer = Vec::new();
        server.read_to_end(&mut buffer).expect("up to the end");
        buffer
    });
    pair.run_until(|pair, _| pair.moved.inward == LEN as u64 && pair.inner.outbox_len() == 0);
    drop(writer.join().expect("the writer ends"));
    pair.run_until(|pair, _| pair.relay.has_ended(Side::Outer));
    pair.turn();
    assert_eq!(reader.join().expect("the reader ends").len(), LEN);
}

#[test]
fn a_reset_is_seen_also_while_the_other_leg_is_blocked() {
    let ((outer, mut agent), (inner, _server)) = (leg(), leg());
    let mut pair = Pair::new(outer, inner);
    let flood = agent.try_clone().expect("a socket");
    let writer = thread::spawn(move || {
        // Ends with the reset below.
        let _ = agent.write_all(&vec![7; 64 << 20]);
    });
    pair.run_until(|pair, turn| turn == Turn::Waits && pair.inner.outbox_len() > 0);
    SockRef::from(&flood).set_linger(Some(Duration::ZERO)).expect("a socket");
    flood.shutdown(Shutdown::Both).expect("wakes the writer");
    writer.join().expect("the writer ends");
    drop(flood);
    pair.outer.note(Readiness { failed: true, hung_up: true, ..Readiness::default() });
    let reset = Ending { reason: CloseReason::Reset(Party::Agent), reset: true };
    pair.run_until(|_, turn| turn == Turn::Over(reset));
}

/// Both ends of a TLS connection of our own agent, before their handshake.
fn tls() -> (TlsConnection, ClientConnection) {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "gateways-ca");
    let name = "gateway.example.com";
    let config = gateway_config(authority.issue(name), DeviceCertificates::None, &authority.file);
    let roles = listener_roles(&config, 0, &BroughtLists::default()).expect("good files");
    let roots = load_roots(&authority.file).expect("a CA");
    let client = client_config(roots, None, vec![alpn::AGENT.to_vec()]).expect("accepted");
    let server_name = name.try_into().expect("a DNS name");
    let client = ClientConnection::new(Arc::new(client), server_name).expect("accepted");
    (TlsConnection::server(roles.agent.config).expect("accepted"), client)
}

#[test]
fn a_handshake_survives_any_pause_between_its_bytes() {
    let (mut gateway, mut far) = leg();
    let (ours, mut agent) = tls();
    gateway.begin_tls(ours);
    let mut scratch = Scratch::default();
    while agent.is_handshaking() || gateway.tls().is_some_and(TlsConnection::is_handshaking) {
        let mut flight = Vec::new();
        while agent.wants_write() {
            agent.write_tls(&mut flight).expect("a Vec grows as needed");
        }
        for (index, byte) in flight.iter().enumerate() {
            far.write_all(&[*byte]).expect("sends");
            while gateway.socket().peek(&mut [0]).is_err() {
                thread::yield_now();
            }
            gateway.note(Readiness { readable: true, writable: true, ..Readiness::default() });
            let over = gateway.handshake(&mut scratch, &[]).expect("let in");
            assert!(!over || index + 1 == flight.len(), "not before the last byte");
        }
        if agent.is_handshaking() {
            agent.read_tls(&mut far).expect("our flight");
            agent.process_new_packets().expect("lets us in");
        }
    }
}

#[test]
fn a_close_notify_ends_a_direction_while_tcp_stays_open() {
    let ((mut outer, far), (inner, mut server)) = (leg(), leg());
    let (ours, tls) = tls();
    outer.begin_tls(ours);
    let mut scratch = Scratch::default();
    let agent = thread::spawn(move || {
        let mut agent = StreamOwned::new(tls, far);
        agent.write_all(b"question").expect("sends");
        agent.conn.send_close_notify();
        agent.flush().expect("sends");
        let mut heard = String::new();
        agent.read_to_string(&mut heard).expect("up to a close_notify");
        heard
    });
    while !outer.handshake(&mut scratch, &[]).expect("let in") {
        outer.note(Readiness { readable: true, writable: true, ..Readiness::default() });
    }
    let mut pair = Pair::new(outer, inner);
    pair.run_until(|pair, _| pair.relay.has_ended(Side::Outer));
    pair.turn();
    let mut heard = String::new();
    server.read_to_string(&mut heard).expect("up to the end");
    server.write_all(b"answer").expect("the return path is open");
    drop(server);
    pair.run_until(|_, turn| turn == finished());
    assert_eq!((heard.as_str(), agent.join().expect("no panic").as_str()), ("question", "answer"));
}

#[test]
fn an_end_that_came_with_payload_is_passed_on_without_further_news() {
    let ((outer, mut agent), (inner, server)) = (leg(), leg());
    let mut pair = Pair::new(outer, inner);
    agent.write_all(b"all there is").expect("sends");
    drop(agent);
    let news =
        Readiness { readable: true, writable: true, read_closed: true, ..Readiness::default() };
    // Both are in the socket before the one piece of news.
    while pair.outer.socket().peek(&mut [0; 32]).unwrap_or(0) == 0 {
        thread::yield_now();
    }
    pair.outer.note(news);
    pair.inner.note(Readiness { writable: true, ..Readiness::default() });
    while !pair.relay.has_ended(Side::Outer) {
        pair.turn();
    }
    drop(server);
    assert_eq!(pair.moved.inward, 12);
}

/// A TLS leg of ours after its handshake, with rustls at the other end.
fn tls_leg() -> (Leg, StreamOwned<ClientConnection, TcpStream>) {
    let (mut near, far) = leg();
    let (ours, tls) = tls();
    near.begin_tls(ours);
    let peer = thread::spawn(move || {
        let mut peer = StreamOwned::new(tls, far);
        peer.conn.complete_io(&mut peer.sock).expect("a handshake");
        peer
    });
    let mut scratch = Scratch::default();
    while !near.handshake(&mut scratch, &[]).expect("let in") {
        near.note(Readiness { readable: true, writable: true, ..Readiness::default() });
        thread::yield_now();
    }
    (near, peer.join().expect("no panic"))
}

#[test]
fn a_record_costs_no_allocation_once_a_session_runs() {
    const LEN: usize = 300_000;
    const ROUNDS: usize = 40;
    // The worker's own buffers and lists, which double until they hold one receive.
    const GROWTH: u64 = 20;
    let ((outer, mut agent), (inner, mut server)) = (tls_leg(), tls_leg());
    // Less than comes at once, so that bytes wait in the outbox as well.
    SockRef::from(inner.socket()).set_send_buffer_size(32 * 1024).expect("a socket");
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; LEN];
        for _ in 0..ROUNDS {
            server.read_exact(&mut buffer).expect("all arrives");
        }
        server
    });
    let mut pair = Pair::new(outer, inner);
    agent.conn.set_buffer_limit(None);
    let mut allocations = 0;
    for _ in 0..ROUNDS {
        agent.conn.writer().write_all(&vec![7; LEN]).expect("buffered");
        let mut sealed = Vec::new();
        while agent.conn.wants_write() {
            agent.conn.write_tls(&mut sealed).expect("a Vec grows as needed");
        }
        // In parts that end within a record.
        for part in sealed.chunks(77_777) {
            agent.sock.write_all(part).expect("sends");
            let arrived = pair.moved.inward;
            let info = allocation_counter::measure(|| {
                pair.run_until(|pair, turn| pair.moved.inward > arrived && turn == Turn::Waits);
            });
            allocations += info.count_total;
        }
    }
    pair.run_until(|pair, _| {
        pair.moved.inward == (ROUNDS * LEN) as u64 && pair.inner.outbox_len() == 0
    });
    reader.join().expect("all has arrived");
    assert!(allocations <= GROWTH, "{allocations} allocations, however many records there are");
}

#[test]
fn a_message_byte_by_byte_is_received_in_several_turns() {
    let (mut near, mut peer) = tls_leg();
    // The first bytes of a frame of 16 KiB, a record for each.
    let mut sealed = Vec::new();
    for byte in [&[0, 0, 0x40, 0][..], &[0; 5000]].concat() {
        peer.conn.writer().write_all(&[byte]).expect("buffered");
        peer.conn.write_tls(&mut sealed).expect("a Vec grows as needed");
    }
    SockRef::from(near.socket()).set_recv_buffer_size(4 * sealed.len()).expect("a socket");
    let len = sealed.len();
    let writer = thread::spawn(move || {
        peer.sock.write_all(&sealed).expect("sends");
        peer
    });
    let mut arrived = vec![0; len];
    while near.socket().peek(&mut arrived).unwrap_or(0) < len {
        thread::yield_now();
    }
    near.note(Readiness { readable: true, writable: true, ..Readiness::default() });
    let (mut decoder, mut scratch) = (FrameDecoder::default(), Scratch::default());
    assert_eq!(near.receive_message::<FromAgent>(&mut decoder, &mut scratch), Ok(None));
    assert!(near.has_input(), "the rest is left for another turn");
    writer.join().expect("no panic");
}

#[test]
fn a_refused_handshake_ends_with_its_alert_and_a_clean_end() {
    let (mut near, mut far) = leg();
    near.begin_tls(tls().0);
    let refused = near.handshake(&mut Scratch::default(), b"GET / HTTP/1.1\r\n\r\n");
    assert!(refused.is_err());
    near.end_writing().expect("there is nothing to seal");
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).expect("no reset");
    assert_eq!(heard.first(), Some(&21), "an alert: {heard:?}");
}

#[test]
fn the_kernel_moves_bulk_between_bare_legs_and_no_session_gets_what_another_left_in_the_pipe() {
    const LEN: usize = 8 << 20;
    let pattern = |seed: u8| -> Vec<u8> {
        (0..LEN).map(|at| (at / 7).to_le_bytes()[0] ^ (at % 251).to_le_bytes()[0] ^ seed).collect()
    };
    let mut scratch = Scratch::default();
    // The first one's reader goes away while bytes are on their way; those after it must not notice.
    for (seed, leaves) in [(1, true), (2, false), (3, false)] {
        let ((outer, mut agent), (inner, mut server)) = (leg(), leg());
        let mut pair = Pair::new(outer, inner);
        pair.scratch = scratch;
        let sent = pattern(seed);
        let expected = sent.clone();
        let writer = thread::spawn(move || {
            // Ends early where the reader leaves.
            let _ = agent.write_all(&sent);
            agent
        });
        let reader = thread::spawn(move || {
            let mut bytes = vec![0; if leaves { LEN / 4 } else { LEN }];
            server.read_exact(&mut bytes).expect("all that is read");
            (bytes, server)
        });
        if leaves {
            pair.run_until(|_, _| reader.is_finished());
            let (bytes, server) = reader.join().expect("the reader ends");
            assert!(bytes == expected[..LEN / 4]);
            SockRef::from(&server).set_linger(Some(Duration::ZERO)).expect("a socket");
            drop(server);
            pair.run_until(|_, turn| matches!(turn, Turn::Over(Ending { reset: true, .. })));
        } else {
            pair.run_until(|_, _| reader.is_finished());
            assert!(
                reader.join().expect("the reader ends").0 == expected,
                "each byte in its place"
            );
        }
        let Pair { outer, inner, scratch: used, .. } = pair;
        drop((outer, inner));
        writer.join().expect("the writer ends");
        scratch = used;
        assert!(scratch.take_pipe().is_some());
    }
}
