use serde::{Deserialize, Serialize};

use super::case::{Case, Trial};
use crate::machine::Machine;
use crate::results::Outcome;
use crate::scenario::{Size, Work};

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShapeResults {
    /// Where and with what. The `vestibule` of it is the bench itself, which holds the shapes.
    pub(crate) machine: Machine,
    /// Whether the figures are to be trusted.
    pub(crate) size: Size,
    /// In the order in which they were taken.
    pub(crate) samples: Vec<ShapeSample>,
}

/// One trial of one case, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShapeSample {
    /// What was measured.
    pub(crate) trial: Trial,
    /// On what.
    #[serde(flatten)]
    pub(crate) case: Case,
    /// Samples of the same run were taken side by side, and are compared with each other.
    pub(crate) run: usize,
    /// When, RFC 3339.
    pub(crate) started: String,
    /// What the load generator was asked to do.
    pub(crate) work: Work,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

impl ShapeResults {
    /// Samples that are not clean.
    pub(crate) fn unclean(&self) -> usize {
        self.samples.iter().filter(|sample| !sample.complaints().is_empty()).count()
    }

    /// The samples of one trial of one case.
    pub(crate) fn of(&self, trial: Trial, case: &Case) -> impl Iterator<Item = &ShapeSample> {
        self.samples.iter().filter(move |sample| sample.trial == trial && sample.case == *case)
    }
}

impl ShapeSample {
    /// What went wrong.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.outcome.complaints(&self.work)
    }
}
