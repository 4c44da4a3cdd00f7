//! A long link between two hosts: a TUN device at each, and a thread each way that carries packets
//! through a [`Line`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::line::{Line, Shape};
use crate::error::BenchError;
use crate::namespaces::Namespace;

/// Bytes of a packet. Packets of 1,500 bytes would cost the two cores six times the work.
pub(super) const MTU: u16 = 9_000;
/// Its name at both ends.
pub(super) const DEVICE: &str = "long";
/// Packets that the kernel holds for a thread that is late: 90 MB, so that none is lost but in the
/// queue of the line.
const KERNEL_QUEUE_PACKETS: u32 = 10_000;
/// Packets that are taken in before those that have arrived are handed out.
const PACKETS_PER_TURN: usize = 32;
/// Longest sleep, to see that the link is to end.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// Niceness of the threads: a link is not to be slowed down by what it connects.
const NICENESS: i32 = -10;

/// What a direction has carried and lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) lost_packets: u64,
}

#[derive(Debug, Default)]
struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
    lost_packets: AtomicU64,
}

/// A link that is up. It ends when dropped.
pub(super) struct Link {
    stop: Arc<AtomicBool>,
    counters: [Arc<Counters>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    /// Joins two hosts, whose ends have these addresses.
    pub(super) fn between(
        hosts: [(&Namespace, &str); 2],
        shape: Shape,
    ) -> Result<Self, BenchError> {
        let [one, other] = hosts.map(|(host, address)| {
            let device = host.run(|| {
                let device = device();
                device.map_err(BenchError::io("making a TUN device (/dev/net/tun, needs root)"))
            })?;
            host.ip(&format!("address add {address} dev {DEVICE} noprefixroute"))?;
            host.ip(&format!("link set {DEVICE} up"))?;
            Ok(Arc::new(device))
        });
        let (one, other) = (one?, other?);
        let stop = Arc::new(AtomicBool::new(false));
        let counters = [Arc::<Counters>::default(), Arc::default()];
        let ways = [(Arc::clone(&one), Arc::clone(&other)), (other, one)];
        let threads = ways.into_iter().zip(&counters).map(|((from, to), counters)| {
            let (stop, counters) = (Arc::clone(&stop), Arc::clone(counters));
            std::thread::spawn(move || {
                let _ = rustix::process::nice(NICENESS);
                carry(&from, &to, shape, &counters, &stop);
            })
        });
        let threads = threads.collect();
        Ok(Self { stop, counters, threads })
    }

    /// So far: from the first host to the second, and back.
    pub(super) fn carried(&self) -> [Carried; 2] {
        self.counters.each_ref().map(|counters| Carried {
            packets: counters.packets.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            lost_packets: counters.lost_packets.load(Ordering::Relaxed),
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Carried {
    /// Since then.
    pub(super) fn since(self, then: Self) -> Self {
        Self {
            packets: self.packets - then.packets,
            bytes: self.bytes - then.bytes,
            lost_packets: self.lost_packets - then.lost_packets,
        }
    }
}

fn device() -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new()
        .name(DEVICE)
        .mtu(MTU)
        .tx_queue_len(KERNEL_QUEUE_PACKETS)
        .build_sync()?;
    device.set_nonblocking(true)?;
    Ok(device)
}

/// Carries packets one way until it is told to stop.
fn carry(from: &SyncDevice, to: &SyncDevice, shape: Shape, counters: &Counters, stop: &AtomicBool) {
    let mut line: Line<Vec<u8>> = Line::new(shape, Instant::now());
    // Buffers of packets that have arrived, for those that come.
    let mut spare: Vec<Vec<u8>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while let Some(packet) = line.arrived(now) {
            // Fails where the interface is going down.
            if to.send(&packet).is_ok() {
                counters.packets.fetch_add(1, Ordering::Relaxed);
                counters.bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
            }
            spare.push(packet);
        }
        if take_in(from, &mut line, &mut spare, counters) == PACKETS_PER_TURN {
            continue;
        }
        let until = line.next_arrival(Instant::now()).unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
        let until = Timespec::try_from(until).expect("milliseconds fit");
        // Fails when a signal comes: another turn does no harm.
        let _ = poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&until));
    }
}

/// Takes in packets that wait, up to a bound. Returns how many there were.
fn take_in(
    from: &SyncDevice,
    line: &mut Line<Vec<u8>>,
    spare: &mut Vec<Vec<u8>>,
    counters: &Counters,
) -> usize {
    for taken in 0..PACKETS_PER_TURN {
        let mut packet = spare.pop().unwrap_or_default();
        packet.resize(usize::from(MTU), 0);
        // An error: none for now, or the interface is going down.
        let Ok(len) = from.recv(&mut packet) else {
            spare.push(packet);
            return taken;
        };
        packet.truncate(len);
        let len = packet.len() as u64;
        if let Err(packet) = line.offer(packet, len, Instant::now()) {
            counters.lost_packets.fetch_add(1, Ordering::Relaxed);
            spare.push(packet);
        }
    }
    PACKETS_PER_TURN
}
