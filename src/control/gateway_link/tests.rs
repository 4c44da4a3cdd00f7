use std::time::Duration;

use super::*;
use crate::limits::{PING_INTERVAL, RECONNECT_MAX, RECONNECT_MIN, SIGNAL_DEAD_AFTER};
use crate::wire::{Crl, CrlAnswer};

mod successor;

const INSTANCE: &str = "00112233445566ff";

/// A link with a clock that jumps to whatever is due.
struct Bench {
    link: GatewayLink,
    now: Instant,
}

fn to_server(message: to_server::Message) -> ToServer {
    ToServer { message: Some(message) }
}

fn hello() -> to_server::Message {
    let services = vec!["web".to_owned()];
    let instance = INSTANCE.to_owned();
    to_server::Message::GatewayHello(GatewayHello { instance, services, ..Default::default() })
}

fn invitation(service: &str) -> Invitation {
    Invitation {
        id: 7,
        ticket: vec![1; TICKET_LEN],
        service: service.to_owned(),
        ..Default::default()
    }
}

fn declined(reason: RefusalReason) -> GatewayAction {
    let decline = Decline { id: 7, reason: reason.into() };
    GatewayAction::Send(FromServer { message: Some(from_server::Message::Decline(decline)) })
}

fn goodbye() -> GatewayAction {
    GatewayAction::Send(FromServer { message: Some(from_server::Message::Goodbye(Goodbye {})) })
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self { link: GatewayLink::new(&[ServiceOffer::new("web")], 10, 2, now), now }
    }

    fn up() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.jump(), [GatewayAction::Dial]);
        assert_eq!(bench.happen(GatewayEvent::Dialed).len(), 1);
        assert_eq!(bench.hear(hello()), []);
        assert!(bench.link.is_up());
        bench
    }

    /// The longest jitter.
    fn happen(&mut self, event: GatewayEvent) -> Vec<GatewayAction> {
        self.link.handle(event, self.now, &mut |bytes| bytes.fill(0xff));
        self.actions()
    }

    fn hear(&mut self, message: to_server::Message) -> Vec<GatewayAction> {
        self.happen(GatewayEvent::Message(to_server(message)))
    }

    fn jump(&mut self) -> Vec<GatewayAction> {
        self.now = self.link.next_timeout().expect("something is due");
        self.link.handle_timeout(self.now, &mut |bytes| bytes.fill(0xff));
        self.actions()
    }

    fn actions(&mut self) -> Vec<GatewayAction> {
        std::iter::from_fn(|| self.link.poll_action()).collect()
    }

    /// How long it waits before it dials.
    fn wait(&mut self) -> Duration {
        let before = self.now;
        assert_eq!(self.jump(), [GatewayAction::Dial]);
        self.now - before
    }

    fn wait_for_close(&mut self) -> Duration {
        let before = self.now;
        while !self.jump().contains(&GatewayAction::Close(CloseReason::SignalSilent)) {}
        self.now - before
    }
}

#[test]
fn it_dials_at_once_and_says_hello() {
    let mut bench = Bench::new();
    assert_eq!(bench.wait(), Duration::ZERO);
    let actions = bench.happen(GatewayEvent::Dialed);
    let [GatewayAction::Send(FromServer { message: Some(message) })] = &actions[..] else {
        panic!("{actions:?}")
    };
    let from_server::Message::ServerHello(hello) = message else { panic!("{message:?}") };
    assert_eq!((hello.services.as_slice(), hello.capacity), (&["web".to_owned()][..], 10));
}

#[test]
fn each_failure_doubles_the_wait_up_to_the_longest() {
    let mut bench = Bench::new();
    bench.wait();
    let mut expected = RECONNECT_MIN;
    for _ in 0..100 {
        bench.happen(GatewayEvent::DialFailed);
        assert_eq!(bench.wait(), expected);
        expected = (expected * 2).min(RECONNECT_MAX);
    }
}

#[test]
fn a_sound_connection_forgives_earlier_failures_and_a_short_one_does_not() {
    let mut bench = Bench::up();
    bench.happen(GatewayEvent::Closed);
    assert_eq!(bench.wait(), RECONNECT_MIN);
    bench.happen(GatewayEvent::Dialed);
    bench.hear(hello());
    bench.happen(GatewayEvent::Closed);
    assert_eq!(bench.wait(), RECONNECT_MIN * 2);
    bench.happen(GatewayEvent::Dialed);
    bench.hear(hello());
    bench.now += SIGNAL_SOUND_AFTER;
    bench.happen(GatewayEvent::Closed);
    assert_eq!(bench.wait(), RECONNECT_MIN);
}

