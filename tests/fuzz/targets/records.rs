//! What a peer with the keys of a connection can send after the handshake, in any pieces: our record
//! layer never panics, gives the payload that was sent and no other, and nothing after an error.
#![no_main]

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use libfuzzer_sys::fuzz_target;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, KeyLog, RootCertStore, ServerConfig};
use vestibule::tls::{Pieces, TlsConnection};

const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const KEY_UPDATE: u8 = 24;
const TAG_LEN: usize = 16;

#[derive(Debug, Arbitrary)]
struct Input {
    sendings: Vec<Sending>,
    /// Lengths of the pieces in which all of it arrives.
    cuts: Vec<u16>,
}

#[derive(Debug, Arbitrary)]
enum Sending {
    /// Payload, with padding.
    Payload { content: Vec<u8>, padding: u8 },
    /// A record of any type, with any content.
    Record { content_type: u8, content: Vec<u8>, padding: u8 },
    /// Keys that follow from those before, and whether we are asked to do the same.
    KeyUpdate { asks: bool },
    /// Bytes that are no record.
    Raw(Vec<u8>),
}

thread_local! {
    /// What the peer's keys are derived from, as its last handshake logged it.
    static TRAFFIC_SECRET: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct SecretLog;

impl KeyLog for SecretLog {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == "CLIENT_TRAFFIC_SECRET_0" {
            TRAFFIC_SECRET.set(secret.to_vec());
        }
    }
}

static CONFIGS: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let mut provider = default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384];
    provider.kx_groups = vec![kx_group::X25519];
    let provider = Arc::new(provider);
    let own = rcgen::generate_simple_self_signed(["gateway.test".to_owned()]).expect("a pair");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("PKCS#8");
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a certificate");
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a pair");
    server.send_tls13_tickets = 0;
    server.enable_secret_extraction = true;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.key_log = Arc::new(SecretLog);
    (Arc::new(server), Arc::new(client))
});

/// Our end after its handshake, and what its peer seals with.
fn established() -> (TlsConnection, Sealer) {
    let (server, client) = &*CONFIGS;
    let mut ours = TlsConnection::server(Arc::clone(server)).expect("accepted");
    let name = ServerName::try_from("gateway.test").expect("a name");
    let mut peer = ClientConnection::new(Arc::clone(client), name).expect("accepted");
    loop {
        let mut flight = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut flight).expect("a Vec grows as needed");
        }
        let mut answer = Vec::new();
        if ours.handshake(&flight, &mut answer).expect("let in").is_some() {
            break;
        }
        peer.read_tls(&mut answer.as_slice()).expect("a slice does not fail");
        peer.process_new_packets().expect("let in");
    }
    (ours, Sealer::new(TRAFFIC_SECRET.take()))
}

struct Sealer {
    secret: Vec<u8>,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

/// The length of what is derived.
struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label without a context (RFC 8446 §7.1).
fn derive(secret: &[u8], label: &str, len: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let numbers = [0, u8::try_from(len).expect("short"), u8::try_from(label.len()).expect("short")];
    let info = [&numbers[..], label.as_bytes(), &[0]];
    let mut derived = vec![0; len];
    let secret = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA384, secret);
    secret.expand(&info, Len(len)).expect("short").fill(&mut derived).expect("as long");
    derived
}

impl Sealer {
    fn new(secret: Vec<u8>) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &derive(&secret, "key", 32)).expect("a key");
        let iv = derive(&secret, "iv", NONCE_LEN).try_into().expect("an IV");
        Self { secret, key: LessSafeKey::new(key), iv, sequence: 0 }
    }

    fn update(&mut self, asks: bool) -> Vec<u8> {
        let message = [KEY_UPDATE, 0, 0, 1, u8::from(asks)];
        let record = self.seal(HANDSHAKE, &message, 0);
        *self = Self::new(derive(&self.secret, "traffic upd", self.secret.len()));
        record
    }

    fn seal(&mut self, content_type: u8, content: &[u8], padding: u8) -> Vec<u8> {
        let mut inner = content.to_vec();
        inner.push(content_type);
        inner.resize(inner.len() + usize::from(padding), 0);
        let len = u16::try_from(inner.len() + TAG_LEN).expect("inputs are small").to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, len[0], len[1]];
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).expect("sealed");
        [&header[..], &inner].concat()
    }
}

fuzz_target!(|input: Input| {
    let (mut ours, mut sealer) = established();
    let (mut bytes, mut payload) = (Vec::new(), Vec::new());
    for sending in &input.sendings {
        match sending {
            Sending::Payload { content, padding } => {
                bytes.extend(sealer.seal(APPLICATION_DATA, content, *padding));
                payload.extend_from_slice(content);
            }
            Sending::Record { content_type, content, padding } => {
                bytes.extend(sealer.seal(*content_type, content, *padding));
                if *content_type == APPLICATION_DATA {
                    payload.extend_from_slice(content);
                }
            }
            Sending::KeyUpdate { asks } => bytes.extend(sealer.update(*asks)),
            Sending::Raw(raw) => bytes.extend_from_slice(raw),
        }
    }
    let mut opened = Vec::new();
    let mut waiting = Vec::new();
    let mut rest = &bytes[..];
    let mut cuts = input.cuts.iter().map(|&cut| usize::from(cut).max(1)).chain([usize::MAX]);
    let mut failed = false;
    while !rest.is_empty() {
        let cut = cuts.next().unwrap_or(usize::MAX).min(rest.len());
        waiting.extend_from_slice(&rest[..cut]);
        rest = &rest[cut..];
        let (len, mut pieces, mut answers) = (waiting.len(), Pieces::default(), Vec::new());
        match ours.open(&mut waiting, len, &mut pieces, &mut answers) {
            Ok(used) => {
                assert!(!failed, "nothing is opened after an error");
                opened.extend(pieces.runs(&waiting).flatten());
                waiting.drain(..used);
            }
            Err(_) => failed = true,
        }
    }
    // A zero as the last byte of content with type 0 reads as padding: the type is what stands before.
    assert!(payload.starts_with(&opened) || input.has_hidden_type(), "payload that was not sent");
    assert!(!input.is_honest() || (!failed && opened == payload), "an honest peer loses something");
});

impl Input {
    /// Whether nothing is there but payload, and updates of keys that stand alone.
    fn is_honest(&self) -> bool {
        let is_update = |sending: &Sending| matches!(sending, Sending::KeyUpdate { .. });
        let says_something = |sending: &Sending| match sending {
            Sending::Payload { content, .. } => !content.is_empty(),
            Sending::KeyUpdate { .. } => true,
            Sending::Record { .. } | Sending::Raw(_) => false,
        };
        self.sendings.iter().all(says_something)
            && self.sendings.windows(2).all(|pair| !pair.iter().all(is_update))
    }

    /// Whether there is a record whose type is 0, so that the last byte of its content is the type.
    fn has_hidden_type(&self) -> bool {
        self.sendings
            .iter()
            .any(|sending| matches!(sending, Sending::Record { content_type: 0, .. }))
    }
}
