//! The shape that a first look at io_uring in Rust leads to: a task and a buffer for each direction.

use std::io;
use std::net::Shutdown;
use std::rc::Rc;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

use super::Place;

pub(super) fn serve(place: Place) -> io::Result<()> {
    let Place { listener, backend, settings } = place;
    let mut ring = tokio_uring::uring_builder();
    // As the product's control thread has it.
    ring.setup_coop_taskrun().setup_single_issuer();
    tokio_uring::builder().uring_builder(&ring).start(async {
        let listener = TcpListener::from_std(listener);
        loop {
            let (agent, _) = listener.accept().await?;
            let ends = [agent, TcpStream::from_std(settings.connect(backend)?)].map(Rc::new);
            let [agent, backend] = &ends;
            for (from, to) in [(agent, backend), (backend, agent)] {
                let (from, to) = (Rc::clone(from), Rc::clone(to));
                let buffer = Vec::with_capacity(settings.buffer_len());
                tokio_uring::spawn(async move {
                    if let Err(error) = carry(&from, &to, buffer).await {
                        eprintln!("{error}");
                        // The other direction ends with it.
                        let _ = from.shutdown(Shutdown::Both);
                        let _ = to.shutdown(Shutdown::Both);
                    }
                });
            }
        }
    })
}

async fn carry(from: &TcpStream, to: &TcpStream, mut buffer: Vec<u8>) -> io::Result<()> {
    loop {
        let (received, filled) = from.read(buffer).await;
        let len = received?;
        if len == 0 {
            return to.shutdown(Shutdown::Write);
        }
        let (sent, slice) = to.write_all(filled.slice(..len)).await;
        sent?;
        buffer = slice.into_inner();
    }
}
