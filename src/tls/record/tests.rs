use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::UnbufferedServerConnection;
use rustls::{AlertDescription, CipherSuite, ClientConfig, ClientConnection, Error, ServerConfig};

use super::*;
use crate::tls::rustls_end::RustlsEnd;
use crate::tls::testing::{Authority, Folder};
use crate::tls::{load_credentials, load_roots};

const NAME: &str = "gateway.example.com";
const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// Two ends that may talk with one suite only.
fn configs(suite: CipherSuite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "gateways-ca");
    let credentials = load_credentials(&authority.issue(NAME)).expect("a pair");
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|known| known.suite() == suite);
    let provider: Arc<CryptoProvider> = Arc::new(provider);
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(credentials)));
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(load_roots(&authority.file).expect("a CA"))
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    (Arc::new(server), Arc::new(client))
}

fn records(mut end: RustlsEnd) -> Records {
    assert!(end.take_behind().is_empty());
    let (extracted, secrets) = end.into_secrets().expect("the handshake is over");
    Records::new(extracted, secrets).expect("a suite that we know")
}

/// What a peer with the keys sends.
type Sender = dyn Fn(&mut Records) -> Vec<u8>;

/// Our end against rustls.
fn with_rustls(suite: CipherSuite) -> (Records, ClientConnection) {
    let (server, client) = configs(suite);
    let mut end = RustlsEnd::server(UnbufferedServerConnection::new(server).expect("accepted"));
    let name = NAME.try_into().expect("a name");
    let mut peer = ClientConnection::new(client, name).expect("accepted");
    loop {
        let mut answer = Vec::new();
        if end.handshake(&sent(&mut peer), &mut answer).expect("let in") {
            return (records(end), peer);
        }
        give(&mut peer, &answer).expect("let in");
    }
}

/// Both of our ends.
fn pair(suite: CipherSuite) -> (Records, Records) {
    let (server, client) = configs(suite);
    let mut server = RustlsEnd::server(UnbufferedServerConnection::new(server).expect("accepted"));
    let name = NAME.try_into().expect("a name");
    let client = UnbufferedClientConnection::new(client, name).expect("accepted");
    let mut client = RustlsEnd::client(client);
    let mut flight = Vec::new();
    loop {
        let mut hello = Vec::new();
        let client_done = client.handshake(&flight, &mut hello).expect("let in");
        flight.clear();
        let server_done = server.handshake(&hello, &mut flight).expect("let in");
        if client_done && server_done {
            return (records(server), records(client));
        }
    }
}

fn give(peer: &mut ClientConnection, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut payload = Vec::new();
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).expect("a slice does not fail");
        peer.process_new_packets()?;
        // Ends with WouldBlock where there is no more, and keeps what it read.
        let _ = std::io::Read::read_to_end(&mut peer.reader(), &mut payload);
    }
    Ok(payload)
}

fn sent(peer: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).expect("a Vec grows as needed");
    }
    bytes
}

/// Payload, and what is answered.
fn open(records: &mut Records, bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), RecordError> {
    let mut buffer = bytes.to_vec();
    let (mut pieces, mut answers) = (Pieces::default(), Vec::new());
    let used = records.open(&mut buffer, &mut pieces, &mut answers)?;
    assert_eq!(used, bytes.len(), "whole records");
    Ok((pieces.runs(&buffer).collect::<Vec<_>>().concat(), answers))
}

fn sealed(records: &mut Records, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    records.seal_copy(payload, &mut bytes).expect("sealed");
    bytes
}

/// A record of any type, with zeros behind it.
fn record(records: &mut Records, content_type: u8, content: &[u8], padding: usize) -> Vec<u8> {
    let inner_len = content.len() + 1 + padding;
    let len = u16::try_from(inner_len + RECORD_TAG_LEN).expect("short").to_be_bytes();
    let header = [APPLICATION_DATA, 3, 3, len[0], len[1]];
    let mut inner = [content, &[content_type], &vec![0; padding]].concat();
    let mut tag = [0; RECORD_TAG_LEN];
    records.sealing.seal(header, &mut inner, &mut tag).expect("sealed");
    [&header[..], &inner, &tag].concat()
}

