//! Results for tests, made of what matters to them.

use std::collections::BTreeMap;

use crate::load::Report;
use crate::machine::Machine;
use crate::results::{Outcome, ProcessUsage, Results, Sample};
use crate::scenario::{Scenario, Size};
use crate::target::Target;
use crate::usage::Usage;

/// Each of 8 sessions has had its bytes, at so many CPU-seconds for all of them.
pub(crate) fn bulk(target: Target, process: &str, run: usize, cpu_seconds: u64) -> Sample {
    let usage = |cpu_ns| Usage { cpu_ns, rss_bytes: 0, pss_bytes: 0, descriptors: 0 };
    let load = Report {
        seconds: 4.0,
        sessions: 8,
        messages: 0,
        bytes_up: 2_048_000_000,
        bytes_down: 0,
        latency: None,
        lateness: None,
        newcomers: None,
        errors: BTreeMap::new(),
    };
    let processes = vec![ProcessUsage {
        name: process.to_owned(),
        before: usage(0),
        ready: usage(5_000_000_000),
        end: usage((5 + cpu_seconds) * 1_000_000_000),
        syscalls: None,
    }];
    Sample {
        scenario: Scenario::BulkUp,
        target,
        run,
        started: String::new(),
        work: Scenario::BulkUp.work(Size::Full),
        outcome: Outcome::Measured {
            load: Box::new(load),
            processes,
            machine_cpu_ns: Some(8_192_000_000),
            kernel_memory: None,
            afterwards: None,
        },
    }
}

/// Of these samples, on no machine.
pub(crate) fn results(samples: Vec<Sample>) -> Results {
    let text = String::new;
    let machine = Machine {
        cpu: text(),
        cores: 2,
        kernel: text(),
        congestion_control: text(),
        date: text(),
        load_average: text(),
        vestibule: text(),
        rustc: text(),
        revision: text(),
        profile: text(),
    };
    Results { machine, peers: BTreeMap::new(), size: Size::Full, samples }
}
