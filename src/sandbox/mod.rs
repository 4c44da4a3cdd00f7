//! The process protects itself: whoever takes it over by a fault of ours finds that the kernel refuses
//! what it never needs. Files and ports are Landlock's, system calls seccomp's, operations of rings
//! `uring`'s; `deploy/THREAT-MODEL.md` says what holds where.
//!
//! Threads inherit what the one that starts them has given up, so the order is: [`enter`] while there is
//! one thread; [`confined`] for whoever starts the log; [`close_doors`] once every listener is bound;
//! [`confine`] on each thread when it has its ring.

mod domain;
mod filter;
mod needs;
mod part;
mod privileges;
mod swap;
mod system_calls;

use std::io;
use std::sync::OnceLock;

pub use needs::Needs;
pub use part::{NotAllOn, Options, Part, State, announce, status};
pub use system_calls::Thread;

use crate::uring;
use domain::Domain;
use filter::Filters;
use part::Steps;

/// The process has one sandbox, so what it has of it is one too.
static ENTERED: OnceLock<Entered> = OnceLock::new();

struct Entered {
    needs: Needs,
    states: Vec<State>,
    /// `None` where `files`, `tcp` and `scope` are off.
    domain: Option<Domain>,
    /// `None` where `system-calls` is off.
    filters: Option<Filters>,
    capabilities_dropped: bool,
}

/// Gives up all that this process does not need, as far as the kernel allows. To be called once, while the
/// process has one thread: threads that are there already are not bound by it.
pub fn enter(needs: Needs, options: &Options) -> Result<(), NotAllOn> {
    let mut steps = Steps::new(options);
    steps.take(Part::NoNewPrivileges, privileges::refuse_new);
    steps.take(Part::CoreDumps, privileges::refuse_core_dumps);
    steps.take(Part::Swap, swap::look);
    let keep_binding = needs.binds_privileged_port;
    let capabilities_dropped =
        steps.take(Part::Capabilities, || privileges::drop_capabilities(keep_binding)).is_some();
    let domain = domain::enter(&needs, &mut steps);
    let filters = steps.take(Part::SystemCalls, || filter::install(&needs));
    steps.take(Part::Rings, || uring::sees_own_rings().map_err(|error| part::ring_advice(&error)));
    let states = steps.finish()?;
    let _ = ENTERED.set(Entered { needs, states, domain, filters, capabilities_dropped });
    Ok(())
}

/// Runs `start` on a thread that has given up everything but writing, which threads that it starts inherit.
pub fn confined<T: Send>(start: impl FnOnce() -> T + Send) -> io::Result<T> {
    let body = || {
        if ENTERED.get().is_some_and(|entered| entered.capabilities_dropped) {
            privileges::drop_capabilities(false).map_err(io::Error::other)?;
        }
        confine(Thread::Log)?;
        Ok(start())
    };
    std::thread::scope(|scope| match scope.spawn(body).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Gives up binding of ports, and the capability for those below 1024: every listener is bound.
pub fn close_doors() -> io::Result<()> {
    let Some(entered) = ENTERED.get() else { return Ok(()) };
    if let Some(domain) = &entered.domain {
        domain.refuse_binding().map_err(io::Error::other)?;
    }
    if entered.capabilities_dropped {
        privileges::drop_capabilities(false).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Leaves the calling thread the system calls that it needs for its work. Without [`enter`] nothing happens.
pub fn confine(thread: Thread) -> io::Result<()> {
    match ENTERED.get().and_then(|entered| entered.filters.as_ref()) {
        Some(filters) => filters.apply(thread).map_err(io::Error::other),
        None => Ok(()),
    }
}

/// What a configuration needs beyond what this process may still do: each needs a restart.
pub fn missing_for(needs: &Needs) -> Vec<String> {
    ENTERED.get().map_or_else(Vec::new, |entered| match &entered.domain {
        Some(domain) => needs.beyond(&entered.needs, domain.parts()),
        None => Vec::new(),
    })
}
