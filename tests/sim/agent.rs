//! Agents: each wants one session, and asks one gateway after the other, as `vestibule agent` does.
//! Some leave in between, and some are hostile.

use std::time::{Duration, Instant};

use vestibule::limits::DIAL_TIMEOUT;
use vestibule::relay::{CloseReason, Party};
use vestibule::wire::{FrameDecoder, FromAgent, Open, ToAgent, from_agent, to_agent};

use super::checks::{Check, Sight};
use super::nature::{Nature, Occurrence, ProcessId};
use super::network::{ConnectionId, End, Hello};
use super::program::{Device, Outcome, Program};

/// An agent dials.
const HERE: End = End::Dialer;
/// Longer than a gateway lets an agent wait, as `OPEN_TIMEOUT` is.
const OPEN_TIMEOUT: Duration = Duration::from_secs(12);

pub(super) struct Agents {
    agents: Vec<Agent>,
    /// By host: the gateway that gave the latest session is asked first.
    last_good: Vec<usize>,
}

struct Agent {
    host: usize,
    service: usize,
    /// Gateways in the order in which they are asked, and how many were.
    order: Vec<usize>,
    asked: usize,
    state: State,
    /// Gives up dialling or asking then.
    patient_until: Instant,
    program: Option<Program>,
    /// Says what it has to say before the session stands.
    is_eager: bool,
    is_hostile: bool,
    end: Option<CloseReason>,
}

enum State {
    Dialing(ConnectionId),
    Asking(ConnectionId, FrameDecoder),
    InSession(ConnectionId),
    Ended,
}

impl Agent {
    fn connection(&self) -> Option<ConnectionId> {
        match self.state {
            State::Dialing(id) | State::Asking(id, _) | State::InSession(id) => Some(id),
            State::Ended => None,
        }
    }
}

impl Agents {
    pub(super) fn new(hosts: usize) -> Self {
        Self { agents: Vec::new(), last_good: vec![0; hosts] }
    }

    pub(super) fn len(&self) -> usize {
        self.agents.len()
    }

    pub(super) fn has_finished(&self, index: usize) -> bool {
        self.agents[index].end == Some(CloseReason::Finished)
    }

    pub(super) fn end_of(&self, index: usize) -> Option<CloseReason> {
        self.agents[index].end
    }

    pub(super) fn unended(&self) -> usize {
        self.agents.iter().filter(|agent| agent.end.is_none()).count()
    }

    pub(super) fn arrive(&mut self, gateways: usize, services: usize, nature: &mut Nature) {
        let index = self.agents.len();
        let host = nature.random.below(self.last_good.len());
        let last_good = self.last_good[host];
        let others = (0..gateways).filter(|gateway| *gateway != last_good);
        self.agents.push(Agent {
            host,
            service: nature.random.below(services),
            order: std::iter::once(last_good).chain(others).collect(),
            asked: 0,
            state: State::Ended,
            patient_until: nature.now,
            program: None,
            is_eager: nature.random.percent(20),
            is_hostile: !nature.calm && nature.random.percent(5),
            end: None,
        });
        if !nature.calm && nature.random.percent(20) {
            nature.after(Duration::ZERO, 4_000, Occurrence::Leave(index));
        }
        self.ask_next(index, CloseReason::GatewayUnreachable, nature);
    }

    /// Asks the next gateway; `last` is the end where there is none.
    fn ask_next(&mut self, index: usize, last: CloseReason, nature: &mut Nature) {
        let agent = &mut self.agents[index];
        let Some(gateway) = agent.order.get(agent.asked).copied() else {
            return self.end(index, last, nature);
        };
        let device = Device { agent: index, attempt: agent.asked };
        agent.asked += 1;
        nature.checks.note_wish(device, agent.service);
        if agent.is_hostile {
            nature.checks.taint(device);
        }
        agent.program = Some(Program::new(Some(device), true, nature.calm, &mut nature.random));
        let hello = Hello::Agent { device: device.to_string() };
        let id = nature.dial(ProcessId::Agent(index), ProcessId::Gateway(gateway), hello);
        agent.state = State::Dialing(id);
        agent.patient_until = nature.now + DIAL_TIMEOUT;
        nature.at(agent.patient_until, Occurrence::Act(ProcessId::Agent(index), id));
    }

