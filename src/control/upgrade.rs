use std::time::Instant;

use crate::limits::{TAKE_OVER_BACKSTOP, TAKE_OVER_TIMEOUT};

/// How one process of a gateway takes the place of another, as either of them sees it. Whatever fails before
/// the new one serves leaves the old one as it was.
#[derive(Debug)]
pub struct Upgrade {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Alone.
    Alone,
    /// The old one: the other has our sockets, and gets the signal connections that come.
    Giving { until: Instant },
    /// The old one: the other may accept from now on, and has not said that it does.
    Given { until: Instant },
    /// The old one: the other accepts, and those whom we let in are served here.
    Leaving,
    /// The old one: nobody waits here any more.
    Left,
    /// The new one: waits for servers.
    Taking { until: Instant },
    /// The new one: has servers, and has asked whether it may accept.
    Asking { until: Instant },
    /// The new one: serves, and passes on what the old one is still to get.
    Taken,
    /// The new one failed, and ends.
    GivenUp,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeEvent {
    /// The old one: a new process is there.
    Came,
    /// The new one: it has a server for everything that the old one served.
    Served,
    /// The other process said this.
    Said(Word),
    /// The other process has ended, or has hung up.
    Gone,
    /// The old one: no agent waits here any more, and none is on its way in.
    Settled,
    /// This process drains.
    Drain,
}

/// What the two processes say to each other beside what they pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The new one: has servers.
    Ready,
    /// The old one: accept.
    Yours,
    /// The new one: accepts.
    Serving,
    /// The old one: it took too long; the new process is to end.
    Abandoned,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeAction {
    /// Say this to the other process.
    Say(Word),
    /// Hang up, after what was said.
    HangUp,
    /// Pass signal connections that come to the other process, and have the servers open them; or not any
    /// more.
    PassSignals(bool),
    /// Accept, and tell systemd.
    Serve,
    /// Accept no more; those who are in are served.
    Leave,
    /// Drain: nobody waits here.
    Drain,
    /// End: the other process goes on.
    GiveUp,
}

impl Upgrade {
    /// Of a process that is alone.
    pub fn alone() -> Self {
        Self { state: State::Alone }
    }

    /// Of a process that has got the sockets of another.
    pub fn taking(now: Instant) -> Self {
        Self { state: State::Taking { until: now + TAKE_OVER_TIMEOUT } }
    }

    /// Whether it has yet to learn that it may accept.
    pub fn is_taking(&self) -> bool {
        matches!(self.state, State::Taking { .. } | State::Asking { .. })
    }

    /// Whether another process takes the place of this one, or has taken it: what is changed here would be
    /// unknown there.
    pub fn is_giving(&self) -> bool {
        matches!(
            self.state,
            State::Giving { .. } | State::Given { .. } | State::Leaving | State::Left
        )
    }

    /// Whether there is no other process, so that one may come.
    pub fn is_alone(&self) -> bool {
        matches!(self.state, State::Alone)
    }

    /// Takes one event, and says what is to be done.
    pub fn handle(&mut self, event: UpgradeEvent, now: Instant) -> Vec<UpgradeAction> {
        use UpgradeAction::{Drain, GiveUp, HangUp, Leave, PassSignals, Say, Serve};
        use UpgradeEvent::{Came, Gone, Said, Served, Settled};
        let until = now + TAKE_OVER_BACKSTOP;
        let (next, actions) = match (&self.state, event) {
            (State::Alone, Came) => (State::Giving { until }, vec![PassSignals(true)]),
            (State::Giving { .. }, Said(Word::Ready)) => {
                (State::Given { until }, vec![Say(Word::Yours)])
            }
            (State::Given { .. }, Said(Word::Serving)) => (State::Leaving, vec![Leave]),
            (State::Giving { .. } | State::Given { .. }, Gone) => {
                (State::Alone, vec![PassSignals(false)])
            }
            (State::Giving { .. } | State::Given { .. }, UpgradeEvent::Drain) => {
                (State::Alone, vec![PassSignals(false), HangUp])
            }
            (State::Leaving, Settled) => (State::Left, vec![Drain, HangUp]),
            (State::Taking { until }, Served) => {
                (State::Asking { until: *until }, vec![Say(Word::Ready)])
            }
            (State::Asking { .. }, Said(Word::Yours)) => {
                (State::Taken, vec![Serve, Say(Word::Serving)])
            }
            // Nobody else has the sockets now.
            (State::Taking { .. } | State::Asking { .. }, Gone) => (State::Alone, vec![Serve]),
            (State::Taking { .. } | State::Asking { .. }, Said(Word::Abandoned)) => {
                (State::GivenUp, vec![GiveUp])
            }
            (State::Taking { .. } | State::Asking { .. }, UpgradeEvent::Drain) => {
                (State::GivenUp, vec![HangUp])
            }
            (State::Taken, Gone) => (State::Alone, vec![]),
            // Whatever else is said has no place at that moment, and changes nothing.
            _ => return Vec::new(),
        };
        self.state = next;
        actions
    }

