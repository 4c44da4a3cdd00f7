//! Bytes that both sides know, and what is compared of them.

use std::convert::Infallible;
use std::fmt::{self, Write};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use aws_lc_rs::digest;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

/// Bytes after which the pattern repeats: a prime, so that no multiple of a record or a buffer can
/// move by its own length and leave the sum the same.
const PERIOD: usize = 65_521;

/// Length and SHA-256 of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum {
    /// How many.
    pub(super) len: u64,
    /// In hexadecimal.
    pub(super) sha256: String,
}

impl Sum {
    /// Of a body, as it arrives.
    pub(super) async fn of_body(mut body: Incoming) -> Result<Self, hyper::Error> {
        let (mut context, mut len) = (digest::Context::new(&digest::SHA256), 0);
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                context.update(&data);
                len += data.len() as u64;
            }
        }
        Ok(Self { len, sha256: hexadecimal(&context.finish()) })
    }

    /// Of the first bytes of the pattern.
    pub(super) fn of_pattern(len: u64) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut pattern = Pattern { left: len };
        while let Some(chunk) = pattern.next() {
            context.update(&chunk);
        }
        Self { len, sha256: hexadecimal(&context.finish()) }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.len, self.sha256)
    }
}

fn hexadecimal(digest: &digest::Digest) -> String {
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all that is written to it");
        text
    })
}

/// A body with the first bytes of the pattern. It holds none of them.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    left: u64,
}

impl Pattern {
    pub(super) fn new(len: u64) -> Self {
        Self { left: len }
    }

    fn next(&mut self) -> Option<Bytes> {
        static PERIOD_OF_BYTES: LazyLock<Bytes> = LazyLock::new(period);
        let len = usize::try_from(self.left).unwrap_or(PERIOD).min(PERIOD);
        self.left -= len as u64;
        (len > 0).then(|| PERIOD_OF_BYTES.slice(..len))
    }
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Printable, so that `curl` may show it on a terminal.
fn period() -> Bytes {
    let printable = (b'!'..b'z').cycle();
    printable.take(PERIOD).enumerate().map(|(i, b)| if i % 64 == 63 { b'\n' } else { b }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_has_the_length_that_was_asked_for() {
        for len in [0, 1, PERIOD - 1, PERIOD, PERIOD + 1, 3 * PERIOD + 7] {
            let mut pattern = Pattern::new(len as u64);
            let chunks = std::iter::from_fn(|| pattern.next());
            assert_eq!(chunks.map(|chunk| chunk.len()).sum::<usize>(), len);
        }
    }

    #[test]
    fn a_missing_byte_changes_the_sum() {
        let (whole, short) = (Sum::of_pattern(100_000), Sum::of_pattern(99_999));
        assert_ne!(whole.sha256, short.sha256);
    }

    #[test]
    fn the_pattern_can_be_shown_on_a_terminal() {
        assert!(period().iter().all(|byte| byte.is_ascii_graphic() || *byte == b'\n'));
    }
}
