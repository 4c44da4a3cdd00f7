use std::fmt;

use serde::{Deserialize, Serialize};

use crate::scenario::{Direction, Size, Work};
use crate::shape::{Settings, Shape};

/// Rounds in which sessions at rest are measured: memory hardly varies, and they take longest.
const IDLE_ROUNDS: usize = 2;

/// One relay that is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// How it receives.
    pub(crate) shape: Shape,
    /// What was changed about it.
    pub(crate) settings: Settings,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Set {
    /// All shapes, as they are
    Shapes,
    /// The worker's shape, with one setting changed at a time
    Settings,
}

/// What a relay is put through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trial {
    /// Many bytes to the backend
    BulkUp,
    /// Many bytes from the backend
    BulkDown,
    /// Messages as fast as they come back, on 64 sessions
    Messages,
    /// The same; its system calls are counted
    Syscalls,
    /// Sessions that have moved a megabyte each way and then rest
    Idle,
}

impl Trial {
    /// All, in the order of a round.
    pub(crate) const ALL: [Self; 5] =
        [Self::BulkUp, Self::BulkDown, Self::Messages, Self::Syscalls, Self::Idle];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BulkUp => "bulk-up",
            Self::BulkDown => "bulk-down",
            Self::Messages => "messages",
            Self::Syscalls => "syscalls",
            Self::Idle => "idle",
        }
    }

    /// The work of one sample: enough for a second or two.
    pub(crate) fn work(self, size: Size) -> Work {
        let full = size == Size::Full;
        let bulk = |direction| {
            let bytes = if full { 128_000_000 } else { 8_000_000 };
            Work::Bulk { direction, connections: 8, bytes }
        };
        match self {
            Self::BulkUp => bulk(Direction::Up),
            Self::BulkDown => bulk(Direction::Down),
            Self::Messages | Self::Syscalls if full => {
                Work::PingPong { sessions: 64, messages: 1_000 }
            }
            Self::Messages | Self::Syscalls => Work::PingPong { sessions: 64, messages: 20 },
            Self::Idle if full => Work::Idle { sessions: 4_000, bytes: 1_000_000, rest_ms: 1_000 },
            Self::Idle => Work::Idle { sessions: 50, bytes: 1_000_000, rest_ms: 100 },
        }
    }
}

impl Case {
    /// The worker's shape as it is: others are compared with it.
    pub(crate) fn reference() -> Self {
        Self::plain(Shape::Readiness)
    }

    fn plain(shape: Shape) -> Self {
        Self { shape, settings: Settings::default() }
    }

    /// Whether nothing was changed about the shape.
    pub(crate) fn is_plain(&self) -> bool {
        self.settings == Settings::default()
    }

    /// Whether this case has a sample of that trial in that round.
    pub(crate) fn takes_part(&self, trial: Trial, run: usize) -> bool {
        match trial {
            Trial::BulkUp | Trial::BulkDown => true,
            // How long to wait is a question of messages; the others are about bytes.
            Trial::Messages | Trial::Syscalls => {
                self.is_plain() || self.settings.min_wait_us.is_some()
            }
            Trial::Idle => self.is_plain() && run < IDLE_ROUNDS,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.shape.name())?;
        if self.is_plain() { Ok(()) } else { write!(to, ", {}", self.settings.label()) }
    }
}

/// What these sets measure of these shapes; all of them where none was chosen.
pub(crate) fn cases(sets: &[Set], shapes: &[Shape]) -> Vec<Case> {
    let of = |set| sets.is_empty() || sets.contains(&set);
    let has = |shape: &Shape| shapes.is_empty() || shapes.contains(shape);
    let mut cases = Vec::new();
    if of(Set::Shapes) {
        cases.extend(Shape::ALL.into_iter().filter(has).map(Case::plain));
    }
    if of(Set::Settings) && has(&Shape::Readiness) {
        if !of(Set::Shapes) {
            cases.push(Case::reference());
        }
        let changed = |settings| Case { settings, ..Case::reference() };
        cases.extend(changes().into_iter().map(changed));
    }
    cases
}

/// One at a time, but for the two sizes of a socket's buffers.
fn changes() -> Vec<Settings> {
    let none = Settings::default;
    let buffer = |kib| Settings { buffer_kib: Some(kib), ..none() };
    let turn = |kib| Settings { turn_kib: Some(kib), ..none() };
    let socket = |kib| Settings { rcvbuf_kib: Some(kib), sndbuf_kib: Some(kib), ..none() };
    let lowat = |kib| Settings { notsent_lowat_kib: Some(kib), ..none() };
    let min_wait = |us| Settings { min_wait_us: Some(us), ..none() };
    [16, 64, 128, 512, 1024]
        .map(buffer)
        .into_iter()
        .chain([turn(1024)])
        .chain([256, 512].map(socket))
        .chain([128, 512].map(lowat))
        .chain([20, 100].map(min_wait))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_holds_the_reference_and_both_hold_it_once() {
        let counted = |sets: &[Set]| {
            let all = cases(sets, &[]);
            let references = all.iter().filter(|case| **case == Case::reference()).count();
            (all.len(), references)
        };
        assert_eq!(counted(&[Set::Shapes]), (5, 1));
        assert_eq!(counted(&[Set::Settings]), (13, 1));
        assert_eq!(counted(&[]), (17, 1));
        assert_eq!(cases(&[], &[Shape::Epoll]).len(), 1);
    }

    #[test]
    fn a_case_is_named_by_its_shape_and_what_was_changed() {
        let all: Vec<String> = cases(&[], &[]).iter().map(Case::to_string).collect();
        assert_eq!(all[1], "epoll");
        assert_eq!(all[5], "readiness, buffer 16 KiB");
        assert_eq!(all[11], "readiness, rcvbuf 256 KiB, sndbuf 256 KiB");
    }
}
