//! Files as operators write them, and what they are told.

mod gateway_rules;
mod passthrough;
mod quotas;
mod revocation;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limits;

const LISTENER: &str = r#"[[listeners]]
name = "internet"
addresses = ["[::]:13000"]
kind = "tls"
certificate = "gw.crt"
key = "gw.key"
device_certificates = "required"
device_ca = "devices.crt"
"#;
const SERVERS: &str = r#"[servers]
ca = "servers.crt"
[[servers.allow]]
name = "admin-1.example.com"
services = "all"
"#;
const SERVICE: &str = "[[services]]\nname = \"web\"\n";
const SERVER: &str = r#"certificate = "a.crt"
key = "a.key"
gateway_ca = "ca.crt"
[[gateways]]
address = "gw.example.com:13000"
[[services]]
name = "web"
backend = "127.0.0.1:80"
"#;
const AGENT: &str = r#"gateway_ca = "ca.crt"
[[gateways]]
address = "gw.example.com:13000"
[[forwards]]
address = "127.0.0.1:2222"
service = "ssh"
"#;

const PLAIN: &str = r#"[[listeners]]
name = "old"
addresses = ["0.0.0.0:14000"]
kind = "plain"
agents_from = ["192.0.2.0/24"]
"#;

/// The smallest gateway file: the service is on line 14, and what `more` says begins on line 16.
fn gateway_text(more: &str) -> String {
    format!("{LISTENER}{SERVERS}{SERVICE}{more}")
}

fn gateway(text: &str) -> Result<Checked<GatewayConfig>, Problems> {
    parse_gateway(text, Path::new("gateway.toml"))
}

fn server(text: &str) -> Result<Checked<ServerConfig>, Problems> {
    parse_server(text, Path::new("server.toml"))
}

fn agent(text: &str) -> Result<Checked<AgentConfig>, Problems> {
    parse_agent(text, Path::new("agent.toml"))
}

/// `line:column message` of each problem.
fn lines<T: std::fmt::Debug>(result: Result<Checked<T>, Problems>) -> Vec<String> {
    let problems = result.expect_err("the file is wrong");
    assert!(!problems.problems().is_empty(), "a refused file has a problem");
    problems.problems().iter().map(line).collect()
}

fn line(problem: &Problem) -> String {
    let mut text = String::new();
    if let Some(place) = &problem.place {
        write!(text, "{}:{} ", place.line, place.column).expect("a String grows as needed");
    }
    text + &problem.message
}

/// The file has exactly one problem, at that line, whose message contains `advice`.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(
    result: Result<Checked<T>, Problems>,
    place: &str,
    advice: &str,
) {
    let lines = lines(result);
    let [only] = &lines[..] else { panic!("one problem was expected, not {lines:#?}") };
    assert!(only.starts_with(place), "{only}\nis not at {place}");
    assert!(only.contains(advice), "{only}\nlacks: {advice}");
}

#[test]
fn the_example_files_pass() {
    let gateway =
        gateway(include_str!("../../../deploy/gateway.toml")).expect("the example is right");
    assert_eq!(gateway.warnings, []);
    assert_eq!(gateway.config.services.len(), 2);
    let server = server(include_str!("../../../deploy/server.toml")).expect("the example is right");
    assert_eq!(server.config.services[0].backend_by_alpn[0].0, "h2");
    let agent = agent(include_str!("../../../deploy/agent.toml")).expect("the example is right");
    assert_eq!(agent.config.gateways[1].name, "gw-2.example.com");
}

/// A commented key in an example shows its default, so writing it changes nothing.
#[test]
fn the_example_files_show_the_defaults() {
    fn with_defaults(text: &str) -> String {
        let uncomment = |line: &str| match line.strip_prefix('#') {
            // A space begins prose; the long form of `tls` is no default.
            Some(key) if !key.starts_with(' ') && !key.starts_with("tls =") => key.to_owned(),
            _ => line.to_owned(),
        };
        let paragraphs = text.split("\n\n").map(|paragraph| {
            // A table that is commented out is an example, not a default.
            if paragraph.contains("\n#[") || paragraph.starts_with("#[") {
                return paragraph.to_owned();
            }
            paragraph.lines().map(uncomment).collect::<Vec<_>>().join("\n")
        });
        paragraphs.collect::<Vec<_>>().join("\n\n")
    }
    let text = include_str!("../../../deploy/gateway.toml");
    assert_eq!(gateway(&with_defaults(text)), gateway(text));
    let text = include_str!("../../../deploy/server.toml");
    assert_eq!(server(&with_defaults(text)), server(text));
    let text = include_str!("../../../deploy/agent.toml");
    assert_eq!(agent(&with_defaults(text)), agent(text));
}

