use std::fmt;

/// What becomes of a list of revoked certificates that a server brings. The numbers are those of
/// `vestibule.proto`; the words are the same in log and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum CrlOutcome {
    /// The sender named none, or one that this release does not know.
    Unspecified = 0,
    /// The next piece may come.
    More = 1,
    /// The gateway goes by it.
    Taken = 2,
    /// The gateway has had it.
    Known = 3,
    /// The gateway has a newer one of that CA.
    Older = 4,
    /// It is of no CA that the gateway knows, or not signed by it.
    Foreign = 5,
    /// It can't be read, or is not a full list.
    Unusable = 6,
    /// The gateway takes none any more, or not so many.
    NotWanted = 7,
}

impl CrlOutcome {
    /// Those that end a transfer.
    pub const FINAL: [Self; 6] =
        [Self::Taken, Self::Known, Self::Older, Self::Foreign, Self::Unusable, Self::NotWanted];

    /// How often each of [`Self::FINAL`] was, with its word.
    pub fn with_words(counts: &[u64; Self::FINAL.len()]) -> Vec<(&'static str, u64)> {
        Self::FINAL.iter().zip(counts).map(|(outcome, count)| (outcome.word(), *count)).collect()
    }

    /// Counts one of [`Self::FINAL`].
    pub fn count(self, counts: &mut [u64; Self::FINAL.len()]) {
        if let Some(place) = Self::FINAL.iter().position(|known| *known == self) {
            counts[place] += 1;
        }
    }

    /// The one word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::More => "more",
            Self::Taken => "taken",
            Self::Known => "known",
            Self::Older => "older",
            Self::Foreign => "foreign",
            Self::Unusable => "unusable",
            Self::NotWanted => "not_wanted",
        }
    }
}

impl fmt::Display for CrlOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
