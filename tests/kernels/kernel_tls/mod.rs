//! Records in the kernel (`relay = "ktls"` and `"ktls_splice"`), on kernels that have TLS.

mod inside;

use super::assert_kept;
use super::guest::{self, NEWEST, OLDEST, RECENT};
use crate::e2e::harness::{EVENT_LOOP, RELAY};

/// What the end-to-end suite says of sessions, and what only the kernel can get wrong.
const PROMISES: [&str; 6] = [
    "kernels::kernel_tls::inside::",
    "e2e::way::",
    "e2e::ends::",
    "e2e::passthrough::",
    "e2e::tls_1_2::",
    "e2e::tls_backend::",
];
/// What is not run there, each with its reason.
const SKIPPED: [(&str, &str); 3] = [
    (
        "e2e::way::each_byte_of_many_sessions_at_once_is_accounted_for",
        "200 handshakes at once take an emulated machine longer than a gateway lets agents wait",
    ),
    (
        "e2e::passthrough::many_sessions_over_spares_and_invitations_each_reach_the_backend",
        "as many handshakes at once, and none of its records are the kernel's",
    ),
    (
        "e2e::tls_1_2::an_agent_with_tls_1_2_gets_back_what_it_sends_and_log_metric_and_status_show_its_path",
        "it looks for the path of userspace as well",
    ),
];
/// There are some thirty more.
const MANY: usize = 30;

#[test]
#[ignore = "needs qemu-system-x86, seabios, busybox-static, cpio, binutils, xz-utils and tests/kernels/fetch"]
fn sessions_keep_their_promises_where_the_kernel_opens_and_seals() {
    assert_promises(&[OLDEST, RECENT, NEWEST], &[(RELAY, "ktls")]);
}

#[test]
#[ignore = "needs qemu-system-x86, seabios, busybox-static, cpio, binutils, xz-utils and tests/kernels/fetch"]
fn sessions_keep_their_promises_where_the_kernel_also_moves_the_payload() {
    // The newest differs in that it takes new keys, which the other test looks at.
    assert_promises(&[OLDEST, RECENT], &[(RELAY, "ktls_splice")]);
}

#[test]
#[ignore = "needs qemu-system-x86, seabios, busybox-static, cpio, binutils, xz-utils and tests/kernels/fetch"]
fn sessions_keep_their_promises_where_epoll_tells_of_the_kernels_records() {
    assert_promises(&[OLDEST], &[(RELAY, "ktls"), (EVENT_LOOP, "epoll")]);
}

fn assert_promises(kernels: &[&'static str], variables: &[(&str, &str)]) {
    let arguments = [&["--include-ignored"], &PROMISES[..]].concat();
    for kernel in guest::chosen(kernels) {
        assert_kept(kernel, variables, &arguments, &SKIPPED, MANY);
    }
}