/// What our end says to a record, and what rustls hears of it.
fn refusal(bytes: impl FnOnce(&mut Records) -> Vec<u8>) -> (RecordError, Option<u8>) {
    let (mut ours, mut theirs) = pair(SUITES[1]);
    let mut bytes = bytes(&mut theirs);
    let mut answers = Vec::new();
    let error = ours.open(&mut bytes, &mut Pieces::default(), &mut answers).expect_err("refused");
    let again = ours.open(&mut bytes, &mut Pieces::default(), &mut Vec::new());
    assert_eq!(again, Err(error.clone()), "nothing is opened after an error");
    let heard = match theirs.open(&mut answers, &mut Pieces::default(), &mut Vec::new()) {
        Err(RecordError::Alerted(alert)) => Some(alert),
        _ => None,
    };
    (error, heard)
}

#[test]
fn rustls_understands_us_and_we_understand_rustls_in_every_suite() {
    for suite in SUITES {
        let (mut ours, mut peer) = with_rustls(suite);
        assert_eq!(peer.negotiated_cipher_suite().map(|agreed| agreed.suite()), Some(suite));
        let payload: Vec<u8> = (0..=255).cycle().take(50_000).collect();
        assert_eq!(give(&mut peer, &sealed(&mut ours, &payload)).expect("opens"), payload);
        std::io::Write::write_all(&mut peer.writer(), &payload).expect("buffered");
        assert_eq!(open(&mut ours, &sent(&mut peer)).expect("opens").0, payload);
    }
}

#[test]
fn what_comes_from_one_suite_goes_on_in_another_in_the_same_bytes() {
    for from in SUITES {
        for to in SUITES {
            let (mut source, mut sender) = pair(from);
            let (mut target, mut receiver) = with_rustls(to);
            let payload: Vec<u8> = (0..=255).cycle().take(40_000).collect();
            let mut bytes = sealed(&mut sender, &payload);
            let (len, mut pieces, mut ahead) = (bytes.len(), Pieces::default(), Vec::new());
            source.open(&mut bytes, &mut pieces, &mut ahead).expect("opens");
            target.seal(&mut bytes, &mut pieces, &mut ahead).expect("sealed");
            let runs: Vec<&[u8]> = pieces.runs(&bytes).collect();
            assert_eq!(runs.len(), 1, "unpadded records go on as they lie");
            assert_eq!(runs[0].len(), len);
            assert!(ahead.is_empty());
            assert_eq!(give(&mut receiver, runs[0]).expect("opens"), payload);
        }
    }
}

#[test]
fn padding_and_empty_records_carry_nothing() {
    let (mut ours, mut theirs) = pair(SUITES[1]);
    let (mut onward, mut receiver) = with_rustls(SUITES[0]);
    let mut bytes = [
        record(&mut theirs, APPLICATION_DATA, b"one", 300),
        record(&mut theirs, APPLICATION_DATA, b"", 0),
        record(&mut theirs, APPLICATION_DATA, b"", 100),
        record(&mut theirs, APPLICATION_DATA, b"two", 0),
    ]
    .concat();
    let (len, mut pieces, mut ahead) = (bytes.len(), Pieces::default(), Vec::new());
    assert_eq!(ours.open(&mut bytes, &mut pieces, &mut ahead), Ok(len));
    assert_eq!(pieces.runs(&bytes).collect::<Vec<_>>(), [b"one", b"two"]);
    onward.seal(&mut bytes, &mut pieces, &mut ahead).expect("sealed");
    let onward = pieces.runs(&bytes).collect::<Vec<_>>().concat();
    assert_eq!(give(&mut receiver, &onward).expect("opens"), b"onetwo");
}

#[test]
fn a_key_update_is_answered_where_asked_for_and_payload_goes_on_both_ways() {
    let (mut ours, mut peer) = with_rustls(SUITES[1]);
    for round in 0..100u8 {
        peer.refresh_traffic_keys().expect("TLS 1.3");
        std::io::Write::write_all(&mut peer.writer(), &[round]).expect("buffered");
        let (payload, answer) = open(&mut ours, &sent(&mut peer)).expect("opens");
        assert_eq!(payload, [round]);
        assert!(!answer.is_empty(), "rustls asks for an update in return");
        let bytes = [answer, sealed(&mut ours, b"in return")].concat();
        assert_eq!(give(&mut peer, &bytes).expect("opens"), b"in return");
    }
}

#[test]
fn our_key_is_replaced_before_its_limit_and_the_peer_follows() {
    let (mut ours, mut peer) = with_rustls(SUITES[1]);
    ours.key_limit = 8;
    for round in 0..100u8 {
        assert_eq!(give(&mut peer, &sealed(&mut ours, &[round])).expect("opens"), [round]);
        assert!(ours.sealing.sequence() <= 8);
    }
}

