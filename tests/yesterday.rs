//! Releases work together: what yesterday's said is understood today, and what is said today yesterday's understands.

use std::time::Instant;

use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage};
use vestibule::control::{
    Action, Dispatcher, DispatcherLimits, Event, GatewayAction, GatewayEvent, GatewayLink, LinkId,
    ServiceOffer, SessionQuota,
};
use vestibule::wire::{
    FromAgent, FromDataConnection, FromServer, GatewayHello, Message, ToAgent, ToDataConnection,
    ToServer, from_server, to_server,
};

use crate::protocol::{PACKAGE, pool, text_of};

/// Each message of release 0.1.0: its name, its bytes, and what they mean.
const MESSAGES: &str = include_str!("yesterday/messages-0.1.0.txt");

fn messages() -> impl Iterator<Item = (&'static str, Vec<u8>, &'static str)> {
    MESSAGES.lines().map(|line| {
        let mut parts = line.splitn(3, ' ');
        let mut next = || parts.next().expect("three parts");
        let (name, digits, meaning) = (next(), next(), next());
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
        (name, (0..digits.len()).step_by(2).map(byte).collect(), meaning)
    })
}

/// The descriptors of release 0.1.0.
fn yesterday() -> DescriptorPool {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/yesterday");
    let set = protox::compile(["vestibule-0.1.0.proto"], [folder]).expect("the file compiles");
    DescriptorPool::from_file_descriptor_set(set).expect("its descriptors are consistent")
}

fn read(pool: &DescriptorPool, name: &str, bytes: &[u8]) -> DynamicMessage {
    let descriptor = pool.get_message_by_name(&format!("{PACKAGE}.{name}")).expect("in the file");
    DynamicMessage::decode(descriptor, bytes).expect("well-formed")
}

/// Reads a message as this release does, and writes it again.
fn through_today<M: Message>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).expect("today's release reads it").encode_to_vec()
}

#[test]
fn messages_of_release_0_1_0_are_understood() {
    let (before, now) = (yesterday(), pool());
    for (name, bytes, meaning) in messages() {
        assert_eq!(text_of(&read(&before, name, &bytes)), meaning, "what it meant");
        let written = match name {
            "FromServer" => through_today::<FromServer>(&bytes),
            "ToServer" => through_today::<ToServer>(&bytes),
            "FromDataConnection" => through_today::<FromDataConnection>(&bytes),
            "ToDataConnection" => through_today::<ToDataConnection>(&bytes),
            "FromAgent" => through_today::<FromAgent>(&bytes),
            "ToAgent" => through_today::<ToAgent>(&bytes),
            other => panic!("{other} is no frame"),
        };
        assert_eq!(written, bytes, "{meaning}");
        assert_eq!(text_of(&read(&now, name, &written)), meaning, "what it means");
    }
}

#[test]
fn every_message_of_release_0_1_0_is_among_those() {
    let before = yesterday();
    let kept: Vec<_> = messages().map(|(name, bytes, _)| read(&before, name, &bytes)).collect();
    for message in before.all_messages() {
        for choice in message.oneofs().flat_map(|oneof| oneof.fields().collect::<Vec<_>>()) {
            let has =
                |kept: &DynamicMessage| kept.descriptor() == message && kept.has_field(&choice);
            assert!(kept.iter().any(has), "{} is kept", choice.full_name());
        }
    }
}

/// The bytes of the hello of release 0.1.0 in that direction.
fn hello_of_yesterday(name: &str) -> Vec<u8> {
    let mut all = messages();
    let found = all.find(|(of, _, meaning)| *of == name && meaning.starts_with("hello: "));
    found.expect("it is kept").1
}

#[test]
fn a_gateway_of_release_0_1_0_hears_nothing_that_it_does_not_know() {
    let now = Instant::now();
    let mut random = |bytes: &mut [u8]| bytes.fill(7);
    let mut link = GatewayLink::new(&[ServiceOffer::new("web")], 0, 0, now);
    link.handle(GatewayEvent::Crls([b"a list"[..].into()].into()), now, &mut random);
    link.handle_timeout(now, &mut random);
    link.handle(GatewayEvent::Dialed, now, &mut random);
    let hello = prost::Message::decode(&*hello_of_yesterday("ToServer")).expect("well-formed");
    link.handle(GatewayEvent::Message(hello), now, &mut random);
    assert!(link.is_up());
    link.handle(GatewayEvent::Crls([b"another"[..].into()].into()), now, &mut random);
    let before = yesterday();
    let sent = std::iter::from_fn(|| link.poll_action()).filter_map(|action| match action {
        GatewayAction::Send(message) => Some(prost::Message::encode_to_vec(&message)),
        _ => None,
    });
    // What is new inside the hello it passes over; a new choice would be an error to it.
    let choices = sent.map(|bytes| {
        let message = read(&before, "FromServer", &bytes);
        message.fields().map(|(field, _)| field.name().to_owned()).collect::<Vec<_>>()
    });
    assert_eq!(choices.collect::<Vec<_>>(), [["hello"]]);
}

#[test]
fn a_server_of_release_0_1_0_reads_the_hello_of_a_gateway_that_takes_lists() {
    let now = Instant::now();
    let second = std::time::Duration::from_secs(1);
    let limits = DispatcherLimits {
        max_waiting: 1,
        invitation_timeout: second,
        max_links: 1,
        max_spares: 0,
        spare_life: second,
        devices: SessionQuota::default(),
        services: Vec::new(),
        takes_crls: true,
    };
    let instance = "00112233445566ff".to_owned();
    let mut dispatcher = Dispatcher::new(limits, vec![ServiceOffer::new("web")], instance.clone());
    let mut random = |bytes: &mut [u8]| bytes.fill(7);
    let (link, server) = (LinkId(1), "lan-1".to_owned());
    dispatcher.handle(Event::LinkOpened { link, server, allowed: vec![0] }, now, &mut random);
    let message: FromServer =
        prost::Message::decode(&*hello_of_yesterday("FromServer")).expect("well-formed");
    assert!(matches!(message.message, Some(from_server::Message::ServerHello(_))));
    dispatcher.handle(Event::LinkMessage { link, message }, now, &mut random);
    let Some(Action::Send { message, .. }) = dispatcher.poll_action() else { panic!("a hello") };
    let Some(to_server::Message::GatewayHello(hello)) = &message.message else { panic!("a hello") };
    let expected = GatewayHello { takes_crls: true, ..hello.clone() };
    assert!(*hello == expected && hello.instance == instance && hello.services == ["web"]);
    let read = read(&yesterday(), "ToServer", &prost::Message::encode_to_vec(&message));
    let hello = read.get_field_by_name("hello").expect("in the file");
    let hello = hello.as_message().expect("a message");
    // The new field is there for it to ignore.
    assert_eq!(hello.unknown_fields().count(), 1);
    let instance = hello.get_field_by_name("instance").expect("in the file");
    assert_eq!(instance.as_str(), Some("00112233445566ff"));
}
