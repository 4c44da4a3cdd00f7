//! Which system calls each thread needs: as strace shows them under the tests, and those that libc, the
//! allocator and the runtimes make rarely (a full heap, a panic, an old kernel).
//!
//! What is not here fails with ENOSYS, as on a kernel that lacks it: libc then takes an older call, and a
//! path that nobody thought of ends a connection or a look-up, and not the process. What a gateway or a
//! server never does and an intruder would do first ends the process ([`FATAL`]).

use libc::c_long;

use super::filter::{Argument, Call, Condition};
use crate::config::Role;

/// How a program learns of the kernel's fast clock (`PR_GET_AUXV(2const)`).
const PR_GET_AUXV: u64 = 0x4155_5856;

/// A kind of thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// Writes the log.
    Log,
    /// Accepts or dials, and relays.
    Worker,
    /// Writes the file of blocks, where there is one.
    Keeper,
    /// Has the signal connections and the pages; reads files, and starts threads that look names up or
    /// read files.
    Control,
}

/// Ends the process at once, whichever thread calls it: a program in its place, other processes, other
/// roots and name spaces, the kernel itself.
pub(super) const FATAL: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
];

/// Memory, time, waiting, signals, the end, and what is open already.
const EVERY_THREAD: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Sockets that are there already, and what tells of their readiness.
const SOCKETS: &[c_long] = &[
    libc::SYS_recvfrom,
    libc::SYS_readv,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_fcntl,
    libc::SYS_io_uring_enter,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
];

/// The runtime of the control thread, and reading files.
const CONTROL: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
];
#[cfg(target_arch = "x86_64")]
const CONTROL_OF_OLD: &[c_long] =
    &[libc::SYS_epoll_wait, libc::SYS_stat, libc::SYS_lstat, libc::SYS_readlink, libc::SYS_access];
#[cfg(not(target_arch = "x86_64"))]
const CONTROL_OF_OLD: &[c_long] = &[];

/// A file is written beside another, and takes its place.
const KEEPER: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
];
#[cfg(target_arch = "x86_64")]
const KEEPER_OF_OLD: &[c_long] = &[libc::SYS_open, libc::SYS_rename, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const KEEPER_OF_OLD: &[c_long] = &[];

/// What libc does to look a name up.
const NAMES: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_recvmsg,
    libc::SYS_ppoll,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
];
#[cfg(target_arch = "x86_64")]
const NAMES_OF_OLD: &[c_long] = &[libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const NAMES_OF_OLD: &[c_long] = &[];

/// All that a thread of a role may call.
pub(super) fn of(role: Role, thread: Thread) -> Vec<Call> {
    let mut calls = always(EVERY_THREAD);
    calls.push(abort());
    calls.push(Call::when(libc::SYS_mprotect, vec![vec![without_execution()]]));
    calls.extend(match (thread, role) {
        (Thread::Control, Role::Server | Role::Agent) => looking_up_names(),
        // A signal is told to the control thread by whichever thread it meets, with a send.
        _ => vec![send(), Call::when(libc::SYS_mmap, vec![vec![without_execution()]])],
    });
    match (thread, role) {
        (Thread::Log, _) => {
            calls.extend(new_threads());
            // Whether it writes to a terminal.
            calls.push(control_of(&[libc::TCGETS, libc::TCGETS2]));
        }
        (Thread::Keeper, _) => {
            calls.extend(always(KEEPER));
            calls.extend(always(KEEPER_OF_OLD));
        }
        (Thread::Worker, Role::Gateway) => {
            calls.extend(always(SOCKETS));
            calls.extend(always(&[libc::SYS_accept4]));
            calls.push(control_of(&[libc::FIONBIO, libc::TIOCOUTQ]));
        }
        (Thread::Worker, Role::Server | Role::Agent) => {
            calls.extend(always(SOCKETS));
            calls.extend(always(&[libc::SYS_connect]));
            calls.push(tcp_socket());
            calls.push(control_of(&[libc::FIONBIO, libc::TIOCOUTQ]));
        }
        (Thread::Control, _) => {
            for list in [SOCKETS, CONTROL, CONTROL_OF_OLD] {
                calls.extend(always(list));
            }
            calls.push(control_of(&[libc::FIONBIO, libc::FIONREAD]));
            calls.extend(opens_to_read());
            calls.extend(new_threads());
        }
    }
    calls
}

/// What the control thread of a gateway needs for another process of it (`unix(7)`, `SCM_RIGHTS`), and a worker for records of the
/// kernel's TLS that are no payload.
pub(super) fn messages() -> Vec<Call> {
    let no_connection = vec![vec![Condition::lacks(Argument::int(2), bits(libc::MSG_FASTOPEN))]];
    vec![Call::always(libc::SYS_recvmsg), Call::when(libc::SYS_sendmsg, no_connection)]
}

/// What moves bytes from socket to socket through a pipe. Where a reload brings the first service that needs it, bytes are
/// copied until the next start.
pub(super) fn splicing() -> Vec<Call> {
    always(&[libc::SYS_pipe2, libc::SYS_splice])
}

fn always(list: &[c_long]) -> Vec<Call> {
    list.iter().copied().map(Call::always).collect()
}

/// A signal to this process only.
fn abort() -> Call {
    let own = u64::from(std::process::id());
    Call::when(libc::SYS_tgkill, vec![vec![Condition::equals(Argument::int(0), own)]])
}

/// Memory that is made or becomes executable is how foreign code gets in.
fn without_execution() -> Condition {
    Condition::lacks(Argument::int(2), bits(libc::PROT_EXEC))
}

/// What libc's modules for names are mapped with: executable, or writable, but not both.
fn not_both_written_and_run() -> Vec<Vec<Condition>> {
    vec![
        vec![without_execution()],
        vec![Condition::lacks(Argument::int(2), bits(libc::PROT_WRITE))],
    ]
}

/// A thread of this process. `clone3`, whose flags no filter sees, is refused, and libc then takes this.
fn new_threads() -> Vec<Call> {
    let thread = Condition::has(Argument::long(0), bits(libc::CLONE_THREAD));
    let option = |number| vec![Condition::equals(Argument::int(0), number)];
    let only_read = Condition::equals(Argument::long(2), 0);
    vec![
        Call::when(libc::SYS_clone, vec![vec![thread]]),
        Call::when(libc::SYS_prctl, vec![option(bits(libc::PR_SET_NAME)), option(PR_GET_AUXV)]),
        Call::when(libc::SYS_prlimit64, vec![vec![only_read]]),
    ]
}

/// To nobody but whom the socket is connected with. A datagram could go anywhere, and so could a TCP
/// connection, even of what was a listener (`shutdown`, then `MSG_FASTOPEN`), which Landlock does not see.
fn send() -> Call {
    Call::when(libc::SYS_sendto, vec![vec![Condition::equals(Argument::long(4), 0)]])
}

/// `ioctl(2)` with these requests.
fn control_of(requests: &[libc::Ioctl]) -> Call {
    #[allow(clippy::unnecessary_cast, reason = "a c_ulong or a c_int, by libc")]
    let rule = |request: &libc::Ioctl| vec![Condition::equals(Argument::int(1), *request as u64)];
    Call::when(libc::SYS_ioctl, requests.iter().map(rule).collect())
}

fn opens_to_read() -> Vec<Call> {
    let reading = |flags| {
        let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
        vec![vec![Condition::lacks(Argument::int(flags), bits(writing))]]
    };
    vec![
        Call::when(libc::SYS_openat, reading(2)),
        // musl's.
        #[cfg(target_arch = "x86_64")]
        Call::when(libc::SYS_open, reading(1)),
    ]
}

fn tcp_socket() -> Call {
    let stream = || Condition::masked(Argument::int(1), 0xf, bits(libc::SOCK_STREAM));
    let families = [libc::AF_INET, libc::AF_INET6];
    let rules = families
        .map(|family| vec![Condition::equals(Argument::int(0), bits(family)), stream()])
        .to_vec();
    Call::when(libc::SYS_socket, rules)
}

/// Look-ups, and the dialling of gateways on the control thread.
fn looking_up_names() -> Vec<Call> {
    let families = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];
    let rules = families.map(|family| vec![Condition::equals(Argument::int(0), bits(family))]);
    let no_connection =
        |flags| vec![vec![Condition::lacks(Argument::int(flags), bits(libc::MSG_FASTOPEN))]];
    let mut calls = always(NAMES);
    calls.extend(always(NAMES_OF_OLD));
    calls.push(Call::when(libc::SYS_sendto, no_connection(3)));
    calls.push(Call::when(libc::SYS_sendmsg, no_connection(2)));
    calls.push(Call::when(libc::SYS_sendmmsg, no_connection(3)));
    calls.push(Call::when(libc::SYS_socket, rules.to_vec()));
    calls.push(Call::when(libc::SYS_mmap, not_both_written_and_run()));
    calls
}

