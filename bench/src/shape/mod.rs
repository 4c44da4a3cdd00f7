//! Relays from plain TCP to plain TCP on one thread that differ in their shape only: how they learn
//! that bytes are there, and into what they receive them. `shapes` measures them side by side.
//! Connections to the backend are made blocking, as those of the floor.

mod direct;
mod epoll;
mod outbox;
mod readiness;
mod ring;
mod ring_multishot;
mod ring_receive;
mod settings;
mod tokio_uring;

use std::net::{SocketAddr, TcpListener};

use serde::{Deserialize, Serialize};

pub(crate) use self::settings::Settings;

use crate::error::BenchError;

/// How a relay receives.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// The worker's: a ring tells of readiness, receives and sends are direct, one hot buffer
    Readiness,
    /// The same code on edge-triggered epoll
    Epoll,
    /// Each receive is an operation of a ring, into a buffer of a pool; sends are direct
    RingReceive,
    /// Multishot receives into buffers that are provided to a ring; sends are direct
    RingMultishot,
    /// Reads and writes of tokio-uring, with a buffer for each direction
    TokioUring,
}

/// One relay.
#[derive(Debug, clap::Args)]
pub(crate) struct ShapeArguments {
    /// How it receives
    #[arg(long)]
    shape: Shape,
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// Address of the backend
    #[arg(long)]
    backend: SocketAddr,
    #[command(flatten)]
    settings: Settings,
}

/// What every shape needs to begin.
struct Place {
    listener: TcpListener,
    backend: SocketAddr,
    settings: Settings,
}

impl Shape {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 5] =
        [Self::Readiness, Self::Epoll, Self::RingReceive, Self::RingMultishot, Self::TokioUring];

    /// Its name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Readiness => "readiness",
            Self::Epoll => "epoll",
            Self::RingReceive => "ring-receive",
            Self::RingMultishot => "ring-multishot",
            Self::TokioUring => "tokio-uring",
        }
    }

    /// KiB of one receive unless told otherwise.
    fn buffer_kib(self) -> usize {
        match self {
            Self::Readiness | Self::Epoll | Self::RingReceive => 256,
            Self::TokioUring => 128,
            Self::RingMultishot => 64,
        }
    }
}

/// Relays until the process is killed.
pub(crate) fn run(arguments: ShapeArguments) -> Result<(), BenchError> {
    let ShapeArguments { shape, listen, backend, settings } = arguments;
    let settings = settings.fitting(shape)?;
    let listener =
        settings.listen(listen).map_err(BenchError::io(format!("listening on {listen}")))?;
    let served = serve(shape, Place { listener, backend, settings });
    served.map_err(BenchError::io(format!("relaying with {}", shape.name())))
}

fn serve(shape: Shape, place: Place) -> std::io::Result<()> {
    match shape {
        Shape::Readiness => readiness::serve(place),
        Shape::Epoll => epoll::serve(place),
        Shape::RingReceive => ring_receive::serve(place),
        Shape::RingMultishot => ring_multishot::serve(place),
        Shape::TokioUring => tokio_uring::serve(place),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Shutdown, TcpStream};

    use super::*;
    use crate::pattern;

    /// More than all buffers between the two ends hold while one of them does not read.
    const LEN: u64 = 16_000_000;

    /// A relay of that shape, and both ends of a connection through it.
    fn through(shape: Shape) -> (TcpStream, TcpStream) {
        let small = Settings { rcvbuf_kib: Some(64), sndbuf_kib: Some(64), ..Settings::default() };
        let settings = small.fitting(shape).expect("every shape has sockets");
        let any_port = (Ipv4Addr::LOCALHOST, 0).into();
        let listener = settings.listen(any_port).expect("a free port");
        let behind = TcpListener::bind(any_port).expect("a free port");
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        let (front, backend) = (address(&listener), address(&behind));
        std::thread::spawn(move || serve(shape, Place { listener, backend, settings }));
        let client = TcpStream::connect(front).expect("the relay listens");
        let (inside, _) = behind.accept().expect("the relay connects");
        (client, inside)
    }

    fn send(mut socket: &TcpStream, from: u64, len: u64) {
        let mut sent = 0;
        while sent < len {
            let piece = pattern::piece(from + sent, len - sent);
            socket.write_all(piece).expect("the relay reads");
            sent += piece.len() as u64;
        }
    }

    fn receive(socket: &TcpStream, from: u64, len: u64) {
        let mut bytes = Vec::new();
        socket.take(len).read_to_end(&mut bytes).expect("the relay sends");
        assert_eq!(bytes.len() as u64, len);
        assert!(pattern::matches(from, &bytes));
    }

    #[test]
    fn every_shape_holds_a_sender_back_and_loses_nothing_and_passes_each_end_on() {
        for shape in Shape::ALL {
            let (client, inside) = through(shape);
            let sender = client.try_clone().expect("a socket");
            let sending = std::thread::spawn(move || {
                send(&sender, 0, LEN);
                sender.shutdown(Shutdown::Write).expect("the connection is open");
            });
            let receiving = std::thread::spawn(move || {
                receive(&client, 9, LEN + 5);
                assert_eq!((&client).read(&mut [0]).expect("a clean end"), 0);
            });
            // Nothing is read before all has been sent: the way in is blocked meanwhile.
            send(&inside, 9, LEN);
            assert!(!sending.is_finished(), "{}: what holds {LEN} bytes?", shape.name());
            receive(&inside, 0, LEN);
            assert_eq!((&inside).read(&mut [0]).expect("the end arrives"), 0);
            // The way back is still open.
            send(&inside, 9 + LEN, 5);
            inside.shutdown(Shutdown::Write).expect("the connection is open");
            sending.join().expect("it sends all");
            receiving.join().expect("it receives all");
        }
    }

    #[test]
    fn a_reset_ends_both_directions_of_every_shape() {
        for shape in Shape::ALL {
            let (client, inside) = through(shape);
            send(&client, 0, 1000);
            receive(&inside, 0, 1000);
            let linger = Some(std::time::Duration::ZERO);
            socket2::SockRef::from(&client).set_linger(linger).expect("a socket");
            drop(client);
            assert!(matches!((&inside).read(&mut [0]), Ok(0) | Err(_)), "{}", shape.name());
            // And the relay has let go of it: what is sent now is refused, sooner or later.
            while (&inside).write(&[0; 1000]).is_ok() {}
        }
    }
}
