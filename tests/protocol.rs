//! The messages in Rust are those of `vestibule.proto`, and the bytes in `PROTOCOL.md` are right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value,
};
use vestibule::wire::{
    Accepted, Claim, Crl, CrlAnswer, CrlOutcome, Decline, FrameDecoder, FromAgent,
    FromDataConnection, FromServer, GatewayHello, Goodbye, Invitation, Message, Open, Opened, Ping,
    Pong, RefusalReason, Refused, ServerHello, SessionHeader, Successor, Taken, ToAgent,
    ToDataConnection, ToServer, Withdraw, encode, from_agent, from_data_connection, from_server,
    to_agent, to_data_connection, to_server,
};

pub(crate) const PACKAGE: &str = "vestibule.v1";

pub(crate) fn pool() -> DescriptorPool {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire");
    let set = protox::compile(["vestibule.proto"], [folder]).expect("the proto file compiles");
    DescriptorPool::from_file_descriptor_set(set).expect("its descriptors are consistent")
}

/// The messages of the proto file, and which of their fields have been compared.
struct Comparison {
    pool: DescriptorPool,
    compared: BTreeMap<String, BTreeSet<u32>>,
}

impl Comparison {
    /// Decodes what Rust encodes as the proto file says, and expects that text.
    fn compare<M: Message + PartialEq>(&mut self, message: &M, expected: &str) {
        let descriptor = self.pool.get_message_by_name(&format!("{PACKAGE}.{}", M::NAME));
        let descriptor = descriptor.unwrap_or_else(|| panic!("{} is not in the file", M::NAME));
        let bytes = message.encode_to_vec();
        let dynamic = DynamicMessage::decode(descriptor, &*bytes).expect("well-formed");
        assert_eq!(self.text(&dynamic), expected);
        let back: M = dynamic.transcode_to().expect("well-formed");
        assert!(back == *message, "{expected} is read back differently");
    }

    fn text(&mut self, message: &DynamicMessage) -> String {
        assert_eq!(message.unknown_fields().count(), 0, "fields that the file does not have");
        let name = message.descriptor().name().to_owned();
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(|(field, _)| field.number());
        let mut texts = Vec::new();
        for (field, value) in fields {
            self.compared.entry(name.clone()).or_default().insert(field.number());
            let value = match (value, field.kind()) {
                (Value::Message(inner), _) => format!("{{{}}}", self.text(inner)),
                (Value::EnumNumber(number), Kind::Enum(reasons)) => {
                    reasons.get_value(*number).expect("in the file").name().to_owned()
                }
                (Value::List(values), Kind::Uint32) => {
                    format!("{:?}", values.iter().filter_map(Value::as_u32).collect::<Vec<_>>())
                }
                (Value::List(values), _) => {
                    format!("{:?}", values.iter().filter_map(Value::as_str).collect::<Vec<_>>())
                }
                (Value::Bytes(bytes), _) => format!("{:?}", bytes.as_ref()),
                (Value::String(text), _) => format!("{text:?}"),
                (Value::Bool(value), _) => value.to_string(),
                (Value::U32(number), _) => number.to_string(),
                (Value::U64(number), _) => number.to_string(),
                other => panic!("{name}.{}: no field is of that kind: {other:?}", field.name()),
            };
            texts.push(format!("{}: {value}", field.name()));
        }
        self.compared.entry(name).or_default();
        texts.join(", ")
    }

    fn assert_complete(&self) {
        for message in self.pool.all_messages() {
            let all: BTreeSet<u32> = message.fields().map(|field| field.number()).collect();
            let compared = self.compared.get(message.name());
            assert_eq!(compared, Some(&all), "fields compared of {}", describe(&message));
        }
    }
}

/// A message as text, which has no field that its file does not have.
pub(crate) fn text_of(message: &DynamicMessage) -> String {
    Comparison { pool: DescriptorPool::new(), compared: BTreeMap::new() }.text(message)
}

fn describe(message: &MessageDescriptor) -> String {
    let fields = message.fields().map(|field| format!("{}={}", field.name(), field.number()));
    format!("{} ({})", message.name(), fields.collect::<Vec<_>>().join(", "))
}

