//! Tables of `gateway.toml` that contradict each other.

use super::*;

#[test]
fn services_of_a_gateway_that_contradict_it_are_refused() {
    for (more, place, advice) in [
        ("devices = \"all\"", "16:11", "write \"any\", \"verified\", or a list"),
        ("devices = []", "16:11", "`devices` is empty"),
        ("listeners = \"internet\"", "16:13", "write `[\"internet\"]`, or `\"all\"`"),
        ("listeners = [\"internet\", \"internet\"]", "16:26", "it stands in line 16 already"),
        ("sni = [\"10.0.0.1\"]", "16:8", "addresses are never sent"),
        ("sni = [\"a.com\", \"A.com\"]", "16:17", "again"),
        ("alpn = [\"vestibule-agent/1\"]\ndefault = true", "16:9", "reserved"),
        ("alpn = [\"\"]", "16:9", "1 to 255 bytes, not 0"),
        ("default = \"true\"", "16:11", "without quotes, not text: write `default = true`"),
        ("[[services]]\nname = \"web\"", "17:8", "it stands in line 15 already"),
        ("[[services]]\nname = \"w b\"", "17:8", "can't be a name"),
        (
            "sni = [\"a.com\"]\n[[services]]\nname = \"b\"\nsni = [\"a.com\"]",
            "19:8",
            "service \"web\" in line 14 has this server name as well",
        ),
        (
            "default = true\n[[services]]\nname = \"b\"\ndefault = true",
            "19:11",
            "has a default service already: \"web\" in line 16",
        ),
    ] {
        assert_refused(gateway(&gateway_text(more)), place, advice);
    }
}

#[test]
fn services_that_their_alpn_or_a_star_tells_apart_are_allowed() {
    for (first, second) in [
        ("sni = [\"a.com\"]\nalpn = [\"h2\"]", "sni = [\"a.com\"]\nalpn = [\"http/1.1\"]"),
        ("sni = [\"a.com\"]\nalpn = [\"h2\"]", "sni = [\"a.com\"]"),
        ("sni = [\"*.a.com\"]", "sni = [\"b.a.com\"]"),
    ] {
        let text = gateway_text(&format!("{first}\n[[services]]\nname = \"b\"\n{second}\n"));
        gateway(&text).expect("the services can be told apart");
    }
}

#[test]
fn listeners_of_a_gateway_that_contradict_it_are_refused() {
    for (more, place, advice) in [
        (format!("{PLAIN}service = \"web\""), "14:1", "`devices = \"any\"`"),
        (
            format!("devices = \"verified\"\n{PLAIN}service = \"web\""),
            "16:11",
            "nobody could reach",
        ),
        (format!("{PLAIN}service = \"wep\""), "21:11", "did you mean \"web\"?"),
        (PLAIN.to_string(), "16:1", "missing key `service`"),
        (
            format!("devices = \"any\"\n{PLAIN}service = \"web\"\nkey = \"a\""),
            "23:1",
            "`key` has no effect here",
        ),
        (LISTENER.replace("internet", "lan"), "18:14", "address \"[::]:13000\" again"),
        (
            LISTENER.replace("internet", "lan").replace("[::]:13000", "127.0.0.1:9113"),
            "18:14",
            "taken by `[telemetry]`",
        ),
        (LISTENER.replace("13000", "13001"), "17:8", "listener \"internet\" again"),
    ] {
        assert_refused(gateway(&gateway_text(&more)), place, advice);
    }
    for (old, new, place, advice) in [
        ("\"required\"\ndevice_ca = \"devices.crt\"", "\"none\"", "13:1", "`devices = \"any\"`"),
        ("device_certificates = \"required\"\n", "", "1:1", "missing key `device_certificates`"),
        ("device_ca = \"devices.crt\"\n", "", "1:1", "missing key `device_ca`"),
        ("\"devices.crt\"", "\"./servers.crt\"", "8:13", "CA of `[servers]` as well"),
        (
            "\"devices.crt\"",
            "\"devices.crt\"\nservers = false",
            "1:1",
            "no listener lets servers in",
        ),
        ("[\"[::]:13000\"]", "[\"[::]\"]", "3:14", "the port is missing, as in `[::]:13000`"),
        ("[\"[::]:13000\"]", "[]", "3:13", "`addresses` is empty"),
        ("\"tls\"", "\"tcp\"", "4:8", "write one of \"tls\", \"plain\""),
        ("\"gw.crt\"", "\"\"", "5:15", "write the path of a file"),
        ("admin-1.example.com", "10.0.0.1", "", "is not a DNS name"),
        ("services = \"all\"", "services = []", "", "`services` is empty"),
    ] {
        assert_refused(gateway(&gateway_text("").replace(old, new)), place, advice);
    }
    let text = gateway_text("devices = \"any\"").replace("\"required\"", "\"none\"");
    assert_refused(gateway(&text), "8:1", "`device_ca` has no effect here");
}