    /// Gives up what took too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<UpgradeAction> {
        use UpgradeAction::{GiveUp, HangUp, PassSignals, Say};
        let (next, actions) = match self.state {
            State::Giving { until } | State::Given { until } if until <= now => {
                (State::Alone, vec![PassSignals(false), Say(Word::Abandoned), HangUp])
            }
            State::Taking { until } | State::Asking { until } if until <= now => {
                (State::GivenUp, vec![HangUp, GiveUp])
            }
            _ => return Vec::new(),
        };
        self.state = next;
        actions
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Giving { until }
            | State::Given { until }
            | State::Taking { until }
            | State::Asking { until } => Some(until),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::UpgradeAction::{Drain, GiveUp, HangUp, Leave, PassSignals, Say, Serve};
    use super::UpgradeEvent::{Came, Gone, Said, Served, Settled};
    use super::*;

    fn after(mut upgrade: Upgrade, events: &[UpgradeEvent]) -> (Upgrade, Vec<UpgradeAction>) {
        let now = Instant::now();
        let mut last = Vec::new();
        for event in events {
            last = upgrade.handle(*event, now);
        }
        (upgrade, last)
    }

    fn old(events: &[UpgradeEvent]) -> (Upgrade, Vec<UpgradeAction>) {
        after(Upgrade::alone(), events)
    }

    fn new(events: &[UpgradeEvent]) -> (Upgrade, Vec<UpgradeAction>) {
        after(Upgrade::taking(Instant::now()), events)
    }

    #[test]
    fn the_old_one_accepts_until_the_new_one_says_that_it_does() {
        assert_eq!(old(&[Came]).1, [PassSignals(true)]);
        assert_eq!(old(&[Came, Said(Word::Ready)]).1, [Say(Word::Yours)]);
        let serving = [Came, Said(Word::Ready), Said(Word::Serving)];
        assert_eq!(old(&serving).1, [Leave]);
        let settled = [serving[0], serving[1], serving[2], Settled];
        assert_eq!(old(&settled).1, [Drain, HangUp]);
    }

    #[test]
    fn a_new_process_that_ends_before_it_serves_leaves_the_old_one_as_it_was() {
        for before in [&[Came][..], &[Came, Said(Word::Ready)]] {
            let (mut upgrade, _) = old(before);
            let now = Instant::now();
            assert_eq!(upgrade.handle(Gone, now), [PassSignals(false)]);
            assert_eq!(upgrade.next_timeout(), None);
            assert_eq!(upgrade.handle(Came, now), [PassSignals(true)], "another may try");
        }
    }

    #[test]
    fn a_new_process_that_takes_too_long_is_sent_away() {
        let (mut upgrade, _) = old(&[Came]);
        let due = upgrade.next_timeout().expect("it has a bound");
        let actions = [PassSignals(false), Say(Word::Abandoned), HangUp];
        assert_eq!(upgrade.handle_timeout(due), actions);
        assert_eq!(upgrade.handle(Said(Word::Ready), due), [], "it is too late");
        assert_eq!(new(&[Said(Word::Abandoned)]).1, [GiveUp]);
    }

    #[test]
    fn the_new_one_serves_once_it_has_servers_and_was_told_to() {
        assert_eq!(new(&[Said(Word::Yours)]).1, []);
        assert_eq!(new(&[Served]).1, [Say(Word::Ready)]);
        assert_eq!(new(&[Served, Said(Word::Yours)]).1, [Serve, Say(Word::Serving)]);
    }

    #[test]
    fn the_new_one_gives_up_before_the_old_one_does() {
        let (mut upgrade, _) = new(&[]);
        let due = upgrade.next_timeout().expect("it has a bound");
        assert!(due < old(&[Came]).0.next_timeout().expect("it has a bound"));
        assert_eq!(upgrade.handle_timeout(due), [HangUp, GiveUp]);
    }

    #[test]
    fn the_new_one_serves_where_the_old_one_has_died() {
        assert_eq!(new(&[Gone]).1, [Serve]);
        assert_eq!(new(&[Served, Gone]).1, [Serve]);
    }

    #[test]
    fn nothing_that_is_said_at_the_wrong_time_does_anything() {
        for word in [Word::Ready, Word::Yours, Word::Serving, Word::Abandoned] {
            assert_eq!(old(&[Said(word)]).1, []);
            assert_eq!(new(&[Served, Said(Word::Yours), Said(word)]).1, []);
        }
        assert_eq!(old(&[Came, Said(Word::Serving)]).1, []);
        assert_eq!(old(&[Came, Settled]).1, []);
    }
}
