//! The backend: a process of its own behind the process under test.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

use crate::error::BenchError;
use crate::exchange;

/// Serves exchanges until the process is killed.
pub(crate) fn run(listen: SocketAddr) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(BenchError::io("starting the runtime"))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(BenchError::io(format!("listening on {listen}")))?;
        loop {
            let (stream, _) = listener
                .accept()
                .await
                .map_err(BenchError::io(format!("accepting on {listen}")))?;
            tokio::spawn(serve(stream));
        }
    })
}

async fn serve(mut stream: TcpStream) {
    let served = match stream.set_nodelay(true) {
        Ok(()) => exchange::serve(&mut stream).await,
        Err(error) => Err(error),
    };
    // The load generator counts it as well, from its side; this line says what the backend saw.
    if let Err(error) = served {
        eprintln!("backend: {error}");
    }
}
