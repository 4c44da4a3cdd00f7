use std::collections::HashMap;

use tokio::sync::oneshot;

use super::message::{Answer, Denial};
use super::selection::Selection;

/// What the workers were told to end, until each has said that it did. The control thread owns it; as many
/// are under way as there are requests.
#[derive(Debug, Default)]
pub struct Sweeps {
    next: u64,
    pending: HashMap<u64, Pending>,
}

#[derive(Debug)]
struct Pending {
    workers_left: usize,
    swept: Swept,
    done: oneshot::Sender<Swept>,
}

/// What was ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Sessions.
    pub sessions: u64,
    /// Agents that waited for one.
    pub waiting: u64,
}

impl Sweeps {
    /// A new one, for so many workers; its sum comes by the receiver.
    pub fn begin(&mut self, workers: usize) -> (u64, oneshot::Receiver<Swept>) {
        let id = self.next;
        self.next += 1;
        let (done, sum) = oneshot::channel();
        let swept = Swept::default();
        self.pending.insert(id, Pending { workers_left: workers, swept, done });
        (id, sum)
    }

    /// One worker has done its part.
    pub fn part_done(&mut self, id: u64, part: Swept) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.swept.sessions += part.sessions;
        pending.swept.waiting += part.waiting;
        pending.workers_left = pending.workers_left.saturating_sub(1);
        if pending.workers_left == 0
            && let Some(Pending { swept, done, .. }) = self.pending.remove(&id)
        {
            // Nobody listens where the process ends.
            let _ = done.send(swept);
        }
    }
}

/// Waits for what was ended.
pub async fn swept(sum: oneshot::Receiver<Swept>) -> Result<Swept, Denial> {
    sum.await.map_err(|_| Denial::failed("the process ends, and all sessions with it"))
}

/// Ends the sessions of a selection, by the sweep that `begin` begins.
pub async fn end(
    selection: Selection,
    begin: impl FnOnce(Selection) -> oneshot::Receiver<Swept>,
) -> Result<Answer, Denial> {
    if selection.is_empty() {
        return Err(Denial::refused("name the sessions: all of them end by `vestibule drain`"));
    }
    match swept(begin(selection)).await? {
        Swept { sessions: 0, .. } => {
            Err(Denial::not_found("no such session lives: `vestibule sessions` lists them"))
        }
        Swept { sessions, .. } => Ok(Answer::Ended { sessions }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_done_when_every_worker_is() {
        let mut sweeps = Sweeps::default();
        let (id, mut sum) = sweeps.begin(2);
        sweeps.part_done(id, Swept { sessions: 2, waiting: 1 });
        assert!(sum.try_recv().is_err());
        sweeps.part_done(id, Swept { sessions: 3, waiting: 0 });
        assert_eq!(sum.try_recv(), Ok(Swept { sessions: 5, waiting: 1 }));
        assert!(sweeps.pending.is_empty());
    }
}
