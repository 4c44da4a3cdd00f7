use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tracing::{error, info};

use super::Refusal;
use crate::telemetry::notify;
use crate::telemetry::status::{Configuration, RefusedReload};

/// What became of reloads, for the log, systemd, the metrics and the status page.
#[derive(Debug)]
pub struct History {
    loaded: (Instant, SystemTime),
    applied: u64,
    refused: u64,
    /// The last one that was refused, unless a later one was applied.
    refusal: Option<(Instant, String)>,
}

impl History {
    /// The configuration was read at the start.
    pub fn new() -> Self {
        let loaded = (Instant::now(), SystemTime::now());
        Self { loaded, applied: 0, refused: 0, refusal: None }
    }

    /// A reload was applied.
    pub fn note_applied(&mut self) {
        info!("configuration reloaded");
        notify::ready("runs with the configuration that was reloaded");
        self.applied += 1;
        self.refusal = None;
        self.loaded = (Instant::now(), SystemTime::now());
    }

    /// A reload changed nothing.
    pub fn note_refused(&mut self, refusal: &Refusal) {
        error!(reason = %refusal, "reload refused: the configuration of before stays");
        notify::ready("a reload was refused; runs with the configuration of before");
        self.refused += 1;
        self.refusal = Some((Instant::now(), refusal.to_string()));
    }

    /// How many reloads, by result.
    pub fn results(&self) -> [(&'static str, u64); 2] {
        [("applied", self.applied), ("refused", self.refused)]
    }

    /// When the configuration in use was read, in seconds since 1970.
    pub fn loaded_at(&self) -> u64 {
        self.loaded.1.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// For the status page.
    pub fn status(&self, now: Instant) -> Configuration {
        let refused = self.refusal.as_ref().map(|(at, reason)| RefusedReload {
            age_s: (now - *at).as_secs(),
            reason: reason.clone(),
        });
        Configuration { age_s: (now - self.loaded.0).as_secs(), refused }
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}
