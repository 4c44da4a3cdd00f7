//! The backends: what sound servers deliver their sessions to.

use std::collections::BTreeMap;

use super::nature::Nature;
use super::network::{ConnectionId, End, Hello};
use super::program::{Device, Program};

#[derive(Default)]
pub(super) struct Backends {
    programs: BTreeMap<ConnectionId, Program>,
}

impl Backends {
    pub(super) fn accept(&mut self, id: ConnectionId, nature: &mut Nature) {
        let Hello::Backend { service, device } = nature.network.hello(id).clone() else { return };
        let refuses = !nature.calm && nature.random.percent(8);
        if !refuses {
            let device: Option<Device> = device.parse().ok();
            if let Some(device) = device {
                nature.checks.a_session_reaches_its_service(device, service);
            }
            let program = Program::new(device, false, nature.calm, &mut nature.random);
            self.programs.insert(id, program);
        }
        nature.answer_dial(id, !refuses);
        self.ready(id, nature);
    }

    pub(super) fn ready(&mut self, id: ConnectionId, nature: &mut Nature) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        if program.go(id, End::Acceptor, nature).is_some() {
            self.programs.remove(&id);
        }
    }

    pub(super) fn act(&mut self, id: ConnectionId, nature: &mut Nature) {
        if let Some(program) = self.programs.get_mut(&id) {
            program.unpause();
            self.ready(id, nature);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.programs.len()
    }
}
