//! An agent against gateways that each test plays itself, with real sockets and real TLS.

mod world;

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use self::world::{
    FakeGateway, LONG, RunningAgent, World, abort, end, expect, expect_reset, expect_to_end,
    expect_truncation, joined, local_pair, opened_frame, say, soon,
};
use super::session;
use crate::config::AgentConfig;
use crate::relay::{CloseReason, Party};
use crate::tls::load_certificates;
use crate::wire::RefusalReason;

#[tokio::test]
async fn bytes_go_both_ways_after_opened() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    let mut session = gateway.accept().await;
    assert_eq!(session.service, "ssh");
    session.opened().await;

    say(&mut local, b"from the local program").await;
    expect(&mut session.stream, b"from the local program").await;
    say(&mut session.stream, b"from the backend").await;
    expect(&mut local, b"from the backend").await;
}

#[tokio::test]
async fn a_greeting_right_behind_opened_is_not_lost() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    let mut session = gateway.accept().await;

    let mut bytes = opened_frame();
    bytes.extend_from_slice(b"SSH-2.0-backend\r\n");
    say(&mut session.stream, &bytes).await;
    expect(&mut local, b"SSH-2.0-backend\r\n").await;
}

#[tokio::test]
async fn much_arrives_complete_and_in_order_both_ways() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    let mut session = gateway.accept().await;
    session.opened().await;

    let much: Vec<u8> = (0..4_000_000_u32).flat_map(u32::to_be_bytes).take(5_000_001).collect();
    let (mut local_reader, mut local_writer) = local.split();
    let (mut session_reader, mut session_writer) = tokio::io::split(session.stream);
    let (mut outward, mut inward) = (Vec::new(), Vec::new());
    soon(async {
        let send_out = async {
            local_writer.write_all(&much).await?;
            local_writer.shutdown().await
        };
        let send_in = async {
            session_writer.write_all(&much).await?;
            session_writer.shutdown().await
        };
        tokio::try_join!(
            send_out,
            send_in,
            session_reader.read_to_end(&mut outward),
            local_reader.read_to_end(&mut inward)
        )
    })
    .await
    .expect("no leg fails");
    assert!(outward == much && inward == much);
}

#[tokio::test]
async fn a_local_half_close_keeps_the_return_path_open() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    let mut session = gateway.accept().await;
    session.opened().await;

    say(&mut local, b"question").await;
    end(&mut local).await;
    expect_to_end(&mut session.stream, b"question").await;
    // TCP ended behind TLS, in this direction alone.
    expect_to_end(session.stream.get_mut().0, b"").await;
    say(&mut session.stream, b"answer").await;
    end(&mut session.stream).await;
    expect_to_end(&mut local, b"answer").await;
}

#[tokio::test]
async fn a_half_close_by_the_gateway_keeps_the_way_out_open() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    let mut session = gateway.accept().await;
    session.opened().await;

    say(&mut session.stream, b"all I have").await;
    end(&mut session.stream).await;
    expect_to_end(&mut local, b"all I have").await;
    say(&mut local, b"more of mine").await;
    end(&mut local).await;
    expect_to_end(&mut session.stream, b"more of mine").await;
}

#[tokio::test]
async fn a_refusal_resets_the_local_connection() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    gateway.accept().await.refused(RefusalReason::ServiceUnknown).await;
    expect_reset(&mut local).await;
}

#[tokio::test]
async fn a_truncation_by_the_gateway_resets_the_local_connection() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    let mut session = gateway.accept().await;
    session.opened().await;

    say(&mut session.stream, b"half of it").await;
    expect(&mut local, b"half of it").await;
    // Closes TCP without a close_notify.
    drop(session);
    expect_reset(&mut local).await;
}

#[tokio::test]
async fn a_local_reset_reaches_the_gateway_as_a_truncation() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    let mut session = gateway.accept().await;
    session.opened().await;
    say(&mut session.stream, b"hello").await;
    expect(&mut local, b"hello").await;

    abort(local);
    expect_truncation(&mut session.stream).await;
}

