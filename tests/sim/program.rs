//! A program at either end of a session: what it says, how it reads, how it ends. Every byte is a
//! function of the device, the direction and its offset, so that whoever hears it can tell.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::checks::Sight;
use super::nature::{Nature, Occurrence};
use super::network::{ConnectionId, End, Received};
use super::random::Random;

/// One try of one agent to get a session: no two are alike, so that each session has its own bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Device {
    pub(super) agent: usize,
    pub(super) attempt: usize,
}

/// The bytes of one direction of the session of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    pub(super) device: Device,
    /// From the agent to the backend.
    pub(super) is_inward: bool,
}

/// Bytes sent and received at once.
const PIECE: usize = 1_000;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "how it behaves, and how far it is")]
pub(super) struct Program {
    /// `None` for a visitor that nobody sent: a hostile gateway made it up.
    device: Option<Device>,
    says_inward: bool,
    len: usize,
    said: usize,
    heard: usize,
    finish: Finish,
    pace: Pace,
    /// Says nothing before it has heard the other's end.
    answers: bool,
    is_paused: bool,
    ended: bool,
    heard_end: bool,
}

/// How it ends what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    Clean,
    Truncated,
    Reset,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Prompt,
    Slow,
    Never,
}

/// How it was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Finished,
    /// It left by its own choice.
    Left,
    /// The connection broke under it.
    Broken,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device-{}-{}", self.agent, self.attempt)
    }
}

impl FromStr for Device {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (agent, attempt) =
            text.strip_prefix("device-").and_then(|rest| rest.split_once('-')).unwrap_or_default();
        Ok(Self { agent: agent.parse()?, attempt: attempt.parse()? })
    }
}

impl Flow {
    fn byte(self, offset: usize) -> u8 {
        let Device { agent, attempt } = self.device;
        let key = (agent as u64) << 8 | (attempt as u64) << 1 | u64::from(self.is_inward);
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (offset as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed.to_le_bytes()[5]
    }
}

impl Program {
    pub(super) fn new(
        device: Option<Device>,
        says_inward: bool,
        calm: bool,
        random: &mut Random,
    ) -> Self {
        let len = *random.pick(&[0, 1, 40, 300, 300, 2_500]);
        let finish = *random.pick(&[
            Finish::Clean,
            Finish::Clean,
            Finish::Clean,
            Finish::Clean,
            Finish::Truncated,
            Finish::Reset,
            Finish::Never,
        ]);
        let pace =
            *random.pick(&[Pace::Prompt, Pace::Prompt, Pace::Prompt, Pace::Slow, Pace::Never]);
        let answers = !says_inward && random.percent(50);
        // A backend is plain TCP: where it goes, it ends or resets.
        let finish =
            if !says_inward && finish == Finish::Truncated { Finish::Reset } else { finish };
        let (finish, pace) = if calm { (Finish::Clean, Pace::Prompt) } else { (finish, pace) };
        Self {
            device,
            says_inward,
            len,
            said: 0,
            heard: 0,
            finish,
            pace,
            answers,
            is_paused: false,
            ended: false,
            heard_end: false,
        }
    }

    pub(super) fn unpause(&mut self) {
        self.is_paused = false;
    }

    /// Reads and writes what it can.
    pub(super) fn go(
        &mut self,
        id: ConnectionId,
        end: End,
        nature: &mut Nature,
    ) -> Option<Outcome> {
        let over = self.read(id, end, nature).or_else(|| self.write(id, end, nature));
        match over {
            Some(Outcome::Broken) => nature.abort(id, end),
            None if self.ended && self.heard_end => {
                if self.said > 0 && self.heard > 0 {
                    nature.checks.see(Sight::WholeSession);
                }
                nature.close(id, end);
                return Some(Outcome::Finished);
            }
            _ => {}
        }
        over
    }

    /// Before the session stands: some say at once what they have to say.
    pub(super) fn write(
        &mut self,
        id: ConnectionId,
        end: End,
        nature: &mut Nature,
    ) -> Option<Outcome> {
        if self.answers && !self.heard_end {
            return None;
        }
        while self.said < self.len {
            let until = self.len.min(self.said + PIECE);
            let bytes: Vec<u8> = (self.said..until).map(|at| self.says(at)).collect();
            let Ok(sent) = nature.send(id, end, &bytes) else { return Some(Outcome::Broken) };
            self.said += sent;
            if let Some(flow) = self.flow(self.says_inward) {
                nature.checks.note_said(flow, id, self.said);
            }
            if sent < bytes.len() {
                return None;
            }
        }
        match self.finish {
            Finish::Clean if !self.ended => {
                self.ended = true;
                if let Some(flow) = self.flow(self.says_inward) {
                    nature.checks.note_ended(flow, id, self.said);
                }
                nature.end_writing(id, end);
            }
            Finish::Clean | Finish::Never => {}
            Finish::Truncated => {
                nature.truncate(id, end);
                return Some(Outcome::Left);
            }
            Finish::Reset => {
                nature.abort(id, end);
                return Some(Outcome::Left);
            }
        }
        None
    }

    /// It is closed early and cleanly: what it has said so far is all.
    pub(super) fn note_closed(&self, id: ConnectionId, nature: &mut Nature) {
        if let Some(flow) = self.flow(self.says_inward) {
            nature.checks.note_ended(flow, id, self.said);
        }
    }

    fn read(&mut self, id: ConnectionId, end: End, nature: &mut Nature) -> Option<Outcome> {
        if self.pace == Pace::Never {
            return nature.network.has_ended(id, end).then_some(Outcome::Broken);
        }
        if self.heard_end && nature.network.has_failed(id, end) {
            return Some(Outcome::Broken);
        }
        while !self.heard_end && !self.is_paused {
            match nature.receive(id, end, PIECE) {
                Received::Nothing => break,
                Received::Truncated | Received::Reset => return Some(Outcome::Broken),
                Received::End => {
                    self.heard_end = true;
                    if let Some(flow) = self.flow(!self.says_inward) {
                        nature.checks.a_clean_end_is_that_of_whoever_spoke(flow, self.heard);
                    }
                }
                Received::Payload(bytes) => {
                    self.hear(id, &bytes, nature);
                    if self.pace == Pace::Slow {
                        self.is_paused = true;
                        let owner = nature.network.owner(id, end);
                        let pause_ms = if nature.calm { 20 } else { 1_500 };
                        nature.after(Duration::ZERO, pause_ms, Occurrence::Act(owner, id));
                    }
                }
            }
        }
        None
    }

    fn hear(&mut self, id: ConnectionId, bytes: &[u8], nature: &mut Nature) {
        let Some(flow) = self.flow(!self.says_inward) else { return };
        let expected = |(at, byte): (usize, &u8)| *byte == flow.byte(self.heard + at);
        let are_right = bytes.iter().enumerate().all(expected);
        self.heard += bytes.len();
        nature.checks.bytes_out_are_bytes_in(flow, are_right, self.heard);
        if flow.is_inward {
            nature.checks.an_agent_reaches_one_backend(flow.device, id);
        }
    }

    fn flow(&self, is_inward: bool) -> Option<Flow> {
        self.device.map(|device| Flow { device, is_inward })
    }

    fn says(&self, offset: usize) -> u8 {
        self.flow(self.says_inward).map_or(0, |flow| flow.byte(offset))
    }
}
