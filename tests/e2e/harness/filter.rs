use std::collections::BTreeMap;
use std::thread;

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Runs something, and the processes that it starts, where the kernel answers with this error to a system call, or to that with
/// these arguments alone.
pub(crate) fn with_answer(
    answer: Errno,
    (call, arguments): (i64, Vec<SeccompRule>),
    run: impl FnOnce() + Send,
) {
    let rules = BTreeMap::from([(call, arguments)]);
    let refused = SeccompAction::Errno(u32::try_from(answer.raw_os_error()).expect("positive"));
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("one that seccomp knows");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a filter");
    let program = BpfProgram::try_from(filter).expect("a small filter");
    thread::scope(|scope| {
        let confined = scope.spawn(|| {
            apply_filter(&program).expect("the kernel knows seccomp");
            run();
        });
        confined.join().expect("it does not panic");
    });
}