#[test]
fn the_smallest_files_pass_with_defaults() {
    let checked = gateway(&gateway_text("")).expect("the file is right");
    let config = checked.config;
    assert_eq!(checked.warnings, []);
    assert!(config.workers >= 1);
    assert_eq!(config.services[0].devices, DevicePolicy::Verified);
    assert_eq!(config.services[0].listeners, [0]);
    assert_eq!(config.servers.allow[0].services, [0]);
    assert_eq!(config.telemetry.address, "127.0.0.1:9113".parse().ok());
    assert_eq!(config.limits.session.idle_timeout, Some(Duration::from_secs(3 * 3600)));
    let config = server(SERVER).expect("the file is right").config;
    assert_eq!(config.gateways[0].name, "gw.example.com");
    assert_eq!(config.telemetry.address, "127.0.0.1:9114".parse().ok());
    assert_eq!(agent(AGENT).expect("the file is right").config.credentials, None);
}

#[test]
fn a_whole_gateway_is_read_as_written() {
    let text = gateway_text(
        "listeners = [\"internet\"]\nsni = [\"Web.Example.com\"]\nalpn = [\"h2\"]\ndefault = true\n\
         devices = [\"laptop-*\"]\n[[services]]\nname = \"sync\"\nlisteners = [\"old\"]\n\
         devices = \"any\"\n[[listeners]]\nname = \"old\"\naddresses = [\"0.0.0.0:14000\"]\n\
         kind = \"plain\"\nservice = \"sync\"\nallow_tls = true\nagents_from = [\"192.0.2.7\"]\n[limits]\nidle_timeout_ms = 0\n\
         half_closed_timeout_ms = 86400000\n[telemetry]\naddress = \"off\"\n",
    );
    let checked = gateway(&text).expect("the file is right");
    let config = checked.config;
    let agents_from = AgentsFrom::Listed(vec!["192.0.2.7/32".parse().expect("a range")]);
    let plain = ListenerKind::Plain { service: 1, allow_tls: true, agents_from };
    assert_eq!(config.listeners[1].kind, plain);
    assert_eq!(config.services[0].sni, ["web.example.com"]);
    assert_eq!(config.services[0].devices, DevicePolicy::Named(vec!["laptop-*".to_owned()]));
    assert_eq!(config.services[1].listeners, [1]);
    assert_eq!(config.limits.session.idle_timeout, None);
    assert_eq!(config.telemetry.address, None);
    let warnings = checked.warnings.iter().map(line).collect::<Vec<_>>();
    assert!(warnings[0].starts_with("26:8 listener \"old\" is plain"), "{warnings:?}");
    assert_eq!(warnings.len(), 1);
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_file() {
    let text = r#"wokers = 4
[[listeners]]
name = "internet"
adress = ["[::]:13000"]
kind = "tls"
certificate = 7
key = "gw.key"
device_certificates = "maybe"
[servers]
ca = "servers.crt"
[[servers.allow]]
name = "admin-1.example.com"
services = ["wbe"]
[[services]]
name = "web"
listeners = ["internt"]
[limits]
max_connections = 1
"#;
    assert_eq!(
        lines(gateway(text)),
        [
            "1:1 unknown key `wokers`; did you mean `workers`?",
            "2:1 missing key `addresses`: write `addresses = [\"0.0.0.0:13000\", \"[::]:13000\"]`",
            "4:1 unknown key `adress`; did you mean `addresses`?",
            "6:15 `certificate` takes text in quotes, not a number: \
             write `certificate = \"pki/host.crt\"`",
            "8:23 `device_certificates` can't be \"maybe\": \
             write one of \"required\", \"optional\", \"none\"",
            "13:13 unknown service \"wbe\"; did you mean \"web\"?",
            "16:14 unknown listener \"internt\"; did you mean \"internet\"?",
            "18:19 `max_connections` must be from 16 to 1000000; the default is 20000",
        ]
    );
}

#[test]
fn a_problem_is_shown_with_its_line_and_a_caret() {
    let text = gateway_text("defualt = true\n");
    let problems = gateway(&text).expect_err("a key is unknown");
    assert_eq!(
        problems.to_string(),
        "gateway.toml:16:1: unknown key `defualt`; did you mean `default`?\n   \
         16 | defualt = true\n      | ^^^^^^^"
    );
}

#[test]
fn a_file_that_is_no_toml_is_one_problem_with_its_place() {
    assert_refused(gateway("[[listeners]]\nname = \n"), "2:7", "not well-formed TOML");
    assert_refused(gateway("workers = 1\nworkers = 2\n"), "2:1", "duplicate key");
    let deep = "a = ".to_owned() + &"[".repeat(100_000);
    assert!(gateway(&deep).is_err());
}

#[test]
fn an_empty_file_is_told_what_it_lacks() {
    let lacks = lines(gateway(""));
    assert_eq!(lacks.len(), 3, "{lacks:?}");
    assert!(lacks.iter().all(|line| line.starts_with("missing `[")), "{lacks:?}");
}

#[test]
fn wrong_servers_and_agents_are_told_what_to_write() {
    for (old, new, place, advice) in [
        ("13000", "0", "5:11", "is not a host and a port"),
        ("13000\"", "13000\"\nname = \"a b\"", "6:8", "can't be the name in a certificate"),
        ("127.0.0.1:80\"", "::1:80\"", "8:11", "[2001:db8::1]:13000"),
        ("127.0.0.1:80\"", "a:80\"\ntls = { name = \"a\" }", "9:7", "missing key `ca`"),
        (
            "127.0.0.1:80\"",
            "a:80\"\ntls = { ca = \"a\", key = \"a\" }",
            "9:7",
            "missing key `certificate`",
        ),
        ("127.0.0.1:80\"", "a:80\"\ntls = true", "9:7", "takes a table, not true or false"),
        (
            "127.0.0.1:80\"",
            "a:80\"\n[[services.by_alpn]]\nalpn = \"h2\"",
            "9:1",
            "missing key `backend`",
        ),
        (
            "[[services]]",
            "[[gateways]]\naddress = \"gw.example.com:13000\"\n[[services]]",
            "7:11",
            "it stands in line 5 already",
        ),
        ("[[services]]", "[services]", "6:1", "write `[[services]]` above each"),
    ] {
        assert_refused(server(&SERVER.replace(old, new)), place, advice);
    }
    for (old, new, place, advice) in [
        ("127.0.0.1:2222", "0.0.0.0:2222", "5:11", "write `127.0.0.1:2222`"),
        ("gateway_ca", "key = \"a\"\ngateway_ca", "", "missing key `certificate`"),
        ("[[forwards]]", "[[forward]]", "", "missing `[[forwards]]`"),
    ] {
        let found = lines(agent(&AGENT.replace(old, new)));
        assert!(found[0].starts_with(place) && found[0].contains(advice), "{found:?}");
    }
}

#[test]
fn numbers_are_accepted_up_to_the_edges_of_their_ranges() {
    for (key, limits::Range { min, max, .. }) in [
        ("max_connections", limits::MAX_CONNECTIONS),
        ("max_handshakes", limits::MAX_HANDSHAKES),
        ("max_waiting", limits::MAX_WAITING),
        ("max_spares", limits::MAX_SPARES),
        ("spare_life_ms", limits::SPARE_LIFE_MS),
        ("admission_timeout_ms", limits::ADMISSION_TIMEOUT_MS),
        ("invitation_timeout_ms", limits::INVITATION_TIMEOUT_MS),
        ("idle_timeout_ms", limits::IDLE_TIMEOUT_MS),
        ("half_closed_timeout_ms", limits::HALF_CLOSED_TIMEOUT_MS),
        ("keepalive_ms", limits::KEEPALIVE_MS),
        ("user_timeout_ms", limits::USER_TIMEOUT_MS),
        ("drain_timeout_ms", limits::DRAIN_TIMEOUT_MS),
    ] {
        let with = |number: &str| {
            // Room for the parts of `max_connections` and for the longest half-closed time.
            let room = match key {
                "max_handshakes" | "max_waiting" => "max_connections = 1_000_000\n",
                "half_closed_timeout_ms" => "idle_timeout_ms = 0\n",
                _ => "",
            };
            gateway(&gateway_text(&format!("[limits]\n{room}{key} = {number}\n")))
        };
        for number in [min, max] {
            assert!(with(&number.to_string()).is_ok(), "{key} = {number}");
        }
        let advice = format!("`{key}` must be from {min} to {max}");
        let below = if min == 0 { "-1".to_owned() } else { (min - 1).to_string() };
        for number in [&below, &(max + 1).to_string(), "0xffffffffffffffffff"] {
            assert!(lines(with(number))[0].contains(&advice), "{key} = {number}");
        }
        assert!(lines(with("1.5"))[0].contains("takes a whole number"), "{key}");
    }
}

#[test]
fn bounds_that_contradict_each_other_are_refused_and_defaults_follow() {
    let with = |limits: &str| gateway(&gateway_text(&format!("[limits]\n{limits}")));
    let limits = |text| with(text).expect("the limits agree").config.limits;
    assert_eq!(limits("max_connections = 100").max_handshakes, 100);
    let session = limits("idle_timeout_ms = 1000").session;
    assert_eq!(session.half_closed_timeout, Duration::from_secs(1));
    assert_refused(
        with("max_connections = 100\nmax_waiting = 101"),
        "18:15",
        "at most `max_connections`, which is 100",
    );
    assert_refused(
        with("idle_timeout_ms = 1000\nhalf_closed_timeout_ms = 1001"),
        "18:26",
        "at most `idle_timeout_ms`, which is 1000",
    );
    assert_refused(with("idle_timeout_ms = 99"), "17:19", "0 (never) or at least 100");
}

#[test]
fn the_role_of_a_file_is_seen_also_where_it_has_errors() {
    assert_eq!(guess_role(&gateway_text("oops =")), Some(Role::Gateway));
    assert_eq!(guess_role(SERVER), Some(Role::Server));
    assert_eq!(guess_role(AGENT), Some(Role::Agent));
    assert_eq!(guess_role("workers = 1"), None);
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_that_names_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("gateway.toml");
    let message = |path: &Path| lines(read_gateway(path)).join("\n");
    assert!(message(&path).starts_with("can't be read: No such file"), "{}", message(&path));
    assert!(message(folder.path()).starts_with("can't be read: "));
    std::fs::write(&path, b"workers = 1\nname = \"\xff\"\n").expect("the folder is writable");
    assert!(message(&path).starts_with("2:9 not UTF-8"), "{}", message(&path));
    std::fs::write(&path, vec![b'#'; limits::MAX_CONFIG_LEN + 1]).expect("the folder is writable");
    assert!(message(&path).starts_with("longer than"), "{}", message(&path));
    std::fs::write(&path, gateway_text("")).expect("the folder is writable");
    let checked = read_gateway(&path).expect("the file is right");
    assert_eq!(checked.config.servers.ca, folder.path().join("servers.crt"));
}

/// Pieces of which files are made, so that random texts get past the TOML parser.
fn pieces() -> impl Strategy<Value = String> {
    let words = gateway_text(&format!("{PLAIN}{SERVER}{AGENT}\n[limits]\nmax_waiting = 3\n"))
        .split_inclusive(['\n', ' '])
        .map(str::to_owned)
        .chain(
            ["[] ", "{ } ", "1 ", "\"\" ", "\"ö\" ", "= ", "\n", "\r\n", "\t"].map(str::to_owned),
        )
        .collect::<Vec<_>>();
    proptest::collection::vec(proptest::sample::select(words), 0..60).prop_map(|all| all.concat())
}

/// Whole lines in any order: tables that lack keys or have foreign ones.
fn shuffled_lines() -> impl Strategy<Value = String> {
    let text = gateway_text(&format!("{PLAIN}{SERVER}{AGENT}\n[limits]\nmax_waiting = 3\n"));
    let lines = text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
    let len = lines.len();
    proptest::sample::subsequence(lines, 0..len).prop_shuffle().prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_has_problems_within_it(
        text in prop_oneof![any::<String>(), pieces(), shuffled_lines()],
    ) {
        let _ = guess_role(&text);
        let file = Path::new("any.toml");
        let found = [
            parse_gateway(&text, file).err(),
            parse_server(&text, file).err(),
            parse_agent(&text, file).err(),
        ];
        for problems in found.into_iter().flatten() {
            prop_assert!(!problems.problems().is_empty());
            prop_assert!(!problems.to_string().is_empty());
            for place in problems.problems().iter().filter_map(|problem| problem.place.as_ref()) {
                prop_assert!((1..=text.split('\n').count()).contains(&place.line));
            }
        }
    }
}

#[test]
fn what_one_address_may_have_is_read_and_what_a_prefix_may_have_is_no_less() {
    let more =
        "[addresses]\nmax_connections = 5000\nexempt = [\"203.0.113.7\", \"2001:db8::/48\"]\n";
    let limits = gateway(&gateway_text(more)).expect("well-formed").config.addresses;
    assert_eq!((limits.max_connections, limits.max_connections_of_prefix), (5_000, 5_000));
    assert_eq!((limits.max_handshakes, limits.max_handshakes_of_prefix), (256, 1_024));
    assert_eq!(limits.exempt.len(), 2);
    for (keys, place, advice) in [
        ("max_connections_of_prefix = 999", "17:29", "at least what one address may have, 1000"),
        ("exempt = [\"203.0.113.7/24\"]", "17:11", "write `203.0.113.0/24` for the range"),
        ("exempt = [\"::1\", \"::1\"]", "17:18", "again: it stands in line 17 already"),
        ("exempt = \"::1\"", "17:10", "takes a list"),
    ] {
        let text = gateway_text(&format!("[addresses]\n{keys}\n"));
        assert_refused(gateway(&text), place, advice);
    }
}

#[test]
fn more_ranges_than_a_connection_can_be_compared_with_are_refused() {
    let ranges: Vec<_> = (0..=limits::MAX_ADDRESS_RANGES)
        .map(|i| format!("\"10.{}.{}.0/24\"", i / 256, i % 256))
        .collect();
    let text = gateway_text(&format!("[addresses]\nexempt = [{}]\n", ranges.join(",")));
    assert_refused(gateway(&text), "17:", "`exempt` names more than 1024 ranges");
}
