//! The bytes that travel. Every receiver compares what arrives with what must be at that position,
//! so that a byte lost, changed, repeated or delivered to another session is an error and not a
//! figure.

use std::sync::LazyLock;

/// Period of the pattern, in bytes. A prime: no record, buffer or socket size divides it, so bytes
/// that went astray by a whole buffer don't match by chance.
const PERIOD: usize = 262_147;
/// Longest piece that [`piece`] gives.
pub(crate) const PIECE_LEN: usize = 64 * 1024;

/// The period, and the start of the next, so that every piece is contiguous.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x5eed_u64;
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(|| splitmix64(&mut state).to_le_bytes()[0]).take(PERIOD).collect();
    bytes.extend_from_within(..PIECE_LEN);
    bytes
});

/// The bytes at `position`: `length` of them, or [`PIECE_LEN`] if that is less.
pub(crate) fn piece(position: u64, length: u64) -> &'static [u8] {
    let start = usize::try_from(position % PERIOD as u64).expect("less than the period");
    let length = usize::try_from(length).map_or(PIECE_LEN, |length| length.min(PIECE_LEN));
    &BYTES[start..start + length]
}

/// Whether `received`, of any length, is what must be at `position`.
pub(crate) fn matches(mut position: u64, received: &[u8]) -> bool {
    received.chunks(PIECE_LEN).all(|chunk| {
        let length = chunk.len() as u64;
        let expected = piece(position, length);
        position += length;
        chunk == expected
    })
}

/// Vigna's `SplitMix64`: a few lines are less than a dependency for bytes that must only be
/// irregular.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_across_the_period() {
        let position = PERIOD as u64 - 10;
        let whole = piece(position, 30);
        assert_eq!(whole[..10], *piece(position, 10));
        assert_eq!(whole[10..], *piece(0, 20));
        assert!(matches(position, whole));
    }

    #[test]
    fn a_changed_or_displaced_byte_does_not_match() {
        let mut bytes: Vec<u8> = piece(0, 50_000).to_vec();
        bytes.extend_from_slice(piece(50_000, 50_000));
        assert!(matches(0, &bytes));
        assert!(!matches(16 * 1024, &bytes));
        assert!(!matches(256 * 1024, &bytes));
        bytes[99_999] ^= 1;
        assert!(!matches(0, &bytes));
    }
}
