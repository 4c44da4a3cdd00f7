//! What a process runs on: chosen once, at its start, by the configuration and by what the kernel has.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use rustix::io::Errno;
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv};
use thiserror::Error;
use tracing::warn;

use super::event_loop::EventLoop;
use crate::config;
use crate::relay::DataPath;
use crate::tls::{APPLICATION_DATA, Alert, CLOSE_NOTIFY, HANDSHAKE, OUR_KEY_UPDATE};
use crate::uring::{Direction, RingError, attach_tls, give_key, receive_opened, send_record};

/// What a process runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    /// What its threads wait in.
    pub event_loop: EventLoop,
    /// Who has the records of its sessions.
    pub relay: RelayMode,
}

impl Platform {
    /// Takes what the operator chose, as far as it is there, and warns where it is not. To be called before threads are
    /// confined; the test of the kernel's TLS comes before the sandbox ([`RelayMode::test`]).
    pub fn choose(
        event_loop: config::EventLoop,
        relay: Result<RelayMode, NoKernelTls>,
    ) -> Result<Self, RingError> {
        let event_loop = EventLoop::choose(event_loop)?;
        let relay = relay.unwrap_or_else(|error| {
            warn!("{error}. This process opens and seals records itself instead");
            RelayMode::Userspace
        });
        Ok(Self { event_loop, relay })
    }

    /// How the bytes of a session go that would go like that in userspace.
    pub fn path(&self, path: DataPath) -> DataPath {
        match (path, self.relay) {
            (DataPath::Tls, RelayMode::Kernel(_)) => DataPath::KernelTls,
            _ => path,
        }
    }
}

/// Who opens and seals the records of sessions, and who moves their payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayMode {
    /// The worker, in its buffer.
    Userspace,
    /// The kernel.
    Kernel(KernelTls),
}

/// What the kernel does with the records of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelTls {
    /// Whether it also moves payload, through a pipe: otherwise the worker receives and sends.
    pub splices: bool,
    /// Whether it takes a second key, as Linux does from 6.14 on.
    pub takes_new_keys: bool,
}

impl RelayMode {
    /// Looks whether the kernel has what the operator chose, over a connection of this process with itself: to be called
    /// before it gives up making any.
    pub fn test(wanted: config::RelayMode) -> Result<Self, NoKernelTls> {
        let splices = match wanted {
            config::RelayMode::Userspace => return Ok(Self::Userspace),
            config::RelayMode::Kernel => false,
            config::RelayMode::KernelSplice => true,
        };
        let takes_new_keys = test_kernel_tls()?;
        Ok(Self::Kernel(KernelTls { splices, takes_new_keys }))
    }

    /// In log, status and metric, as in the configuration.
    pub const fn word(self) -> &'static str {
        let chosen = match self {
            Self::Userspace => config::RelayMode::Userspace,
            Self::Kernel(KernelTls { splices: false, .. }) => config::RelayMode::Kernel,
            Self::Kernel(KernelTls { splices: true, .. }) => config::RelayMode::KernelSplice,
        };
        chosen.word()
    }
}

impl fmt::Display for RelayMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The operator's: why the kernel can't have the records, and what to change.
#[derive(Debug, Error)]
pub enum NoKernelTls {
    /// No such module is loaded, and a process like this one may not have it loaded.
    #[error(
        "the kernel's TLS is not there: run `modprobe tls`, and have it loaded at each start \
         (deploy/modules-load.d/vestibule.conf); some kernels are built without it"
    )]
    NotLoaded,
    /// It is there, and does not do what it should.
    #[error("the kernel's TLS does not work ({step}: {error}): leave `relay` out")]
    Broken {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Has the kernel seal payload and an end, and open them again. Returns whether it does so under a second key as well.
fn test_kernel_tls() -> Result<bool, NoKernelTls> {
    let broken = |step| move |error| NoKernelTls::Broken { step, error };
    let missing = |error| match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => NoKernelTls::NotLoaded,
        _ => broken("TCP_ULP")(error),
    };
    let mut takes_new_keys = true;
    for secrets in [aes_256(), chacha_20()] {
        let [sender, receiver] = connected_pair().map_err(broken("a connection to 127.0.0.1"))?;
        let pair = [(&sender, Direction::Sealing), (&receiver, Direction::Opening)];
        for (socket, direction) in pair {
            attach_tls(socket).map_err(missing)?;
            give_key(socket, direction, &secrets, 0).map_err(broken("TLS_TX and TLS_RX"))?;
        }
        exchange(&sender, &receiver).map_err(broken("a record"))?;
        takes_new_keys &= pair
            .into_iter()
            .try_for_each(|(socket, direction)| give_key(socket, direction, &secrets, 0).map(drop))
            .and_then(|()| exchange(&sender, &receiver))
            .is_ok();
    }
    Ok(takes_new_keys)
}

fn exchange(sender: &TcpStream, receiver: &TcpStream) -> io::Result<()> {
    for (content_type, content) in [
        (APPLICATION_DATA, &b"payload"[..]),
        (Alert::CONTENT_TYPE, &CLOSE_NOTIFY),
        (HANDSHAKE, &OUR_KEY_UPDATE),
    ] {
        send_record(sender, content_type, content)?;
        let mut space = [0; 64];
        // Over loopback it is there when the send returns.
        let (len, opened) = receive_opened(receiver, &mut [io::IoSliceMut::new(&mut space)])?;
        if (&space[..len], opened) != (content, Some(content_type)) {
            return Err(io::Error::other("it came out as another one"));
        }
    }
    Ok(())
}

fn connected_pair() -> io::Result<[TcpStream; 2]> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    Ok([near, far])
}

/// Keys for the test alone.
fn aes_256() -> ConnectionTrafficSecrets {
    ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([1; 32]), iv: Iv::new([2; 12]) }
}

fn chacha_20() -> ConnectionTrafficSecrets {
    ConnectionTrafficSecrets::Chacha20Poly1305 { key: AeadKey::from([3; 32]), iv: Iv::new([4; 12]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_word_of_the_operator_the_kernel_is_not_asked() {
        let mode = RelayMode::test(config::RelayMode::Userspace).expect("nothing is needed");
        assert_eq!(mode, RelayMode::Userspace);
    }

    #[test]
    fn where_the_kernel_has_no_tls_the_reason_says_what_to_run() {
        // Where it has, `tests/kernels` looks at more.
        if let Err(error) = RelayMode::test(config::RelayMode::Kernel) {
            assert!(error.to_string().contains("modprobe tls"), "{error}");
        }
    }
}
