/// How the bytes of a session go through a process: the same word in log, metric and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataPath {
    /// The agent's TLS ends at the gateway, or what the server has of it comes in the gateway's.
    Tls,
    /// The same, and the kernel opens and seals the records.
    KernelTls,
    /// The same with TLS 1.2: its records are copied.
    OlderTls,
    /// The agent has no TLS: one of a plain listener.
    Plain,
    /// The agent's TLS goes through the gateway unread.
    Passthrough,
}

impl DataPath {
    /// The one word for this path.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::KernelTls => "ktls",
            Self::OlderTls => "tls_1_2",
            Self::Plain => "plain",
            Self::Passthrough => "passthrough",
        }
    }
}
