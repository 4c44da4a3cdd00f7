//! Claims of data connections: only the server that was invited gets the agent, once, in time.

use vestibule::wire::{FromDataConnection, Invitation, RefusalReason, from_data_connection};

use super::harness::{Ending, GatewayFile, Peer, ScriptedServer, Trial};

impl Trial {
    /// An agent that waits, and the invitation for it.
    fn waiting_agent(&self) -> (Peer, Invitation) {
        let agent = self.world.foreign_agent(&self.gateway);
        (agent, self.server.invitation())
    }
}

impl ScriptedServer {
    /// What a claim of that ticket comes to, where it is refused.
    fn refusal(&self, invitation: &Invitation, id: u64, ticket: &[u8]) -> RefusalReason {
        let mut data = self.data_connection(invitation);
        data.claim(id, ticket);
        let refusal = data.answer().expect_err("a bad claim");
        assert_eq!(data.0.ending(), Ending::Clean);
        refusal
    }
}

#[test]
fn a_wrong_ticket_is_refused_and_the_right_one_still_counts() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let (mut agent, invitation) = trial.waiting_agent();
    let mut wrong = invitation.ticket.clone();
    wrong[15] ^= 1;
    let id = invitation.id;
    for ticket in [&wrong[..], &invitation.ticket[..15], b""] {
        let refusal = trial.server.refusal(&invitation, id, ticket);
        assert_eq!(refusal, RefusalReason::TicketInvalid);
    }
    let refusal = trial.server.refusal(&invitation, id + 1, &invitation.ticket);
    assert_eq!(refusal, RefusalReason::TicketInvalid);

    let (data, _) = trial.server.claim(&invitation);
    let mut data = data.accept();
    agent.send(b"hello");
    data.expect(b"hello");
    drop((agent, data));
    trial.assert_ended("ticket_invalid", 4);
}

#[test]
fn a_ticket_counts_once() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let (mut agent, invitation) = trial.waiting_agent();
    let (data, _) = trial.server.claim(&invitation);
    let repeated = trial.server.refusal(&invitation, invitation.id, &invitation.ticket);
    assert_eq!(repeated, RefusalReason::TicketInvalid);
    let mut data = data.accept();
    let repeated = trial.server.refusal(&invitation, invitation.id, &invitation.ticket);
    assert_eq!(repeated, RefusalReason::TicketInvalid);

    data.send(b"unharmed");
    agent.expect(b"unharmed");
    drop((agent, data));
    trial.assert_ended("ticket_invalid", 2);
}

#[test]
fn the_ticket_of_an_agent_that_left_is_worth_nothing() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let (agent, invitation) = trial.waiting_agent();
    agent.reset();
    trial.assert_ended("agent_left", 1);
    let refusal = trial.server.refusal(&invitation, invitation.id, &invitation.ticket);
    assert_eq!(refusal, RefusalReason::TicketInvalid);
    trial.assert_ended("ticket_invalid", 1);
}

#[test]
fn a_ticket_is_worth_nothing_after_its_time() {
    let file = GatewayFile { limits: "invitation_timeout_ms = 1500", ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let (mut agent, invitation) = trial.waiting_agent();
    assert!(invitation.expires_in_ms <= 1500, "{invitation:?}");
    agent.rest();
    let refusal = trial.server.refusal(&invitation, invitation.id, &invitation.ticket);
    assert_eq!(refusal, RefusalReason::TicketInvalid);
    drop(agent);
    trial.assert_ended("ticket_invalid", 1);
}

/// Its server may have joined its own end, and would pass the end on to the backend.
#[test]
fn the_data_connection_of_an_agent_that_was_turned_down_never_ends_cleanly() {
    let file = GatewayFile { limits: "invitation_timeout_ms = 1500", ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let (mut agent, invitation) = trial.waiting_agent();
    let (mut data, _) = trial.server.claim(&invitation);
    agent.rest();
    assert_eq!(data.0.ending(), Ending::Reset);
    drop((agent, data));
    trial.assert_ended("backend_timeout", 2);
}

#[test]
fn a_ticket_is_worth_nothing_in_the_hands_of_another_server() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let (mut agent, invitation) = trial.waiting_agent();
    {
        let tls = trial.gateway.tls;
        let thief = ScriptedServer::new(&trial.world, "server-2.test", tls, &["echo"]);
        let refusal = thief.refusal(&invitation, invitation.id, &invitation.ticket);
        assert_eq!(refusal, RefusalReason::TicketInvalid);
    }
    let (data, _) = trial.server.claim(&invitation);
    let mut data = data.accept();
    agent.send(b"to whom it was meant");
    data.expect(b"to whom it was meant");
    drop((agent, data));
    trial.assert_ended("ticket_invalid", 1);
}

#[test]
fn a_data_connection_that_breaks_the_protocol_claims_nobody() {
    let broken: [(&str, &[u8]); 3] = [
        ("frame_invalid", &[0xff, 0xff, 0xff, 0xff]),
        ("frame_invalid", &[0, 0, 0, 2, 0x0a, 0x7f]),
        // Field 99, an empty message.
        ("message_unknown", &[0, 0, 0, 3, 0x9a, 0x06, 0x00]),
    ];
    for (reason, bytes) in broken {
        let mut trial = Trial::new(&GatewayFile::DEFAULT);
        let (agent, invitation) = trial.waiting_agent();
        let mut data = trial.server.data_connection(&invitation);
        data.0.send(bytes);
        assert_eq!(data.answer(), Err(RefusalReason::ProtocolError));
        drop((agent, data));
        trial.assert_ended(reason, 1);
    }
}

#[test]
fn a_data_connection_that_accepts_before_it_claims_gets_nobody() {
    let mut trial = Trial::new(&GatewayFile::DEFAULT);
    let (agent, invitation) = trial.waiting_agent();
    let mut data = trial.server.data_connection(&invitation);
    let accepted = from_data_connection::Message::Accepted(vestibule::wire::Accepted {});
    data.0.say(&FromDataConnection { message: Some(accepted) });
    assert_eq!(data.answer(), Err(RefusalReason::ProtocolError));
    drop((agent, data));
    trial.assert_ended("message_unexpected", 1);
}

#[test]
fn a_data_connection_that_claims_nothing_ends_with_the_admission_timeout() {
    let file = GatewayFile { limits: "admission_timeout_ms = 2000", ..GatewayFile::DEFAULT };
    let mut trial = Trial::new(&file);
    let (agent, invitation) = trial.waiting_agent();
    let mut silent = trial.server.data_connection(&invitation);
    silent.0.rest();
    drop((agent, silent));
    trial.assert_ended("admission_timeout", 1);
}
