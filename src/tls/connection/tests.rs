use proptest::prelude::*;
use rcgen::CustomExtension;
use rustls::{AlertDescription, ClientConnection};

use super::*;
use crate::config::DeviceCertificates;
use crate::limits::{MAX_CLIENT_HELLO_LEN, MAX_RECORD_LEN};
use crate::relay::CloseReason;
use crate::tls::testing::{Authority, Folder, gateway_config, params};
use crate::tls::{
    BroughtLists, HelloError, HelloReader, client_config, listener_roles, load_credentials,
    load_roots,
};
use crate::wire::{RefusalReason, alpn};

mod older;

const NAME: &str = "gateway.example.com";

/// A gateway's configuration for our own agent, and that of an agent that it lets in.
fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    configs_of(Some(0))
}

/// The agent's certificate has so many bytes more than it needs; `None`: it has none.
fn configs_of(padding: Option<usize>) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let folder = Folder::new();
    let gateways = Authority::new(&folder, "gateways-ca");
    let devices = Authority::new(&folder, "devices-ca");
    let asked = DeviceCertificates::Required(devices.file.clone());
    let config = gateway_config(gateways.issue(NAME), asked, &devices.file);
    let roles = listener_roles(&config, 0, &BroughtLists::default()).expect("good files");
    let device = padding.map(|padding| {
        let mut params = params("pc-1.example.com");
        let content = vec![0; padding];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 999], content)];
        load_credentials(&devices.issue_with("pc-1.example.com", &params)).expect("a pair")
    });
    let roots = load_roots(&gateways.file).expect("a CA");
    let client = client_config(roots, device, vec![alpn::AGENT.to_vec()]);
    (roles.agent.config, Arc::new(client.expect("accepted")))
}

fn name() -> ServerName<'static> {
    NAME.try_into().expect("a DNS name")
}

/// Our end of the wire, with what came out of it.
struct Ours {
    tls: TlsConnection,
    pending: Vec<u8>,
    plain: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Ours {
    fn new(tls: TlsConnection) -> Self {
        Self { tls, pending: vec![], plain: vec![], outgoing: vec![] }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        if self.tls.is_handshaking() {
            match self.tls.handshake(bytes, &mut self.outgoing)? {
                Some(behind) => self.pending = behind,
                None => return Ok(()),
            }
        } else {
            self.pending.extend_from_slice(bytes);
        }
        let len = self.pending.len();
        let mut buffer = std::mem::take(&mut self.pending);
        buffer.resize(2 * len + 2 * MAX_RECORD_LEN, 0);
        let mut pieces = Pieces::default();
        let used = self.tls.open(&mut buffer, len, &mut pieces, &mut self.outgoing)?;
        self.plain.extend(pieces.runs(&buffer).flatten());
        self.pending = buffer[used..len].to_vec();
        Ok(())
    }

    fn seal(&mut self, payload: &[u8]) {
        self.tls.seal_copy(payload, &mut self.outgoing).expect("sealed");
    }
}

/// rustls's own end.
fn give(peer: &mut ClientConnection, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).expect("a slice does not fail");
        peer.process_new_packets()?;
    }
    Ok(sent(peer))
}

fn sent(peer: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).expect("a Vec grows as needed");
    }
    bytes
}

fn established() -> (Ours, ClientConnection) {
    let (server, client) = configs();
    let mut ours = Ours::new(TlsConnection::server(server).expect("accepted"));
    let mut peer = ClientConnection::new(client, name()).expect("accepted");
    let mut flight = sent(&mut peer);
    while ours.tls.is_handshaking() || peer.is_handshaking() {
        ours.take(&flight).expect("the peer is let in");
        flight = give(&mut peer, &std::mem::take(&mut ours.outgoing)).expect("we are let in");
    }
    (ours, peer)
}

fn read(peer: &mut ClientConnection) -> Vec<u8> {
    let mut payload = Vec::new();
    // Ends with WouldBlock where there is no more, and keeps what it read.
    let _ = std::io::Read::read_to_end(&mut peer.reader(), &mut payload);
    payload
}

#[test]
fn both_of_our_ends_understand_each_other() {
    let (server, client) = configs();
    let mut gateway = Ours::new(TlsConnection::server(server).expect("accepted"));
    let mut agent = Ours::new(TlsConnection::client(client, name()).expect("accepted"));
    agent.take(&[]).expect("the hello");
    while gateway.tls.is_handshaking() || agent.tls.is_handshaking() {
        gateway.take(&std::mem::take(&mut agent.outgoing)).expect("let in");
        agent.take(&std::mem::take(&mut gateway.outgoing)).expect("let in");
    }
    assert_eq!(gateway.tls.alpn(), Some(alpn::AGENT));
    assert!(gateway.tls.peer_certificate().is_some());
    agent.seal(b"question");
    gateway.take(&std::mem::take(&mut agent.outgoing)).expect("opened");
    assert_eq!(gateway.plain, b"question");
}

