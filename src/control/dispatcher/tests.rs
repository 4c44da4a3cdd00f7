use std::time::Duration;

use super::*;
use crate::control::{Request, ServiceOffer, SessionQuota};
use crate::limits::{MAX_INVITATIONS_PER_AGENT, SIGNAL_DEAD_AFTER, SIGNAL_HELLO_TIMEOUT};
use crate::wire::{FromServer, Withdraw};

mod moving;
mod operator;
mod reload;
mod spares;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_WAITING: usize = 5;
const MAX_SPARES: usize = 4;
const SPARE_LIFE: Duration = Duration::from_secs(100);

/// A dispatcher of two services, `web` (0) and `ssh` (1), with a clock.
struct Bench {
    dispatcher: Dispatcher,
    now: Instant,
    drawn: u8,
}

/// What agents and servers notice, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Link, agent, invitation.
    Invited(u64, u64, u64),
    Withdrawn(u64, u64),
    Refused(u64, RefusalReason),
    Goodbye(u64),
    Closed(u64, CloseReason),
    /// Link, spare.
    Asked(u64, u64),
    /// Agent, spare.
    Given(u64, u64),
    SpareClosed(u64),
}

fn agent(connection: u64) -> AgentRef {
    AgentRef { worker: 3, connection }
}

/// Each agent is another device.
fn request(connection: u64, service: ServiceId) -> Request {
    Request { service, device: Some(connection.to_string().into()) }
}

fn admission(connection: u64, service: ServiceId) -> Event {
    Event::Admit { agent: agent(connection), request: request(connection, service) }
}

impl Bench {
    fn new() -> Self {
        let limits = DispatcherLimits {
            max_waiting: MAX_WAITING,
            invitation_timeout: TIMEOUT,
            max_links: 3,
            max_spares: MAX_SPARES,
            spare_life: SPARE_LIFE,
            devices: SessionQuota::default(),
            services: Vec::new(),
            takes_crls: true,
        };
        let services = ["web", "ssh"].map(ServiceOffer::new).into();
        let dispatcher = Dispatcher::new(limits, services, "00112233445566ff".to_owned());
        Self { dispatcher, now: Instant::now(), drawn: 0 }
    }

    fn with_servers(links: &[u64]) -> Self {
        let mut bench = Self::new();
        for link in links {
            assert_eq!(bench.connect(*link, 0), []);
        }
        bench
    }

    fn connect(&mut self, link: u64, capacity: u32) -> Vec<Seen> {
        self.connect_with_spares(link, capacity, 0)
    }

    fn connect_with_spares(&mut self, link: u64, capacity: u32, spares: u32) -> Vec<Seen> {
        self.open(link);
        let services = vec!["web".to_owned(), "mail".to_owned()];
        let hello = ServerHello { services, capacity, spares, ..ServerHello::default() };
        self.hear(link, from_server::Message::ServerHello(hello))
    }

    fn open(&mut self, link: u64) -> Vec<Seen> {
        let server = format!("lan-{link}");
        self.happen(Event::LinkOpened { link: LinkId(link), server, allowed: vec![0, 1] })
    }

    fn hear(&mut self, link: u64, message: from_server::Message) -> Vec<Seen> {
        let message = FromServer { message: Some(message) };
        self.happen(Event::LinkMessage { link: LinkId(link), message })
    }

    fn decline(&mut self, link: u64, id: u64, reason: RefusalReason) -> Vec<Seen> {
        self.hear(link, from_server::Message::Decline(Decline { id, reason: reason.into() }))
    }

    fn admit(&mut self, connection: u64) -> Vec<Seen> {
        self.happen(admission(connection, 0))
    }

    /// The invitation for an agent that is admitted now, and the link that it went to.
    fn invited(&mut self, connection: u64) -> (u64, u64) {
        only_invitation(&self.admit(connection), connection)
    }

    fn claim(&mut self, connection: u64, invitation: u64) -> Vec<Seen> {
        self.happen(Event::Claimed {
            agent: agent(connection),
            invitation,
            request: request(connection, 0),
        })
    }

    fn happen(&mut self, event: Event) -> Vec<Seen> {
        let drawn = &mut self.drawn;
        self.dispatcher.handle(event, self.now, &mut |bytes| {
            *drawn = drawn.wrapping_add(1);
            bytes.fill(*drawn);
        });
        self.seen()
    }

    fn wait_until(&mut self, due: Instant) -> Vec<Seen> {
        self.now = due;
        self.dispatcher.handle_timeout(self.now, &mut |bytes| bytes.fill(0xee));
        self.seen()
    }

