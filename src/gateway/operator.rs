//! What an operator asks of a gateway, carried out on the control thread.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::control::Control;
use super::mail::{Sweep, WorkerMail};
use crate::control::Event;
use crate::engine::StartError;
use crate::limits::{MAX_BLOCK_TIME, MAX_DRAINED_SERVERS};
use crate::operator::{
    Answer, Answering, Block, Blocks, Denial, Desk, Door, Keeper, Range, Request, Selection, Swept,
    Tally, Target, drain_soon, end, list, serve, swept, unix_now,
};
use crate::relay::CloseReason;

/// Who is kept out, and where that is written.
pub(super) struct Kept {
    pub(super) blocks: Arc<Blocks>,
    /// `None`: they end with the process.
    pub(super) keeper: Option<Keeper>,
}

/// Where operators are heard.
struct GatewayDesk {
    control: Rc<RefCell<Control>>,
    tally: Rc<RefCell<Tally>>,
    /// Held while blocks change: the disk has one before the next begins.
    changing: Mutex<()>,
}

/// Serves the operator's socket.
pub(super) fn hear(door: Door, control: &Rc<RefCell<Control>>) -> Result<AbortHandle, StartError> {
    serve(door, Rc::new(GatewayDesk::new(Rc::clone(control)))).map_err(StartError::Kernel)
}

impl GatewayDesk {
    fn new(control: Rc<RefCell<Control>>) -> Self {
        let tally = Rc::clone(&control.borrow().tally);
        Self { control, tally, changing: Mutex::new(()) }
    }

    async fn carry_out(&self, request: Request, by: String) -> Result<Answer, Denial> {
        if request.changes_state() && self.control.borrow().upgrades.is_giving() {
            return Err(Denial::refused(
                "another process takes the place of this one: ask again in a few seconds, and it will hear",
            ));
        }
        match request {
            Request::Sessions(selection) => Ok(Answer::Sessions(list(
                &self.control.borrow().ledger,
                &selection,
                Instant::now(),
            ))),
            Request::End(selection) => {
                let reason = CloseReason::EndedByOperator;
                end(selection, |selection| {
                    self.control.borrow_mut().begin_sweep(selection, false, reason)
                })
                .await
            }
            Request::Block { target, for_s, why } => {
                let since = unix_now();
                let until = for_s.map(|for_s| since.saturating_add(for_s));
                if for_s.is_some_and(|for_s| Duration::from_secs(for_s) > MAX_BLOCK_TIME) {
                    return Err(Denial::refused("that is for good: leave the time out"));
                }
                self.block(Block { target, since, until, why, by }).await
            }
            Request::Unblock { target } => self.unblock(&target).await,
            Request::Blocks => Ok(Answer::Blocks(self.control.borrow().kept.blocks.all().to_vec())),
            Request::Drain => {
                let control = self.control.borrow();
                if control.dispatcher.snapshot().draining {
                    return Err(Denial::refused("it drains already"));
                }
                drain_soon(Rc::clone(&control.drain_asked));
                Ok(Answer::Draining { sessions: control.ledger.live().count() as u64 })
            }
            Request::DrainServer { server } => self.control.borrow_mut().drain_server(&server),
            Request::UndrainServer { server } => self.control.borrow_mut().undrain_server(server),
        }
    }

    async fn block(&self, block: Block) -> Result<Answer, Denial> {
        let target = block.target.clone();
        let kept = {
            let _one_by_one = self.changing.lock().await;
            if let Target::Address(range) = &target {
                self.control.borrow().check_block(range)?;
            }
            let next = self.control.borrow().kept.blocks.with(block)?;
            self.change(next).await?
        };
        let (selection, reason) = (target.selection(), target.reason());
        let sum = self.control.borrow_mut().begin_sweep(selection, true, reason);
        let Swept { sessions, waiting } = swept(sum).await?;
        Ok(Answer::Blocked { sessions, waiting, kept })
    }

    async fn unblock(&self, target: &Target) -> Result<Answer, Denial> {
        let _one_by_one = self.changing.lock().await;
        let next = self.control.borrow().kept.blocks.without(target).ok_or_else(|| {
            Denial::not_found(format!(
                "{target} is not blocked, as it is written here: `vestibule blocks` lists who is"
            ))
        })?;
        self.change(next).await?;
        Ok(Answer::Unblocked)
    }

    /// Writes blocks to the disk, and then has them hold. Returns whether there is a disk.
    async fn change(&self, next: Blocks) -> Result<bool, Denial> {
        let keeper = self.control.borrow().kept.keeper.clone();
        if let Some(keeper) = &keeper {
            keeper.keep(&next).await?;
        }
        self.control.borrow_mut().set_blocks(next);
        Ok(keeper.is_some())
    }
}

