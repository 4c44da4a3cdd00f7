/// Names one watched socket in completions: an index and the generation of what stood there when the
/// watch began, so that a late completion is never taken for one of a slot's next tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// Place in the owner's table.
    pub index: u32,
    /// Tenant of that place.
    pub generation: u32,
}

impl Token {
    /// Completions that nobody waits for (of the removals of watches).
    pub(super) const IGNORED: u64 = u64::MAX;
    /// Completions of the waker's event.
    pub(crate) const WAKER: u64 = u64::MAX - 1;

    /// The token as one number: `user_data` of its operations. An index of `u32::MAX` is reserved.
    pub fn to_bits(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }

    /// The reverse of [`Token::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of the number")]
        Self { index: (bits >> 32) as u32, generation: bits as u32 }
    }
}