    fn seen(&mut self) -> Vec<Seen> {
        let mut expected = None;
        let actions: Vec<Action> = std::iter::from_fn(|| self.dispatcher.poll_action()).collect();
        let shorten = |action| match action {
            Action::Expect { agent, invitation, ticket, server } => {
                expected = Some((Some(agent.connection), invitation, ticket, server));
                None
            }
            Action::ExpectSpare { worker: 3, invitation, ticket, server, life } => {
                assert!(life <= SPARE_LIFE && life >= SPARE_LIFE * 3 / 4, "{life:?}");
                expected = Some((None, invitation, ticket, server));
                None
            }
            Action::UseSpare { agent, invitation } => {
                Some(Seen::Given(agent.connection, invitation))
            }
            Action::JudgeCrl { .. } => None,
            Action::CloseSpare { worker: 3, invitation } => Some(Seen::SpareClosed(invitation)),
            Action::ExpectSpare { .. } | Action::CloseSpare { .. } => panic!("{action:?}"),
            Action::Send { link, message } => match message.message.expect("a message") {
                to_server::Message::Invitation(sent) => {
                    let (agent, id, ticket, server) = expected.take().expect("before it");
                    assert_eq!((sent.id, &sent.ticket[..]), (id, ticket.as_bytes()));
                    assert_eq!((sent.worker, server), (3, format!("lan-{}", link.0)));
                    assert_eq!(sent.spare_for_ms == 0, agent.is_some());
                    Some(match agent {
                        Some(agent) => Seen::Invited(link.0, agent, id),
                        None => Seen::Asked(link.0, id),
                    })
                }
                to_server::Message::Withdraw(Withdraw { id }) => Some(Seen::Withdrawn(link.0, id)),
                to_server::Message::Goodbye(_) => Some(Seen::Goodbye(link.0)),
                _ => None,
            },
            Action::CloseLink { link, reason } => Some(Seen::Closed(link.0, reason)),
            Action::Refuse { agent, reason } => Some(Seen::Refused(agent.connection, reason)),
        };
        actions.into_iter().filter_map(shorten).collect()
    }
}

