//! `kernel.io_uring_disabled`, which belongs to the whole machine: Linux 6.6 and later have it.

use std::fs;

use super::{guest, on_kernel};
use crate::e2e::event_loop::{
    assert_fails_on_io_uring, assert_serves_on_epoll, assert_serves_on_io_uring,
};

#[test]
#[ignore = "needs qemu-system-x86, seabios, busybox-static, cpio, binutils and tests/kernels/fetch"]
fn where_the_kernels_setting_refuses_io_uring_gateway_and_server_say_so_and_serve_on_epoll() {
    on_kernel(
        guest::RECENT,
        "kernels::ring_setting::where_the_kernels_setting_refuses_io_uring_gateway_and_server_say_so_and_serve_on_epoll",
        change_the_setting,
    );
}

fn change_the_setting() {
    assert_serves_on_io_uring();

    set("disabled", "2");
    assert_serves_on_epoll("kernel.io_uring_disabled is 2");
    assert_fails_on_io_uring("kernel.io_uring_disabled is 2");

    set("disabled", "1");
    assert_serves_on_epoll("kernel.io_uring_disabled is 1");
    assert_fails_on_io_uring("kernel.io_uring_group");
    // That of root, which these processes have.
    set("group", "0");
    assert_serves_on_io_uring();
}

fn set(name: &str, value: &str) {
    fs::write(format!("/proc/sys/kernel/io_uring_{name}"), value).expect("root of a guest");
}
