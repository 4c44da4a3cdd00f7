//! Frames of every kind of message, in any pieces: the same messages and the same error come out, no more
//! than one frame is held, and what was decoded survives another round.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vestibule::limits::MAX_FRAME_LEN;
use vestibule::wire::{
    FrameDecoder, FrameError, FromAgent, FromDataConnection, FromServer, Message, ToAgent,
    ToDataConnection, ToServer, encode,
};

const LENGTH_LEN: usize = 4;

/// All messages up to an error, and the error.
fn decode<'b, M: Message>(
    pieces: impl IntoIterator<Item = &'b [u8]>,
) -> (Vec<M>, Option<FrameError>) {
    let mut decoder = FrameDecoder::default();
    let mut messages = Vec::new();
    // Bytes that the decoder has taken since the last message: it holds no others.
    let mut held = 0;
    for mut piece in pieces {
        loop {
            let before = piece.len();
            let decoded = decoder.decode(&mut piece);
            held += before - piece.len();
            assert!(held <= LENGTH_LEN + MAX_FRAME_LEN, "{held} bytes of one frame");
            match decoded {
                Ok(Some(message)) => {
                    assert!(!decoder.is_mid_frame());
                    messages.push(message);
                    held = 0;
                }
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(piece.is_empty(), "what is no message yet is taken");
        assert_eq!(decoder.is_mid_frame(), held > 0);
    }
    (messages, None)
}

fn check<M: Message + PartialEq>(bytes: &[u8]) {
    let decoded = decode::<M>([bytes]);
    assert!(decoded == decode(bytes.chunks(1)), "byte by byte it is something else");
    let (messages, _) = decoded;
    let mut frames = Vec::new();
    for message in &messages {
        encode(message, &mut frames);
    }
    let (again, error) = decode::<M>([&frames[..]]);
    assert!(error.is_none() && again == messages, "messages survive a round");
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 6 {
        0 => check::<FromServer>(bytes),
        1 => check::<ToServer>(bytes),
        2 => check::<FromDataConnection>(bytes),
        3 => check::<ToDataConnection>(bytes),
        4 => check::<FromAgent>(bytes),
        _ => check::<ToAgent>(bytes),
    }
});
