//! TLS 1.2, whose records stay with rustls.

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS12;
use rustls::{
    CipherSuiteCommon, PeerIncompatible, PeerMisbehaved, SupportedCipherSuite, Tls12CipherSuite,
};

use super::*;
use crate::relay::Failure;
use crate::tls::record::RecordKey;
use crate::tls::testing::{NAME, World};
use crate::tls::{TlsVersion, provider};

const SUITES: [SupportedCipherSuite; 3] = [
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];
const HANDSHAKE: u8 = 22;

/// A foreign agent that knows TLS 1.2 and these suites, and our end, before they have met.
fn strangers(suites: &[SupportedCipherSuite]) -> (Ours, ClientConnection) {
    let world = World::new();
    let roles = world.older_roles();
    let server = &roles.of_foreign(2, false).expect("offered").config;
    let ours = Ours::new(TlsConnection::server(Arc::clone(server)).expect("accepted"));
    let client = Arc::new(world.older_client(Some(&world.device), suites));
    let name = NAME.try_into().expect("a DNS name");
    (ours, ClientConnection::new(client, name).expect("accepted"))
}

fn established_with(suites: &[SupportedCipherSuite]) -> (Ours, ClientConnection) {
    let (mut ours, mut peer) = strangers(suites);
    let mut flight = sent(&mut peer);
    while ours.tls.is_handshaking() || peer.is_handshaking() {
        ours.take(&flight).expect("the peer is let in");
        assert!(!ours.tls.ended_with_a_ticket(), "the peer waits for our last word");
        flight = give(&mut peer, &std::mem::take(&mut ours.outgoing)).expect("we are let in");
    }
    assert_eq!(ours.tls.version(), Some(TlsVersion::Older));
    assert!(ours.tls.peer_certificate().is_some());
    (ours, peer)
}

fn established() -> (Ours, ClientConnection) {
    established_with(&SUITES)
}

/// The hello of that peer without one of its extensions.
fn without_extension(hello: &[u8], extension: u16) -> Vec<u8> {
    let len = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    // Record, type and length, version and random; then session id, suites, compression methods.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + len(at);
    at += 1 + usize::from(hello[at]);
    let (mut kept, mut next) = (Vec::new(), at + 2);
    while next < hello.len() {
        let end = next + 4 + len(next + 2);
        if len(next) != usize::from(extension) {
            kept.extend_from_slice(&hello[next..end]);
        }
        next = end;
    }
    let size = |len: usize| u16::try_from(len).expect("a hello is small").to_be_bytes();
    let body = [&hello[9..at], &size(kept.len()), &kept].concat();
    let message = [&[1, 0], &size(body.len())[..], &body].concat();
    [&hello[..3], &size(message.len()), &message].concat()
}

#[test]
fn a_close_notify_ends_one_direction_only() {
    let (mut ours, mut peer) = established();
    std::io::Write::write_all(&mut peer.writer(), b"last words").expect("buffered");
    peer.send_close_notify();
    ours.take(&sent(&mut peer)).expect("a clean end");
    assert_eq!(ours.plain, b"last words");
    assert!(ours.tls.peer_has_closed());
    ours.seal(b"answer");
    ours.tls.seal_end(&mut ours.outgoing).expect("once");
    give(&mut peer, &ours.outgoing).expect("opened");
    assert_eq!(read(&mut peer), b"answer");
}

#[test]
fn after_our_close_notify_payload_still_comes_in() {
    let (mut ours, mut peer) = established();
    ours.tls.seal_end(&mut ours.outgoing).expect("once");
    give(&mut peer, &std::mem::take(&mut ours.outgoing)).expect("opened");
    std::io::Write::write_all(&mut peer.writer(), b"not yet done").expect("buffered");
    peer.send_close_notify();
    ours.take(&sent(&mut peer)).expect("opened");
    assert_eq!(ours.plain, b"not yet done");
    assert!(ours.tls.peer_has_closed());
}