#[test]
fn a_close_notify_ends_one_direction_only() {
    let (mut ours, mut peer) = established();
    peer.send_close_notify();
    ours.take(&sent(&mut peer)).expect("a clean end");
    assert!(ours.tls.peer_has_closed());
    ours.seal(b"answer");
    ours.tls.seal_end(&mut ours.outgoing).expect("once");
    give(&mut peer, &ours.outgoing).expect("opened");
    assert_eq!(read(&mut peer), b"answer");
}

#[test]
fn payload_that_comes_with_a_close_notify_is_not_lost() {
    let (mut ours, mut peer) = established();
    std::io::Write::write_all(&mut peer.writer(), b"last words").expect("buffered");
    peer.send_close_notify();
    ours.take(&sent(&mut peer)).expect("a clean end");
    assert_eq!(ours.plain, b"last words");
    assert!(ours.tls.peer_has_closed());
}

#[test]
fn a_key_update_of_the_peer_is_answered_and_payload_goes_on() {
    let (mut ours, mut peer) = established();
    peer.refresh_traffic_keys().expect("TLS 1.3");
    std::io::Write::write_all(&mut peer.writer(), b"under new keys").expect("buffered");
    ours.take(&sent(&mut peer)).expect("opened");
    assert_eq!(ours.plain, b"under new keys");
    ours.seal(b"the same to you");
    give(&mut peer, &ours.outgoing).expect("the answer and the payload are in order");
    assert_eq!(read(&mut peer), b"the same to you");
}

#[test]
fn after_an_error_nothing_is_asked_of_the_connection() {
    let (mut ours, _) = established();
    let garbage = [23, 3, 3, 0, 20].into_iter().chain([0; 20]).collect::<Vec<u8>>();
    let error = Err(TlsError::Record(RecordError::NotAuthentic));
    assert_eq!(ours.take(&garbage), error);
    assert_eq!(ours.take(b"more"), error);
    assert_eq!(ours.tls.seal_copy(b"more", &mut ours.outgoing), error);
    assert!(ours.tls.into_fatal_alert(Alert::InternalError).is_empty());
}