#[test]
fn a_gateway_that_does_not_answer_the_dial_or_the_hello_is_given_up() {
    let mut bench = Bench::new();
    bench.wait();
    assert_eq!(bench.wait_for_close(), DIAL_TIMEOUT);
    bench.wait();
    bench.happen(GatewayEvent::Dialed);
    assert_eq!(bench.wait_for_close(), SIGNAL_HELLO_TIMEOUT);
}

#[test]
fn a_gateway_that_falls_silent_is_dead_after_two_pings() {
    let mut bench = Bench::up();
    let start = bench.now;
    for nonce in [1, 2] {
        let ping = from_server::Message::Ping(Ping { nonce });
        assert_eq!(bench.jump(), [GatewayAction::Send(FromServer { message: Some(ping) })]);
        assert_eq!(bench.now, start + PING_INTERVAL * u32::try_from(nonce).expect("small"));
    }
    assert_eq!(bench.jump(), [GatewayAction::Close(CloseReason::SignalSilent)]);
    assert_eq!(bench.now, start + SIGNAL_DEAD_AFTER);
    assert!(!bench.link.is_up());
}

#[test]
fn an_invitation_is_passed_on_with_the_instance_of_its_gateway() {
    let mut bench = Bench::up();
    let actions = bench.hear(to_server::Message::Invitation(invitation("web")));
    let instance = INSTANCE.to_owned();
    assert_eq!(actions, [GatewayAction::Invited { invitation: invitation("web"), instance }]);
}

#[test]
fn an_invitation_for_a_service_that_is_not_served_is_declined() {
    let mut bench = Bench::up();
    let actions = bench.hear(to_server::Message::Invitation(invitation("ssh")));
    assert_eq!(actions, [declined(RefusalReason::ServiceUnknown)]);
}

#[test]
fn a_decline_without_its_connection_goes_nowhere() {
    let event = GatewayEvent::Decline { id: 7, reason: RefusalReason::BackendRefused };
    let mut bench = Bench::up();
    assert_eq!(bench.happen(event.clone()), [declined(RefusalReason::BackendRefused)]);
    bench.happen(GatewayEvent::Closed);
    assert_eq!(bench.happen(event), []);
}

#[test]
fn what_has_no_place_ends_the_connection() {
    let mut spoiled = invitation("web");
    spoiled.ticket.pop();
    let unknown = ToServer { message: None };
    for (message, reason) in [
        (to_server(hello()), CloseReason::MessageUnexpected),
        (to_server(to_server::Message::Invitation(spoiled)), CloseReason::FrameInvalid),
        (unknown, CloseReason::MessageUnknown),
    ] {
        let actions = Bench::up().happen(GatewayEvent::Message(message));
        assert_eq!(actions, [GatewayAction::Close(reason)]);
    }
}

#[test]
fn nothing_but_a_hello_with_an_instance_comes_first() {
    let nameless = to_server::Message::GatewayHello(GatewayHello::default());
    for (message, reason) in [
        (to_server::Message::Ping(Ping { nonce: 1 }), CloseReason::MessageUnexpected),
        (nameless, CloseReason::FrameInvalid),
    ] {
        let mut bench = Bench::new();
        bench.wait();
        bench.happen(GatewayEvent::Dialed);
        assert_eq!(bench.hear(message), [GatewayAction::Close(reason)]);
    }
}

#[test]
fn after_the_gateways_goodbye_the_connection_is_kept_and_no_invitation_has_a_place() {
    let mut bench = Bench::up();
    assert_eq!(bench.hear(to_server::Message::Goodbye(Goodbye {})), []);
    assert!(!bench.link.is_up());
    let ping = from_server::Message::Ping(Ping { nonce: 1 });
    assert_eq!(bench.jump(), [GatewayAction::Send(FromServer { message: Some(ping) })]);
    let actions = bench.hear(to_server::Message::Invitation(invitation("web")));
    assert_eq!(actions, [GatewayAction::Close(CloseReason::MessageUnexpected)]);
    assert!(bench.wait() <= RECONNECT_MIN);
}

