use super::*;
use crate::control::SpareFailure;
use crate::limits::{SPARE_ASK_TIMEOUT, SPARE_FIRST_REFILL, SPARE_PAUSE};

impl Bench {
    /// A server that holds that many spares, and enough agents, all joined, that some are wanted. Returns the
    /// spares that were asked for.
    fn busy(bound: u32) -> (Self, Vec<u64>) {
        let mut bench = Self::new();
        bench.connect_with_spares(1, 0, bound);
        let mut asked = Vec::new();
        for connection in 100..104 {
            let seen = bench.admit(connection);
            let Seen::Invited(1, _, id) = seen[0] else { panic!("{seen:?}") };
            asked.extend(asked_for(&seen));
            bench.claim(connection, id);
        }
        (bench, asked)
    }

    /// The same, and all of them have come.
    fn ready(bound: u32) -> (Self, Vec<u64>) {
        let (mut bench, asked) = Self::busy(bound);
        bench.now += SPARE_FIRST_REFILL;
        for spare in &asked {
            assert_eq!(bench.happen(Event::SpareReady { invitation: *spare }), []);
        }
        (bench, asked)
    }

    fn fail(&mut self, connection: u64, invitation: u64, failure: SpareFailure) -> Vec<Seen> {
        self.happen(Event::SpareFailed { agent: agent(connection), invitation, failure })
    }

    fn status(&self) -> crate::control::LinkStatus {
        self.dispatcher.snapshot().links.remove(0)
    }
}

fn asked_for(seen: &[Seen]) -> Vec<u64> {
    let asked = seen.iter().filter_map(|seen| match seen {
        Seen::Asked(_, id) => Some(*id),
        _ => None,
    });
    asked.collect()
}

fn invited(seen: &[Seen], connection: u64) -> bool {
    seen.iter().any(|seen| matches!(seen, Seen::Invited(_, agent, _) if *agent == connection))
}

#[test]
fn an_agent_is_given_a_spare_at_its_worker_and_another_is_asked_for() {
    let (mut bench, spares) = Bench::ready(10);
    assert!((2..=MAX_SPARES).contains(&spares.len()), "{spares:?}");
    let seen = bench.admit(1);
    assert_eq!(seen[0], Seen::Given(1, spares[0]));
    assert!(!invited(&seen, 1));
    assert!(!asked_for(&seen).is_empty());
    assert_eq!(bench.claim(1, spares[0]), []);
    assert_eq!((bench.status().waiting, bench.status().sessions), (0, 5));
    bench.happen(Event::Released { invitation: spares[0] });
    assert_eq!(bench.status().sessions, 4);
}

#[test]
fn a_spare_of_another_worker_is_not_given() {
    let (mut bench, _) = Bench::ready(10);
    let agent = AgentRef { worker: 2, connection: 1 };
    let request = Request { service: 0, device: None };
    bench.dispatcher.handle(Event::Admit { agent, request }, bench.now, &mut |_| {});
    let is_expected =
        |action: &Action| matches!(action, Action::Expect { agent: of, .. } if *of == agent);
    assert!(std::iter::from_fn(|| bench.dispatcher.poll_action()).any(|a| is_expected(&a)));
}

#[test]
fn a_server_that_knows_no_spares_is_never_asked() {
    let (mut bench, asked) = Bench::busy(0);
    assert_eq!(asked, [0; 0]);
    assert!(invited(&bench.admit(1), 1));
}

#[test]
fn a_worker_gets_no_more_spares_than_are_configured_from_all_servers_together() {
    let (mut bench, first) = Bench::busy(100);
    bench.connect_with_spares(2, 0, 100);
    let mut asked = first.len();
    for connection in 1..5 {
        asked += asked_for(&bench.admit(connection)).len();
    }
    assert_eq!(asked, MAX_SPARES);
    let (_, asked) = Bench::busy(1);
    assert_eq!(asked.len(), 1, "nor one server more than it will hold");
}

#[test]
fn a_spare_that_was_gone_costs_its_agent_one_hop_and_is_not_tried_again() {
    let (mut bench, spares) = Bench::ready(10);
    bench.admit(1);
    let seen = bench.fail(1, spares[0], SpareFailure::Gone);
    assert!(invited(&seen, 1), "{seen:?}");
    assert_eq!(bench.fail(1, spares[0], SpareFailure::Gone), [], "it was answered before");
    assert_eq!(bench.admit(2)[0], Seen::Given(2, spares[1]), "others may live");
}

#[test]
fn a_server_that_says_its_spare_is_broken_does_not_speak_of_the_agent() {
    let (mut bench, spares) = Bench::ready(10);
    bench.admit(1);
    let seen = bench.decline(1, spares[0], RefusalReason::InternalError);
    let Some(Seen::Invited(1, 1, id)) = seen.first() else { panic!("{seen:?}") };
    let seen = bench.decline(1, *id, RefusalReason::InternalError);
    assert_eq!(seen, [Seen::Refused(1, RefusalReason::InternalError)], "here it does");
}

