//! Who may come in at all: certificates that are missing, expired, of the wrong CA or role.

use rcgen::date_time_ymd;
use rustls::AlertDescription;
use vestibule::config::Credentials;
use vestibule::pki::Role;
use vestibule::wire::{RefusalReason, alpn};

use super::harness::{Authority, Ending, GatewayFile, Peer, Trial, World};

impl Trial {
    /// How the gateway answers a foreign agent with these credentials.
    fn answer(&self, own: Option<&Credentials>) -> Ending {
        let config = self.world.client(own, vec![]);
        Peer::dial_tls(self.gateway.tls, World::ECHO, &config).ending()
    }

    /// How the gateway answers whoever asks for the role of that ALPN name.
    fn answer_to(&self, own: &Credentials, role: &[u8]) -> Ending {
        let config = self.world.client(Some(own), vec![role.to_vec()]);
        Peer::dial_tls(self.gateway.tls, World::GATEWAY_NAME, &config).ending()
    }
}

#[test]
fn a_device_without_a_certificate_is_turned_away() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    assert_eq!(trial.answer(None), Ending::Alert(AlertDescription::CertificateRequired));
    trial.assert_ended("certificate_missing", 1);
}

#[test]
fn an_expired_certificate_is_turned_away() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let expired = trial.world.forge("old.test", Authority::Of(Role::Device), |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let answer = trial.answer(Some(&expired));
    assert_eq!(answer, Ending::Alert(AlertDescription::CertificateExpired));
    trial.assert_ended("certificate_expired", 1);
}

#[test]
fn a_certificate_of_an_unknown_ca_is_turned_away() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let forged = trial.world.forge("laptop-7.test", Authority::Stranger, |_| {});
    // It bears the name of the right CA, and fails by its signature.
    assert_eq!(trial.answer(Some(&forged)), Ending::Alert(AlertDescription::DecryptError));
    trial.assert_ended("certificate_untrusted", 1);
}

#[test]
fn a_device_certificate_opens_no_servers_door() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let device = trial.world.credentials("laptop-7.test");
    for (count, role) in [alpn::SIGNAL, alpn::DATA].into_iter().enumerate() {
        let answer = trial.answer_to(&device, role);
        assert_eq!(answer, Ending::Alert(AlertDescription::UnknownCA));
        trial.assert_ended("certificate_untrusted", count as u64 + 1);
    }
}

#[test]
fn a_server_certificate_opens_no_devices_door() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let server = trial.world.credentials("server-1.test");
    assert_eq!(trial.answer(Some(&server)), Ending::Alert(AlertDescription::UnknownCA));
    assert_eq!(trial.answer_to(&server, alpn::AGENT), Ending::Alert(AlertDescription::UnknownCA));
    trial.assert_ended("certificate_untrusted", 2);
}

#[test]
fn a_server_that_is_not_on_the_list_is_turned_away() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let unlisted = trial.world.forge("server-9.test", Authority::Of(Role::Server), |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    for (count, role) in [alpn::SIGNAL, alpn::DATA].into_iter().enumerate() {
        assert_ne!(trial.answer_to(&unlisted, role), Ending::Truncated);
        trial.assert_ended("certificate_not_allowed", count as u64 + 1);
    }
}

#[test]
fn a_device_that_may_not_reach_a_service_is_told_so_by_message_and_by_alert() {
    let file = GatewayFile {
        more: "[[services]]\nname = \"ssh\"\nsni = [\"ssh.gateway.test\"]\ndevices = [\"build-*\"]\n",
        ..GatewayFile::DEFAULT
    };
    let mut trial = Trial::new(&file);
    let mut agent = trial.world.ask(&trial.gateway, "ssh");
    assert_eq!(agent.refusal(), (RefusalReason::DeviceNotAllowed, false));
    trial.assert_ended("device_not_allowed", 1);

    let config = trial.world.foreign_config();
    let mut agent = Peer::dial_tls(trial.gateway.tls, "ssh.gateway.test", &config);
    assert_eq!(agent.ending(), Ending::Alert(AlertDescription::AccessDenied));
    trial.assert_ended("device_not_allowed", 2);
}

#[test]
fn a_listener_that_takes_no_servers_turns_them_away() {
    let world = World::new();
    let devices_only = format!(
        "[[listeners]]\nname = \"devices\"\naddresses = [\"{}:13001\"]\nkind = \"tls\"\n\
         servers = false\ndevice_certificates = \"required\"\n\
         certificate = \"pki/gateway.test.crt\"\nkey = \"pki/gateway.test.key\"\n\
         device_ca = \"pki/devices-ca.crt\"\n",
        world.ip(1)
    );
    let file = GatewayFile { more: &devices_only, ..GatewayFile::DEFAULT };
    let gateway = world.gateway(&file);
    let config = world.server_client("server-1.test", vec![alpn::SIGNAL.to_vec()]);
    let failed = Peer::try_dial_tls(world.address(1, 13_001), World::GATEWAY_NAME, &config);
    assert_eq!(
        failed.err().map(|error| Ending::of(&error)),
        Some(Ending::Alert(AlertDescription::AccessDenied))
    );
    gateway.process.line("connection ended", &[("reason", "handshake_failed")]);
}
