//! Mail between threads: bounded queues, a sleeper alone is woken, nothing is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tokio::sync::Notify;

use crate::limits::MAILBOX_CAPACITY;
use crate::uring::Waker;

/// How the owner of a mailbox is told that mail is there.
pub trait Wake {
    /// Called after the mail is in its queue.
    fn wake(&self);
}

impl Wake for Waker {
    fn wake(&self) {
        Waker::wake(self);
    }
}

impl Wake for Notify {
    fn wake(&self) {
        self.notify_one();
    }
}

/// A queue of the size of every mailbox.
pub fn queue<T>() -> (SyncSender<T>, Receiver<T>) {
    sync_channel(MAILBOX_CAPACITY)
}

/// The sender's end of a mailbox. What does not fit stays here, in order, until [`Post::flush`]: at
/// most a few mails for each connection of the sender, since each mail is about one.
#[derive(Debug)]
pub struct Post<T, W> {
    queue: SyncSender<T>,
    waker: Arc<W>,
    kept: VecDeque<T>,
}

impl<T, W: Wake> Post<T, W> {
    /// Posts to the queue that `waker`'s owner reads.
    pub fn new(queue: SyncSender<T>, waker: Arc<W>) -> Self {
        Self { queue, waker, kept: VecDeque::new() }
    }

    /// Sends, now or at a later flush.
    pub fn send(&mut self, mail: T) {
        self.kept.push_back(mail);
        self.flush();
    }

    /// Whether mail waits for room.
    pub fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Sends what did not fit before. Returns whether all has gone.
    pub fn flush(&mut self) -> bool {
        let mut sent = false;
        while let Some(mail) = self.kept.pop_front() {
            match self.queue.try_send(mail) {
                Ok(()) => sent = true,
                Err(TrySendError::Full(mail)) => {
                    self.kept.push_front(mail);
                    break;
                }
                // The other thread has ended, and with it all that the mail is about.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
        if sent {
            self.waker.wake();
        }
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_beyond_the_capacity_is_kept_in_order() {
        let (sender, receiver) = queue();
        let mut post = Post::new(sender, Arc::new(Notify::new()));
        let count = MAILBOX_CAPACITY + 10;
        for n in 0..count {
            post.send(n);
        }
        assert!(!post.flush());
        let mut seen: Vec<usize> = receiver.try_iter().collect();
        assert!(post.flush());
        seen.extend(receiver.try_iter());
        assert_eq!(seen, (0..count).collect::<Vec<_>>());
    }

    #[test]
    fn mail_to_a_thread_that_has_ended_is_dropped() {
        let (sender, receiver) = queue();
        let mut post = Post::new(sender, Arc::new(Notify::new()));
        drop(receiver);
        post.send(1);
        assert!(post.flush());
    }
}
