//! Guests in qemu: our processes on the kernels of Debian, where a test may do to the whole machine what
//! it may not do to the one that it runs on. `tests/kernels/fetch` brings the kernels;
//! `VESTIBULE_GUEST_KERNEL=6.1` has tests run in that one alone.

mod clock;
mod guest;
mod kernel_tls;
mod ring_setting;
mod suite;

use std::collections::BTreeSet;

use guest::{Guest, KERNELS};

/// Runs a test in a guest of each kernel: there the same test, by its name, comes here again, and is run.
///
/// # Panics
/// Where it fails in one of them, or one of them can't run.
fn on_each_kernel(name: &str, test: impl FnOnce()) {
    on_kernels(&KERNELS, name, test);
}

/// The same with one kernel.
fn on_kernel(kernel: &'static str, name: &str, test: impl FnOnce()) {
    on_kernels(&[kernel], name, test);
}

fn on_kernels(kernels: &[&'static str], name: &str, test: impl FnOnce()) {
    if guest::is_here() {
        return test();
    }
    for kernel in guest::chosen(kernels) {
        Guest::start(kernel, &[], &["--ignored", "--exact", name]).expect_success();
    }
}

/// Runs the tests that these arguments choose in a guest, without those that are skipped, each with its reason.
///
/// # Panics
/// Where one of them fails, or no more than `many` are run: that guest has run something else.
fn assert_kept(
    kernel: &'static str,
    variables: &[(&str, &str)],
    arguments: &[&str],
    skipped: &[(&str, &str)],
    many: usize,
) {
    let mut arguments = arguments.to_vec();
    for (name, reason) in skipped {
        eprintln!("{name} is skipped: {reason}");
        arguments.extend(["--skip", name]);
    }
    let lines = Guest::start(kernel, variables, &arguments).expect_success();
    let passed: BTreeSet<_> = lines.iter().filter_map(|line| passed_test(line)).collect();
    assert!(passed.len() > many, "{passed:#?}");
}

/// The name of a test in the line that says that it passed.
fn passed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... ok")
}