#[test]
fn a_silent_spare_condemns_its_siblings_and_none_are_asked_for_meanwhile() {
    let (mut bench, spares) = Bench::ready(10);
    bench.admit(1);
    let seen = bench.fail(1, spares[0], SpareFailure::Silent);
    for spare in &spares[1..] {
        assert!(seen.contains(&Seen::SpareClosed(*spare)), "{seen:?}");
    }
    assert!(invited(&seen, 1));
    let seen = bench.admit(2);
    assert!(invited(&seen, 2) && asked_for(&seen).is_empty(), "{seen:?}");
    bench.now += SPARE_PAUSE;
    assert!(!asked_for(&bench.admit(3)).is_empty());
}

#[test]
fn a_server_that_is_full_when_an_agent_comes_over_a_spare_is_passed_over() {
    let (mut bench, spares) = Bench::ready(10);
    assert_eq!(bench.admit(1)[0], Seen::Given(1, spares[0]));
    bench.connect(2, 0);
    let full = SpareFailure::Refused(RefusalReason::ServerFull);
    let seen = bench.fail(1, spares[0], full);
    assert!(matches!(seen[0], Seen::Invited(2, 1, _)), "{seen:?}");
}

#[test]
fn an_agent_that_leaves_takes_the_spare_with_it() {
    let (mut bench, spares) = Bench::ready(10);
    bench.admit(1);
    let seen = bench.happen(Event::Leave { agent: agent(1) });
    assert_eq!(seen, [Seen::Withdrawn(1, spares[0])]);
    assert_eq!(bench.fail(1, spares[0], SpareFailure::Gone), []);
    assert_eq!(bench.status().waiting, 0);
}

#[test]
fn the_spares_of_a_lost_link_are_closed_and_an_agent_on_one_goes_elsewhere() {
    let (mut bench, spares) = Bench::ready(10);
    bench.admit(1);
    bench.connect(2, 0);
    let seen = bench.happen(Event::LinkClosed { link: LinkId(1) });
    assert!(seen.contains(&Seen::SpareClosed(spares[1])), "{seen:?}");
    assert!(invited(&seen, 1), "{seen:?}");
    // The spare took it nevertheless, before the mail came.
    let seen = bench.claim(1, spares[0]);
    assert!(matches!(seen[..], [Seen::Withdrawn(2, _)]), "{seen:?}");
}

#[test]
fn a_draining_server_and_a_draining_gateway_have_no_spares() {
    for event in [
        Event::Drain,
        Event::LinkMessage {
            link: LinkId(1),
            message: FromServer { message: Some(from_server::Message::Goodbye(Goodbye {})) },
        },
    ] {
        let (mut bench, spares) = Bench::ready(10);
        let seen = bench.happen(event);
        let closed = spares.iter().all(|spare| seen.contains(&Seen::SpareClosed(*spare)));
        assert!(closed, "{seen:?}");
        let seen = bench.happen(Event::SpareEnded { invitation: spares[0], in_time: true });
        assert_eq!(seen, [], "and none are asked for");
        assert_eq!(bench.status().spares, 0);
    }
}

#[test]
fn a_spare_is_replaced_at_its_age_while_agents_come_and_not_when_they_stay_away() {
    let (mut bench, spares) = Bench::ready(10);
    let seen = bench.happen(Event::SpareEnded { invitation: spares[0], in_time: true });
    assert_eq!(asked_for(&seen).len(), 1);
    bench.now += SPARE_LIFE;
    let seen = bench.happen(Event::SpareEnded { invitation: spares[1], in_time: true });
    assert_eq!(seen, []);
}

#[test]
fn a_spare_that_broke_is_not_replaced_at_once() {
    let (mut bench, spares) = Bench::ready(10);
    let seen = bench.happen(Event::SpareEnded { invitation: spares[0], in_time: false });
    assert_eq!(seen, []);
}

#[test]
fn a_spare_that_does_not_come_or_is_declined_is_void() {
    let (mut bench, asked) = Bench::busy(10);
    let seen = bench.decline(1, asked[0], RefusalReason::ServerFull);
    assert_eq!(seen, [Seen::SpareClosed(asked[0])]);
    bench.hear(1, from_server::Message::Pong(Pong { nonce: 0 }));
    let start = bench.now;
    bench.now += Duration::from_secs(5);
    bench.hear(1, from_server::Message::Pong(Pong { nonce: 0 }));
    let seen = bench.wait_until(start + SPARE_ASK_TIMEOUT);
    for spare in &asked[1..] {
        assert!(seen.contains(&Seen::SpareClosed(*spare)), "{seen:?}");
        assert!(seen.contains(&Seen::Withdrawn(1, *spare)), "{seen:?}");
    }
    assert_eq!(bench.happen(Event::SpareReady { invitation: asked[1] }), []);
    assert_eq!(bench.status().spares, 0);
}

#[test]
fn an_agent_that_every_spare_and_server_fails_is_refused_in_the_end() {
    let (mut bench, spares) = Bench::ready(10);
    bench.admit(1);
    let full = SpareFailure::Refused(RefusalReason::ServerFull);
    let seen = bench.fail(1, spares[0], full);
    assert_eq!(seen, [Seen::Refused(1, RefusalReason::ServerFull)]);
}
