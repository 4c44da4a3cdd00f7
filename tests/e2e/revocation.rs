//! Revocation: a certificate that its CA has revoked opens nothing, and what it had opened ends.

use std::process::Command;
use std::sync::Arc;

use rustls::{AlertDescription, HandshakeKind};
use vestibule::config::Credentials;
use vestibule::limits::{CRLS_PER_WINDOW, MAX_CRL_LEN, MAX_CRL_PIECE_LEN};
use vestibule::pki::Role;
use vestibule::wire::{Crl, CrlOutcome, from_server};

use super::harness::{
    Authority, Backend, Ending, Gateway, GatewayFile, HOUR, List, Peer, ScriptedServer, ServerFile,
    Site, World, assert_talks, der,
};

const GATEWAY: &str = "gateway-1.toml";
const LIST: &str = "devices.crl";
const REVOKED: Ending = Ending::Alert(AlertDescription::CertificateRevoked);
/// Keys of the listener.
const KNOWN: &str = "device_crls = [\"devices.crl\"]\ndevice_revocation = \"known\"";
const REQUIRED: &str = "device_crls = [\"devices.crl\"]\ndevice_revocation = \"required\"";

/// A site whose gateway goes by a list in a file, which revokes nobody yet.
struct Trial {
    site: Site,
    backend: Backend,
    /// The device that will be revoked.
    stolen: Credentials,
    kept: Credentials,
}

impl Trial {
    fn new(internet: &str) -> Self {
        let backend = Backend::by_hand();
        let world = World::new();
        world.write(LIST, &world.list(&List::of_devices(1, &[])));
        let file = GatewayFile { internet, ..GatewayFile::DEFAULT };
        let services = [("echo", backend.address), ("old", backend.address)];
        let site = Site::in_world(world, &file, |world| ServerFile::new(world, &services));
        let stolen = site.world.forge("stolen.test", Authority::Of(Role::Device), |_| {});
        let kept = site.world.credentials("laptop-7.test");
        Self { site, backend, stolen, kept }
    }

    fn dial(&self, device: &Credentials) -> Peer {
        let config = self.site.world.client(Some(device), vec![]);
        Peer::dial_tls(self.site.gateway.tls, World::ECHO, &config)
    }

    /// An agent of that device and what its backend has of it, who have talked.
    fn session(&self, device: &Credentials) -> (Peer, Peer) {
        let mut session = (self.dial(device), self.backend.accept());
        assert_talks(&mut session);
        session
    }

    /// Puts another list into the file, and has the gateway read it.
    fn publish(&self, list: &List<'_>) {
        self.site.world.replace(LIST, &self.site.world.list(list));
        self.site.gateway.reload();
    }
}

fn wait_for_ended(gateway: &Gateway, reason: &str, count: u64) {
    let sample = format!("vestibule_connections_ended_total{{reason=\"{reason}\"}}");
    gateway.telemetry.wait_for(&sample, count);
}

// ---- a file ----

#[test]
fn a_revoked_device_is_refused_with_its_alert_and_its_live_session_ends() {
    let trial = Trial::new(KNOWN);
    let mut stolen = trial.session(&trial.stolen);
    let mut kept = trial.session(&trial.kept);
    trial.publish(&List::of_devices(2, &[&trial.stolen]));

    assert_eq!(stolen.0.ending(), Ending::Reset);
    assert_eq!(stolen.1.ending(), Ending::Reset);
    let reason = ("reason", "certificate_revoked");
    let ended_session = trial.site.gateway.process.line("session ended", &[reason]);
    assert_eq!(ended_session["device"].as_str(), Some("stolen.test"));
    assert_talks(&mut kept);
    assert_eq!(trial.dial(&trial.stolen).ending(), REVOKED);
    trial.site.gateway.process.line("connection ended", &[reason]);
    wait_for_ended(&trial.site.gateway, "certificate_revoked", 1);
    assert_talks(&mut trial.session(&trial.kept));
    assert_talks(&mut kept);
}

#[test]
fn a_list_that_is_replaced_is_read_without_a_signal() {
    let trial = Trial::new(KNOWN);
    let mut stolen = trial.session(&trial.stolen);
    let list = trial.site.world.list(&List::of_devices(2, &[&trial.stolen]));
    trial.site.world.replace(LIST, &list);
    assert_eq!(stolen.0.ending(), Ending::Reset);
}