fn only_invitation(seen: &[Seen], connection: u64) -> (u64, u64) {
    match seen {
        [Seen::Invited(link, agent, id)] if *agent == connection => (*link, *id),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_agent_is_refused_at_once_where_no_server_ever_was() {
    let mut bench = Bench::new();
    assert_eq!(bench.admit(1), [Seen::Refused(1, RefusalReason::NoServer)]);
    bench.connect(1, 0);
    let seen = bench.happen(admission(2, 1));
    assert_eq!(seen, [Seen::Refused(2, RefusalReason::NoServer)]);
}

#[test]
fn the_restart_of_the_only_server_goes_unnoticed() {
    let mut bench = Bench::with_servers(&[1]);
    bench.invited(1);
    assert_eq!(bench.happen(Event::LinkClosed { link: LinkId(1) }), []);
    assert_eq!(bench.admit(2), []);
    bench.now += Duration::from_secs(3);
    let seen = bench.connect(2, 0);
    let [Seen::Invited(2, 1, _), Seen::Invited(2, 2, _)] = seen[..] else { panic!("{seen:?}") };
}

#[test]
fn a_server_lost_long_ago_is_not_waited_for() {
    let mut bench = Bench::with_servers(&[1]);
    bench.happen(Event::LinkClosed { link: LinkId(1) });
    bench.now += SIGNAL_DEAD_AFTER;
    assert_eq!(bench.admit(1), [Seen::Refused(1, RefusalReason::NoServer)]);
}

#[test]
fn equal_servers_take_turns() {
    let mut bench = Bench::with_servers(&[1, 2, 3]);
    for round in 0..3 {
        let mut links: Vec<u64> = (0..3)
            .map(|index| {
                let connection = round * 3 + index;
                let (link, id) = bench.invited(connection);
                bench.claim(connection, id);
                bench.happen(Event::Released { invitation: id });
                link
            })
            .collect();
        links.sort_unstable();
        assert_eq!(links, [1, 2, 3]);
    }
}

#[test]
fn a_full_server_gets_the_next_agent_when_it_has_room() {
    let mut bench = Bench::new();
    bench.connect(1, 1);
    let (_, first) = bench.invited(1);
    assert_eq!(bench.admit(2), []);
    assert_eq!(bench.claim(1, first), []);
    let seen = bench.happen(Event::Released { invitation: first });
    assert_eq!(only_invitation(&seen, 2).0, 1);
}

#[test]
fn a_deadline_in_front_of_a_full_server_says_so_and_one_of_the_invited_says_timeout() {
    let mut bench = Bench::new();
    bench.connect(1, 1);
    let deadline = bench.now + TIMEOUT;
    let (_, id) = bench.invited(1);
    assert_eq!(bench.admit(2), []);
    bench.now += Duration::from_secs(5);
    bench.hear(1, from_server::Message::Pong(Pong { nonce: 0 }));
    let seen = bench.wait_until(deadline);
    let timeout = Seen::Refused(1, RefusalReason::InvitationTimeout);
    let full = Seen::Refused(2, RefusalReason::ServerFull);
    assert_eq!(seen, [timeout, Seen::Withdrawn(1, id), full]);
}

#[test]
fn a_decline_of_a_full_server_moves_the_agent_with_its_deadline() {
    let mut bench = Bench::with_servers(&[1, 2]);
    let deadline = bench.now + TIMEOUT;
    let (link, id) = bench.invited(1);
    bench.now += Duration::from_secs(4);
    let seen = bench.decline(link, id, RefusalReason::ServerFull);
    let (other, moved) = only_invitation(&seen, 1);
    assert_eq!(other, 3 - link);
    assert_eq!(bench.decline(link, id, RefusalReason::ServerFull), [], "answered before");
    bench.hear(other, from_server::Message::Pong(Pong { nonce: 0 }));
    let seen = bench.wait_until(deadline);
    let timeout = Seen::Refused(1, RefusalReason::InvitationTimeout);
    assert!(seen.starts_with(&[timeout, Seen::Withdrawn(other, moved)]), "{seen:?}");
}

#[test]
fn where_every_server_declines_the_agent_hears_why() {
    let mut bench = Bench::with_servers(&[1]);
    let (_, id) = bench.invited(1);
    let seen = bench.decline(1, id, RefusalReason::ServerFull);
    assert_eq!(seen, [Seen::Refused(1, RefusalReason::ServerFull)]);
}

#[test]
fn the_reason_of_a_backend_reaches_the_agent_and_no_reason_of_ours_can_be_forged() {
    let mut bench = Bench::with_servers(&[1, 2]);
    let (link, id) = bench.invited(1);
    let seen = bench.decline(link, id, RefusalReason::BackendTimeout);
    assert_eq!(seen, [Seen::Refused(1, RefusalReason::BackendTimeout)]);
    let (link, id) = bench.invited(2);
    let seen = bench.decline(link, id, RefusalReason::QueueFull);
    assert_eq!(seen, [Seen::Refused(2, RefusalReason::InternalError)]);
}

#[test]
fn a_server_that_disowns_a_service_is_not_invited_for_it_again() {
    let mut bench = Bench::with_servers(&[1]);
    let (_, id) = bench.invited(1);
    let refused = |connection| [Seen::Refused(connection, RefusalReason::NoServer)];
    assert_eq!(bench.decline(1, id, RefusalReason::ServiceUnknown), refused(1));
    assert_eq!(bench.admit(2), refused(2));
}

#[test]
fn a_server_that_drains_gives_its_invitations_up_and_gets_no_more() {
    let mut bench = Bench::with_servers(&[1]);
    bench.invited(1);
    bench.connect(2, 0);
    let seen = bench.hear(1, from_server::Message::Goodbye(Goodbye {}));
    assert_eq!(only_invitation(&seen, 1).0, 2);
    assert_eq!(bench.invited(2).0, 2);
    assert_eq!(bench.hear(1, from_server::Message::Goodbye(Goodbye {})), []);
}

#[test]
fn a_decline_of_a_draining_server_moves_all_its_agents_and_its_goodbye_may_still_come() {
    let mut bench = Bench::with_servers(&[1]);
    let (_, first) = bench.invited(1);
    bench.invited(2);
    bench.connect(2, 0);
    let seen = bench.decline(1, first, RefusalReason::Draining);
    let [Seen::Invited(2, 2, _), Seen::Invited(2, 1, _)] = seen[..] else { panic!("{seen:?}") };
    assert_eq!(bench.hear(1, from_server::Message::Goodbye(Goodbye {})), []);
}

#[test]
fn a_decline_of_a_draining_server_counts_also_where_its_invitation_was_withdrawn_meanwhile() {
    let mut bench = Bench::with_servers(&[1]);
    let (_, id) = bench.invited(1);
    assert_eq!(bench.happen(Event::Leave { agent: agent(1) }), [Seen::Withdrawn(1, id)]);
    assert_eq!(bench.decline(1, id, RefusalReason::Draining), []);
    bench.connect(2, 0);
    assert_eq!(bench.invited(2).0, 2, "the other one drains");
}

#[test]
fn an_agent_that_every_new_server_drops_is_refused_in_the_end() {
    let mut bench = Bench::with_servers(&[1]);
    bench.invited(1);
    for link in 2..=MAX_INVITATIONS_PER_AGENT as u64 {
        assert_eq!(bench.happen(Event::LinkClosed { link: LinkId(link - 1) }), []);
        let seen = bench.connect(link, 0);
        assert_eq!(only_invitation(&seen, 1).0, link);
    }
    let last = LinkId(MAX_INVITATIONS_PER_AGENT as u64);
    let seen = bench.happen(Event::LinkClosed { link: last });
    assert_eq!(seen, [Seen::Refused(1, RefusalReason::NoServer)]);
}

#[test]
fn a_claim_that_crosses_with_a_move_withdraws_the_new_invitation_and_counts_where_it_was_made() {
    let mut bench = Bench::with_servers(&[1, 2]);
    let (link, id) = bench.invited(1);
    let seen = bench.decline(link, id, RefusalReason::ServerFull);
    let (other, moved) = only_invitation(&seen, 1);
    assert_eq!(bench.claim(1, id), [Seen::Withdrawn(other, moved)]);
    let load = |bench: &Bench, link| {
        let snapshot = bench.dispatcher.snapshot();
        let status = snapshot.links.into_iter().find(|status| status.link == LinkId(link));
        status.map(|status| (status.waiting, status.sessions)).expect("connected")
    };
    assert_eq!((load(&bench, link), load(&bench, other)), ((0, 1), (0, 0)));
    bench.happen(Event::Released { invitation: id });
    assert_eq!(load(&bench, link), (0, 0));
}

#[test]
fn an_agent_that_leaves_takes_its_invitation_with_it() {
    let mut bench = Bench::with_servers(&[1]);
    let (_, id) = bench.invited(1);
    let leave = Event::Leave { agent: agent(1) };
    assert_eq!(bench.happen(leave.clone()), [Seen::Withdrawn(1, id)]);
    assert_eq!(bench.happen(leave), []);
    assert_eq!(bench.dispatcher.snapshot().waiting, 0);
}

#[test]
fn a_flood_fills_the_queue_to_its_bound_and_no_further() {
    let mut bench = Bench::with_servers(&[1]);
    for connection in 0..MAX_WAITING as u64 {
        bench.invited(connection);
    }
    assert_eq!(bench.admit(99), [Seen::Refused(99, RefusalReason::QueueFull)]);
    assert_eq!(bench.dispatcher.snapshot().waiting, MAX_WAITING);
}

#[test]
fn draining_refuses_those_who_wait_and_says_goodbye_also_to_servers_that_come_later() {
    let mut bench = Bench::with_servers(&[1]);
    let (_, id) = bench.invited(1);
    let draining = |connection| Seen::Refused(connection, RefusalReason::Draining);
    let seen = bench.happen(Event::Drain);
    assert_eq!(seen, [draining(1), Seen::Withdrawn(1, id), Seen::Goodbye(1)]);
    assert_eq!(bench.admit(2), [draining(2)]);
    assert_eq!(bench.connect(2, 0), [Seen::Goodbye(2)]);
    assert_eq!(bench.happen(Event::Drain), []);
}

#[test]
fn what_has_no_place_ends_the_link() {
    let mut bench = Bench::new();
    let ping = from_server::Message::Ping(Ping { nonce: 1 });
    bench.open(2);
    let unexpected = [Seen::Closed(2, CloseReason::MessageUnexpected)];
    assert_eq!(bench.hear(2, ping.clone()), unexpected, "the hello is first");
    assert_eq!(bench.hear(2, ping), [], "it is gone already");
    bench.connect(3, 0);
    let unknown = FromServer { message: None };
    let seen = bench.happen(Event::LinkMessage { link: LinkId(3), message: unknown });
    assert_eq!(seen, [Seen::Closed(3, CloseReason::MessageUnknown)]);
}

#[test]
fn a_link_without_hello_and_a_silent_one_are_closed() {
    let mut bench = Bench::with_servers(&[1]);
    let start = bench.now;
    bench.open(2);
    let seen = bench.wait_until(start + SIGNAL_HELLO_TIMEOUT);
    assert_eq!(seen, [Seen::Closed(2, CloseReason::SignalSilent)]);
    let seen = bench.wait_until(start + SIGNAL_DEAD_AFTER);
    assert_eq!(seen, [Seen::Closed(1, CloseReason::SignalSilent)]);
    assert_eq!(bench.dispatcher.next_timeout(), None);
}

#[test]
fn links_over_the_bound_are_closed() {
    let mut bench = Bench::with_servers(&[1, 2, 3]);
    assert_eq!(bench.open(4), [Seen::Closed(4, CloseReason::ConnectionsFull)]);
}
