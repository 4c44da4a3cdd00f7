use super::*;

impl Bench {
    fn drain_server(&mut self, server: &str) -> Vec<Seen> {
        self.happen(Event::DrainServer { server: server.to_owned() })
    }

    fn undrain_server(&mut self, server: &str) -> Vec<Seen> {
        self.happen(Event::UndrainServer { server: server.to_owned() })
    }
}

#[test]
fn a_drained_server_is_not_invited_and_who_waits_for_it_goes_elsewhere() {
    let mut bench = Bench::with_servers(&[1, 2]);
    let (link, invitation) = bench.invited(7);
    let (drained, other) = (format!("lan-{link}"), 3 - link);
    let seen = bench.drain_server(&drained);
    assert_eq!(seen[0], Seen::Withdrawn(link, invitation));
    assert_eq!(only_invitation(&seen[1..], 7).0, other);
    for agent in 8..11 {
        assert_eq!(bench.invited(agent).0, other);
    }
    assert_eq!(bench.drain_server(&drained), [], "it is drained already");
}

#[test]
fn a_drained_server_stays_so_when_it_connects_anew_and_gets_who_waits_once_it_is_undrained() {
    let mut bench = Bench::with_servers(&[1]);
    assert_eq!(bench.drain_server("lan-1"), []);
    bench.happen(Event::LinkClosed { link: LinkId(1) });
    assert_eq!(bench.connect(1, 0), []);
    assert_eq!(bench.admit(7), [], "it waits, as after the restart of a server");
    assert_eq!(only_invitation(&bench.undrain_server("lan-1"), 7).0, 1);
    assert!(bench.dispatcher.snapshot().drained_servers.is_empty());
}

#[test]
fn a_server_is_drained_before_it_connects() {
    let mut bench = Bench::new();
    assert_eq!(bench.drain_server("lan-1"), []);
    assert_eq!(bench.connect(1, 0), []);
    assert_eq!(bench.admit(7), [Seen::Refused(7, RefusalReason::NoServer)]);
    assert!(bench.dispatcher.snapshot().links[0].draining);
}

#[test]
fn the_sessions_of_a_drained_server_are_counted_on() {
    let mut bench = Bench::with_servers(&[1]);
    let (_, invitation) = bench.invited(7);
    assert_eq!(bench.claim(7, invitation), []);
    assert_eq!(bench.drain_server("lan-1"), []);
    assert_eq!(bench.dispatcher.snapshot().links[0].sessions, 1);
    bench.happen(Event::Released { invitation });
    assert_eq!(bench.dispatcher.snapshot().links[0].sessions, 0);
}
