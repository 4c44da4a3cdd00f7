use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::Shape;
use crate::error::BenchError;

/// Connections that the kernel holds until the relay accepts them.
const BACKLOG: i32 = 1024;

/// What is changed about a shape; all else is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub(crate) struct Settings {
    /// KiB of one receive [default: 256, ring-multishot 64, tokio-uring 128]
    #[arg(long = "buffer", value_name = "KIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) buffer_kib: Option<usize>,
    /// KiB that one session moves before the next has its turn; readiness and epoll only [default:
    /// as much as the buffer]
    #[arg(long = "turn", value_name = "KIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) turn_kib: Option<usize>,
    /// KiB for `SO_RCVBUF` [default: the kernel's own size, which grows]
    #[arg(long = "rcvbuf", value_name = "KIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rcvbuf_kib: Option<usize>,
    /// KiB for `SO_SNDBUF` [default: the kernel's own size, which grows]
    #[arg(long = "sndbuf", value_name = "KIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sndbuf_kib: Option<usize>,
    /// KiB for `TCP_NOTSENT_LOWAT` [default: no limit]
    #[arg(long = "notsent-lowat", value_name = "KIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notsent_lowat_kib: Option<u32>,
    /// Microseconds that a ring gives further completions to come with the first; not epoll and
    /// tokio-uring [default: 0]
    #[arg(long = "min-wait", value_name = "MICROSECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_wait_us: Option<u64>,
}

impl Settings {
    /// With the buffer of that shape, unless one was chosen. Fails where the shape has no such setting.
    pub(super) fn fitting(mut self, shape: Shape) -> Result<Self, BenchError> {
        let direct = matches!(shape, Shape::Readiness | Shape::Epoll);
        let waits = !matches!(shape, Shape::Epoll | Shape::TokioUring);
        let unfit = |option| BenchError::Unfit { shape: shape.name(), option };
        if self.turn_kib.is_some() && !direct {
            return Err(unfit("--turn"));
        }
        if self.min_wait_us.is_some() && !waits {
            return Err(unfit("--min-wait"));
        }
        self.buffer_kib.get_or_insert(shape.buffer_kib());
        if [self.buffer_kib, self.turn_kib].contains(&Some(0)) {
            return Err(unfit("a --buffer or --turn of 0"));
        }
        Ok(self)
    }

    /// Bytes of one receive.
    pub(super) fn buffer_len(&self) -> usize {
        self.buffer_kib.unwrap_or(Shape::Readiness.buffer_kib()) * 1024
    }

    /// Bytes of one turn.
    pub(super) fn turn_len(&self) -> usize {
        self.turn_kib.map_or(self.buffer_len(), |kib| kib * 1024)
    }

    /// For [`vestibule::uring::Ring::wait_for_more`].
    pub(super) fn min_wait(&self) -> Duration {
        Duration::from_micros(self.min_wait_us.unwrap_or(0))
    }

    /// A listener whose options are inherited by what it accepts.
    pub(super) fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.socket(address)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    }

    /// A connection to the backend.
    pub(super) fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(address)?;
        socket.connect(&address.into())?;
        Ok(socket.into())
    }

    /// The sizes of buffers are to be known before the handshake, which tells the window's scale.
    fn socket(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(kib) = self.rcvbuf_kib {
            socket.set_recv_buffer_size(kib * 1024)?;
        }
        if let Some(kib) = self.sndbuf_kib {
            socket.set_send_buffer_size(kib * 1024)?;
        }
        if let Some(kib) = self.notsent_lowat_kib {
            socket.set_tcp_notsent_lowat(kib * 1024)?;
        }
        Ok(socket)
    }

    /// Each setting that was chosen: its option, its value, and how the table says it.
    fn chosen(&self) -> impl Iterator<Item = (&'static str, u64, &'static str)> {
        let kib = |option, value: Option<usize>| value.map(|value| (option, value as u64, " KiB"));
        let lowat = self.notsent_lowat_kib.map(|value| ("notsent-lowat", u64::from(value), " KiB"));
        let all = [
            kib("buffer", self.buffer_kib),
            kib("turn", self.turn_kib),
            kib("rcvbuf", self.rcvbuf_kib),
            kib("sndbuf", self.sndbuf_kib),
            lowat,
            self.min_wait_us.map(|value| ("min-wait", value, " µs")),
        ];
        all.into_iter().flatten()
    }

    /// The command line that has the same meaning.
    pub(crate) fn arguments(&self) -> Vec<String> {
        self.chosen()
            .flat_map(|(option, value, _)| [format!("--{option}"), value.to_string()])
            .collect()
    }

    /// How the table names them; nothing where nothing was chosen.
    pub(crate) fn label(&self) -> String {
        let each = self.chosen().map(|(option, value, unit)| format!("{option} {value}{unit}"));
        each.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use socket2::SockRef;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn all() -> Settings {
        Settings {
            buffer_kib: Some(1),
            turn_kib: Some(2),
            rcvbuf_kib: Some(300),
            sndbuf_kib: Some(400),
            notsent_lowat_kib: Some(5),
            min_wait_us: Some(6),
        }
    }

    #[test]
    fn settings_survive_the_command_line() {
        for settings in [all(), Settings::default()] {
            let line = std::iter::once("bench".to_owned()).chain(settings.arguments());
            assert_eq!(Line::parse_from(line).settings, settings);
        }
    }

    #[test]
    fn accepted_and_dialled_sockets_have_the_options() {
        let settings = all();
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = settings.listen(any).expect("listens");
        let address = listener.local_addr().expect("bound");
        let dialled = settings.connect(address).expect("connects");
        let (accepted, _) = listener.accept().expect("accepts");
        for socket in [&dialled, &accepted] {
            let socket = SockRef::from(socket);
            assert!(socket.tcp_nodelay().expect("a socket"));
            // The kernel doubles them, for its own needs (socket(7)).
            assert_eq!(socket.recv_buffer_size().expect("a socket"), 2 * 300 * 1024);
            assert_eq!(socket.send_buffer_size().expect("a socket"), 2 * 400 * 1024);
            assert_eq!(socket.tcp_notsent_lowat().expect("a socket"), 5 * 1024);
        }
    }

    #[test]
    fn a_setting_that_a_shape_does_not_have_is_an_error() {
        let turn = || Settings { turn_kib: Some(1), ..Settings::default() };
        let min_wait = || Settings { min_wait_us: Some(1), ..Settings::default() };
        assert!(turn().fitting(Shape::Epoll).is_ok());
        assert!(turn().fitting(Shape::RingReceive).is_err());
        assert!(min_wait().fitting(Shape::RingMultishot).is_ok());
        assert!(min_wait().fitting(Shape::TokioUring).is_err());
        let empty = Settings { buffer_kib: Some(0), ..Settings::default() };
        assert!(empty.fitting(Shape::Readiness).is_err());
    }
}