#[test]
fn with_policy_off_nothing_is_looked_at() {
    let trial = Trial::new("device_revocation = \"off\"");
    trial.publish(&List::of_devices(2, &[&trial.stolen]));
    assert_talks(&mut trial.session(&trial.stolen));
}

#[test]
fn a_stale_list_is_warned_of_or_closes_the_door_as_the_policy_says() {
    let trial = Trial::new(KNOWN);
    trial.publish(&List { life: HOUR / 2, ..List::of_devices(2, &[&trial.stolen]) });
    trial.site.gateway.process.line("is stale since", &[("level", "WARN")]);
    assert_eq!(trial.dial(&trial.stolen).ending(), REVOKED);
    let mut kept = trial.session(&trial.kept);

    let policy = |from: &str, to: &str| {
        let key = |policy: &str| format!("device_revocation = \"{policy}\"");
        trial.site.world.edit(GATEWAY, &key(from), &key(to));
        trial.site.gateway.reload();
    };
    policy("known", "required");
    let unknown = Ending::Alert(AlertDescription::UnknownCA);
    assert_eq!(trial.dial(&trial.kept).ending(), unknown);
    assert_eq!(trial.dial(&trial.stolen).ending(), REVOKED);
    wait_for_ended(&trial.site.gateway, "revocation_unknown", 1);
    trial.site.gateway.telemetry.wait_unready();
    // Who is in stays: the list says nothing against it.
    assert_talks(&mut kept);

    trial.publish(&List::of_devices(3, &[&trial.stolen]));
    trial.site.gateway.telemetry.wait_ready();
    assert_talks(&mut trial.session(&trial.kept));
}

#[test]
fn with_policy_required_a_current_list_lets_in_who_is_not_on_it() {
    let trial = Trial::new(REQUIRED);
    let mut kept = trial.session(&trial.kept);
    trial.publish(&List::of_devices(2, &[&trial.stolen]));
    assert_talks(&mut kept);
    assert_talks(&mut trial.session(&trial.kept));
    assert_eq!(trial.dial(&trial.stolen).ending(), REVOKED);
}

#[test]
fn a_list_of_another_ca_refuses_the_whole_reload_and_says_what_to_do() {
    let trial = Trial::new(KNOWN);
    let list = trial.site.world.foreign_list(&List::of_devices(2, &[&trial.kept]));
    trial.site.world.replace(LIST, &list);
    let reason = trial.site.gateway.refusal();
    assert!(reason.contains("devices.crl: its signature is not that of the CA"), "{reason}");
    assert_talks(&mut trial.session(&trial.kept));
}

// ---- servers ----

#[test]
fn a_revoked_server_loses_its_signal_connection_its_spares_and_its_sessions() {
    let world = World::new();
    let list = |number, revoked: &[&Credentials]| world.list(&List::of_servers(number, revoked));
    world.write("servers.crl", &list(1, &[]));
    let servers = "crls = [\"servers.crl\"]\nrevocation = \"required\"";
    let gateway = world.gateway(&GatewayFile { servers, ..GatewayFile::DEFAULT });
    let services = ["echo", "old"];
    let stolen = ScriptedServer::with_spares(&world, "server-2.test", gateway.tls, &services, 1);
    // The second agent has the gateway ask for a spare.
    let mut sessions = [(); 2].map(|()| (world.foreign_agent(&gateway), stolen.join()));
    sessions.iter_mut().for_each(assert_talks);
    let asked = stolen.invitation();
    let mut spare = stolen.data_connection(&asked);
    spare.claim(asked.id, &asked.ticket);
    gateway.telemetry.wait_for("vestibule_spares", 1);

    world.replace("servers.crl", &list(2, &[&world.credentials("server-2.test")]));
    gateway.reload();
    stolen.wait_until_closed();
    for (agent, data) in &mut sessions {
        assert_eq!((agent.ending(), data.ending()), (Ending::Reset, Ending::Reset));
    }
    let reason = ("reason", "certificate_revoked");
    gateway.process.line("signal connection closed", &[reason]);
    gateway.process.line("session ended", &[reason, ("server", "server-2.test")]);
    gateway.telemetry.wait_for("vestibule_spares", 0);
    let config = world.server_client("server-2.test", vec![b"vestibule-signal/1".to_vec()]);
    let mut again = Peer::dial_tls(gateway.tls, World::GATEWAY_NAME, &config);
    assert_eq!(again.ending(), REVOKED);

    let kept = ScriptedServer::new(&world, "server-1.test", gateway.tls, &services);
    let mut session = (world.foreign_agent(&gateway), kept.join());
    assert_talks(&mut session);
}