#[test]
fn a_key_at_its_limit_seals_nothing_more() {
    let (mut ours, _) = pair(SUITES[1]);
    ours.key_limit = ours.sealing.sequence();
    let end = ours.seal_end(&mut Vec::new());
    assert_eq!(end, Err(RecordError::Unsupported));
}

#[test]
fn a_message_in_pieces_is_put_together() {
    let (mut ours, mut theirs) = pair(SUITES[1]);
    let first = record(&mut theirs, HANDSHAKE, &[KEY_UPDATE, 0], 0);
    let second = record(&mut theirs, HANDSHAKE, &[0, 1, 0], 0);
    theirs.sealing =
        RecordKey::new(theirs.control.secrets.next_sealing().expect("a key")).expect("a key");
    assert_eq!(open(&mut ours, &first), Ok((vec![], vec![])));
    let _ = sealed(&mut ours, b"we may write meanwhile");
    assert_eq!(open(&mut ours, &second), Ok((vec![], vec![])));
    let behind = sealed(&mut theirs, b"under the new key");
    assert_eq!(open(&mut ours, &behind).expect("opens").0, b"under the new key");
}

#[test]
fn a_close_notify_ends_what_comes_and_nothing_behind_it_counts() {
    let (mut ours, mut theirs) = pair(SUITES[1]);
    let mut bytes = sealed(&mut theirs, b"last words");
    bytes.extend(record(&mut theirs, ALERT, &[WARNING, 90], 0));
    theirs.seal_end(&mut bytes).expect("sealed");
    let end = bytes.len();
    bytes.extend(b"anything at all");
    let (mut pieces, mut answers) = (Pieces::default(), Vec::new());
    let used = ours.open(&mut bytes, &mut pieces, &mut answers).expect("a clean end");
    assert_eq!(used, end, "what stands behind it is left");
    assert_eq!(pieces.runs(&bytes).collect::<Vec<_>>().concat(), b"last words");
    assert!(ours.peer_has_closed());
    assert_eq!(open(&mut theirs, &sealed(&mut ours, b"answer")).expect("open").0, b"answer");
}

#[test]
fn what_is_forged_replayed_or_out_of_order_does_not_open() {
    let damaged = |theirs: &mut Records| {
        let mut bytes = sealed(theirs, b"payload");
        bytes[9] ^= 1;
        bytes
    };
    let replayed = |theirs: &mut Records| {
        let bytes = sealed(theirs, b"payload");
        [&bytes[..], &bytes[..]].concat()
    };
    let out_of_order = |theirs: &mut Records| {
        let first = sealed(theirs, b"payload");
        [sealed(theirs, b"payload"), first].concat()
    };
    let without_tag = |_: &mut Records| vec![APPLICATION_DATA, 3, 3, 0, 4, 1, 2, 3, 4];
    let expected = (RecordError::NotAuthentic, Some(Alert::BadRecordMac as u8));
    assert_eq!(refusal(damaged), expected);
    assert_eq!(refusal(replayed), expected);
    assert_eq!(refusal(out_of_order), expected);
    assert_eq!(refusal(without_tag), expected);
}

#[test]
fn what_is_too_large_is_refused() {
    let expected = (RecordError::TooLarge, Some(Alert::RecordOverflow as u8));
    assert_eq!(refusal(|_| vec![APPLICATION_DATA, 3, 3, 0xff, 0xff]), expected);
    // 2^14 bytes, a type and one byte of padding too many.
    let padded =
        |theirs: &mut Records| record(theirs, APPLICATION_DATA, &[1; MAX_RECORD_CONTENT_LEN], 1);
    assert_eq!(refusal(padded), expected);
    let message = |theirs: &mut Records| record(theirs, HANDSHAKE, &[KEY_UPDATE, 1, 0, 0], 0);
    assert_eq!(refusal(message), expected);
}

