//! Ends sessions, and agents that wait for one, that an operator means: some in each turn of the loop.

use std::net::IpAddr;
use std::sync::Arc;

use super::mail::{ControlMail, Sweep};
use super::stage::{Stage, Visitor, Waiting};
use super::walk::{Met, Walk};
use super::worker::{GatewayCore, GatewayWorker};
use crate::limits::SWEPT_PER_TURN;
use crate::operator::{Blocks, Candidate, Swept};
use crate::relay::CloseReason;
use crate::tls::Identity;
use crate::uring::Token;

/// A sweep under way.
pub(super) struct Sweeping {
    sweep: Sweep,
    walk: Walk,
    swept: Swept,
}

impl GatewayWorker {
    /// From the next turn on these are kept out. Who is in already is swept.
    pub(super) fn set_blocks(&mut self, blocks: Arc<Blocks>) {
        self.blocks = blocks;
    }

    pub(super) fn begin_sweep(&mut self, core: &GatewayCore, sweep: Sweep) {
        let walk = if sweep.with_waiting { Walk::over_all(core) } else { Walk::over_sessions() };
        self.sweeps.push_back(Sweeping { sweep, walk, swept: Swept::default() });
    }

    /// Does a turn's part of the first sweep, if there is one.
    pub(super) fn sweep_on(&mut self, core: &mut GatewayCore) {
        let Some(mut sweeping) = self.sweeps.pop_front() else { return };
        for _ in 0..SWEPT_PER_TURN {
            let Sweeping { sweep, walk, swept } = &mut sweeping;
            match walk.next(core) {
                Some(Met::Connection(token)) => {
                    swept.waiting += u64::from(self.sweep_waiting(core, token, sweep));
                }
                Some(Met::Session(token)) => {
                    swept.sessions += u64::from(self.sweep_session(core, token, sweep));
                }
                None => {
                    let (id, swept) = (sweep.id, *swept);
                    return self.control.send(ControlMail::Swept { id, swept });
                }
            }
        }
        self.sweeps.push_front(sweeping);
    }

    fn sweep_session(&mut self, core: &mut GatewayCore, token: Token, sweep: &Sweep) -> bool {
        let Some(session) = core.session(token) else { return false };
        let (waiting, claim) = (&session.record.waiting, &session.record.claim);
        let name = self.session_name(claim.invitation);
        let candidate = self.candidate(waiting, &name, &claim.server);
        if !sweep.selection.contains(&candidate) {
            return false;
        }
        // With a reset: it must never look like a clean end.
        if let Some(session) = core.part(token, true) {
            self.record_session(core, session, sweep.reason);
        }
        true
    }

    fn sweep_waiting(&mut self, core: &mut GatewayCore, token: Token, sweep: &Sweep) -> bool {
        let is_meant = match core.stage(token) {
            Some(Stage::Waiting(waiting)) => {
                sweep.selection.contains(&self.candidate(waiting, "", ""))
            }
            Some(Stage::Claimed { waiting, claim }) => {
                let name = self.session_name(claim.invitation);
                sweep.selection.contains(&self.candidate(waiting, &name, &claim.server))
            }
            _ => false,
        };
        if is_meant {
            self.send_away(core, token, sweep.reason);
        }
        is_meant
    }

    /// Turns an agent down that has been let in and has no session yet.
    pub(super) fn send_away(&mut self, core: &mut GatewayCore, token: Token, reason: CloseReason) {
        if let Some(Stage::Claimed { claim, .. }) = core.stage(token) {
            let data = claim.data;
            return self.answer_failed(core, data, reason);
        }
        self.recall_offer(core, token);
        self.tickets.forget(token.to_bits());
        let agent = self.agent_ref(token);
        self.control.send(ControlMail::Leave { agent });
        self.turn_down(core, token, reason);
    }

    fn candidate<'c>(
        &'c self,
        waiting: &'c Waiting,
        session: &'c str,
        peer: &'c str,
    ) -> Candidate<'c> {
        let Visitor { device, aliases, address, .. } = &waiting.visitor;
        Candidate {
            session,
            device: device.as_deref(),
            aliases: aliases.as_deref(),
            address: address.ip(),
            service: &self.shared.services[waiting.service],
            peer,
        }
    }

    /// Whether an agent is not kept out.
    pub(super) fn check_blocks(
        &self,
        address: IpAddr,
        device: Option<&Identity>,
    ) -> Result<(), CloseReason> {
        self.blocks.of_agent(address, device).map_or(Ok(()), Err)
    }
}
