//! Seccomp: lists of system calls as programs for the kernel, and their installation (`seccomp(2)`).

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter,
};

use super::needs::Needs;
use super::system_calls::{self, FATAL, Thread};

/// A system call that is allowed.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) number: c_long,
    /// It is allowed where all conditions of one of these hold; whatever its arguments, where this is empty.
    rules: Vec<Vec<Condition>>,
}

/// An argument of a system call, counted from 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Argument {
    index: u8,
    is_long: bool,
}

/// What has to be so of an argument.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    argument: Argument,
    operator: SeccompCmpOp,
    value: u64,
}

impl Call {
    pub(super) fn always(number: c_long) -> Self {
        Self { number, rules: Vec::new() }
    }

    pub(super) fn when(number: c_long, rules: Vec<Vec<Condition>>) -> Self {
        Self { number, rules }
    }
}

impl Argument {
    /// Of 32 bits.
    pub(super) fn int(index: u8) -> Self {
        Self { index, is_long: false }
    }

    /// Of 64 bits, pointers included.
    pub(super) fn long(index: u8) -> Self {
        Self { index, is_long: true }
    }
}

impl Condition {
    pub(super) fn equals(argument: Argument, value: u64) -> Self {
        Self { argument, operator: SeccompCmpOp::Eq, value }
    }

    /// The bits of `mask` are those of `value`.
    pub(super) fn masked(argument: Argument, mask: u64, value: u64) -> Self {
        Self { argument, operator: SeccompCmpOp::MaskedEq(mask), value }
    }

    pub(super) fn has(argument: Argument, bits: u64) -> Self {
        Self::masked(argument, bits, bits)
    }

    pub(super) fn lacks(argument: Argument, bits: u64) -> Self {
        Self::masked(argument, bits, 0)
    }

