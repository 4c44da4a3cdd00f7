//! One sample: a load generator works on processes that are ready, and what they use is read.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::load::LoadProcess;
use crate::profile::Profile;
use crate::results::{KernelMemory, Outcome, ProcessUsage};
use crate::scenario::Work;
use crate::syscalls::Count;
use crate::target::Running;
use crate::usage::{self, MachineTime, Usage};

/// Longest wait for the sessions of the warm-up to be gone: above the time that a gateway lingers.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at them.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What is looked at during the work beside what the kernel counts anyway. Nothing else should be
/// measured then.
pub(crate) enum Watch<'a> {
    /// Nothing.
    Usage,
    /// System calls, with a folder for the count.
    Syscalls(&'a Path),
    /// Where the time goes, with a folder for the recording and a file for the shares.
    Profile(&'a Path, PathBuf),
}

/// A warm-up, then the work.
pub(crate) fn measure(
    mut running: Running,
    work: Work,
    watch: Watch<'_>,
) -> Result<Outcome, BenchError> {
    let started = running.usages()?;
    let warm_up = running.plan(Work::warm_up());
    let mut warm_up = LoadProcess::prepare(&warm_up)?;
    warm_up.work()?;
    let warmed_up = warm_up.finish()?;
    if !warmed_up.errors.is_empty() {
        // Its errors are those of the sample: nothing more can be measured.
        return Ok(Outcome::Measured {
            load: Box::new(warmed_up),
            processes: Vec::new(),
            machine_cpu_ns: None,
            kernel_memory: None,
            afterwards: None,
        });
    }
    let before = settled(&mut running, &started)?;
    let slabs_before = usage::slab_bytes();
    let mut load = LoadProcess::prepare(&running.plan(work))?;
    let (mut counts, mut profile) = (Vec::new(), None);
    match watch {
        Watch::Usage => {}
        Watch::Syscalls(folder) => counts = running.count_syscalls(folder)?,
        Watch::Profile(folder, to) => profile = Some((Profile::start(folder)?, to)),
    }
    let machine = || MachineTime::now().map_err(BenchError::io("reading /proc/stat"));
    let slabs_ready = usage::slab_bytes();
    let (ready, machine_ready) = (running.usages()?, machine()?);
    load.work()?;
    let (machine_end, end) = (machine()?, running.usages()?);
    let counts: Result<Vec<u64>, _> = counts.into_iter().map(Count::finish).collect();
    let counts = counts?;
    if let Some((profile, to)) = profile {
        let own = running.processes.iter().map(|process| (process.id(), process.name()));
        let processes: Vec<_> = own.chain([(load.id(), "load")]).collect();
        profile.finish(&processes, &to)?;
    }
    let load = Box::new(load.finish()?);
    let moments = before.into_iter().zip(ready).zip(end);
    let processes = (0..).zip(running.processes.iter().zip(moments));
    let processes = processes.map(|(number, (process, ((before, ready), end)))| {
        let (name, syscalls) = (process.name().to_owned(), counts.get(number).copied());
        ProcessUsage { name, before, ready, end, syscalls }
    });
    let processes = processes.collect();
    let machine_cpu_ns = Some(machine_end.busy_ns_since(machine_ready));
    let kernel_memory =
        slabs_before.zip(slabs_ready).map(|(before, ready)| KernelMemory { before, ready });
    let afterwards = running.stop().err().map(|error| error.to_string());
    Ok(Outcome::Measured { load, processes, machine_cpu_ns, kernel_memory, afterwards })
}

/// The usages once the sessions of the warm-up are gone from the processes too: those that linger
/// would be missing in the growth of the sample. What a process opened for good in the warm-up may
/// stay.
fn settled(running: &mut Running, started: &[Usage]) -> Result<Vec<Usage>, BenchError> {
    let start = Instant::now();
    loop {
        let now = running.usages()?;
        let gone = now.iter().zip(started).all(|(now, then)| now.descriptors <= then.descriptors);
        if gone || start.elapsed() > SETTLE_DEADLINE {
            return Ok(now);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}
