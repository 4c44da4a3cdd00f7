//! Several.
