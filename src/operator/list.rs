use std::time::Instant;

use super::message::{ListedSession, SessionList};
use super::selection::{Candidate, Selection};
use crate::limits::MAX_LISTED_SESSIONS;
use crate::telemetry::ledger::{Ledger, LiveSession};

/// The sessions of a selection, the oldest first, and no more than a page of them.
pub fn list(ledger: &Ledger, selection: &Selection, now: Instant) -> SessionList {
    let mut found: Vec<(&str, &LiveSession)> =
        ledger.live().filter(|(session, live)| is_in(selection, session, live)).collect();
    let more = found.len().saturating_sub(MAX_LISTED_SESSIONS);
    if more > 0 {
        found.select_nth_unstable_by_key(MAX_LISTED_SESSIONS, |(_, live)| live.since);
        found.truncate(MAX_LISTED_SESSIONS);
    }
    found.sort_by_key(|(_, live)| live.since);
    let sessions = found.into_iter().map(|(session, live)| listed(session, live, now)).collect();
    SessionList { sessions, more: more as u64 }
}

fn is_in(selection: &Selection, session: &str, live: &LiveSession) -> bool {
    selection.contains(&Candidate {
        session,
        device: live.device.as_deref(),
        aliases: live.aliases.as_deref(),
        address: live.agent.ip(),
        service: &live.service,
        peer: &live.peer,
    })
}

fn listed(session: &str, live: &LiveSession, now: Instant) -> ListedSession {
    ListedSession {
        session: session.to_owned(),
        device: live.device.as_deref().map(str::to_owned),
        agent: live.agent,
        service: live.service.to_string(),
        peer: live.peer.to_string(),
        path: live.path.word().to_owned(),
        age_s: now.saturating_duration_since(live.since).as_secs(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::relay::DataPath;

    #[test]
    fn a_page_holds_the_oldest_of_those_that_are_meant() {
        let start = Instant::now();
        let count = 2 * MAX_LISTED_SESSIONS as u64 + 20;
        let mut ledger = Ledger::new(100_000);
        for number in (0..count).rev() {
            let live = LiveSession {
                device: Some(format!("laptop-{number}").into()),
                aliases: None,
                agent: SocketAddr::from(([192, 0, 2, 9], 40_000)),
                service: if number % 2 == 0 { "web" } else { "ssh" }.into(),
                peer: "server-1.lan".into(),
                path: DataPath::Tls,
                since: start + Duration::from_secs(number),
            };
            ledger.session_joined(format!("s-{number}"), live);
        }
        let web = Selection { service: Some("web".to_owned()), ..Selection::default() };
        let page = list(&ledger, &web, start + Duration::from_secs(count));
        assert_eq!((page.sessions.len(), page.more), (MAX_LISTED_SESSIONS, 10));
        assert_eq!((page.sessions[0].session.as_str(), page.sessions[0].age_s), ("s-0", count));
        assert!(page.sessions.is_sorted_by_key(|session| std::cmp::Reverse(session.age_s)));
        assert!(page.sessions.iter().all(|session| session.service == "web"));
    }
}