// ---- brought by a server ----

/// Lists of devices come from servers alone.
const BROUGHT: GatewayFile<'_> = GatewayFile {
    internet: "device_revocation = \"known\"",
    servers: "bring_crls = true\nrevocation = \"off\"",
    ..GatewayFile::DEFAULT
};

/// A site whose server brings a list from a file, which revokes nobody yet.
fn site_with_bringer(gateway: &GatewayFile<'_>, backend: &Backend) -> Site {
    let world = World::new();
    world.write(LIST, &world.list(&List::of_devices(1, &[])));
    let services = [("echo", backend.address), ("old", backend.address)];
    Site::in_world(world, gateway, |world| ServerFile {
        keys: "crls = [\"devices.crl\"]",
        ..ServerFile::new(world, &services)
    })
}

#[test]
fn a_list_that_a_server_brings_ends_sessions_and_refuses_tickets() {
    let backend = Backend::by_hand();
    let site = site_with_bringer(&BROUGHT, &backend);
    let stolen = site.world.forge("stolen.test", Authority::Of(Role::Device), |_| {});
    let device = site.world.client(Some(&stolen), vec![]);
    let session = |config: &Arc<_>| {
        let agent = Peer::dial_tls(site.gateway.tls, World::ECHO, config);
        let mut session = (agent, backend.accept());
        assert_talks(&mut session);
        session
    };
    site.gateway
        .process
        .line("took a list of revoked certificates", &[("server", "server-1.test")]);
    let mut kept = session(&site.world.foreign_config());
    let mut first = session(&device);
    let mut second = session(&device);
    assert_eq!(second.0.handshake_kind(), HandshakeKind::Resumed);

    site.world.replace(LIST, &site.world.list(&List::of_devices(2, &[&stolen])));
    for (agent, service) in [&mut first, &mut second] {
        assert_eq!((agent.ending(), service.ending()), (Ending::Reset, Ending::Reset));
    }
    let mut again = Peer::dial_tls(site.gateway.tls, World::ECHO, &device);
    assert_eq!(again.handshake_kind(), HandshakeKind::Resumed);
    assert_eq!(again.ending(), REVOKED);
    let mut anew = site.world.client(Some(&stolen), vec![]);
    Arc::make_mut(&mut anew).resumption = rustls::client::Resumption::disabled();
    assert_eq!(Peer::dial_tls(site.gateway.tls, World::ECHO, &anew).ending(), REVOKED);
    assert_talks(&mut kept);
    site.server.line("brought a list of revoked certificates", &[("outcome", "taken")]);
    let brought = "vestibule_crls_brought_total{outcome=\"taken\"}";
    site.gateway.telemetry.wait_for(brought, 2);
    site.server_telemetry.wait_for(brought, 2);
    assert_eq!(site.gateway.process.count("signal connection opened", &[]), 1);
    let entries =
        "vestibule_crl_entries{role=\"device\",ca=\"O=Vestibule, CN=Vestibule devices CA\"}";
    assert_eq!(site.gateway.telemetry.metric(entries), 1);
}

#[test]
fn an_old_list_and_one_of_a_foreign_ca_are_refused() {
    let world = World::new();
    let gateway = world.gateway(&BROUGHT);
    let server = ScriptedServer::new(&world, "server-1.test", gateway.tls, &["echo", "old"]);
    assert!(server.hello.takes_crls);
    let stolen = world.forge("stolen.test", Authority::Of(Role::Device), |_| {});
    let dial = || Peer::dial_tls(gateway.tls, World::ECHO, &world.client(Some(&stolen), vec![]));
    let list = world.list_der(&List::of_devices(5, &[&stolen]));
    assert_eq!(server.bring(1, &list), CrlOutcome::Taken);
    assert_eq!(dial().ending(), REVOKED);
    let older = world.list_der(&List::of_devices(4, &[]));
    assert_eq!(server.bring(2, &older), CrlOutcome::Older);
    let before = List { age: 2 * HOUR, ..List::of_devices(6, &[]) };
    assert_eq!(server.bring(3, &world.list_der(&before)), CrlOutcome::Older);
    assert_eq!(server.bring(4, &list), CrlOutcome::Known);
    let foreign = der(&world.foreign_list(&List::of_devices(9, &[])));
    assert_eq!(server.bring(5, &foreign), CrlOutcome::Foreign);
    let of_servers = world.list_der(&List::of_servers(9, &[&stolen]));
    assert_eq!(server.bring(6, &of_servers), CrlOutcome::Foreign, "nobody looks at those");
    assert_eq!(server.bring(7, b"garbage"), CrlOutcome::Unusable);
    let mut changed = world.list_der(&List::of_devices(10, &[]));
    *changed.last_mut().expect("it has bytes") ^= 1;
    assert_eq!(server.bring(8, &changed), CrlOutcome::Foreign);
    assert_eq!(dial().ending(), REVOKED);
    let another = ScriptedServer::new(&world, "server-2.test", gateway.tls, &["echo", "old"]);
    assert_eq!(another.bring(1, &list), CrlOutcome::Known);
    // A reload forgets nothing of it.
    gateway.reload();
    assert_eq!(dial().ending(), REVOKED);
    assert_eq!(another.bring(2, &older), CrlOutcome::Older);
}

