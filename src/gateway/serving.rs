//! The moment from which on a gateway serves: at its start, or when it has taken the place of another process.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use tracing::info;

use super::control::Control;
use super::operator::hear;
use super::pages::GatewayPages;
use crate::control::Event;
use crate::engine::{Platform, StartError};
use crate::telemetry::{http, notify};

impl Control {
    /// Serves its pages, hears operators, and says that it runs.
    pub(super) fn begin_serving(control: &Rc<RefCell<Self>>) -> Result<(), StartError> {
        let (telemetry, operator) = {
            let front = &mut control.borrow_mut().front;
            (front.telemetry.take(), front.operator.take())
        };
        let mut listening = Vec::new();
        if let Some(listener) = telemetry {
            let may_ask = control.borrow().shared.config.telemetry.allow.clone();
            let pages = Rc::new(GatewayPages::new(Rc::clone(control)));
            listening.push(http::serve(listener, may_ask, pages).map_err(StartError::Kernel)?);
        }
        if let Some(door) = operator {
            listening.push(hear(door, control)?);
        }
        control.borrow_mut().front.listening = listening;
        if control.borrow().upgrades.has_inherited() {
            control.borrow_mut().handle(Event::TookOver, Instant::now());
        }
        control.borrow().announce();
        Ok(())
    }

    fn announce(&self) {
        for (listener, address) in &self.front.bound {
            let name = &self.shared.listeners[*listener];
            info!(listener = %name, %address, "listening");
        }
        let instance = &self.shared.instance;
        let Platform { event_loop, relay } = self.shared.platform;
        let workers = self.counters.len();
        info!(%instance, workers, %event_loop, %relay, "gateway runs; waits for a server");
        notify::ready("waits for a server");
    }
}