#[test]
fn a_server_that_drains_says_goodbye_declines_what_crossed_and_never_dials_again() {
    let mut bench = Bench::up();
    assert_eq!(bench.happen(GatewayEvent::Drain), [goodbye()]);
    assert_eq!(bench.happen(GatewayEvent::Drain), []);
    let actions = bench.hear(to_server::Message::Invitation(invitation("web")));
    assert_eq!(actions, [declined(RefusalReason::Draining)]);
    bench.happen(GatewayEvent::Closed);
    assert_eq!(bench.link.next_timeout(), None);
}

#[test]
fn a_server_that_drains_while_it_dials_gives_the_dial_up() {
    let mut bench = Bench::new();
    bench.wait();
    let reason = CloseReason::Refused(RefusalReason::Draining);
    assert_eq!(bench.happen(GatewayEvent::Drain), [GatewayAction::Close(reason)]);
    assert_eq!(bench.link.next_timeout(), None);
}

fn spare(id: u64) -> Invitation {
    Invitation { id, spare_for_ms: 1_000, ..invitation("") }
}

#[test]
fn a_gateway_gets_no_more_spares_than_twice_what_it_was_told_however_often_it_asks() {
    let mut bench = Bench::up();
    let ask = |bench: &mut Bench, id| {
        let actions = bench.hear(to_server::Message::Invitation(spare(id)));
        matches!(&actions[..], [GatewayAction::Invited { invitation, .. }] if invitation.id == id)
    };
    assert!((1..=4).all(|id| ask(&mut bench, id)));
    assert!(!ask(&mut bench, 7));
    let actions = bench.hear(to_server::Message::Invitation(spare(7)));
    assert_eq!(actions, [declined(RefusalReason::ServerFull)]);
    assert_eq!(bench.happen(GatewayEvent::SpareEnded { id: 1 }), []);
    assert!(ask(&mut bench, 5));
    assert_eq!(bench.happen(GatewayEvent::SpareEnded { id: 2 }), []);
    // One id can't stand for many.
    let actions = bench.hear(to_server::Message::Invitation(spare(5)));
    assert_eq!(actions[0], GatewayAction::Close(CloseReason::MessageUnexpected));
}

#[test]
fn a_withdrawn_spare_is_closed_and_so_is_every_one_of_a_lost_connection() {
    let mut bench = Bench::up();
    for id in [1, 2] {
        bench.hear(to_server::Message::Invitation(spare(id)));
    }
    let close = |id| GatewayAction::CloseSpare { id };
    assert_eq!(bench.hear(to_server::Message::Withdraw(Withdraw { id: 1 })), [close(1)]);
    bench.happen(GatewayEvent::SpareEnded { id: 1 });
    let withdrawn = [GatewayAction::Withdrawn { id: 1 }];
    assert_eq!(bench.hear(to_server::Message::Withdraw(Withdraw { id: 1 })), withdrawn);
    assert_eq!(bench.happen(GatewayEvent::Closed), [close(2)]);
}

#[test]
fn a_gateway_is_told_what_has_changed_and_nothing_else() {
    let changed = |services: &[&str]| GatewayEvent::Reconfigured {
        services: services.iter().copied().map(ServiceOffer::new).collect(),
        capacity: 10,
        spares: 2,
    };
    let mut bench = Bench::up();
    assert_eq!(bench.happen(changed(&["web"])), [], "as it was");
    let said = bench.happen(changed(&["web", "ssh"]));
    let [
        GatewayAction::Send(FromServer { message: Some(from_server::Message::ServerHello(hello)) }),
    ] = &said[..]
    else {
        panic!("a hello: {said:?}");
    };
    assert_eq!(hello.services, ["web", "ssh"]);
    let invited = bench.hear(to_server::Message::Invitation(invitation("ssh")));
    assert!(matches!(invited[..], [GatewayAction::Invited { .. }]), "{invited:?}");
    bench.happen(changed(&["ssh"]));
    let answer = bench.hear(to_server::Message::Invitation(invitation("web")));
    assert_eq!(answer, [declined(RefusalReason::ServiceUnknown)]);
}

#[test]
fn a_change_before_the_connection_stands_is_in_its_first_hello() {
    let mut bench = Bench::new();
    assert_eq!(bench.jump(), [GatewayAction::Dial]);
    let changed = GatewayEvent::Reconfigured {
        services: vec![ServiceOffer::new("ssh")],
        capacity: 1,
        spares: 0,
    };
    assert_eq!(bench.happen(changed), []);
    let said = bench.happen(GatewayEvent::Dialed);
    let [
        GatewayAction::Send(FromServer { message: Some(from_server::Message::ServerHello(hello)) }),
    ] = &said[..]
    else {
        panic!("a hello: {said:?}");
    };
    assert_eq!((&hello.services[..], hello.capacity), (&["ssh".to_owned()][..], 1));
}

