use thiserror::Error;

use super::Message;
use crate::limits::MAX_FRAME_LEN;

/// Length of the big-endian length field before every message.
const LENGTH_LEN: usize = 4;

/// Appends one frame (length, then the message) to `out`.
///
/// # Panics
/// Where the message is longer than [`MAX_FRAME_LEN`]. Every message that we build is bounded by the
/// limits of the configuration, which `check` holds below this bound.
pub fn encode<M: Message>(message: &M, out: &mut Vec<u8>) {
    let len = message.encoded_len();
    assert!(len <= MAX_FRAME_LEN, "{} of {len} bytes is over the bound of a frame", M::NAME);
    #[expect(clippy::cast_possible_truncation, reason = "bounded by the assertion above")]
    out.extend_from_slice(&(len as u32).to_be_bytes());
    message.encode(out).expect("a Vec grows as needed");
}

/// Why bytes are not a frame. Always the peer's fault; the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length field names more than a frame may hold.
    #[error("frame of {len} bytes, more than the {MAX_FRAME_LEN} that are allowed")]
    TooLarge {
        /// The length that the peer announced.
        len: usize,
    },
    /// The bytes are not a message of that type.
    #[error("frame that is not a well-formed {expected}")]
    Malformed {
        /// Message that has its place there.
        expected: &'static str,
    },
}

/// Cuts a stream of bytes into messages, holding at most one unfinished frame.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
}

impl FrameDecoder {
    /// Takes bytes from `input` up to the end of the next frame. Returns the message once it is
    /// whole; what remains in `input` then belongs to what follows the frame.
    pub fn decode<M: Message>(&mut self, input: &mut &[u8]) -> Result<Option<M>, FrameError> {
        self.fill(input, LENGTH_LEN);
        let Some(length) = self.buffer.first_chunk::<LENGTH_LEN>() else { return Ok(None) };
        let len = u32::from_be_bytes(*length) as usize;
        if len > MAX_FRAME_LEN {
            return Err(FrameError::TooLarge { len });
        }
        self.fill(input, LENGTH_LEN + len);
        if self.buffer.len() < LENGTH_LEN + len {
            return Ok(None);
        }
        let message = M::decode(&self.buffer[LENGTH_LEN..])
            .map_err(|_| FrameError::Malformed { expected: M::NAME })?;
        self.buffer.clear();
        Ok(Some(message))
    }

    /// Whether a frame has begun and not ended: an end of the stream here is a truncation.
    pub fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn fill(&mut self, input: &mut &[u8], target_len: usize) {
        let missing = target_len.saturating_sub(self.buffer.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.buffer.extend_from_slice(taken);
        *input = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{FromServer, Ping, from_server};

    fn ping(nonce: u64) -> FromServer {
        FromServer { message: Some(from_server::Message::Ping(Ping { nonce })) }
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_bytes_arrive() {
        let mut input = &[0xff, 0xff, 0xff, 0xff][..];
        let result = FrameDecoder::default().decode::<FromServer>(&mut input);
        assert_eq!(result, Err(FrameError::TooLarge { len: 0xffff_ffff }));
    }

    #[test]
    fn a_malformed_message_is_named_by_what_was_expected() {
        let mut input = &[0, 0, 0, 2, 0x0a, 0x7f][..];
        let result = FrameDecoder::default().decode::<FromServer>(&mut input);
        assert_eq!(result, Err(FrameError::Malformed { expected: "FromServer" }));
    }

    #[test]
    fn an_unknown_message_decodes_to_none_and_not_to_an_error() {
        // Field 99, an empty message.
        let mut input = &[0, 0, 0, 3, 0x9a, 0x06, 0x00][..];
        let result = FrameDecoder::default().decode::<FromServer>(&mut input);
        assert_eq!(result, Ok(Some(FromServer { message: None })));
    }

    #[test]
    fn bytes_after_a_frame_are_left_for_what_follows() {
        let mut bytes = Vec::new();
        encode(&ping(1), &mut bytes);
        bytes.extend_from_slice(b"payload");
        let mut input = &bytes[..];
        let mut decoder = FrameDecoder::default();
        assert_eq!(decoder.decode(&mut input), Ok(Some(ping(1))));
        assert_eq!(input, b"payload");
        assert!(!decoder.is_mid_frame());
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(nonces in proptest::collection::vec(any::<u64>(), 0..20), cut in 1usize..40) {
            let mut bytes = Vec::new();
            for &nonce in &nonces {
                encode(&ping(nonce), &mut bytes);
            }
            let mut decoder = FrameDecoder::default();
            let mut seen = Vec::new();
            for mut piece in bytes.chunks(cut) {
                while let Some(message) = decoder.decode::<FromServer>(&mut piece).expect("well-formed") {
                    seen.push(message);
                }
            }
            prop_assert_eq!(seen, nonces.into_iter().map(ping).collect::<Vec<_>>());
            prop_assert!(!decoder.is_mid_frame());
        }

        #[test]
        fn any_bytes_give_a_message_or_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = FrameDecoder::default();
            let mut input = &bytes[..];
            while let Ok(Some(_)) = decoder.decode::<FromServer>(&mut input) {}
            prop_assert!(decoder.buffer.len() <= LENGTH_LEN + MAX_FRAME_LEN);
        }
    }
}
