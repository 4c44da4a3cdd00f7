//! Who asked for what, and what came of it: one line and one count each.

use std::collections::BTreeMap;

use tracing::info;

use super::message::{Answer, Asked, Cause, Denial, Request};
use crate::limits::MAX_AUDIT_TEXT_LEN;

/// Who is at the other end of the socket, as the kernel says it.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) uid: u32,
    pub(super) pid: Option<i32>,
    /// The name of that user, where it is known.
    pub(super) user: Option<String>,
}

impl Who {
    /// For people.
    pub(super) fn name(&self, sudo_user: Option<&str>) -> String {
        let user = self.user.clone().unwrap_or_else(|| format!("uid {}", self.uid));
        match sudo_user {
            Some(name) => format!("{name} as {user}"),
            None => user,
        }
    }
}

/// Requests by verb and result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<(&'static str, &'static str), u64>);

impl Tally {
    /// Verb, result, and how many, all of them.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let results = |verb| Cause::RESULTS.map(|result| (verb, result));
        let all = Request::VERBS.into_iter().flat_map(results);
        all.map(|key| (key.0, key.1, self.0.get(&key).copied().unwrap_or_default())).collect()
    }

    pub(super) fn note(&mut self, verb: &'static str, result: &Result<Answer, Denial>) {
        *self.0.entry((verb, word(result))).or_default() += 1;
    }
}

fn word(result: &Result<Answer, Denial>) -> &'static str {
    result.as_ref().map_or_else(|denial| denial.cause.word(), |_| "done")
}

/// Writes the line of one request.
pub(super) fn write(who: &Who, asked: &Asked, result: &Result<Answer, Denial>) {
    let (hit, why) = match result {
        Ok(answer) => (answer.hit(), None),
        Err(denial) => (0, Some(denial.message.as_str())),
    };
    info!(
        target: "audit",
        verb = asked.request.verb(),
        what = what(&asked.request),
        uid = who.uid,
        user = who.user,
        sudo_user = asked.sudo_user,
        pid = who.pid,
        hit,
        result = word(result),
        why,
        "operator"
    );
}

/// What a request names, in one line of bounded length.
fn what(request: &Request) -> String {
    let mut text = match request {
        Request::Sessions(selection) | Request::End(selection) => {
            serde_json::to_string(selection).unwrap_or_default()
        }
        Request::Block { target, for_s, why } => {
            let time = for_s.map_or_else(String::new, |for_s| format!(" for {for_s} s"));
            let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            format!("{target}{time}{why}")
        }
        Request::Unblock { target } => target.to_string(),
        Request::DrainServer { server } | Request::UndrainServer { server } => server.clone(),
        Request::Blocks | Request::Drain => String::new(),
    };
    if text.len() > MAX_AUDIT_TEXT_LEN {
        let is_end = |end: &usize| text.is_char_boundary(*end);
        text.truncate((0..=MAX_AUDIT_TEXT_LEN).rev().find(is_end).unwrap_or_default());
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::Selection;

    #[test]
    fn a_line_of_the_audit_is_bounded() {
        let sessions = vec!["é".repeat(5_000)];
        let request = Request::End(Selection { sessions, ..Selection::default() });
        assert!(what(&request).len() <= MAX_AUDIT_TEXT_LEN + 3);
    }

    #[test]
    fn every_verb_and_result_is_counted_from_the_beginning() {
        let mut tally = Tally::default();
        tally.note("drain", &Err(Denial::refused("it drains")));
        let counts = tally.counts();
        assert_eq!(counts.len(), Request::VERBS.len() * Cause::RESULTS.len());
        assert!(counts.contains(&("drain", "refused", 1)) && counts.contains(&("end", "done", 0)));
    }
}
