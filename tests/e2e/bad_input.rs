//! Strangers and bad input at the gateway: each ends with its reason, and nobody else notices.

use super::harness::{Ending, GatewayFile, Peer, Trial};

#[test]
fn garbage_on_the_tls_port_is_not_tls() {
    let mut trial = Trial::new(&GatewayFile::default());
    let mut stranger = Peer::dial(trial.gateway.tls);
    stranger.send(&[0xa5; 4096]);
    stranger.rest();
    trial.assert_ended("not_tls", 1);
}