#[tokio::test]
async fn a_local_program_that_leaves_while_it_waits_ends_the_request() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let local = agent.connect().await;
    let mut session = gateway.accept().await;

    abort(local);
    expect_truncation(&mut session.stream).await;
}

#[tokio::test]
async fn a_gateway_that_is_gone_or_draining_or_fails_is_followed_by_the_next() {
    let world = World::new();
    let gone = FakeGateway::new(&world, "gateway.test").await;
    let draining = FakeGateway::new(&world, "gateway.test").await;
    let failing = FakeGateway::new(&world, "gateway.test").await;
    let good = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gone, &draining, &failing, &good]).await;
    drop(gone);

    let mut local = agent.connect().await;
    draining.accept().await.refused(RefusalReason::Draining).await;
    drop(failing.accept().await);
    let mut session = good.accept().await;
    session.opened().await;
    say(&mut session.stream, b"hello").await;
    expect(&mut local, b"hello").await;
}

#[tokio::test]
async fn a_local_connection_waits_for_a_gateway_that_is_away_and_keeps_the_time_that_it_told() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let config = AgentConfig { retry_for: LONG, ..world.config(&[&gateway]) };
    let agent = RunningAgent::with(config).await;
    let mut local = agent.connect().await;
    say(&mut local, b"said meanwhile").await;
    drop(gateway.accept().await);
    let told = Duration::from_millis(300);
    gateway.accept().await.refused_for(RefusalReason::NoServer, 300).await;
    let refused = Instant::now();
    let mut session = gateway.accept().await;
    assert!(refused.elapsed() >= told);
    session.opened().await;
    expect(&mut session.stream, b"said meanwhile").await;
}

#[tokio::test]
async fn the_gateway_that_worked_last_is_asked_first() {
    let world = World::new();
    let first = FakeGateway::new(&world, "gateway.test").await;
    let second = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&first, &second]).await;

    let mut earlier = agent.connect().await;
    first.accept().await.refused(RefusalReason::NoServer).await;
    let mut session = second.accept().await;
    session.opened().await;
    say(&mut session.stream, b"hello").await;
    expect(&mut earlier, b"hello").await;

    let _later = agent.connect().await;
    tokio::select! {
        _ = second.accept() => {}
        _ = first.accept() => panic!("the gateway that refused was asked first"),
    }
}

#[tokio::test]
async fn a_final_refusal_is_not_taken_to_the_next_gateway() {
    let world = World::new();
    let first = FakeGateway::new(&world, "gateway.test").await;
    let second = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&first, &second]).await;

    let mut local = agent.connect().await;
    first.accept().await.refused(RefusalReason::DeviceNotAllowed).await;
    tokio::select! {
        () = expect_reset(&mut local) => {}
        _ = second.accept() => panic!("the second gateway was asked"),
    }
}

#[tokio::test]
async fn a_gateway_of_a_wrong_name_gets_no_request() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "elsewhere.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    assert!(gateway.handshake().await.is_err());
    expect_reset(&mut local).await;
}

#[tokio::test]
async fn a_gateway_of_another_ca_gets_no_request() {
    let (world, other_world) = (World::new(), World::new());
    let gateway = FakeGateway::new(&other_world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    assert!(gateway.handshake().await.is_err());
    expect_reset(&mut local).await;
}

#[tokio::test]
async fn a_tls_server_that_is_no_gateway_gets_no_request() {
    let world = World::new();
    let server = FakeGateway::with_alpn(&world, "gateway.test", vec![]).await;
    let agent = RunningAgent::new(&world, &[&server]).await;
    let mut local = agent.connect().await;
    let mut stream = server.handshake().await.expect("the agent accepts it so far");
    expect_truncation(&mut stream).await;
    expect_reset(&mut local).await;
}

#[tokio::test]
async fn the_device_certificate_is_shown() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let _local = agent.connect().await;
    let session = gateway.accept().await;
    let file = world.credentials("device.test").certificate;
    let expected = load_certificates(&file).expect("it was just made");
    assert_eq!(session.stream.get_ref().1.peer_certificates(), Some(expected.as_slice()));
}

