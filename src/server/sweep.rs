//! Ends sessions that an operator means: some in each turn of the loop.

use super::mail::{ControlMail, Sweep};
use super::worker::{ServerCore, ServerWorker};
use crate::limits::SWEPT_PER_TURN;
use crate::operator::{Candidate, Swept};
use crate::uring::Token;

/// A sweep under way.
pub(super) struct Sweeping {
    sweep: Sweep,
    /// Sessions that were not looked at.
    sessions: Vec<Token>,
    swept: Swept,
}

impl ServerWorker {
    pub(super) fn begin_sweep(&mut self, core: &ServerCore, sweep: Sweep) {
        let sessions = core.session_tokens();
        self.sweeps.push_back(Sweeping { sweep, sessions, swept: Swept::default() });
    }

    /// Does a turn's part of the first sweep, if there is one.
    pub(super) fn sweep_on(&mut self, core: &mut ServerCore) {
        let Some(mut sweeping) = self.sweeps.pop_front() else { return };
        for _ in 0..SWEPT_PER_TURN {
            let Some(token) = sweeping.sessions.pop() else {
                let (id, swept) = (sweeping.sweep.id, sweeping.swept);
                return self.control.send(ControlMail::Swept { id, swept });
            };
            sweeping.swept.sessions += u64::from(self.sweep_session(core, token, &sweeping.sweep));
        }
        self.sweeps.push_front(sweeping);
    }

    fn sweep_session(&mut self, core: &mut ServerCore, token: Token, sweep: &Sweep) -> bool {
        let Some(session) = core.session(token) else { return false };
        let record = &session.record;
        let is_meant = sweep.selection.contains(&Candidate {
            session: &record.visitor.session,
            device: record.visitor.device.as_deref(),
            aliases: None,
            address: record.visitor.agent.ip(),
            service: &record.service,
            peer: &record.order.gateway.address,
        });
        if is_meant && let Some(session) = core.part(token, true) {
            self.record_session(core, session, sweep.reason);
        }
        is_meant
    }
}
