//! What the tests are written with: processes under test, and the parties around them that a test
//! plays by hand.

mod backend;
mod files;
mod filter;
mod lists;
mod openssl;
mod peer;
mod process;
mod scripted_gateway;
mod scripted_server;
mod site;
mod telemetry;
mod trial;
mod world;

use std::time::{Duration, Instant};

pub(crate) use backend::{Backend, Digest, payload};
pub(crate) use files::{AgentFile, EVENT_LOOP, GatewayFile, RELAY, ServerFile};
pub(crate) use filter::with_answer;
pub(crate) use lists::{HOUR, List, der};
pub(crate) use openssl::OpenSsl;
pub(crate) use peer::{Ending, Peer};
pub(crate) use process::Process;
pub(crate) use scripted_gateway::{ScriptedGateway, SignalConnection};
pub(crate) use scripted_server::{DataConnection, ScriptedServer};
pub(crate) use site::{
    Kind, Site, assert_agent_may_end_first, assert_backend_may_end_first, assert_bulk,
    assert_talks, welcomed,
};
pub(crate) use telemetry::Telemetry;
pub(crate) use trial::Trial;
pub(crate) use world::{Authority, Gateway, World};

/// Far longer than anything here takes, in an emulated machine as well: a hang fails the test instead of
/// blocking it.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Between two looks at something that is to happen.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until something is so. `what` completes "it should long be so that ...".
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "it should long be so that {what}");
        std::thread::sleep(PAUSE);
    }
}