#[test]
fn what_has_no_place_here_is_refused_with_its_alert() {
    let unexpected: [&Sender; 8] = [
        // Unprotected: a ChangeCipherSpec, an alert.
        &|_| vec![20, 3, 3, 0, 1, 1],
        &|_| vec![ALERT, 3, 3, 0, 2, 1, 0],
        // Zeros alone, empty records of types that may not be empty, and an unknown type.
        &|theirs| record(theirs, 0, &[], 10),
        &|theirs| record(theirs, HANDSHAKE, &[], 0),
        &|theirs| record(theirs, 99, b"?", 0),
        // A CertificateRequest, which we never allowed.
        &|theirs| record(theirs, HANDSHAKE, &[13, 0, 0, 0], 0),
        // Something behind a KeyUpdate in its record.
        &|theirs| record(theirs, HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE], 0),
        // Payload inside a message.
        &|theirs| {
            let begun = record(theirs, HANDSHAKE, &[KEY_UPDATE], 0);
            [begun, sealed(theirs, b"payload")].concat()
        },
    ];
    for bytes in unexpected {
        let (error, heard) = refusal(bytes);
        assert!(matches!(error, RecordError::Unexpected(_)), "{error}");
        assert_eq!(heard, Some(Alert::UnexpectedMessage as u8), "{error}");
    }
    let (error, heard) = refusal(|theirs| record(theirs, ALERT, &[], 0));
    assert_eq!((error, heard), (RecordError::Unexpected("an empty alert"), Some(10)));
}

#[test]
fn what_can_not_be_read_is_refused_with_its_alert() {
    let (error, heard) = refusal(|theirs| record(theirs, ALERT, &[1, 2, 3], 0));
    assert_eq!((error, heard), (RecordError::Malformed("an alert"), Some(50)));
    let two_bytes = [KEY_UPDATE, 0, 0, 2, 0, 0];
    let (error, heard) = refusal(|theirs| record(theirs, HANDSHAKE, &two_bytes, 0));
    assert_eq!((error, heard), (RecordError::Malformed("a KeyUpdate"), Some(50)));
    let unknown = [KEY_UPDATE, 0, 0, 1, 2];
    let (error, heard) = refusal(|theirs| record(theirs, HANDSHAKE, &unknown, 0));
    assert_eq!((error, heard), (RecordError::IllegalKeyUpdate, Some(47)));
}

#[test]
fn a_fatal_alert_of_the_peer_ends_the_connection_and_is_not_answered() {
    let (mut ours, mut theirs) = pair(SUITES[1]);
    let mut bytes = record(&mut theirs, ALERT, &[FATAL, 80], 0);
    let mut answers = Vec::new();
    let result = ours.open(&mut bytes, &mut Pieces::default(), &mut answers);
    assert_eq!(result, Err(RecordError::Alerted(80)));
    assert!(answers.is_empty());
}

#[test]
fn key_updates_without_payload_come_to_an_end() {
    let (mut ours, mut theirs) = pair(SUITES[1]);
    for _ in 0..crate::limits::MAX_KEY_UPDATES_IN_A_ROW {
        let mut bytes = Vec::new();
        theirs.update_sealing_key(&mut bytes).expect("sealed");
        open(&mut ours, &bytes).expect("allowed");
    }
    let mut bytes = Vec::new();
    theirs.update_sealing_key(&mut bytes).expect("sealed");
    assert!(matches!(open(&mut ours, &bytes), Err(RecordError::Unexpected(_))));
}

#[test]
fn a_fatal_alert_of_ours_is_understood_by_rustls() {
    let (ours, mut peer) = with_rustls(SUITES[2]);
    let mut bytes = Vec::new();
    ours.seal_alert(Alert::AccessDenied, &mut bytes);
    let heard = give(&mut peer, &bytes);
    assert_eq!(heard, Err(Error::AlertReceived(AlertDescription::AccessDenied)));
}

#[test]
fn a_key_in_the_kernel_counts_no_fewer_records_than_it_has_sealed_and_ends_before_its_limit() {
    let (ours, _) = pair(SUITES[0]);
    let limit = ours.key_limit;
    let mut kernel = ours.into_kernel_records();
    kernel.note_sealed(3 * MAX_RECORD_CONTENT_LEN + 1).expect("far from the limit");
    kernel.recount_sealed(limit - KEY_UPDATE_MARGIN - 6).expect("records are left");
    kernel.note_sealed(3 * MAX_RECORD_CONTENT_LEN + 1).expect("four of them, and a beginning");
    assert_eq!(kernel.note_sealed(1), Err(RecordError::KeyUsedUp));
    kernel.recount_sealed(10).expect("the kernel knows better");
    kernel.note_sealed(1).expect("records are left");
}

