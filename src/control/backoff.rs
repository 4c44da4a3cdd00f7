use std::time::Duration;

use crate::limits::{RECONNECT_MAX, RECONNECT_MIN};

/// The wait before the next attempt after so many that failed. "Full jitter": anything between nothing
/// and the whole wait, so that those who lost the same gateway do not all come back at once.
pub fn backoff(failures: u32, random: &mut dyn FnMut(&mut [u8])) -> Duration {
    let mut drawn = [0; 4];
    random(&mut drawn);
    let wait = RECONNECT_MIN.saturating_mul(1 << failures.min(16)).min(RECONNECT_MAX);
    wait.saturating_mul(u32::from_ne_bytes(drawn)) / u32::MAX
}