#[test]
fn a_failed_handshake_is_not_asked_for_anything_more() {
    let (server, _) = configs();
    let mut ours = Ours::new(TlsConnection::server(server).expect("accepted"));
    let error = ours.take(b"GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(error, Err(TlsError::Rustls(_))), "{error:?}");
    assert_eq!(ours.take(b"more"), error);
    assert_eq!(ours.tls.seal_copy(b"more", &mut ours.outgoing), error);
}

#[test]
fn a_forged_record_is_an_error_and_the_peer_hears_why() {
    let (mut ours, mut peer) = established();
    std::io::Write::write_all(&mut peer.writer(), b"payload").expect("buffered");
    let mut record = sent(&mut peer);
    *record.last_mut().expect("a record") ^= 1;
    assert_eq!(ours.take(&record), Err(TlsError::Record(RecordError::NotAuthentic)));
    let heard = give(&mut peer, &ours.outgoing);
    assert_eq!(heard, Err(Error::AlertReceived(AlertDescription::BadRecordMac)));
}

#[test]
fn a_refusal_after_the_handshake_is_a_fatal_alert_that_rustls_reads() {
    for (reason, heard) in [
        (RefusalReason::DeviceNotAllowed, AlertDescription::AccessDenied),
        (RefusalReason::ServiceUnknown, AlertDescription::UnrecognisedName),
        (RefusalReason::NoServer, AlertDescription::InternalError),
    ] {
        let (mut ours, mut peer) = established();
        ours.seal(b"before");
        give(&mut peer, &ours.outgoing).expect("opened");
        let alert = ours.tls.into_fatal_alert(Alert::from(reason));
        assert_eq!(give(&mut peer, &alert), Err(Error::AlertReceived(heard)));
    }
}

#[test]
fn a_refusal_before_the_handshake_is_a_plain_alert() {
    let (_, client) = configs();
    let mut peer = ClientConnection::new(client, name()).expect("accepted");
    let alert = Alert::UnrecognizedName.unprotected_record();
    let heard = give(&mut peer, &alert);
    assert_eq!(heard, Err(Error::AlertReceived(AlertDescription::UnrecognisedName)));
}

#[test]
fn a_peer_without_a_certificate_is_refused_with_its_reason() {
    let (server, client) = configs_of(None);
    let mut ours = Ours::new(TlsConnection::server(server).expect("accepted"));
    let mut peer = ClientConnection::new(client, name()).expect("accepted");
    ours.take(&sent(&mut peer)).expect("a hello");
    let flight = give(&mut peer, &std::mem::take(&mut ours.outgoing)).expect("our flight");
    let error = ours.take(&flight).expect_err("no certificate");
    assert_eq!(error.handshake_failure(), CloseReason::CertificateMissing);
    let heard = give(&mut peer, &ours.outgoing);
    assert_eq!(heard, Err(Error::AlertReceived(AlertDescription::CertificateRequired)));
}

#[test]
fn a_chain_of_two_full_records_is_taken_in_any_pieces_and_a_larger_one_in_none() {
    for (padding, is_taken) in [(32_000, true), (33_000, false)] {
        let (server, client) = configs_of(Some(padding));
        for piece in [100, 16_000, 50_000] {
            let server = TlsConnection::server(Arc::clone(&server)).expect("accepted");
            let mut ours = Ours::new(server);
            let mut peer = ClientConnection::new(Arc::clone(&client), name()).expect("accepted");
            ours.take(&sent(&mut peer)).expect("a hello");
            let flight = give(&mut peer, &std::mem::take(&mut ours.outgoing)).expect("a flight");
            let taken = flight.chunks(piece).try_for_each(|bytes| ours.take(bytes));
            assert_eq!(taken.is_ok(), is_taken, "{padding} bytes in pieces of {piece}: {taken:?}");
        }
    }
}

#[test]
fn a_hello_is_read_in_any_pieces_and_kept_whole() {
    let (_, client) = configs();
    let mut peer = ClientConnection::new(client, name()).expect("accepted");
    let hello = sent(&mut peer);
    for piece in [1, 5, 100, hello.len()] {
        let mut reader = HelloReader::default();
        let mut read = None;
        for bytes in hello.chunks(piece) {
            assert_eq!(read, None, "nothing is read before the last byte");
            read = reader.read(bytes).expect("well-formed");
        }
        let read = read.expect("whole");
        assert_eq!((read.sni.as_str(), read.alpn.len()), (NAME, 1));
        assert!(read.offers(alpn::AGENT));
        assert_eq!(reader.into_seen(), hello);
    }
}

#[test]
fn a_hello_within_the_bound_counts_whatever_came_behind_it() {
    let (_, client) = configs();
    let mut client = ClientConfig::clone(&client);
    client.alpn_protocols = (0..200).map(|number| format!("{number:030}").into_bytes()).collect();
    let mut peer = ClientConnection::new(Arc::new(client), name()).expect("accepted");
    let mut bytes = sent(&mut peer);
    bytes.resize(MAX_CLIENT_HELLO_LEN + 1, 0);
    for piece in [1, 1000, bytes.len()] {
        let mut reader = HelloReader::default();
        let read = bytes.chunks(piece).find_map(|bytes| reader.read(bytes).expect("within it"));
        assert_eq!(read.expect("whole").alpn.len(), 200, "in pieces of {piece} bytes");
    }
}

#[test]
fn what_is_not_tls_is_told_from_damaged_tls() {
    let not_tls = HelloReader::default().read(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(not_tls, Err(HelloError::NotTls));
    // A hello without content, and one of 2.6 MB.
    for hello in [[22, 3, 1, 0, 4, 1, 0, 0, 0], [22, 3, 1, 0, 4, 1, 0x28, 6, 0]] {
        let damaged = HelloReader::default().read(&hello);
        let answered = matches!(&damaged, Err(HelloError::Damaged { answer }) if answer[0] == 21);
        assert!(answered, "{damaged:?}");
    }
}

/// Asserts that so many bytes of payload survive both ways, where what the peer sends comes in such pieces.
fn assert_survives((mut ours, mut peer): (Ours, ClientConnection), len: usize, pieces: &[usize]) {
    let payload: Vec<u8> = (0..=250u8).cycle().take(len).collect();
    peer.set_buffer_limit(None);
    std::io::Write::write_all(&mut peer.writer(), &payload).expect("buffered");
    let bytes = sent(&mut peer);
    let mut rest = &bytes[..];
    for &piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(piece.min(rest.len()));
        ours.take(now).expect("well-formed");
        rest = later;
    }
    assert_eq!(ours.plain, payload);
    ours.seal(&payload);
    let mut opened = Vec::new();
    // rustls takes no more than it has room for, until that is read.
    for piece in ours.outgoing.chunks(4096) {
        give(&mut peer, piece).expect("well-formed");
        opened.append(&mut read(&mut peer));
    }
    assert_eq!(opened, payload);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn payload_survives_any_cut_of_the_records(
        len in 0usize..60_000,
        pieces in proptest::collection::vec(1usize..20_000, 1..10),
    ) {
        assert_survives(established(), len, &pieces);
    }

    #[test]
    fn any_bytes_end_in_an_answer_and_never_in_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        tls in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if tls && bytes.len() > 5 {
            bytes[..3].copy_from_slice(&[22, 3, 1]);
        }
        let mut reader = HelloReader::default();
        let _ = reader.read(&bytes);
        let (server, _) = configs();
        let _ = Ours::new(TlsConnection::server(server).expect("accepted")).take(&bytes);
    }
}
