//! Guests in qemu: our processes on the kernels of Debian, where a test may do to the whole machine what
//! it may not do to the one that it runs on. `tests/kernels/fetch` brings the kernels;
//! `VESTIBULE_GUEST_KERNEL=6.1` has tests run in that one alone.

mod clock;
mod guest;
mod kernel_tls;
mod ring_setting;
mod suite;

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
