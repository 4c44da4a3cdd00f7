//! What somebody who stands where a balancer may says first: a header, bytes that may become one, or none. That
//! does not change with further bytes, and an address in it is one that limits count once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vestibule::gateway::proxy_header::{NoHeader, parse};
use vestibule::limits::MAX_PROXY_HEADER_LEN;

fuzz_target!(|bytes: &[u8]| {
    // The gateway looks at no more.
    let bytes = &bytes[..bytes.len().min(MAX_PROXY_HEADER_LEN)];
    let whole = parse(bytes);
    if let Ok(Some(header)) = &whole {
        assert!(header.len > 0 && header.len <= bytes.len());
        if let Some(source) = header.source {
            assert_eq!(source.ip(), source.ip().to_canonical());
        }
    }
    for len in 0..bytes.len() {
        match (parse(&bytes[..len]), &whole) {
            (Ok(None), Ok(Some(header))) => assert!(len < header.len, "it is there after {len} bytes"),
            (Ok(None), _) => {}
            (Ok(Some(early)), _) => assert_eq!(Ok(Some(early)), whole, "after {len} bytes"),
            (Err(NoHeader), _) => assert_eq!(Err(NoHeader), whole, "after {len} bytes"),
        }
    }
});
