use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::scenario::Size;

/// How much is measured, and where it is kept.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Extent {
    /// Rounds [default: 5, with --quick 1]
    #[arg(long)]
    runs: Option<NonZeroUsize>,
    /// Little work: shows in seconds whether everything works; not for figures
    #[arg(long)]
    quick: bool,
    /// File for all samples, as JSON
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

impl Extent {
    /// Of each sample.
    pub(crate) const fn size(&self) -> Size {
        if self.quick { Size::Quick } else { Size::Full }
    }

    /// How many rounds.
    pub(crate) fn rounds(&self) -> usize {
        match (self.runs, self.quick) {
            (Some(runs), _) => runs.get(),
            (None, false) => 5,
            (None, true) => 1,
        }
    }
}