#[test]
fn a_refusal_after_the_handshake_is_a_fatal_alert_in_every_suite() {
    for suite in SUITES {
        for (reason, heard) in [
            (RefusalReason::DeviceNotAllowed, AlertDescription::AccessDenied),
            (RefusalReason::NoServer, AlertDescription::InternalError),
        ] {
            let (mut ours, mut peer) = established_with(&[suite]);
            for _ in 0..3 {
                ours.seal(b"before");
            }
            give(&mut peer, &ours.outgoing).expect("opened");
            let alert = ours.tls.into_fatal_alert(Alert::from(reason));
            let told = give(&mut peer, &alert);
            assert_eq!(told, Err(Error::AlertReceived(heard)), "{suite:?}");
        }
    }
}

#[test]
fn a_forged_record_is_an_error_and_the_peer_hears_why() {
    let (mut ours, mut peer) = established();
    std::io::Write::write_all(&mut peer.writer(), b"payload").expect("buffered");
    let mut record = sent(&mut peer);
    *record.last_mut().expect("a record") ^= 1;
    let error = ours.take(&record);
    assert_eq!(error, Err(TlsError::Rustls(Error::DecryptError)));
    assert_eq!(ours.take(b"more"), error);
    let heard = give(&mut peer, &ours.outgoing);
    assert_eq!(heard, Err(Error::AlertReceived(AlertDescription::BadRecordMac)));
    assert!(ours.tls.into_fatal_alert(Alert::InternalError).is_empty());
}

#[test]
fn a_renegotiation_is_declined_once_and_the_second_ends_the_connection() {
    let (mut ours, peer) = established();
    let (_, mut again) = strangers(&SUITES);
    let hello = sent(&mut again)[5..].to_vec();
    let secrets = peer.dangerous_extract_secrets().expect("the handshake is over");
    let mut key = RecordKey::new(secrets.tx).expect("a suite of ours");
    ours.take(&key.seal_older(HANDSHAKE, &hello).expect("sealed")).expect("declined");
    // A warning, no_renegotiation, in a record of AES-GCM.
    assert_eq!((ours.outgoing[0], ours.outgoing.len()), (21, 5 + 8 + 2 + 16));
    let payload = key.seal_older(23, b"as if nothing had been").expect("sealed");
    ours.take(&payload).expect("opened");
    assert_eq!(ours.plain, b"as if nothing had been");
    let error = ours.take(&key.seal_older(HANDSHAKE, &hello).expect("sealed"));
    let expected = PeerMisbehaved::TooManyRenegotiationRequests;
    assert_eq!(error, Err(TlsError::Rustls(expected.into())));
}

#[test]
fn whoever_lacks_the_extended_master_secret_is_refused() {
    const EXTENDED_MASTER_SECRET: u16 = 23;
    let (mut ours, mut peer) = strangers(&SUITES);
    let hello = without_extension(&sent(&mut peer), EXTENDED_MASTER_SECRET);
    let error = ours.take(&hello).expect_err("it is required");
    let expected = PeerIncompatible::ExtendedMasterSecretExtensionRequired;
    assert_eq!(error, TlsError::Rustls(expected.into()));
    assert_eq!(error.handshake_failure(), CloseReason::HandshakeFailed);
    assert_eq!(ours.outgoing, [21, 3, 3, 0, 2, 2, 40], "handshake_failure");
}

#[test]
fn an_end_of_tls_1_2_says_that_it_speaks_tls_1_3() {
    let (mut ours, mut peer) = strangers(&SUITES);
    ours.take(&sent(&mut peer)).expect("a hello");
    let random = &ours.outgoing[5 + 4 + 2..][..32];
    // RFC 8446 §4.1.3: by this a client that was made to offer less finds out.
    assert_eq!(&random[24..], b"DOWNGRD\x01");
}

/// A suite whose keys seal so few records.
fn short_lived(records: u64) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls12(suite) = SUITES[0] else { panic!("it is of TLS 1.2") };
    let CipherSuiteCommon { suite: name, hash_provider, .. } = suite.common;
    let common = CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit: records };
    SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
        common,
        prf_provider: suite.prf_provider,
        kx: suite.kx,
        sign: suite.sign,
        aead_alg: suite.aead_alg,
    })))
}

