use super::*;

const SNI: &str = "sni = [\"vault.example.com\"]\n";
const PASSES: &str = "tls = \"passthrough\"\n";

/// The service of a gateway with these keys, which begin on line 16.
fn of_gateway(keys: &str) -> Result<Checked<GatewayConfig>, Problems> {
    gateway(&gateway_text(keys))
}

/// The service of a server with these keys, which begin on line 9.
fn of_server(keys: &str) -> Result<Checked<ServerConfig>, Problems> {
    server(&format!("{SERVER}{keys}"))
}

#[test]
fn what_the_gateway_can_t_know_of_an_agent_is_not_asked_of_a_service_that_passes() {
    let devices = |devices: &str| of_gateway(&format!("{PASSES}{SNI}devices = {devices}\n"));
    for wrong in ["\"verified\"", "[\"laptop-*\"]"] {
        assert_refused(devices(wrong), "18:11", "write `devices = \"any\"`");
    }
    assert_refused(of_gateway(&format!("{PASSES}{SNI}")), "16:7", "write `devices = \"any\"`");
    let passing = devices("\"any\"").expect("it is right");
    assert!(passing.config.services[0].passthrough);
    let warnings = passing.warnings.iter().map(line).collect::<Vec<_>>();
    assert!(warnings[0].contains("requires certificates of devices"), "{warnings:?}");
    assert!(
        !of_gateway("tls = \"gateway\"\n").expect("as without it").config.services[0].passthrough
    );
    assert_refused(
        of_gateway("tls = \"none\"\n"),
        "16:7",
        "write one of \"passthrough\", \"gateway\"",
    );
}

#[test]
fn a_service_that_passes_is_chosen_by_what_a_client_hello_says() {
    let with = |keys: &str| of_gateway(&format!("{PASSES}devices = \"any\"\n{keys}"));
    assert_refused(with(""), "16:7", "nobody can reach service \"web\"");
    for keys in [SNI, "alpn = [\"h2\"]\n", "default = true\n"] {
        assert!(with(keys).is_ok(), "{keys}");
    }
}

#[test]
fn a_plain_listener_leads_to_no_service_that_passes() {
    let file = of_gateway(&format!("{PASSES}{SNI}devices = \"any\"\n{PLAIN}service = \"web\"\n"));
    assert_refused(file, "16:7", "listener \"old\" is plain");
}

#[test]
fn devices_may_share_the_servers_ca_where_none_is_asked_for_a_certificate() {
    let text = gateway_text(&format!("{PASSES}{SNI}devices = \"any\"\n"));
    assert!(gateway(&text.replace("devices.crt", "servers.crt")).is_ok());
}

#[test]
fn a_server_says_where_the_tls_of_agents_ends() {
    let ends =
        |keys: &str| of_server(keys).expect("it is right").config.services.remove(0).agent_tls;
    assert_eq!(ends(""), AgentTls::AtGateway);
    assert_eq!(ends("agent_tls = \"passthrough\"\n"), AgentTls::AtBackend);
    let here = ends("agent_tls = { certificate = \"v.crt\", key = \"v.key\", alpn = [\"h2\"] }\n");
    let AgentTls::Here(end) = here else { panic!("{here:?}") };
    assert_eq!((end.device_ca, end.alpn), (None, vec!["h2".to_owned()]));
}

#[test]
fn what_can_t_go_with_the_agents_own_tls_is_refused() {
    let passing = "agent_tls = \"passthrough\"\n";
    let tls = of_server(&format!("{passing}tls = {{ ca = \"b.crt\" }}\n"));
    assert_refused(tls, "10:1", "the agents' own TLS goes to the backend");
    let by_alpn = "[[services.by_alpn]]\nalpn = \"h2\"\nbackend = \"127.0.0.1:81\"\n";
    let by_alpn = of_server(&format!("{passing}{by_alpn}"));
    assert_refused(by_alpn, "10:12", "no protocol is agreed yet");
    assert_refused(of_server("agent_tls = \"here\"\n"), "9:13", "write \"passthrough\"");
    assert_refused(
        of_server("agent_tls = { key = \"v.key\" }\n"),
        "9:13",
        "missing key `certificate`",
    );
    // Where it ends here, the backend may have TLS of its own.
    let here =
        "agent_tls = { certificate = \"v.crt\", key = \"v.key\" }\ntls = { ca = \"b.crt\" }\n";
    assert!(of_server(here).is_ok());
    let both = of_server(&format!("{here}proxy_protocol = true\n"));
    assert_refused(both, "11:1", "the header stands before TLS");
}