fn bits(flags: libc::c_int) -> u64 {
    u64::from(flags.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(role: Role, thread: Thread) -> Vec<c_long> {
        of(role, thread).iter().map(|call| call.number).collect()
    }

    #[test]
    fn nothing_is_both_allowed_and_fatal_and_nothing_is_named_twice() {
        for role in [Role::Gateway, Role::Server] {
            for thread in [Thread::Log, Thread::Worker, Thread::Keeper, Thread::Control] {
                let mut calls = numbers(role, thread);
                assert!(!calls.iter().any(|call| FATAL.contains(call)), "{role:?} {thread:?}");
                let count = calls.len();
                calls.sort_unstable();
                calls.dedup();
                assert_eq!(calls.len(), count, "{role:?} {thread:?}");
            }
        }
    }

    #[test]
    fn only_a_gateway_that_may_be_taken_over_passes_descriptors() {
        let passing: Vec<_> = messages().iter().map(|call| call.number).collect();
        assert_eq!(passing, [libc::SYS_recvmsg, libc::SYS_sendmsg]);
        for thread in [Thread::Log, Thread::Worker, Thread::Control] {
            let calls = numbers(Role::Gateway, thread);
            assert!(!passing.iter().any(|call| calls.contains(call)), "{thread:?}");
        }
    }

    #[test]
    fn only_where_tls_goes_through_the_kernel_moves_bytes_between_sockets() {
        let splicing: Vec<_> = splicing().iter().map(|call| call.number).collect();
        for role in [Role::Gateway, Role::Server] {
            let calls = numbers(role, Thread::Worker);
            assert!(!splicing.iter().any(|call| calls.contains(call)), "{role:?}");
        }
    }

    #[test]
    fn no_thread_of_a_gateway_makes_or_connects_a_socket_and_none_makes_a_ring() {
        let connecting =
            [libc::SYS_socket, libc::SYS_connect, libc::SYS_sendmsg, libc::SYS_sendmmsg];
        for thread in [Thread::Log, Thread::Worker, Thread::Keeper, Thread::Control] {
            let calls = numbers(Role::Gateway, thread);
            assert!(!connecting.iter().any(|call| calls.contains(call)), "{thread:?}");
            for role in [Role::Gateway, Role::Server] {
                let calls = numbers(role, thread);
                assert!(!calls.contains(&libc::SYS_io_uring_setup), "{role:?} {thread:?}");
                assert!(!calls.contains(&libc::SYS_io_uring_register), "{role:?} {thread:?}");
            }
        }
    }
}