#[test]
fn a_long_list_comes_in_pieces_and_counts_as_a_whole() {
    let world = World::new();
    let gateway = world.gateway(&BROUGHT);
    let server = ScriptedServer::new(&world, "server-1.test", gateway.tls, &["echo", "old"]);
    let stolen = world.forge("stolen.test", Authority::Of(Role::Device), |_| {});
    let many = vec![&stolen; 1_000];
    let list = world.list_der(&List::of_devices(1, &many));
    assert!(list.len() > 2 * MAX_CRL_PIECE_LEN, "{}", list.len());
    assert_eq!(server.bring(1, &list), CrlOutcome::Taken);
    let config = world.client(Some(&stolen), vec![]);
    assert_eq!(Peer::dial_tls(gateway.tls, World::ECHO, &config).ending(), REVOKED);
}

#[test]
fn without_its_first_list_a_gateway_that_requires_one_is_not_ready() {
    let world = World::new();
    let file = GatewayFile { internet: "device_revocation = \"required\"", ..BROUGHT };
    let gateway = world.gateway(&file);
    let server = ScriptedServer::new(&world, "server-1.test", gateway.tls, &["echo", "old"]);
    gateway.telemetry.wait_for("vestibule_signal_connections{server=\"server-1.test\"}", 1);
    gateway.telemetry.wait_unready();
    let unknown = Ending::Alert(AlertDescription::UnknownCA);
    assert_eq!(world.foreign_agent(&gateway).ending(), unknown);
    let list = world.list_der(&List::of_devices(1, &[]));
    assert_eq!(server.bring(1, &list), CrlOutcome::Taken);
    gateway.telemetry.wait_ready();
    let mut session = (world.foreign_agent(&gateway), server.join());
    assert_talks(&mut session);
}

#[test]
fn a_server_that_another_brings_the_revocation_of_is_cut_off() {
    let world = World::new();
    let servers = "bring_crls = true\nrevocation = \"known\"";
    let gateway = world.gateway(&GatewayFile { servers, ..BROUGHT });
    let services = ["echo", "old"];
    let stolen = ScriptedServer::new(&world, "server-2.test", gateway.tls, &services);
    let mut session = (world.foreign_agent(&gateway), stolen.join());
    assert_talks(&mut session);
    let kept = ScriptedServer::new(&world, "server-1.test", gateway.tls, &services);
    let credentials = world.credentials("server-2.test");
    let list = world.list_der(&List::of_servers(1, &[&credentials]));
    assert_eq!(kept.bring(1, &list), CrlOutcome::Taken);
    stolen.wait_until_closed();
    assert_eq!((session.0.ending(), session.1.ending()), (Ending::Reset, Ending::Reset));
    let mut session = (world.foreign_agent(&gateway), kept.join());
    assert_talks(&mut session);
}

#[test]
fn a_gateway_that_takes_no_lists_says_so() {
    let world = World::new();
    let gateway = world.gateway(&GatewayFile::DEFAULT);
    let server = ScriptedServer::new(&world, "server-1.test", gateway.tls, &["echo", "old"]);
    assert!(!server.hello.takes_crls);
    let list = world.list_der(&List::of_devices(1, &[]));
    assert_eq!(server.bring(1, &list), CrlOutcome::NotWanted);
}

