/// How many bytes may pass, in both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// In the long run.
    pub bytes_per_s: u64,
    /// At once, after a rest.
    pub burst: u64,
}
