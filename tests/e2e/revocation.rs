//! Revocation: a certificate that its CA has revoked opens nothing, and what it had opened ends.

use rustls::AlertDescription;
use vestibule::config::Credentials;
use vestibule::pki::Role;

use super::harness::{
    Authority, Backend, Ending, Gateway, GatewayFile, HOUR, List, Peer, ScriptedServer, ServerFile,
    Site, World,
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
    lost: Credentials,
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
        let lost = site.world.forge("lost.test", Authority::Of(Role::Device), |_| {});
        let kept = site.world.credentials("laptop-7.test");
        Self { site, backend, lost, kept }
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

fn assert_talks((agent, service): &mut (Peer, Peer)) {
    service.send(b"from the backend");
    agent.expect(b"from the backend");
    agent.send(b"from the agent");
    service.expect(b"from the agent");
}

fn ended(gateway: &Gateway, reason: &str) -> u64 {
    gateway.telemetry.metric(&format!("vestibule_connections_ended_total{{reason=\"{reason}\"}}"))
}

// ---- a file ----

#[test]
fn a_revoked_device_is_refused_with_its_alert_and_its_live_session_ends() {
    let trial = Trial::new(KNOWN);
    let mut lost = trial.session(&trial.lost);
    let mut kept = trial.session(&trial.kept);
    trial.publish(&List::of_devices(2, &[&trial.lost]));

    assert_eq!(lost.0.ending(), Ending::Reset);
    assert_eq!(lost.1.ending(), Ending::Reset);
    let reason = ("reason", "certificate_revoked");
    let ended_session = trial.site.gateway.process.line("session ended", &[reason]);
    assert_eq!(ended_session["device"].as_str(), Some("lost.test"));
    assert_talks(&mut kept);
    assert_eq!(trial.dial(&trial.lost).ending(), REVOKED);
    trial.site.gateway.process.line("connection ended", &[reason]);
    assert_eq!(ended(&trial.site.gateway, "certificate_revoked"), 1);
    assert_talks(&mut trial.session(&trial.kept));
    assert_talks(&mut kept);
}

#[test]
fn a_list_that_is_replaced_is_read_without_a_signal() {
    let trial = Trial::new(KNOWN);
    let mut lost = trial.session(&trial.lost);
    let list = trial.site.world.list(&List::of_devices(2, &[&trial.lost]));
    trial.site.world.replace(LIST, &list);
    assert_eq!(lost.0.ending(), Ending::Reset);
}

#[test]
fn with_policy_off_nothing_is_looked_at() {
    let trial = Trial::new("device_revocation = \"off\"");
    trial.publish(&List::of_devices(2, &[&trial.lost]));
    assert_talks(&mut trial.session(&trial.lost));
}

#[test]
fn a_stale_list_is_warned_of_or_closes_the_door_as_the_policy_says() {
    let trial = Trial::new(KNOWN);
    trial.publish(&List { life: HOUR / 2, ..List::of_devices(2, &[&trial.lost]) });
    trial.site.gateway.process.line("is stale since", &[("level", "WARN")]);
    assert_eq!(trial.dial(&trial.lost).ending(), REVOKED);
    let mut kept = trial.session(&trial.kept);

    let policy = |from: &str, to: &str| {
        let key = |policy: &str| format!("device_revocation = \"{policy}\"");
        trial.site.world.edit(GATEWAY, &key(from), &key(to));
        trial.site.gateway.reload();
    };
    policy("known", "required");
    let unknown = Ending::Alert(AlertDescription::UnknownCA);
    assert_eq!(trial.dial(&trial.kept).ending(), unknown);
    assert_eq!(trial.dial(&trial.lost).ending(), REVOKED);
    assert_eq!(ended(&trial.site.gateway, "revocation_unknown"), 1);
    trial.site.gateway.telemetry.wait_unready();
    // Who is in stays: the list says nothing against it.
    assert_talks(&mut kept);

    trial.publish(&List::of_devices(3, &[&trial.lost]));
    trial.site.gateway.telemetry.wait_ready();
    assert_talks(&mut trial.session(&trial.kept));
    policy("required", "off");
}

#[test]
fn with_policy_required_a_current_list_lets_in_who_is_not_on_it() {
    let trial = Trial::new(REQUIRED);
    let mut kept = trial.session(&trial.kept);
    trial.publish(&List::of_devices(2, &[&trial.lost]));
    assert_talks(&mut kept);
    assert_talks(&mut trial.session(&trial.kept));
    assert_eq!(trial.dial(&trial.lost).ending(), REVOKED);
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
    let lost = ScriptedServer::with_spares(&world, "server-2.test", gateway.tls, &services, 1);
    let mut of_lost = (world.foreign_agent(&gateway), lost.join());
    assert_talks(&mut of_lost);
    let asked = lost.invitation();
    let mut spare = lost.data_connection(&asked);
    spare.claim(asked.id, &asked.ticket);
    gateway.telemetry.wait_for("vestibule_spares", 1);

    world.replace("servers.crl", &list(2, &[&world.credentials("server-2.test")]));
    gateway.reload();
    lost.wait_until_closed();
    assert_eq!(of_lost.0.ending(), Ending::Reset);
    assert_eq!(of_lost.1.ending(), Ending::Reset);
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