#[test]
fn a_key_that_is_used_up_is_told_from_broken_tls_and_nothing_is_sent_for_an_end() {
    let world = World::new();
    let own = load_credentials(&world.gateway).expect("a pair");
    let provider = CryptoProvider { cipher_suites: vec![short_lived(4)], ..(*provider()).clone() };
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12])
        .expect("its suite is of TLS 1.2")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    let mut ours = Ours::new(TlsConnection::server(Arc::new(config)).expect("accepted"));
    let client = Arc::new(world.older_client(None, &SUITES));
    let name = NAME.try_into().expect("a DNS name");
    let mut peer = ClientConnection::new(client, name).expect("accepted");
    let mut flight = sent(&mut peer);
    while ours.tls.is_handshaking() || peer.is_handshaking() {
        ours.take(&flight).expect("the peer is let in");
        flight = give(&mut peer, &std::mem::take(&mut ours.outgoing)).expect("we are let in");
    }
    // The first record was the end of the handshake.
    for _ in 0..3 {
        ours.seal(b"payload");
    }
    give(&mut peer, &std::mem::take(&mut ours.outgoing)).expect("opened");
    let error = ours.tls.seal_copy(b"one more", &mut ours.outgoing).expect_err("used up");
    assert_eq!(error.sealing_failure(), Failure::KeyUsedUp);
    assert_eq!(TlsError::Rustls(Error::DecryptError).sealing_failure(), Failure::Corrupt);
    assert!(ours.tls.seal_end(&mut ours.outgoing).is_err(), "it is no clean end");
    assert_eq!(ours.outgoing, b"");
}

#[test]
fn a_connection_between_two_records_holds_no_buffer() {
    let (mut ours, mut peer) = established();
    peer.set_buffer_limit(None);
    std::io::Write::write_all(&mut peer.writer(), &vec![7; 300_000]).expect("buffered");
    let bytes = sent(&mut peer);
    let held = |ours: &Ours| match &ours.tls.stage {
        Stage::Older(end) => end.held_len(),
        _ => panic!("TLS 1.2 is agreed on"),
    };
    ours.take(&bytes[..bytes.len() - 1]).expect("opened");
    assert!(held(&ours) < 2 * MAX_RECORD_LEN, "the beginning of a record");
    ours.take(&bytes[bytes.len() - 1..]).expect("opened");
    assert_eq!((held(&ours), ours.plain.len()), (0, 300_000));
}

#[test]
fn a_hello_of_tls_1_0_is_too_old() {
    // No extensions: version 3.1, a random, no session, one suite, no compression.
    let body = [&[3, 1][..], &[7; 32], &[0], &[0, 2, 0, 47], &[1, 0]].concat();
    let len = u8::try_from(body.len()).expect("it is short");
    let hello = [&[22, 3, 1, 0, len + 4, 1, 0, 0, len][..], &body].concat();
    let answer = [21, 3, 3, 0, 2, 2, 70].to_vec();
    assert_eq!(HelloReader::default().read(&hello), Err(HelloError::TooOld { answer }));
}

#[test]
fn a_hello_says_whether_it_offers_tls_1_3_however_it_is_cut_into_records() {
    let (_, mut older) = strangers(&SUITES);
    let (_, client) = configs();
    let mut current = ClientConnection::new(client, name()).expect("accepted");
    for (hello, offers) in [(sent(&mut older), false), (sent(&mut current), true)] {
        for piece in [1, 40, 300, 16_000] {
            let mut records = Vec::new();
            for content in hello[5..].chunks(piece) {
                let len = u16::try_from(content.len()).expect("it is short").to_be_bytes();
                records.extend([&[22, 3, 1], &len[..], content].concat());
            }
            let read = HelloReader::default().read(&records).expect("well-formed");
            assert_eq!(read.expect("whole").offers_tls_1_3, offers, "in pieces of {piece}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn payload_survives_any_cut_of_the_records(
        len in 0usize..60_000,
        suite in 0..SUITES.len(),
        pieces in proptest::collection::vec(1usize..20_000, 1..10),
    ) {
        assert_survives(established_with(&[SUITES[suite]]), len, &pieces);
    }
}
