//! Run in a guest, with `relay` as the test outside says.

use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::super::guest;
use crate::e2e::harness::{
    Backend, Digest, Ending, Kind, Peer, Process, RELAY, Site, Telemetry, World, assert_bulk,
    assert_talks, payload, wait_until, welcomed,
};

const SESSIONS: u64 = 24;
const BULK: usize = 4 * 1024 * 1024;

#[test]
#[ignore = "is run in guests by the tests of `kernels::kernel_tls`"]
fn gateway_and_server_say_that_the_kernel_has_the_records() {
    let relay = std::env::var(RELAY).expect("the test outside says it");
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut session = site.session(Kind::Tls, &backend);
    assert_talks(&mut session);
    for (telemetry, process) in
        [(site.gateway.telemetry, &site.gateway.process), (site.server_telemetry, &site.server)]
    {
        assert_eq!(telemetry.status().relay, relay);
        process.line("runs", &[("relay", &relay)]);
        assert!(telemetry.metric("vestibule_kernel_tls_legs_total") > 0);
    }
    let (mut agent, mut service) = session;
    agent.end();
    assert_eq!(service.ending(), Ending::Clean);
    service.end();
    assert_eq!(agent.ending(), Ending::Clean);
    site.gateway.process.line("session ended", &[("path", "ktls")]);
}

#[test]
#[ignore = "is run in guests by the tests of `kernels::kernel_tls`"]
fn what_the_kernel_has_sealed_goes_out_before_the_end_however_slow_the_reader() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    // Behind the end of the session the gateway closes when it has sent all, before it the way back stays open.
    for agent_ends_first in [true, false] {
        let (mut agent, mut service) = site.session(Kind::Tls, &backend);
        if agent_ends_first {
            agent.end();
            assert_eq!(service.ending(), Ending::Clean);
        }
        let service = read_slowly(&mut agent, service);
        if !agent_ends_first {
            agent.end();
            assert_eq!({ service }.ending(), Ending::Clean);
        }
    }
    site.assert_ended("finished", 2);
}

/// Sends much and an end, and reads it as over a slow link: buffers are full all the time.
fn read_slowly(agent: &mut Peer, mut service: Peer) -> Peer {
    SockRef::from(agent.socket()).set_recv_buffer_size(16 * 1024).expect("a socket");
    let sent = payload(7, BULK);
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        service.send(&copy);
        service.end();
        service
    });
    let mut received = Vec::new();
    let mut portion = vec![0; 32 * 1024];
    while received.len() < BULK {
        if received.len() % (8 * portion.len()) < portion.len() {
            thread::sleep(Duration::from_millis(20));
        }
        match agent.read(&mut portion).expect("no break") {
            0 => break,
            len => received.extend_from_slice(&portion[..len]),
        }
    }
    assert!(received == sent, "{} of {BULK} bytes", received.len());
    assert_eq!(agent.ending(), Ending::Clean);
    writer.join().expect("it does not panic")
}

#[test]
#[ignore = "is run in guests by the tests of `kernels::kernel_tls`"]
fn a_key_update_is_followed_where_the_kernel_can_and_elsewhere_ends_the_session_with_a_reason() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut session = site.session(Kind::Tls, &backend);
    assert_talks(&mut session);
    let (mut agent, mut service) = session;
    agent.update_keys().expect("it is sent");
    if guest::takes_new_keys() {
        for _ in 0..3 {
            session = (agent, service);
            assert_talks(&mut session);
            (agent, service) = session;
            agent.update_keys().expect("it is sent");
        }
        assert_bulk((agent, service), BULK);
        site.assert_ended("finished", 1);
        return;
    }
    // The gateway may have gone already.
    let _ = agent.write_all(b"under the new key");
    assert_eq!(service.ending(), Ending::Reset);
    assert_ne!(agent.ending(), Ending::Clean);
    site.assert_ended("key_updated", 1);
}