    fn build(self) -> Result<SeccompCondition, BackendError> {
        let Self { argument, operator, value } = self;
        let len = if argument.is_long { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
        SeccompCondition::new(argument.index, len, operator, value)
    }
}

/// The filters of a role's threads.
pub(super) struct Filters {
    log: BpfProgram,
    worker: BpfProgram,
    keeper: BpfProgram,
    control: BpfProgram,
}

impl Filters {
    /// Binds the calling thread, and those that it starts.
    pub(super) fn apply(&self, thread: Thread) -> Result<(), seccompiler::Error> {
        apply_filter(match thread {
            Thread::Log => &self.log,
            Thread::Worker => &self.worker,
            Thread::Keeper => &self.keeper,
            Thread::Control => &self.control,
        })
    }
}

/// Makes some calls fatal for the calling thread and those that it starts, and prepares the filters of a
/// role, which each thread applies itself.
pub(super) fn install(needs: &Needs) -> Result<Filters, String> {
    let build = || {
        let of = |thread| {
            let mut calls = system_calls::of(needs.role, thread);
            match thread {
                Thread::Control if needs.passes_descriptors => {
                    calls.extend(system_calls::messages());
                }
                Thread::Worker => {
                    if needs.splices {
                        calls.extend(system_calls::splicing());
                    }
                    if needs.kernel_tls {
                        calls.extend(system_calls::messages());
                    }
                }
                _ => {}
            }
            allow_list(calls)
        };
        let filters = Filters {
            log: of(Thread::Log)?,
            worker: of(Thread::Worker)?,
            keeper: of(Thread::Keeper)?,
            control: of(Thread::Control)?,
        };
        Ok::<_, BackendError>((fatal_list()?, filters))
    };
    let (fatal, filters) =
        build().map_err(|error| format!("there is no filter for this machine ({error})"))?;
    apply_filter(&fatal).map_err(|error| {
        format!("{error}: the kernel needs CONFIG_SECCOMP_FILTER, a container must allow seccomp")
    })?;
    Ok(filters)
}

fn fatal_list() -> Result<BpfProgram, BackendError> {
    let rules = FATAL.iter().map(|&call| (widened(call), Vec::new())).collect();
    program(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn allow_list(calls: Vec<Call>) -> Result<BpfProgram, BackendError> {
    let mut rules = BTreeMap::new();
    for Call { number, rules: written } in calls {
        let rule = |conditions: Vec<Condition>| {
            let conditions: Result<_, _> = conditions.into_iter().map(Condition::build).collect();
            SeccompRule::new(conditions?)
        };
        let built: Result<Vec<_>, BackendError> = written.into_iter().map(rule).collect();
        rules.insert(widened(number), built?);
    }
    let missing = u32::try_from(libc::ENOSYS).expect("a small number");
    program(rules, SeccompAction::Errno(missing), SeccompAction::Allow)
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let machine = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, listed, machine)?.try_into()
}

#[allow(clippy::useless_conversion, reason = "a c_long is shorter on some machines")]
fn widened(call: c_long) -> i64 {
    i64::from(call)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

    use rustix::io::Errno;

    use super::*;
    use crate::config::Role;

    /// What a thread of a role hears from the kernel. Filters are the thread's own, so that the others of
    /// this process go on as before.
    fn on<T: Send>(role: Role, thread: Thread, attempt: impl FnOnce() -> T + Send) -> T {
        let program = allow_list(system_calls::of(role, thread)).expect("a filter");
        let body = || {
            apply_filter(&program).expect("CONFIG_SECCOMP_FILTER");
            attempt()
        };
        std::thread::scope(|scope| scope.spawn(body).join().expect("the attempt does not panic"))
    }

    fn is_missing<T>(result: io::Result<T>) -> bool {
        result.err().and_then(|error| Errno::from_io_error(&error)) == Some(Errno::NOSYS)
    }

    #[test]
    fn a_gateways_threads_make_no_socket() {
        for thread in [Thread::Log, Thread::Worker, Thread::Keeper, Thread::Control] {
            let made = on(Role::Gateway, thread, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
            assert!(is_missing(made), "{thread:?}");
        }
    }

    #[test]
    fn a_servers_worker_connects_tcp_and_makes_no_other_socket() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (tcp, udp) = on(Role::Server, Thread::Worker, || {
            (TcpStream::connect(address), UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))
        });
        assert!(tcp.is_ok() && is_missing(udp));
    }

    #[test]
    fn a_datagram_goes_to_nobody_but_whom_its_socket_is_connected_with() {
        let bound = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let (sender, receiver) = (bound(), bound());
        let address = receiver.local_addr().expect("bound");
        sender.connect(address).expect("a socket");
        let (sent, sent_to) = on(Role::Gateway, Thread::Worker, || {
            (sender.send(b"x"), sender.send_to(b"x", address))
        });
        assert!(sent.is_ok() && is_missing(sent_to));
    }

    #[test]
    fn the_control_thread_reads_files_and_writes_none_and_a_worker_does_neither() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "x").expect("writable");
        let (read, written) = on(Role::Gateway, Thread::Control, || {
            (std::fs::read(&path), std::fs::write(&path, "y"))
        });
        assert!(read.is_ok() && is_missing(written));
        assert!(is_missing(on(Role::Gateway, Thread::Worker, || std::fs::read(&path))));
    }

    #[test]
    fn the_keeper_writes_files_and_reads_nobody() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (draft, path) = (folder.path().join("draft"), folder.path().join("file"));
        let (written, connected) = on(Role::Gateway, Thread::Keeper, || {
            let written = std::fs::write(&draft, "x").and_then(|()| std::fs::rename(&draft, &path));
            (written, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))
        });
        assert!(written.is_ok() && is_missing(connected));
    }

    #[test]
    fn the_control_thread_starts_threads_and_no_processes() {
        for role in [Role::Gateway, Role::Server] {
            let (thread, process) = on(role, Thread::Control, || {
                let thread = std::thread::Builder::new().name("reads".to_owned());
                let thread = thread.spawn(|| 7).map(|thread| thread.join().expect("no panic"));
                (thread, std::process::Command::new("/bin/true").spawn().map(drop))
            });
            assert_eq!(thread.expect("a thread"), 7);
            assert!(process.is_err(), "{role:?}");
        }
    }

    #[test]
    fn the_control_thread_of_a_server_looks_names_up() {
        use std::net::ToSocketAddrs;
        let found = on(Role::Server, Thread::Control, || ("localhost", 80).to_socket_addrs());
        assert!(found.expect("/etc/hosts has it").next().is_some());
    }
}
