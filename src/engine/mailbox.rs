//! Mail between threads: bounded queues, a sleeper alone is woken, nothing is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use tokio::sync::Notify;

use crate::limits::{KEPT_MAIL_RETRY, MAILBOX_CAPACITY, QUIET_MAIL_DELAY};
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
    /// Since when mail has been there that nobody was woken for.
    quiet_since: Option<Instant>,
}

impl<T, W: Wake> Post<T, W> {
    /// Posts to the queue that `waker`'s owner reads.
    pub fn new(queue: SyncSender<T>, waker: Arc<W>) -> Self {
        Self { queue, waker, kept: VecDeque::new(), quiet_since: None }
    }

    /// Sends, now or at a later flush.
    pub fn send(&mut self, mail: T) {
        self.kept.push_back(mail);
        self.flush();
    }

    /// Sends what can wait for [`QUIET_MAIL_DELAY`]: it wakes nobody by itself, so that a busy sender
    /// does not wake the same sleeper time after time.
    pub fn send_quietly(&mut self, mail: T, now: Instant) {
        self.kept.push_back(mail);
        if self.pass_on() {
            self.quiet_since.get_or_insert(now);
        }
    }

    /// When to look after the mail again: it waits for room, or to be announced.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let kept = self.has_kept().then_some(now + KEPT_MAIL_RETRY);
        let quiet = self.quiet_since.map(|since| since + QUIET_MAIL_DELAY);
        kept.into_iter().chain(quiet).min()
    }

    /// Whether mail waits for room.
    pub fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Sends what did not fit before. Returns whether all has gone.
    pub fn flush(&mut self) -> bool {
        if self.pass_on() {
            self.announce();
        }
        self.kept.is_empty()
    }

    /// Flushes, and wakes the owner for quiet mail that has waited for its time.
    pub fn look_after(&mut self, now: Instant) {
        self.flush();
        if self.quiet_since.is_some_and(|since| since + QUIET_MAIL_DELAY <= now) {
            self.announce();
        }
    }

    fn announce(&mut self) {
        self.quiet_since = None;
        self.waker.wake();
    }

    /// Returns whether any mail went.
    fn pass_on(&mut self) -> bool {
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
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Sleeper(AtomicUsize);

    impl Wake for Sleeper {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn quiet_mail_is_there_at_once_and_wakes_once_for_all_of_it() {
        let (sender, receiver) = queue();
        let sleeper = Arc::new(Sleeper::default());
        let mut post = Post::new(sender, Arc::clone(&sleeper));
        let start = Instant::now();
        post.send_quietly(1, start);
        post.send_quietly(2, start + QUIET_MAIL_DELAY / 2);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(post.due(start), Some(start + QUIET_MAIL_DELAY));
        post.look_after(start + QUIET_MAIL_DELAY / 2);
        assert_eq!(sleeper.0.load(Ordering::Relaxed), 0);
        post.look_after(start + QUIET_MAIL_DELAY);
        assert_eq!((sleeper.0.load(Ordering::Relaxed), post.due(start)), (1, None));
    }

    #[test]
    fn mail_that_can_not_wait_takes_quiet_mail_with_it() {
        let (sender, receiver) = queue();
        let sleeper = Arc::new(Sleeper::default());
        let mut post = Post::new(sender, Arc::clone(&sleeper));
        let start = Instant::now();
        post.send_quietly(1, start);
        post.send(2);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!((sleeper.0.load(Ordering::Relaxed), post.due(start)), (1, None));
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
