//! The first bytes of a connection to a TLS listener: what they come to does not depend on the pieces in
//! which they arrive, and a server name that is passed on is one that a server takes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vestibule::limits::{MAX_CLIENT_HELLO_LEN, MAX_PRINTED_LEN};
use vestibule::tls::{ClientHello, HelloError, HelloReader};
use vestibule::wire::alpn::Hint;

fn read<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Result<Option<ClientHello>, HelloError> {
    let mut reader = HelloReader::default();
    for piece in pieces {
        if let Some(hello) = reader.read(piece)? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

fuzz_target!(|bytes: &[u8]| {
    let read_whole = read([bytes]);
    assert_eq!(read(bytes.chunks(1)), read_whole, "byte by byte");
    let len = bytes.iter().map(|&byte| usize::from(byte)).sum::<usize>() % 97 + 2;
    assert_eq!(read(bytes.chunks(len)), read_whole, "in pieces of {len} bytes");
    match read_whole {
        Ok(None) => assert!(bytes.len() <= MAX_CLIENT_HELLO_LEN, "more than a hello may have"),
        Ok(Some(ClientHello { sni, alpn, offers_tls_1_3: _, resumes: _ })) => {
            assert!(
                sni.len() <= MAX_PRINTED_LEN && sni.bytes().all(|byte| byte.is_ascii_graphic())
            );
            for hint in alpn.iter().filter_map(|name| Hint::from_alpn(name)) {
                assert_eq!(Hint::from_alpn(&hint.to_alpn()), Some(hint));
            }
        }
        Err(HelloError::NotTls) => assert!(!bytes.starts_with(&[22, 3])),
        Err(HelloError::Damaged { answer } | HelloError::TooOld { answer }) => {
            assert_eq!(answer.first(), Some(&21), "an alert");
        }
    }
});
