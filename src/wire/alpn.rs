//! ALPN protocol names: they choose the role of a connection on 13000.

/// A server's signal connection.
pub const SIGNAL: &[u8] = b"vestibule-signal/1";
/// A server's data connection.
pub const DATA: &[u8] = b"vestibule-data/1";
/// Our own agent.
pub const AGENT: &[u8] = b"vestibule-agent/1";
/// Every name with this start is ours; a service may not offer one.
pub const RESERVED_PREFIX: &[u8] = b"vestibule-";

const HINT_PREFIX: &[u8] = b"vestibule-at/";
/// Of a gateway's instance name: 16 hexadecimal digits.
const INSTANCE_LEN: usize = 16;

/// Where a data connection belongs: the process of the gateway, and the worker in it, that hold the
/// waiting agent. Routing only, never trust: a wrong hint costs the sender its claim, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// Instance name of the gateway's process, 16 hexadecimal digits.
    pub instance: String,
    /// Index of the worker.
    pub worker: u32,
}

impl Hint {
    /// The ALPN name that carries this hint.
    pub fn to_alpn(&self) -> Vec<u8> {
        let mut name = HINT_PREFIX.to_vec();
        name.extend_from_slice(format!("{}.{}", self.instance, self.worker).as_bytes());
        name
    }

    /// Reads a hint from an ALPN name; `None` where the name is not a well-formed hint.
    pub fn from_alpn(name: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(name.strip_prefix(HINT_PREFIX)?).ok()?;
        let (instance, worker) = text.split_once('.')?;
        let well_formed =
            instance.len() == INSTANCE_LEN && instance.bytes().all(|b| b.is_ascii_hexdigit());
        if !well_formed || !worker.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self { instance: instance.to_owned(), worker: worker.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_survives_its_alpn_name() {
        let hint = Hint { instance: "00ff00ff00ff00ff".to_owned(), worker: 7 };
        assert_eq!(Hint::from_alpn(&hint.to_alpn()), Some(hint));
    }

    #[test]
    fn a_malformed_hint_is_no_hint() {
        for name in [
            &b"vestibule-at/"[..],
            b"vestibule-at/.1",
            b"vestibule-at/00ff00ff00ff00ff",
            b"vestibule-at/00ff00ff00ff00ff.",
            b"vestibule-at/00ff00ff00ff00ff.-1",
            b"vestibule-at/00ff00ff00ff00ff.99999999999",
            b"vestibule-at/00ff00ff00ff00fg.1",
            b"vestibule-at/\xff.1",
            b"h2",
        ] {
            assert_eq!(Hint::from_alpn(name), None, "{}", name.escape_ascii());
        }
    }
}
