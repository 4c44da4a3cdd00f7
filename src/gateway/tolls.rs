//! How fast each service, device and address may move bytes, over all workers.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::admission;
use super::stage::Visitor;
use crate::config::GatewayConfig;
use crate::control::ServiceId;
use crate::limits::{BANDWIDTH_CELLS, MAX_SERVICE_NAMES};
use crate::relay::{Bandwidth, Buckets, Throttle, Toll};

/// The buckets of all of them. Those of services are exact; a device or an address has two cells that a
/// keyed hash gives it, as in `sources`.
pub(super) struct Tolls {
    /// Drawn by each process, so that nobody can choose whose cells to share.
    hasher: RandomState,
    services: Arc<Buckets>,
    devices: Arc<Buckets>,
    addresses: Arc<Buckets>,
}

impl Tolls {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            services: Arc::new(Buckets::new(MAX_SERVICE_NAMES, now)),
            devices: Arc::new(Buckets::new(BANDWIDTH_CELLS, now)),
            addresses: Arc::new(Buckets::new(BANDWIDTH_CELLS, now)),
        }
    }

    /// What holds for a session that begins; `None` where nothing does.
    pub(super) fn throttle(
        &self,
        config: &GatewayConfig,
        visitor: &Visitor,
        service: ServiceId,
    ) -> Option<Throttle> {
        let of_service = config.service(service).and_then(|service| service.limits.bandwidth);
        let of_service = of_service.map(|limit| self.of_service(service, limit));
        let of_device = config.devices.bandwidth.zip(visitor.device.as_deref());
        let of_device =
            of_device.map(|(limit, device)| toll(&self.devices, self.cells(device), limit));
        let of_address = self.of_address(config, visitor.listener, visitor.address);
        Throttle::new([of_service, of_device, of_address].into_iter().flatten().collect())
    }

    fn of_service(&self, service: ServiceId, limit: Bandwidth) -> Toll {
        toll(&self.services, [service % MAX_SERVICE_NAMES; 2], limit)
    }

    fn of_address(
        &self,
        config: &GatewayConfig,
        listener: usize,
        address: SocketAddr,
    ) -> Option<Toll> {
        let limit = admission::limits_of(config, listener, address.ip())?.bandwidth?;
        Some(toll(&self.addresses, self.cells(&address.ip()), limit))
    }

    fn cells(&self, owner: &(impl Hash + ?Sized)) -> [usize; 2] {
        let hash = self.hasher.hash_one(owner);
        // Truncation is meant: each half of the hash chooses a cell of one row.
        #[expect(clippy::cast_possible_truncation, reason = "half of a hash")]
        [hash as u32, (hash >> 32) as u32].map(|half| half as usize % BANDWIDTH_CELLS)
    }
}

fn toll(buckets: &Arc<Buckets>, cells: [usize; 2], bandwidth: Bandwidth) -> Toll {
    Toll { buckets: Arc::clone(buckets), cells, bandwidth }
}