fn server_hello() -> ServerHello {
    ServerHello {
        services: vec!["web".to_owned(), "ssh".to_owned()],
        capacity: 7,
        software: "x".to_owned(),
        spares: 8,
        successors: true,
        passthrough: vec![1],
    }
}

fn signal(comparison: &mut Comparison) {
    let mut from = |message, expected: &str| {
        comparison.compare(&FromServer { message: Some(message) }, expected);
    };
    from(
        from_server::Message::ServerHello(server_hello()),
        concat!(
            r#"hello: {services: ["web", "ssh"], capacity: 7, software: "x", spares: 8, "#,
            "successors: true, passthrough: [1]}",
        ),
    );
    from(
        from_server::Message::Decline(Decline { id: 1, reason: RefusalReason::ServerFull.into() }),
        "decline: {id: 1, reason: REFUSAL_REASON_SERVER_FULL}",
    );
    from(
        from_server::Message::Ping(Ping { nonce: u64::MAX }),
        "ping: {nonce: 18446744073709551615}",
    );
    from(from_server::Message::Pong(Pong { nonce: 2 }), "pong: {nonce: 2}");
    from(from_server::Message::Goodbye(Goodbye {}), "goodbye: {}");
    from(
        from_server::Message::Crl(Crl { transfer: 1, offset: 2, total: 3, piece: vec![4] }),
        "crl: {transfer: 1, offset: 2, total: 3, piece: [4]}",
    );

    let mut to = |message, expected: &str| {
        comparison.compare(&ToServer { message: Some(message) }, expected);
    };
    to(
        to_server::Message::GatewayHello(GatewayHello {
            instance: "00112233445566ff".to_owned(),
            services: vec!["web".to_owned()],
            software: "x".to_owned(),
            takes_crls: true,
        }),
        concat!(
            r#"hello: {instance: "00112233445566ff", services: ["web"], "#,
            r#"software: "x", takes_crls: true}"#,
        ),
    );
    to(
        to_server::Message::Invitation(Invitation {
            id: 1,
            ticket: vec![2, 3],
            service: "web".to_owned(),
            worker: 4,
            expires_in_ms: 5,
            spare_for_ms: 6,
        }),
        concat!(
            r#"invitation: {id: 1, ticket: [2, 3], service: "web", "#,
            "worker: 4, expires_in_ms: 5, spare_for_ms: 6}",
        ),
    );
    to(to_server::Message::Withdraw(Withdraw { id: 1 }), "withdraw: {id: 1}");
    to(to_server::Message::Ping(Ping { nonce: 1 }), "ping: {nonce: 1}");
    to(to_server::Message::Pong(Pong { nonce: 2 }), "pong: {nonce: 2}");
    to(to_server::Message::Goodbye(Goodbye {}), "goodbye: {}");
    to(
        to_server::Message::CrlAnswer(CrlAnswer { transfer: 1, outcome: CrlOutcome::Older.into() }),
        "crl_answer: {transfer: 1, outcome: CRL_OUTCOME_OLDER}",
    );
    to(to_server::Message::Successor(Successor {}), "successor: {}");
}

fn refused() -> Refused {
    Refused { reason: RefusalReason::TicketInvalid.into(), retry_after_ms: 6 }
}

const REFUSED: &str = "refused: {reason: REFUSAL_REASON_TICKET_INVALID, retry_after_ms: 6}";

fn data_connection(comparison: &mut Comparison) {
    let mut from = |message, expected: &str| {
        comparison.compare(&FromDataConnection { message: Some(message) }, expected);
    };
    from(
        from_data_connection::Message::Claim(Claim { id: 1, ticket: vec![2, 3] }),
        "claim: {id: 1, ticket: [2, 3]}",
    );
    from(from_data_connection::Message::Accepted(Accepted {}), "accepted: {}");
    from(from_data_connection::Message::Refused(refused()), REFUSED);
    from(from_data_connection::Message::Taken(Taken {}), "taken: {}");

    let mut to = |message, expected: &str| {
        comparison.compare(&ToDataConnection { message: Some(message) }, expected);
    };
    to(
        to_data_connection::Message::SessionHeader(SessionHeader {
            session: "s".to_owned(),
            service: "web".to_owned(),
            device: "d".to_owned(),
            agent_ip: vec![127, 0, 0, 1],
            agent_port: 5,
            listener_ip: vec![127, 0, 0, 2],
            listener_port: 7,
            sni: "n".to_owned(),
            alpn: "h2".to_owned(),
            passthrough: true,
        }),
        concat!(
            r#"header: {session: "s", service: "web", device: "d", "#,
            "agent_ip: [127, 0, 0, 1], agent_port: 5, ",
            r#"listener_ip: [127, 0, 0, 2], listener_port: 7, sni: "n", alpn: "h2", passthrough: true}"#,
        ),
    );
    to(to_data_connection::Message::Refused(refused()), REFUSED);
}