#[test]
#[ignore = "is run in guests by the tests of `kernels::kernel_tls`"]
fn a_record_that_has_come_in_part_before_the_kernel_has_the_keys_is_not_lost() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    // In its header, behind it, and one whole record before.
    for (legs, (cut, before)) in [(2, (3, 0)), (4, (5, 0)), (6, (700, 0)), (8, (700, 2_000))] {
        let mut agent = site.world.foreign_agent(&site.gateway);
        let mut records = agent.seal(&payload(1, before));
        let start = records.len() + cut;
        records.extend(agent.seal(&payload(2, 9_000)));
        agent.socket().write_all(&records[..start]).expect("the gateway takes it");
        let (mut agent, mut service) = welcomed(agent, &backend);
        agent.socket().write_all(&records[start..]).expect("the gateway takes it");
        service.expect(&[payload(1, before), payload(2, 9_000)].concat());
        wait_until("the kernel has both legs of each", || {
            agent.send(b"and more");
            service.expect(b"and more");
            site.gateway.telemetry.metric("vestibule_kernel_tls_legs_total") == legs
        });
        agent.end();
        assert_eq!(service.ending(), Ending::Clean);
        service.end();
        assert_eq!(agent.ending(), Ending::Clean);
    }
    site.assert_ended("finished", 4);
}

#[test]
#[ignore = "is run in guests by the tests of `kernels::kernel_tls`"]
fn a_forged_record_ends_the_session_and_its_content_goes_nowhere() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    let mut session = site.session(Kind::Tls, &backend);
    assert_talks(&mut session);
    let (agent, mut service) = session;
    let mut forged = vec![23, 3, 3, 0, 40];
    forged.extend([0x5a; 40]);
    let mut socket = agent.socket();
    socket.write_all(&forged).expect("the connection lives");
    assert_eq!(service.ending(), Ending::Reset);
    site.assert_ended("agent_corrupt", 1);
}

#[test]
#[ignore = "is run in guests by the tests of `kernels::kernel_tls`"]
fn many_sessions_are_whole_and_leave_nothing() {
    let site = Site::new(Backend::sink());
    let config = site.world.foreign_config();
    // But for connections, which spares are, and come and go.
    let held = |process: &Process, telemetry: Telemetry| {
        let connections = usize::try_from(telemetry.metric("vestibule_connections"));
        process.descriptors() - connections.expect("a few")
    };
    let held = || {
        let Site { gateway, server, server_telemetry, .. } = &site;
        [held(&gateway.process, gateway.telemetry), held(server, *server_telemetry)]
    };
    let round = || {
        thread::scope(|scope| {
            for seed in 0..SESSIONS {
                let (config, gateway) = (&config, &site.gateway);
                scope.spawn(move || {
                    let mut agent = Peer::dial_tls(gateway.tls, World::ECHO, config);
                    let bytes = payload(seed, 200_000);
                    agent.send(&bytes);
                    agent.end();
                    let digest =
                        Digest::of(&mut &bytes[..]).expect("memory is readable").to_bytes();
                    assert_eq!(agent.rest(), (digest, Ending::Clean));
                });
            }
        });
    };
    round();
    site.assert_ended("finished", 24);
    let mut before = held();
    wait_until("nothing is opened or closed any more", || {
        let now = held();
        std::mem::replace(&mut before, now) == now
    });
    round();
    site.assert_ended("finished", 48);
    wait_until("as many descriptors are open as before", || held() == before);
}

#[test]
#[ignore = "is run in guests by the tests of `kernels::kernel_tls`"]
fn bulk_over_more_records_than_a_pipe_holds_arrives_whole() {
    let backend = Backend::by_hand();
    let site = Site::new(backend.address);
    for _ in 0..3 {
        assert_bulk(site.session(Kind::Tls, &backend), BULK);
    }
    site.assert_ended("finished", 3);
}
