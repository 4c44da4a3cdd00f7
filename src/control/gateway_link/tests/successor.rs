use super::*;
use crate::wire::Successor;

const NEXT: &str = "ffeeddccbbaa9988";

fn hello_of(instance: &str) -> to_server::Message {
    let hello = GatewayHello { instance: instance.to_owned(), ..GatewayHello::default() };
    to_server::Message::GatewayHello(hello)
}

/// A link that is up, and one beside it that was dialled, and waits for the gateway's hello.
fn pair() -> (Bench, Bench) {
    let mut before = Bench::up();
    let told = before.hear(to_server::Message::Successor(Successor {}));
    assert_eq!(told, [GatewayAction::OpenSuccessor]);
    let link = before.link.successor(before.now).expect("it is up");
    assert_eq!(before.happen(GatewayEvent::Succeeded(true)), []);
    let mut next = Bench { link, now: before.now };
    assert_eq!(next.jump(), [GatewayAction::Dial]);
    assert_eq!(next.happen(GatewayEvent::Dialed).len(), 1);
    (before, next)
}

#[test]
fn the_gateway_is_told_that_this_server_can_follow() {
    let mut bench = Bench::new();
    bench.jump();
    let said = bench.happen(GatewayEvent::Dialed);
    let [
        GatewayAction::Send(FromServer { message: Some(from_server::Message::ServerHello(hello)) }),
    ] = &said[..]
    else {
        panic!("{said:?}");
    };
    assert!(hello.successors);
}

#[test]
fn both_links_carry_invitations_until_the_first_ends_and_is_not_dialled_again() {
    let (mut before, mut next) = pair();
    assert_eq!(next.hear(hello_of(NEXT)), []);
    for (link, instance) in [(&mut before, INSTANCE), (&mut next, NEXT)] {
        let invitation = invitation("web");
        let expected = GatewayAction::Invited {
            invitation: invitation.clone(),
            instance: instance.to_owned(),
        };
        assert_eq!(link.hear(to_server::Message::Invitation(invitation)), [expected]);
    }
    before.hear(to_server::Message::Goodbye(Goodbye {}));
    assert!(before.link.gateway_drains());
    before.happen(GatewayEvent::Closed);
    assert!(before.link.is_stopped() && before.link.is_succeeded());
    assert_eq!(before.link.next_timeout(), None);
    // From now on it is a link like any other.
    next.happen(GatewayEvent::PredecessorGone);
    next.happen(GatewayEvent::Closed);
    assert_eq!(next.jump(), [GatewayAction::Dial]);
}

#[test]
fn a_link_that_leads_to_the_process_of_before_is_given_up() {
    let (before, mut next) = pair();
    assert_eq!(next.hear(hello()), [GatewayAction::Close(CloseReason::Finished)]);
    assert!(next.link.is_stopped() && !before.link.is_stopped());
}

#[test]
fn a_successor_that_fails_is_not_tried_again_while_its_predecessor_stands() {
    for event in [GatewayEvent::Closed, GatewayEvent::DialFailed] {
        let (mut before, mut next) = pair();
        next.happen(event);
        assert!(next.link.is_stopped());
        before.happen(GatewayEvent::Succeeded(false));
        before.happen(GatewayEvent::Closed);
        assert_eq!(before.jump(), [GatewayAction::Dial], "it is a link like any other again");
    }
}

#[test]
fn where_both_are_lost_the_later_one_dials() {
    let (mut before, mut next) = pair();
    before.happen(GatewayEvent::Closed);
    next.happen(GatewayEvent::DialFailed);
    assert!(before.link.is_stopped() && next.link.is_stopped());
    next.happen(GatewayEvent::PredecessorGone);
    assert_eq!(next.jump(), [GatewayAction::Dial]);
}

#[test]
fn a_gateway_that_asks_again_and_again_gets_one_successor() {
    let (mut before, _next) = pair();
    assert_eq!(before.hear(to_server::Message::Successor(Successor {})), []);
    let mut drains = Bench::up();
    drains.happen(GatewayEvent::Drain);
    assert_eq!(drains.hear(to_server::Message::Successor(Successor {})), []);
}

#[test]
fn a_gateway_that_asks_as_often_as_it_likes_is_dialled_once_a_second() {
    let mut before = Bench::up();
    let start = before.now;
    for seconds in 0..3 {
        let told = before.hear(to_server::Message::Successor(Successor {}));
        assert_eq!(told, [GatewayAction::OpenSuccessor]);
        let next = before.link.successor(before.now).expect("it is up");
        assert_eq!(next.next_timeout(), Some(start + seconds * SUCCESSOR_INTERVAL));
    }
}
