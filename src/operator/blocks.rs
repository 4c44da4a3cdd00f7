//! Who is kept out: devices and addresses, some for a time. Seconds are those since 1970, by the host's
//! clock, since a block outlives the process.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::message::Denial;
use super::selection::{DevicePattern, Range, Selection};
use crate::limits::{MAX_BLOCK_NOTE_LEN, MAX_BLOCKS};
use crate::relay::CloseReason;
use crate::tls::Identity;
use crate::wire::RefusalReason;

/// Whom a block is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every device of such a name, whatever its address.
    Device(DevicePattern),
    /// Everyone who comes from there, whoever it is.
    Address(Range),
}

/// Somebody is kept out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Who.
    #[serde(flatten)]
    pub target: Target,
    /// Since when.
    pub since: u64,
    /// Until when; `None`: until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// What the operator noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Who the operator was.
    pub by: String,
}

/// Everyone who is kept out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocks {
    #[serde(default)]
    blocks: Vec<Block>,
}

impl Blocks {
    /// All of them, the oldest first.
    pub fn all(&self) -> &[Block] {
        &self.blocks
    }

    /// These and one more; another one about the same is replaced.
    pub fn with(&self, block: Block) -> Result<Self, Denial> {
        let note_len = block.why.as_ref().map_or(0, String::len);
        if note_len > MAX_BLOCK_NOTE_LEN {
            let message = format!("a note has at most {MAX_BLOCK_NOTE_LEN} bytes, not {note_len}");
            return Err(Denial::refused(message));
        }
        let mut next = self.without(&block.target).unwrap_or_else(|| self.clone());
        if next.blocks.len() >= MAX_BLOCKS {
            let message = format!(
                "there are {MAX_BLOCKS} blocks, and no more are kept: take some back, or block a range \
                 or a pattern (`vestibule blocks` lists them)"
            );
            return Err(Denial::refused(message));
        }
        next.blocks.push(block);
        Ok(next)
    }

    /// All but that about `target`; `None` where there is none.
    pub fn without(&self, target: &Target) -> Option<Self> {
        let rest = self.blocks.iter().filter(|block| block.target != *target);
        let blocks: Vec<_> = rest.cloned().collect();
        (blocks.len() < self.blocks.len()).then_some(Self { blocks })
    }

    /// Those whose time is not over; `None` where that are all.
    pub fn unexpired(&self, now: u64) -> Option<Self> {
        let holds = |block: &&Block| block.until.is_none_or(|until| now < until);
        let blocks: Vec<_> = self.blocks.iter().filter(holds).cloned().collect();
        (blocks.len() < self.blocks.len()).then_some(Self { blocks })
    }

    /// Why a connection from that address is closed before anything is read.
    pub fn of_address(&self, address: IpAddr) -> Option<CloseReason> {
        let is_in = |block: &Block| match &block.target {
            Target::Address(range) => range.contains(address),
            Target::Device(_) => false,
        };
        self.blocks.iter().any(is_in).then_some(CloseReason::AddressBlocked)
    }

    /// Why an agent does not get in.
    pub fn of_agent(&self, address: IpAddr, device: Option<&Identity>) -> Option<CloseReason> {
        let is_in = |device: &Identity| {
            self.blocks.iter().any(|block| match &block.target {
                Target::Device(pattern) => pattern.is_of(device),
                Target::Address(_) => false,
            })
        };
        let by_device = device.filter(|device| is_in(device));
        let reason = CloseReason::Refused(RefusalReason::DeviceBlocked);
        by_device.map(|_| reason).or_else(|| self.of_address(address))
    }
}

impl Target {
    /// The sessions that a block ends.
    pub fn selection(&self) -> Selection {
        match self.clone() {
            Self::Device(device) => Selection { device: Some(device), ..Selection::default() },
            Self::Address(range) => Selection { address: Some(range), ..Selection::default() },
        }
    }

    /// Why these end.
    pub const fn reason(&self) -> CloseReason {
        match self {
            Self::Device(_) => CloseReason::Refused(RefusalReason::DeviceBlocked),
            Self::Address(_) => CloseReason::AddressBlocked,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(pattern) => write!(f, "device {pattern}"),
            Self::Address(range) => write!(f, "address {range}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> Target {
        Target::Device(name.parse().expect("a pattern"))
    }

    fn address(range: &str) -> Target {
        Target::Address(range.parse().expect("a range"))
    }

    fn block(target: Target, until: Option<u64>) -> Block {
        Block { target, since: 100, until, why: None, by: "root".to_owned() }
    }

    fn blocks(all: impl IntoIterator<Item = Block>) -> Blocks {
        all.into_iter().fold(Blocks::default(), |blocks, one| blocks.with(one).expect("few"))
    }

    #[test]
    fn an_address_is_blocked_with_its_range_and_nobody_else() {
        let blocks = blocks([block(address("203.0.113.0/24"), None)]);
        let reason = |ip: &str| blocks.of_address(ip.parse().expect("an address"));
        assert_eq!(reason("203.0.113.9"), Some(CloseReason::AddressBlocked));
        assert_eq!(reason("203.0.114.9"), None);
    }

    #[test]
    fn another_block_about_the_same_replaces_the_first() {
        let both = blocks([block(device("a"), None), block(device("b"), None)]);
        let again = both.with(block(device("a"), Some(200))).expect("few");
        assert_eq!(again.all(), [block(device("b"), None), block(device("a"), Some(200))]);
        assert_eq!(again.without(&device("c")), None);
    }

    #[test]
    fn a_block_ends_with_its_time() {
        let blocks = blocks([block(device("a"), Some(200)), block(device("b"), None)]);
        assert_eq!(blocks.unexpired(199), None);
        let left = blocks.unexpired(200).expect("one is over");
        assert_eq!(left.all(), [block(device("b"), None)]);
    }

    #[test]
    fn blocks_are_bounded_and_the_last_one_changes_nothing() {
        let name = |number: usize| device(&format!("d-{number}"));
        let full = Blocks { blocks: (0..MAX_BLOCKS).map(|n| block(name(n), None)).collect() };
        assert!(full.with(block(name(MAX_BLOCKS), None)).is_err());
        assert!(full.with(block(name(3), Some(9))).is_ok(), "one that is there may be renewed");
        let mut noted = block(device("a"), None);
        noted.why = Some("x".repeat(MAX_BLOCK_NOTE_LEN + 1));
        assert!(Blocks::default().with(noted).is_err());
    }
}
