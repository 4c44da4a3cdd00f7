use std::ops::Range;

use crate::limits::{MAX_RECORD_CONTENT_LEN, RECORD_HEADER_LEN, RECORD_TRAILER_LEN};

/// Where payload lies in a buffer, in order. Each piece fits one record, and has room around it for
/// the header and the trailer of a record of its own, so that it can be sealed where it lies.
#[derive(Debug, Default)]
pub struct Pieces {
    ranges: Vec<Range<usize>>,
}

impl Pieces {
    /// Forgets them all.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes of all of them.
    pub fn total_len(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// The ranges of the buffer.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.ranges.iter().cloned()
    }

    /// Adds a piece, which stands behind all others.
    pub(super) fn push(&mut self, range: Range<usize>) {
        self.ranges.push(range);
    }

    /// All, to be changed where they are sealed.
    pub(super) fn ranges_mut(&mut self) -> &mut [Range<usize>] {
        &mut self.ranges
    }

    /// Lays `payload` out in `buffer`, which has room for it as told by [`Pieces::space_for`].
    pub fn lay_out(&mut self, payload: &[u8], buffer: &mut [u8]) {
        self.clear();
        let mut at = 0;
        for content in payload.chunks(MAX_RECORD_CONTENT_LEN) {
            let start = at + RECORD_HEADER_LEN;
            buffer[start..start + content.len()].copy_from_slice(content);
            self.push(start..start + content.len());
            at = start + content.len() + RECORD_TRAILER_LEN;
        }
    }

    /// Bytes that a buffer must have for so much payload.
    pub const fn space_for(len: usize) -> usize {
        len + len.div_ceil(MAX_RECORD_CONTENT_LEN) * (RECORD_HEADER_LEN + RECORD_TRAILER_LEN)
    }

    /// The places in a buffer where plain payload is to be received, each of a record's content.
    pub fn places(buffer: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
        buffer
            .chunks_mut(RECORD_HEADER_LEN + MAX_RECORD_CONTENT_LEN + RECORD_TRAILER_LEN)
            .filter_map(|chunk| {
                let end = chunk.len().checked_sub(RECORD_TRAILER_LEN)?;
                chunk.get_mut(RECORD_HEADER_LEN..end)
            })
    }

    /// Takes `len` bytes that were received into the [`Pieces::places`] of a buffer.
    pub fn take_places(&mut self, mut len: usize) {
        self.clear();
        let mut at = RECORD_HEADER_LEN;
        while len > 0 {
            let filled = len.min(MAX_RECORD_CONTENT_LEN);
            self.push(at..at + filled);
            at += MAX_RECORD_CONTENT_LEN + RECORD_TRAILER_LEN + RECORD_HEADER_LEN;
            len -= filled;
        }
    }

    /// The bytes in each run of pieces that touch: one for records that came and went unpadded.
    pub fn runs<'b>(&self, buffer: &'b [u8]) -> impl Iterator<Item = &'b [u8]> + use<'b, '_> {
        let mut rest = &self.ranges[..];
        std::iter::from_fn(move || {
            let (first, mut others) = rest.split_first()?;
            let mut end = first.end;
            while let Some((next, behind)) = others.split_first()
                && next.start == end
            {
                end = next.end;
                others = behind;
            }
            rest = others;
            Some(&buffer[first.start..end])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_out_reads_back_and_every_piece_has_room_around_it() {
        let payload: Vec<u8> = (0..=255).cycle().take(3 * MAX_RECORD_CONTENT_LEN + 7).collect();
        let mut buffer = vec![0; Pieces::space_for(payload.len())];
        let mut pieces = Pieces::default();
        pieces.lay_out(&payload, &mut buffer);
        assert_eq!(pieces.runs(&buffer).collect::<Vec<_>>().concat(), payload);
        let mut free_from = 0;
        for range in pieces.iter() {
            assert!(range.start >= free_from + RECORD_HEADER_LEN);
            free_from = range.end + RECORD_TRAILER_LEN;
        }
        assert!(free_from <= buffer.len());
    }

    #[test]
    fn what_is_received_in_places_is_taken_in_order() {
        let mut buffer = vec![0; Pieces::space_for(2 * MAX_RECORD_CONTENT_LEN)];
        let payload: Vec<u8> = (0..=255).cycle().take(MAX_RECORD_CONTENT_LEN + 3).collect();
        let mut rest = &payload[..];
        for place in Pieces::places(&mut buffer) {
            let (now, later) = rest.split_at(rest.len().min(place.len()));
            place[..now.len()].copy_from_slice(now);
            rest = later;
        }
        let mut pieces = Pieces::default();
        pieces.take_places(payload.len());
        assert_eq!(pieces.total_len(), payload.len());
        assert_eq!(pieces.runs(&buffer).collect::<Vec<_>>().concat(), payload);
    }

    #[test]
    fn pieces_that_touch_are_one_run() {
        let buffer: Vec<u8> = (0..20).collect();
        let mut pieces = Pieces::default();
        for range in [0..5, 5..9, 12..15] {
            pieces.push(range);
        }
        let runs: Vec<&[u8]> = pieces.runs(&buffer).collect();
        assert_eq!(runs, [&buffer[0..9], &buffer[12..15]]);
    }
}
