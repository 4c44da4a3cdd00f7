use super::*;
use crate::wire::Successor;

/// A link whose server can follow to another process.
fn connect(bench: &mut Bench, link: u64, services: &[&str]) {
    bench.open(link);
    let services = services.iter().map(ToString::to_string).collect();
    let hello = ServerHello { services, successors: true, ..ServerHello::default() };
    bench.hear(link, from_server::Message::ServerHello(hello));
}

/// The links that are told of a successor.
fn told(bench: &mut Bench, event: Event) -> Vec<u64> {
    let now = bench.now;
    bench.dispatcher.handle(event, now, &mut |bytes| bytes.fill(1));
    let successor = ToServer { message: Some(to_server::Message::Successor(Successor {})) };
    let actions = std::iter::from_fn(|| bench.dispatcher.poll_action());
    let told = actions.filter_map(|action| match action {
        Action::Send { link, message } if message == successor => Some(link.0),
        _ => None,
    });
    told.collect()
}

#[test]
fn only_servers_that_know_the_word_are_told_of_a_successor() {
    let mut bench = Bench::with_servers(&[1]);
    connect(&mut bench, 2, &["web"]);
    assert_eq!(told(&mut bench, Event::Moving(true)), [2]);
    bench.open(3);
    let hello = ServerHello { successors: true, ..ServerHello::default() };
    let message = FromServer { message: Some(from_server::Message::ServerHello(hello)) };
    let late = Event::LinkMessage { link: LinkId(3), message };
    assert_eq!(told(&mut bench, late), [3], "also one that says hello meanwhile");
    assert_eq!(told(&mut bench, Event::Moving(false)), Vec::<u64>::new());
}

#[test]
fn the_next_process_is_to_have_what_servers_that_follow_serve() {
    let mut bench = Bench::with_servers(&[1]);
    assert!(bench.dispatcher.services_that_follow().is_empty());
    connect(&mut bench, 2, &["ssh"]);
    assert_eq!(bench.dispatcher.services_that_follow().into_iter().collect::<Vec<_>>(), ["ssh"]);

    let mut next = Bench::new();
    let [ssh, unknown] = ["ssh".to_owned(), "payroll".to_owned()];
    assert!(!next.dispatcher.has_servers());
    assert!(!next.dispatcher.serves_all([&ssh]));
    connect(&mut next, 1, &["ssh"]);
    assert!(next.dispatcher.has_servers());
    assert!(next.dispatcher.serves_all([&ssh, &unknown]), "it has no such service any more");
}

#[test]
fn agents_go_on_being_invited_until_nobody_waits_and_then_the_links_end() {
    let mut bench = Bench::with_servers(&[1]);
    bench.happen(Event::Moving(true));
    let (_, invitation) = bench.invited(7);
    bench.claim(7, invitation);
    connect(&mut bench, 2, &["web"]);
    let seen = bench.happen(Event::Moved);
    // Who can follow has another link already, and who can't dials again.
    let expected = [Seen::Goodbye(1), Seen::Goodbye(2), Seen::Closed(1, CloseReason::Finished)];
    assert_eq!(seen, expected);
}

#[test]
fn an_agent_of_a_gateway_that_took_over_waits_for_a_server_that_is_on_its_way() {
    let mut bench = Bench::new();
    bench.happen(Event::TookOver);
    assert_eq!(bench.admit(7), []);
    assert_eq!(only_invitation(&bench.connect(1, 0), 7).0, 1);
}
