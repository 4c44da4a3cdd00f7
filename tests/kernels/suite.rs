//! The end-to-end suite, as it runs here, on the oldest kernel that is supported.

use super::assert_kept;
use super::guest::OLDEST;

/// What is not run there, each with its reason.
const SKIPPED: [(&str, &str); 3] = [
    (
        "e2e::way::each_byte_of_many_sessions_at_once_is_accounted_for",
        "200 handshakes at once take an emulated machine longer than a gateway lets agents wait",
    ),
    (
        "e2e::upgrade::not_one_connection_fails_while_a_new_gateway_takes_over_under_load",
        "its load leaves an emulated machine no time for what others must do within 10 s",
    ),
    (
        "e2e::resumption::nobody_resumes_with_a_gateway_whose_certificate_has_expired",
        "that certificate ends before an emulated machine has begun",
    ),
];

/// There are some eighty more.
const MANY: usize = 200;

#[test]
#[ignore = "needs qemu-system-x86, seabios, busybox-static, cpio, binutils, curl, openssl and tests/kernels/fetch"]
fn the_end_to_end_suite_holds_on_the_oldest_kernel() {
    assert_kept(OLDEST, &[], &["e2e::"], &SKIPPED, MANY);
}