#[tokio::test]
async fn connections_beyond_the_bound_are_reset_and_a_place_is_free_again_after_an_end() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut first = agent.connect().await;
    let mut session = gateway.accept().await;
    session.opened().await;
    let _second = agent.connect().await;
    let _second_session = gateway.accept().await;
    let mut excess = agent.connect().await;
    expect_reset(&mut excess).await;

    end(&mut session.stream).await;
    end(&mut first).await;
    expect_to_end(&mut session.stream, b"").await;
    expect_to_end(&mut first, b"").await;
    let _third = agent.connect().await;
    gateway.accept().await.opened().await;
}

#[tokio::test]
async fn live_sessions_finish_after_the_shutdown_and_no_new_one_begins() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    let mut session = gateway.accept().await;
    session.opened().await;

    let address = agent.address;
    agent.shutdown.send(()).expect("the agent listens");
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    say(&mut session.stream, b"the rest").await;
    end(&mut session.stream).await;
    expect_to_end(&mut local, b"the rest").await;
    drop(local);
    expect_to_end(&mut session.stream, b"").await;
    soon(agent.task).await.expect("the agent ends by itself");
}

#[tokio::test]
async fn an_agent_that_is_dropped_resets_its_sessions() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let agent = RunningAgent::new(&world, &[&gateway]).await;
    let mut local = agent.connect().await;
    let mut session = gateway.accept().await;
    session.opened().await;
    say(&mut session.stream, b"hello").await;
    expect(&mut local, b"hello").await;

    agent.task.abort();
    expect_reset(&mut local).await;
    expect_truncation(&mut session.stream).await;
}

#[tokio::test]
async fn a_session_that_the_drain_cuts_is_reset() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;
    let gateways = world.gateways(&[&gateway]).await;
    let (mut program, local) = local_pair().await;
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(session::serve(local, "ssh".into(), gateways, stopped));
    let mut session = gateway.accept().await;
    session.opened().await;
    say(&mut session.stream, b"hello").await;
    expect(&mut program, b"hello").await;

    stop.send_replace(true);
    expect_reset(&mut program).await;
    soon(task).await.expect("the session ends by itself");
}

#[tokio::test]
async fn each_end_of_a_session_has_its_reason() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;

    let (_program, mut relay, mut session) = joined(&world, &gateway).await;
    end(&mut session.stream).await;
    let reason = soon(relay.run(Duration::from_millis(1))).await;
    assert_eq!(reason, CloseReason::HalfClosedTimeout);

    let (mut program, mut relay, mut session) = joined(&world, &gateway).await;
    say(&mut program, b"four").await;
    end(&mut program).await;
    say(&mut session.stream, b"seven!!").await;
    end(&mut session.stream).await;
    assert_eq!(soon(relay.run(LONG)).await, CloseReason::Finished);
    assert_eq!((relay.bytes_out(), relay.bytes_in()), (4, 7));
}

#[tokio::test]
async fn a_connection_that_fails_says_whose_failure_it_was() {
    let world = World::new();
    let gateway = FakeGateway::new(&world, "gateway.test").await;

    let (_program, mut relay, session) = joined(&world, &gateway).await;
    drop(session);
    assert_eq!(soon(relay.run(LONG)).await, CloseReason::Truncated(Party::Gateway));

    let (_program, mut relay, session) = joined(&world, &gateway).await;
    abort(session.stream.into_inner().0);
    assert_eq!(soon(relay.run(LONG)).await, CloseReason::Reset(Party::Gateway));

    let (_program, mut relay, mut session) = joined(&world, &gateway).await;
    say(session.stream.get_mut().0, b"no TLS at all").await;
    assert_eq!(soon(relay.run(LONG)).await, CloseReason::Corrupt(Party::Gateway));

    let (program, mut relay, _session) = joined(&world, &gateway).await;
    abort(program);
    assert_eq!(soon(relay.run(LONG)).await, CloseReason::Reset(Party::Local));
}
