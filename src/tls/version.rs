/// A version of TLS that two ends agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2, where a listener takes agents with it, or at a backend.
    Older,
    /// TLS 1.3.
    Current,
}