#[test]
fn an_outdated_connection_is_closed_and_dialled_again() {
    let mut bench = Bench::up();
    let untrusted = CloseReason::CertificateUntrusted;
    let closed = bench.happen(GatewayEvent::Outdated(untrusted));
    assert_eq!(closed, [GatewayAction::Close(untrusted)]);
    assert_eq!(bench.happen(GatewayEvent::Outdated(untrusted)), [], "nothing is left to close");
    assert_eq!(bench.jump(), [GatewayAction::Dial]);
}

#[test]
fn a_removed_gateway_is_left_with_its_spares_and_never_dialled_again() {
    let mut bench = Bench::up();
    let spare = Invitation { spare_for_ms: 1000, ..invitation("") };
    bench.hear(to_server::Message::Invitation(spare));
    let left = bench.happen(GatewayEvent::Removed);
    let expected =
        [GatewayAction::Close(CloseReason::Finished), GatewayAction::CloseSpare { id: 7 }];
    assert_eq!(left, expected);
    assert_eq!(bench.link.next_timeout(), None);
    assert!(!bench.link.is_up());
}

// ---- lists of revoked certificates ----

fn takes(takes_crls: bool) -> to_server::Message {
    let to_server::Message::GatewayHello(hello) = hello() else { panic!("a hello") };
    to_server::Message::GatewayHello(GatewayHello { takes_crls, ..hello })
}

fn lists(all: &[&[u8]]) -> Lists {
    all.iter().map(|list| (*list).into()).collect()
}

fn piece(transfer: u32, list: &[u8]) -> GatewayAction {
    let total = u32::try_from(list.len()).expect("short");
    let piece = Crl { transfer, offset: 0, total, piece: list.to_vec() };
    GatewayAction::Send(FromServer { message: Some(from_server::Message::Crl(piece)) })
}

fn answered(transfer: u32, outcome: CrlOutcome) -> to_server::Message {
    to_server::Message::CrlAnswer(CrlAnswer { transfer, outcome: outcome.into() })
}

/// A bench whose link is up, with a list to bring.
fn bench_with_list(takes_crls: bool) -> (Bench, Vec<GatewayAction>) {
    let mut bench = Bench::new();
    bench.jump();
    bench.happen(GatewayEvent::Crls(lists(&[b"one"])));
    bench.happen(GatewayEvent::Dialed);
    let actions = bench.hear(takes(takes_crls));
    (bench, actions)
}

#[test]
fn lists_are_brought_one_after_another_and_again_when_they_change() {
    let (mut bench, actions) = bench_with_list(true);
    assert_eq!(actions, [piece(1, b"one")]);
    assert_eq!(bench.happen(GatewayEvent::Crls(lists(&[b"one"]))), []);
    assert_eq!(bench.happen(GatewayEvent::Crls(lists(&[b"two", b"six"]))), []);
    let over = |list, outcome| GatewayAction::CrlAnswered { list, outcome };
    let actions = bench.hear(answered(1, CrlOutcome::Taken));
    assert_eq!(actions, [over(0, CrlOutcome::Taken), piece(2, b"two")]);
    let actions = bench.hear(answered(2, CrlOutcome::Older));
    assert_eq!(actions, [over(0, CrlOutcome::Older), piece(3, b"six")]);
    assert_eq!(bench.hear(answered(3, CrlOutcome::Known)), [over(1, CrlOutcome::Known)]);
    assert_eq!(bench.happen(GatewayEvent::Crls(lists(&[b"ten"]))), [piece(4, b"ten")]);
}

#[test]
fn a_gateway_that_does_not_say_that_it_takes_lists_is_brought_none() {
    let (mut bench, actions) = bench_with_list(false);
    assert_eq!(actions, []);
    assert_eq!(bench.happen(GatewayEvent::Crls(lists(&[b"two"]))), []);
    let actions = bench.hear(answered(1, CrlOutcome::Taken));
    assert!(actions.contains(&GatewayAction::Close(CloseReason::MessageUnexpected)), "{actions:?}");
}
