//! What an operator asks of a server, carried out on the control thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::control::Control;
use super::mail::{Sweep, WorkerMail};
use crate::engine::StartError;
use crate::operator::{
    Answer, Answering, Denial, Desk, Door, Request, Selection, Swept, Tally, drain_soon, end, list,
    serve,
};
use crate::relay::CloseReason;

/// Where operators are heard.
struct ServerDesk {
    control: Rc<RefCell<Control>>,
    tally: Rc<RefCell<Tally>>,
}

/// Serves the operator's socket, where there is one.
pub(super) fn hear(door: Option<Door>, control: &Rc<RefCell<Control>>) -> Result<(), StartError> {
    let Some(door) = door else { return Ok(()) };
    serve(door, Rc::new(ServerDesk::new(Rc::clone(control)))).map_err(StartError::Kernel)?;
    Ok(())
}

impl ServerDesk {
    fn new(control: Rc<RefCell<Control>>) -> Self {
        let tally = Rc::clone(&control.borrow().tally);
        Self { control, tally }
    }

    async fn carry_out(&self, request: Request) -> Result<Answer, Denial> {
        match request {
            Request::Sessions(selection) => Ok(Answer::Sessions(list(
                &self.control.borrow().ledger,
                &selection,
                Instant::now(),
            ))),
            Request::End(selection) => {
                end(selection, |selection| self.control.borrow_mut().begin_sweep(selection)).await
            }
            Request::Drain => {
                let control = self.control.borrow();
                if control.draining {
                    return Err(Denial::refused("it drains already"));
                }
                drain_soon(Rc::clone(&control.drain_asked));
                Ok(Answer::Draining { sessions: control.ledger.live().count() as u64 })
            }
            Request::Block { .. } | Request::Unblock { .. } | Request::Blocks => {
                Err(Denial::refused(
                    "this is a server: devices and addresses are blocked at the gateways",
                ))
            }
            Request::DrainServer { .. } | Request::UndrainServer { .. } => Err(Denial::refused(
                "this is a server: drain it with `vestibule drain`, or at its gateways",
            )),
        }
    }
}

impl Desk for ServerDesk {
    fn answer(self: Rc<Self>, request: Request, _by: String) -> Answering {
        Box::pin(async move { self.carry_out(request).await })
    }

    fn tally(&self) -> &RefCell<Tally> {
        &self.tally
    }
}

impl Control {
    fn begin_sweep(&mut self, selection: Selection) -> tokio::sync::oneshot::Receiver<Swept> {
        let (id, swept) = self.sweeps.begin(self.workers.len());
        let reason = CloseReason::EndedByOperator;
        let sweep = Sweep { id, selection: Arc::new(selection), reason };
        for worker in &mut self.workers {
            worker.send(WorkerMail::EndSessions(sweep.clone()));
        }
        swept
    }
}