#[test]
fn a_server_that_sends_garbage_too_much_or_out_of_order_hurts_nobody() {
    let mut trial = super::harness::Trial::new(&BROUGHT);
    let length = |len: usize| u32::try_from(len).expect("short");
    let crl = |transfer, offset, total, len| Crl { transfer, offset, total, piece: vec![7; len] };
    let too_long = length(MAX_CRL_LEN + 1);
    let hostile = |trial: &super::harness::Trial| {
        ScriptedServer::new(&trial.world, "server-2.test", trial.gateway.tls, &["echo", "old"])
    };
    let out_of_order = [
        vec![crl(1, 1, 10, 5)],
        vec![crl(1, 0, 10, 5), crl(1, 6, 10, 4)],
        vec![crl(1, 0, 10, 5), crl(2, 5, 10, 5)],
        vec![crl(1, 0, 10, 5), crl(1, 5, 11, 5)],
    ];
    let too_much = [
        vec![crl(1, 0, 10, 0)],
        vec![crl(1, 0, 10, 11)],
        vec![crl(1, 0, too_long, 10)],
        vec![crl(1, 0, 40_000, MAX_CRL_PIECE_LEN + 1)],
        vec![crl(1, 0, 10, 6), crl(1, 6, 10, 6)],
    ];
    for (pieces, reason) in
        [(&out_of_order[..], "message_unexpected"), (&too_much, "frame_invalid")]
    {
        for (count, pieces) in (1..).zip(pieces) {
            let server = hostile(&trial);
            for piece in pieces {
                server.say(from_server::Message::Crl(piece.clone()));
            }
            server.wait_until_closed();
            drop(server);
            trial.assert_ended(reason, count);
        }
    }
    let server = hostile(&trial);
    let mut outcomes = Vec::new();
    for transfer in 1..=2 * CRLS_PER_WINDOW {
        outcomes.push(server.bring(transfer, b"garbage"));
    }
    assert!(outcomes.contains(&CrlOutcome::Unusable));
    assert_eq!(outcomes.last(), Some(&CrlOutcome::NotWanted));
    drop(server);
    trial.assert_unharmed();
    // What the honest server brings is taken all the same.
    let list = trial.world.list_der(&List::of_devices(1, &[]));
    assert_eq!(trial.server.bring(1, &list), CrlOutcome::Taken);
}

// ---- commands, and lists of others ----

#[test]
fn what_the_command_revokes_is_refused() {
    let trial = Trial::new(KNOWN);
    let run = |arguments: &[&str]| {
        let mut command = super::harness::Process::command();
        let output = command.arg("pki").args(arguments).current_dir(trial.site.world.path(""));
        let output = output.output().expect("it was built");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut kept = trial.session(&trial.kept);
    let told = run(&["revoke", "stolen.test.crt"]);
    assert!(told.contains("wrote pki/devices-ca.crl: 1 revoked"), "{told}");
    let shown = run(&["show", "pki/devices-ca.crl"]);
    assert!(shown.contains("number       1\n") && shown.contains("revoked      1\n"), "{shown}");
    trial.site.world.edit(GATEWAY, "\"devices.crl\"", "\"pki/devices-ca.crl\"");
    trial.site.gateway.reload();
    assert_eq!(trial.dial(&trial.stolen).ending(), REVOKED);
    assert_talks(&mut kept);
    run(&["crl", "--role", "device", "--days", "3"]);
    trial.site.gateway.reload();
    assert_eq!(trial.dial(&trial.stolen).ending(), REVOKED);
}

#[test]
fn a_list_that_openssl_made_counts() {
    let trial = Trial::new(REQUIRED);
    let world = &trial.site.world;
    world.write(
        "ca.cnf",
        "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\ncrlnumber = crlnumber\n\
         default_md = sha256\ndefault_crl_days = 7\n",
    );
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(world.path("")).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let serial = openssl(&["x509", "-in", "stolen.test.crt", "-noout", "-serial"]);
    let serial = serial.trim_start_matches("serial=");
    world.write(
        "index.txt",
        &format!("R\t400101000000Z\t260101000000Z\t{serial}\tunknown\t/CN=x\n"),
    );
    world.write("crlnumber", "1000\n");
    let sign = ["-cert", "pki/devices-ca.crt", "-keyfile", "pki/devices-ca.key"];
    openssl(&[&["ca", "-gencrl", "-config", "ca.cnf", "-out", "made.crl"], &sign[..]].concat());
    openssl(&["crl", "-in", "made.crl", "-outform", "DER", "-out", LIST]);
    trial.site.gateway.reload();
    assert_eq!(trial.dial(&trial.stolen).ending(), REVOKED);
    assert_talks(&mut trial.session(&trial.kept));
}
