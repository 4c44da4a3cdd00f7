use super::*;
use crate::control::Reconfiguration;

impl Bench {
    /// As it was, with every link of `links` allowed what stands there.
    fn reload(
        &mut self,
        change: impl FnOnce(&mut Reconfiguration),
        links: &[(u64, &[ServiceId])],
    ) -> Vec<Seen> {
        let links = links.iter().map(|(link, allowed)| (LinkId(*link), Ok(allowed.to_vec())));
        let mut changed = Reconfiguration {
            limits: self.dispatcher.limits.clone(),
            services: self.dispatcher.services.clone(),
            gone: BTreeSet::new(),
            links: links.collect(),
        };
        change(&mut changed);
        self.happen(Event::Reconfigured(changed))
    }
}

#[test]
fn a_reload_that_changes_nothing_moves_nobody() {
    let mut bench = Bench::with_servers(&[1]);
    bench.invited(7);
    assert_eq!(bench.reload(|_| {}, &[(1, &[0, 1])]), []);
    assert_eq!(bench.dispatcher.snapshot().waiting, 1);
}

#[test]
fn a_server_that_is_not_allowed_any_more_is_left_and_its_agents_go_elsewhere() {
    let mut bench = Bench::with_servers(&[1, 2]);
    let (link, _) = bench.invited(7);
    let other = 3 - link;
    let not_allowed = CloseReason::CertificateNotAllowed;
    let seen = bench.reload(|changed| changed.links = vec![(LinkId(link), Err(not_allowed))], &[]);
    assert_eq!(seen[0], Seen::Closed(link, not_allowed));
    let (moved_to, _) = only_invitation(&seen[1..], 7);
    assert_eq!(moved_to, other);
    assert_eq!(bench.invited(8).0, other);
}

#[test]
fn agents_of_a_service_that_is_gone_are_refused_and_so_are_those_that_come() {
    let mut bench = Bench::with_servers(&[1]);
    let (_, invitation) = bench.invited(7);
    let seen = bench.reload(|changed| changed.gone = BTreeSet::from([0]), &[(1, &[1])]);
    let unknown = RefusalReason::ServiceUnknown;
    assert_eq!(seen, [Seen::Withdrawn(1, invitation), Seen::Refused(7, unknown)]);
    assert_eq!(bench.admit(8), [Seen::Refused(8, unknown)]);
    bench.reload(|_| {}, &[(1, &[0, 1])]);
    assert_eq!(bench.invited(9).0, 1, "it is back");
}

#[test]
fn an_agent_whose_server_may_not_serve_it_any_more_is_moved_and_its_invitation_is_void() {
    let mut bench = Bench::with_servers(&[1, 2]);
    let (link, invitation) = bench.invited(7);
    let other = 3 - link;
    let seen = bench.reload(|_| {}, &[(link, &[1]), (other, &[0, 1])]);
    assert_eq!(seen[0], Seen::Withdrawn(link, invitation));
    assert_eq!(only_invitation(&seen[1..], 7).0, other);
}

#[test]
fn a_service_that_was_added_is_served_by_whoever_offers_it() {
    let mut bench = Bench::with_servers(&[1]);
    // Every server of the bench offers `mail`, which the configuration did not have.
    let mail = |changed: &mut Reconfiguration| changed.services.push(ServiceOffer::new("mail"));
    assert_eq!(bench.reload(mail, &[(1, &[0, 1, 2])]), []);
    let seen = bench.happen(admission(7, 2));
    assert_eq!(only_invitation(&seen, 7).0, 1);
}

#[test]
fn a_server_that_says_hello_again_is_invited_for_what_it_offers_now() {
    let mut bench = Bench::with_servers(&[1]);
    let ssh = |bench: &mut Bench, connection| bench.happen(admission(connection, 1));
    assert_eq!(ssh(&mut bench, 7), [Seen::Refused(7, RefusalReason::NoServer)]);
    let services = vec!["ssh".to_owned()];
    let hello = ServerHello { services, ..ServerHello::default() };
    assert_eq!(bench.hear(1, from_server::Message::ServerHello(hello)), []);
    let seen = ssh(&mut bench, 8);
    assert_eq!(only_invitation(&seen, 8).0, 1);
    assert_eq!(bench.admit(9), [Seen::Refused(9, RefusalReason::NoServer)], "no more `web`");
}

#[test]
fn shorter_patience_holds_for_those_who_wait_already() {
    let mut bench = Bench::with_servers(&[1]);
    bench.invited(7);
    let start = bench.now;
    let short = Duration::from_secs(1);
    bench.reload(|changed| changed.limits.invitation_timeout = short, &[(1, &[0, 1])]);
    let seen = bench.wait_until(start + short);
    assert!(seen.contains(&Seen::Refused(7, RefusalReason::InvitationTimeout)), "{seen:?}");
}

#[test]
fn no_spare_of_a_server_that_is_left_is_given_out() {
    let mut bench = Bench::new();
    bench.connect_with_spares(1, 0, 2);
    let (_, first) = bench.invited(7);
    bench.claim(7, first);
    let seen = bench.admit(8);
    let asked = seen.iter().find_map(|seen| match seen {
        Seen::Asked(1, spare) => Some(*spare),
        _ => None,
    });
    let spare = asked.expect("agents come often enough");
    bench.happen(Event::SpareReady { invitation: spare });
    let untrusted = CloseReason::CertificateUntrusted;
    let left = |changed: &mut Reconfiguration| changed.links = vec![(LinkId(1), Err(untrusted))];
    let seen = bench.reload(left, &[]);
    assert!(seen.contains(&Seen::SpareClosed(spare)), "{seen:?}");
    let seen = bench.admit(9);
    assert!(!seen.iter().any(|seen| matches!(seen, Seen::Given(..))), "{seen:?}");
}

#[test]
fn a_server_is_invited_only_where_it_lets_the_tls_of_a_service_end_where_the_gateway_does() {
    let mut bench = Bench::with_servers(&[1]);
    bench.reload(pass, &[(1, &[0, 1])]);
    assert_eq!(bench.admit(7), [Seen::Refused(7, RefusalReason::NoServer)]);
    assert_eq!(bench.hear(1, passes_web()), []);
    assert_eq!(bench.invited(8).0, 1);
}

#[test]
fn who_waits_for_a_service_whose_tls_is_to_end_elsewhere_is_refused_and_goes_to_no_other_server() {
    let mut bench = Bench::with_servers(&[1, 2]);
    bench.hear(2, passes_web());
    let (link, invitation) = bench.invited(7);
    assert_eq!(link, 1);
    let seen = bench.reload(pass, &[(1, &[0, 1]), (2, &[0, 1])]);
    let refused = Seen::Refused(7, RefusalReason::ServiceUnknown);
    assert_eq!(seen, [Seen::Withdrawn(1, invitation), refused]);
    assert_eq!(bench.invited(8).0, 2, "whoever comes now is of the new way");
}

fn pass(changed: &mut Reconfiguration) {
    changed.services[0].passthrough = true;
}

/// What a server says that passes on the TLS of `web`.
fn passes_web() -> from_server::Message {
    let services = vec!["mail".to_owned(), "web".to_owned()];
    from_server::Message::ServerHello(ServerHello {
        services,
        passthrough: vec![1],
        ..ServerHello::default()
    })
}