fn agent(comparison: &mut Comparison) {
    let open = from_agent::Message::Open(Open { service: "web".to_owned() });
    comparison.compare(&FromAgent { message: Some(open) }, r#"open: {service: "web"}"#);
    let opened = to_agent::Message::Opened(Opened { session: "s".to_owned() });
    comparison.compare(&ToAgent { message: Some(opened) }, r#"opened: {session: "s"}"#);
    let refused = to_agent::Message::Refused(refused());
    comparison.compare(&ToAgent { message: Some(refused) }, REFUSED);
}

#[test]
fn every_message_in_rust_is_that_of_the_proto_file() {
    let mut comparison = Comparison { pool: pool(), compared: BTreeMap::new() };
    signal(&mut comparison);
    data_connection(&mut comparison);
    agent(&mut comparison);
    comparison.assert_complete();
}

#[test]
fn every_reason_in_rust_has_the_number_and_word_of_the_proto_file() {
    let name = format!("{PACKAGE}.RefusalReason");
    let descriptor = pool().get_enum_by_name(&name).expect("in the file");
    let in_file: Vec<(i32, String)> =
        descriptor.values().map(|value| (value.number(), value.name().to_owned())).collect();
    let word = |reason: RefusalReason| match reason {
        RefusalReason::Unspecified => "UNSPECIFIED".to_owned(),
        reason => reason.word().to_uppercase(),
    };
    let in_rust = RefusalReason::ALL
        .map(|reason| (i32::from(reason), format!("REFUSAL_REASON_{}", word(reason))));
    assert_eq!(in_file, in_rust);
}

/// The bytes of the blocks below the last heading of `PROTOCOL.md`.
fn example_frames() -> Vec<Vec<u8>> {
    let page = include_str!("../src/wire/PROTOCOL.md");
    let (_, examples) = page.rsplit_once("## Two frames in bytes").expect("the heading");
    let blocks = examples.split("```").skip(1).step_by(2);
    let is_byte = |word: &&str| word.len() == 2;
    let bytes_of = |line: &str| -> Vec<u8> {
        let bytes = line.split(' ').take_while(is_byte);
        bytes.map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits")).collect()
    };
    blocks.map(|block| block.lines().skip(1).flat_map(bytes_of).collect()).collect()
}

fn assert_is_frame<M: Message + PartialEq>(bytes: &[u8], message: &M) {
    let mut encoded = Vec::new();
    encode(message, &mut encoded);
    assert_eq!(bytes, encoded);
    let mut input = bytes;
    let decoded = FrameDecoder::default().decode::<M>(&mut input).expect("a frame");
    assert!(decoded.as_ref() == Some(message) && input.is_empty());
}

#[test]
fn the_frames_on_the_protocol_page_are_those_of_its_words() {
    let frames = example_frames();
    let [invitation, claim] = &frames[..] else { panic!("{} examples", frames.len()) };
    let ticket: Vec<u8> = (0..16).collect();
    let invited = Invitation {
        id: 300,
        ticket: ticket.clone(),
        service: "web".to_owned(),
        worker: 2,
        expires_in_ms: 10_000,
        spare_for_ms: 0,
    };
    let message = Some(to_server::Message::Invitation(invited));
    assert_is_frame(invitation, &ToServer { message });
    let message = Some(from_data_connection::Message::Claim(Claim { id: 300, ticket }));
    assert_is_frame(claim, &FromDataConnection { message });
}