#[test]
fn what_the_kernel_opened_is_judged_as_what_was_opened_here() {
    let (ours, _) = pair(SUITES[0]);
    let mut kernel = ours.into_kernel_records();
    let update = kernel.take(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1]).expect("allowed");
    assert_eq!(update, Some(KeyUpdate { asks_for_ours: true }));
    assert_eq!(kernel.take(HANDSHAKE, &OUR_KEY_UPDATE[..2]), Ok(None), "the rest is to come");
    assert!(matches!(kernel.take_payload(1), Err(RecordError::Unexpected(_))));
    let update = kernel.take(HANDSHAKE, &OUR_KEY_UPDATE[2..]).expect("the rest");
    assert_eq!(update, Some(KeyUpdate { asks_for_ours: false }));
    kernel.take_payload(1).expect("between two messages");
    assert!(!kernel.peer_has_closed());
    assert_eq!(kernel.take(ALERT, &CLOSE_NOTIFY), Ok(None));
    assert!(kernel.peer_has_closed());
}

#[test]
fn keys_are_for_the_kernel_between_two_messages_alone_and_not_behind_the_end() {
    let (mut ours, mut theirs) = pair(SUITES[1]);
    let payload = sealed(&mut theirs, b"one record");
    open(&mut ours, &payload).expect("opens");
    let keys = ours.kernel_keys().expect("between two records").map(|key| key.sequence);
    assert_eq!(keys, [1, 0]);
    let begun = record(&mut theirs, HANDSHAKE, &OUR_KEY_UPDATE[..2], 0);
    open(&mut ours, &begun).expect("opens");
    assert!(ours.kernel_keys().is_none());
    let rest = record(&mut theirs, HANDSHAKE, &OUR_KEY_UPDATE[2..], 0);
    open(&mut ours, &rest).expect("opens");
    assert!(ours.kernel_keys().is_some());
    let (mut ours, mut theirs) = pair(SUITES[1]);
    let mut end = Vec::new();
    theirs.seal_end(&mut end).expect("sealed");
    open(&mut ours, &end).expect("a clean end");
    assert!(ours.kernel_keys().is_none());
}

#[test]
fn a_record_is_as_long_as_its_header_says() {
    for (pending, missing) in [(&b""[..], 5), (&[23, 3, 3, 0], 1), (&[23, 3, 3, 1, 2], 258)] {
        assert_eq!(Records::missing_len(pending), missing);
    }
    assert_eq!(Records::missing_len(&[23, 3, 3, 0, 2, 7]), 1);
    assert_eq!(Records::missing_len(&[23, 3, 3, 0, 2, 7, 7]), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn payload_survives_any_records_in_any_cut(
        suite in 0usize..3,
        writes in proptest::collection::vec((0usize..20_000, 0usize..400), 1..12),
        cuts in proptest::collection::vec(1usize..40_000, 1..8),
    ) {
        let (mut ours, mut theirs) = pair(SUITES[suite]);
        let (mut payload, mut bytes) = (Vec::new(), Vec::new());
        for (number, (len, padding)) in writes.into_iter().enumerate() {
            let content = vec![u8::try_from(number).expect("few"); len.min(15_000)];
            bytes.extend(record(&mut theirs, APPLICATION_DATA, &content, padding));
            payload.extend(content);
            if number % 3 == 2 {
                theirs.update_sealing_key(&mut bytes).expect("sealed");
            }
        }
        let (mut opened, mut waiting) = (Vec::<u8>::new(), Vec::new());
        let mut rest = &bytes[..];
        for cut in cuts.into_iter().cycle() {
            if rest.is_empty() { break; }
            let (now, later) = rest.split_at(cut.min(rest.len()));
            rest = later;
            waiting.extend_from_slice(now);
            let mut pieces = Pieces::default();
            let used = ours.open(&mut waiting, &mut pieces, &mut Vec::new()).expect("opens");
            opened.extend(pieces.runs(&waiting).flatten());
            waiting.drain(..used);
        }
        prop_assert!(waiting.is_empty());
        prop_assert_eq!(opened, payload);
    }

    #[test]
    fn any_bytes_end_in_an_error_or_wait_and_never_in_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        sealed_content in proptest::collection::vec(any::<u8>(), 0..60),
        content_type in any::<u8>(),
    ) {
        let (mut ours, mut theirs) = pair(SUITES[0]);
        // What a peer with the keys may send, and then what anybody may.
        let inside = record(&mut theirs, content_type, &sealed_content, 3);
        let _ = open(&mut ours, &inside);
        let mut bytes = bytes;
        let _ = ours.open(&mut bytes, &mut Pieces::default(), &mut Vec::new());
    }
}