    pub(super) fn dialed(
        &mut self,
        index: usize,
        id: ConnectionId,
        through: bool,
        nature: &mut Nature,
    ) {
        let agent = &mut self.agents[index];
        if agent.connection() != Some(id) {
            return;
        }
        if !through {
            nature.abort(id, HERE);
            return self.ask_next(index, CloseReason::GatewayUnreachable, nature);
        }
        agent.state = State::Asking(id, FrameDecoder::default());
        if agent.is_hostile && nature.random.percent(50) {
            let mut garbage = [0; 24];
            nature.random.fill(&mut garbage);
            garbage[0] = 0;
            nature.say_bytes(id, HERE, &garbage);
        } else {
            let open = Open { service: format!("service-{}", agent.service) };
            let message = FromAgent { message: Some(from_agent::Message::Open(open)) };
            nature.say(id, HERE, &message);
        }
        agent.patient_until = nature.now + OPEN_TIMEOUT;
        nature.at(agent.patient_until, Occurrence::Act(ProcessId::Agent(index), id));
        let outcome = match &mut agent.program {
            Some(program) if agent.is_eager => program.write(id, HERE, nature),
            _ => None,
        };
        match outcome {
            Some(outcome) => self.session_over(index, id, outcome, nature),
            // It may have been lost before anybody knew that it stood.
            None => self.ready(index, id, nature),
        }
    }

    pub(super) fn ready(&mut self, index: usize, id: ConnectionId, nature: &mut Nature) {
        let agent = &mut self.agents[index];
        if agent.connection() != Some(id) {
            return;
        }
        let decoder = match &mut agent.state {
            State::Asking(_, decoder) => decoder,
            State::InSession(_) => return self.go_on(index, id, nature),
            State::Dialing(_) | State::Ended => return,
        };
        let reason = match nature.read_message::<ToAgent>(id, HERE, decoder) {
            Ok(None) => return,
            Ok(Some(ToAgent { message: Some(message) })) => match message {
                to_agent::Message::Opened(_) => {
                    agent.state = State::InSession(id);
                    let gateway = agent.order[agent.asked - 1];
                    if agent.asked > 1 {
                        nature.checks.see(Sight::OtherGateway);
                    }
                    self.last_good[agent.host] = gateway;
                    return self.go_on(index, id, nature);
                }
                to_agent::Message::Refused(refused) => {
                    nature.abort(id, HERE);
                    let reason = refused.reason();
                    if !reason.is_transient() {
                        return self.end(index, CloseReason::Refused(reason), nature);
                    }
                    return self.ask_next(index, CloseReason::Refused(reason), nature);
                }
            },
            Ok(Some(_)) => CloseReason::MessageUnknown,
            Err(broken) => broken.close_reason(Party::Gateway),
        };
        nature.abort(id, HERE);
        self.ask_next(index, reason, nature);
    }

    /// A pause of its program is over, or a deadline of its own has come.
    pub(super) fn act(&mut self, index: usize, id: ConnectionId, nature: &mut Nature) {
        let agent = &mut self.agents[index];
        if agent.connection() != Some(id) {
            return;
        }
        if let State::InSession(_) = agent.state {
            agent.program.iter_mut().for_each(Program::unpause);
            self.go_on(index, id, nature);
        } else if nature.now >= agent.patient_until {
            nature.abort(id, HERE);
            self.ask_next(index, CloseReason::GatewayUnreachable, nature);
        }
    }

    fn go_on(&mut self, index: usize, id: ConnectionId, nature: &mut Nature) {
        let Some(program) = &mut self.agents[index].program else { return };
        if let Some(outcome) = program.go(id, HERE, nature) {
            self.session_over(index, id, outcome, nature);
        }
    }

    fn session_over(
        &mut self,
        index: usize,
        id: ConnectionId,
        outcome: Outcome,
        nature: &mut Nature,
    ) {
        let reason = match outcome {
            Outcome::Finished => CloseReason::Finished,
            Outcome::Left => CloseReason::AgentLeft,
            Outcome::Broken => CloseReason::Reset(Party::Gateway),
        };
        nature.abort(id, HERE);
        self.end(index, reason, nature);
    }

    /// At any moment, in any way.
    pub(super) fn leave(&mut self, index: usize, nature: &mut Nature) {
        let Some(id) = self.agents[index].connection() else { return };
        match nature.random.below(4) {
            0 => nature.abort(id, HERE),
            1 => nature.truncate(id, HERE),
            2 => {
                if let Some(program) = &self.agents[index].program {
                    program.note_closed(id, nature);
                }
                nature.close(id, HERE);
            }
            _ => nature.drop_sockets(ProcessId::Agent(index), true),
        }
        self.end(index, CloseReason::AgentLeft, nature);
    }

    fn end(&mut self, index: usize, reason: CloseReason, nature: &mut Nature) {
        let agent = &mut self.agents[index];
        agent.state = State::Ended;
        agent.program = None;
        let before = agent.end.replace(reason);
        let asks_once = agent.asked <= agent.order.len();
        nature.checks.hold(Check::AgentEndsOnce, before.is_none() && asks_once, || {
            format!("agent {index} ends with {reason}, and ended with {before:?}")
        });
    }
}