#[test]
fn a_plain_listener_says_where_its_agents_come_from() {
    let with = |agents_from: &str| {
        let plain = PLAIN.replace("agents_from = [\"192.0.2.0/24\"]\n", agents_from);
        gateway(&gateway_text(&format!("devices = \"any\"\n{plain}service = \"web\"\n")))
    };
    assert_refused(with(""), "17:1", "missing key `agents_from`");
    assert_refused(with(""), "17:1", "`agents_from = [\"192.0.2.0/24\"]`, or `\"any\"`");
    assert_refused(with("agents_from = []\n"), "21:15", "`agents_from` is empty");
    assert_refused(with("agents_from = \"192.0.2.7\"\n"), "21:15", "write `[\"192.0.2.7\"]`");
    assert_refused(with("agents_from = [\"192.0.2.7/24\"]\n"), "21:16", "bits beyond its prefix");
    let any = with("agents_from = \"any\"\n").expect("it was asked for by name");
    let warnings = any.warnings.iter().map(line).collect::<Vec<_>>();
    assert!(warnings[1].starts_with("21:15 everyone who reaches this listener"), "{warnings:?}");
    let listed = with("agents_from = [\"192.0.2.0/24\", \"::1\"]\n").expect("it is right");
    assert_eq!(listed.warnings.len(), 1, "that it is plain");
    let ListenerKind::Plain { agents_from, .. } = &listed.config.listeners[1].kind else {
        panic!("it is plain");
    };
    let may = |address: &str| agents_from.contains(address.parse().expect("an address"));
    assert!(may("192.0.2.200") && may("::1") && !may("192.0.3.1") && !may("::2"));
}

#[test]
fn one_ca_for_devices_and_servers_is_allowed_where_devices_are_named() {
    let with = |devices: &str| {
        gateway(&gateway_text(devices).replace("\"devices.crt\"", "\"servers.crt\""))
    };
    with("devices = [\"laptop-*\"]").expect("devices are named");
    assert_refused(with("devices = [\"*\"]"), "8:13", "CA of their own");
    assert_refused(with("devices = \"any\""), "8:13", "CA of their own");
}

#[test]
fn a_service_on_a_plain_listener_of_another_is_refused() {
    let text = gateway_text(&format!(
        "devices = \"any\"\n{PLAIN}service = \"web\"\n[[services]]\nname = \"b\"\nlisteners = [\"old\"]"
    ));
    assert_refused(gateway(&text), "25:14", "is plain and leads to another service");
}

#[test]
fn a_service_that_no_listener_offers_is_refused() {
    let only_plain = format!(
        "{PLAIN}service = \"web\"\n{SERVERS}{SERVICE}devices = \"any\"\n[[services]]\nname = \"b\"\n"
    );
    let found = lines(gateway(&only_plain));
    assert!(found[0].contains("no listener lets servers in"), "{found:?}");
    assert!(found[1].contains("nobody can reach service \"b\""), "{found:?}");
}

#[test]
fn what_is_weak_or_without_effect_is_a_warning() {
    let warned = |more: &str, advice: &str| {
        let text = gateway_text(more).replace("services = \"all\"", "services = [\"web\"]");
        let warnings = gateway(&text).expect("the file is right").warnings;
        assert!(warnings.iter().any(|warning| warning.message.contains(advice)), "{warnings:?}");
    };
    warned("alpn = [\"h2\"]", "its `alpn` is never offered");
    warned("[[services]]\nname = \"b\"", "no server may serve this service");
    warned(&format!("devices = \"any\"\n{PLAIN}service = \"web\""), "is plain");
    let warnings = agent(&AGENT.replace("127.0.0.1:2222\"", "0.0.0.0:1\"\nallow_remote = true"))
        .expect("it was allowed by name")
        .warnings;
    assert_eq!(warnings.len(), 1);
}

#[test]
fn telemetry_stays_on_the_host_unless_it_is_said_who_may_ask() {
    let with = |keys: &str| gateway(&gateway_text(&format!("[telemetry]\n{keys}")));
    assert_refused(with("address = \"0.0.0.0:9113\""), "17:11", "not a loopback address");
    assert_refused(with("address = \"on\""), "17:11", "not an address to listen on");
    let read = |keys| with(keys).expect("it is right").config.telemetry;
    assert_eq!(read("address = \"[::1]:1\"").address, "[::1]:1".parse().ok());
    assert_eq!(read("address = \"off\"").address, None);
    let open = read("address = \"0.0.0.0:9113\"\nallow = [\"192.0.2.30\"]");
    assert_eq!(open.address, "0.0.0.0:9113".parse().ok());
    assert_eq!(open.allow, ["192.0.2.30/32".parse().expect("a range")]);
}

#[test]
fn the_operators_socket_is_off_unless_it_is_written_and_its_state_lies_alone() {
    let with = |keys: &str| gateway(&gateway_text(&format!("[operator]\n{keys}")));
    let read = |keys| with(keys).expect("it is right").config.operator;
    assert_eq!(gateway(&gateway_text("")).expect("right").config.operator, Operator::default());
    assert_eq!(read("socket = \"off\""), Operator::default());
    let both = read("socket = \"/run/v/gw.sock\"\nstate = \"state/blocks.toml\"");
    assert_eq!(both.socket, Some("/run/v/gw.sock".into()));
    assert_eq!(both.state, Some("state/blocks.toml".into()));
    assert_refused(with("state = \"blocks.toml\""), "16:2", "lies beside");
    let long = format!("socket = \"/run/{}.sock\"", "x".repeat(100));
    assert_refused(with(&long), "17:10", "at most 107 bytes");
    let at_a_server = server(&format!("{SERVER}[operator]\nstate = \"state/blocks.toml\"\n"));
    assert_refused(at_a_server, "10:1", "blocked at the gateways");
}