impl Desk for GatewayDesk {
    fn answer(self: Rc<Self>, request: Request, by: String) -> Answering {
        Box::pin(async move { self.carry_out(request, by).await })
    }

    fn tally(&self) -> &RefCell<Tally> {
        &self.tally
    }
}

impl Control {
    /// The workers hear of blocks before anything that follows from them.
    pub(super) fn set_blocks(&mut self, blocks: Blocks) {
        self.kept.blocks = Arc::new(blocks);
        for worker in &mut self.workers {
            worker.send(WorkerMail::Blocks(Arc::clone(&self.kept.blocks)));
        }
    }

    /// Lets those in whose time is over.
    pub(super) fn expire_blocks(&mut self) {
        let Some(left) = self.kept.blocks.unexpired(unix_now()) else { return };
        for block in self.kept.blocks.all().iter().filter(|block| !left.all().contains(block)) {
            tracing::info!(target: "audit", what = %block.target, by = block.by, "a block has ended");
        }
        self.set_blocks(left);
    }

    fn begin_sweep(
        &mut self,
        selection: Selection,
        with_waiting: bool,
        reason: CloseReason,
    ) -> tokio::sync::oneshot::Receiver<Swept> {
        let (id, swept) = self.sweeps.begin(self.workers.len());
        let sweep = Sweep { id, selection: Arc::new(selection), with_waiting, reason };
        for worker in &mut self.workers {
            worker.send(WorkerMail::EndSessions(sweep.clone()));
        }
        // Mail that did not fit is sent by the loop.
        self.mail_came.notify_one();
        swept
    }

    /// Whoever blocks a server or a balancer by its address shuts the gateway.
    fn check_block(&self, range: &Range) -> Result<(), Denial> {
        let is_in = |address: IpAddr| range.contains(address);
        if let Some(link) = self.links.values().find(|link| is_in(link.peer.ip())) {
            return Err(Denial::refused(format!(
                "server {} connects from {}, and every session goes over it: to take it out, \
                 `vestibule drain --server {0}`; to shut it out, take its name off `[[servers.allow]]`",
                link.proven.server,
                link.peer.ip(),
            )));
        }
        let config = &self.shared.config;
        if config.servers.addresses.iter().any(|own| range.overlaps(own)) {
            let message =
                "`[servers] addresses` names some of these: take them off first, or block less";
            return Err(Denial::refused(message));
        }
        let mut balancers =
            config.listeners.iter().flat_map(|listener| &listener.proxy_protocol_from);
        if balancers.any(|balancer| range.overlaps(balancer)) {
            let message = "a balancer of `proxy_protocol_from` is among these, and all that is behind it \
                           would be shut out: block the addresses that the log shows";
            return Err(Denial::refused(message));
        }
        Ok(())
    }

    fn check_server(&self, server: &str) -> Result<(), Denial> {
        let names: Vec<&str> =
            self.shared.config.servers.allow.iter().map(|allowed| &*allowed.name).collect();
        if names.contains(&server) {
            return Ok(());
        }
        let names = names.join(", ");
        Err(Denial::not_found(format!(
            "no server is called {server}; `[[servers.allow]]` has {names}"
        )))
    }

    fn drain_server(&mut self, server: &str) -> Result<Answer, Denial> {
        let drained = self.dispatcher.snapshot().drained_servers;
        let is_drained = drained.iter().any(|name| name == server);
        if !is_drained {
            self.check_server(server)?;
        }
        if !is_drained && drained.len() >= MAX_DRAINED_SERVERS {
            let message = format!("{MAX_DRAINED_SERVERS} servers are drained: undrain one first");
            return Err(Denial::refused(message));
        }
        self.handle_soon(Event::DrainServer { server: server.to_owned() });
        let after = self.dispatcher.snapshot();
        let own = after.links.iter().filter(|link| link.server == server);
        let sessions = own.clone().map(|link| link.sessions as u64).sum();
        let mut unserved: Vec<String> = own.flat_map(|link| link.services.clone()).collect();
        unserved.sort_unstable();
        unserved.dedup();
        let is_served = |service: &String| {
            after.links.iter().any(|link| !link.draining && link.services.contains(service))
        };
        unserved.retain(|service| !is_served(service));
        Ok(Answer::ServerDrained { sessions, unserved })
    }

    fn undrain_server(&mut self, server: String) -> Result<Answer, Denial> {
        if !self.dispatcher.snapshot().drained_servers.contains(&server) {
            self.check_server(&server)?;
            return Err(Denial::not_found(format!("{server} is not drained")));
        }
        self.handle_soon(Event::UndrainServer { server });
        Ok(Answer::ServerUndrained)
    }

    /// As `handle`, from outside of the control thread's loop, which is to carry out what follows.
    fn handle_soon(&mut self, event: Event) {
        self.handle(event, Instant::now());
        self.mail_came.notify_one();
    }
}
