//! The sandbox: what a thread that is taken wishes for, and does not get; and that what a role needs, it
//! still gets. Each wish is tried three times or more: without the sandbox, where it has to be granted, so
//! that these tests can fail; with all of it; and with one kind of defence alone.

mod processes;
mod trial;
mod wishes;

use vestibule::sandbox::{Part, Thread};

use trial::{Answer, GivenUp, Trial};

/// Asserts that a wish is granted without the sandbox, and denied by each of these kinds alone and by all.
fn assert_denied(wish: &str, kinds: &[GivenUp]) {
    let trial = Trial::new();
    assert_eq!(trial.wish(wish, GivenUp::Nothing, Thread::Worker), Answer::Granted, "{wish}");
    for thread in [Thread::Worker, Thread::Control] {
        for &given_up in [GivenUp::All].iter().chain(kinds) {
            let answer = trial.wish(wish, given_up, thread);
            match answer {
                Answer::Denied(_) => {}
                Answer::Unsupported(part) => eprintln!("{wish}: this kernel has no {part}"),
                Answer::Granted | Answer::Killed => {
                    panic!("{wish} by {thread:?} without {given_up:?}: {answer:?}")
                }
            }
        }
    }
}

/// Asserts that a wish is granted without the sandbox, and ends the process with it.
fn assert_fatal(wish: &str) {
    let trial = Trial::new();
    assert_eq!(trial.wish(wish, GivenUp::Nothing, Thread::Worker), Answer::Granted, "{wish}");
    for thread in [Thread::Worker, Thread::Control] {
        for given_up in [GivenUp::All, GivenUp::SystemCalls] {
            assert_eq!(trial.wish(wish, given_up, thread), Answer::Killed, "{wish} by {thread:?}");
        }
    }
}

/// Asserts that a thread still gets what it needs.
fn assert_granted(wish: &str, thread: Thread) {
    assert_eq!(Trial::new().wish(wish, GivenUp::All, thread), Answer::Granted, "{wish}");
}

#[test]
fn a_taken_gateway_reads_no_foreign_file() {
    assert_denied("read-passwd", &[GivenUp::Landlock(Part::Files)]);
    assert_denied("read-environment-of-parent", &[GivenUp::Landlock(Part::Files)]);
}

#[test]
#[ignore = "needs root"]
fn a_taken_gateway_reads_no_passwords_even_as_root() {
    assert_denied("read-shadow", &[GivenUp::Landlock(Part::Files)]);
}

#[test]
fn a_taken_gateway_writes_no_file() {
    assert_denied("write-file", &[GivenUp::Landlock(Part::Files), GivenUp::SystemCalls]);
}

#[test]
fn a_gateway_writes_in_the_folder_of_its_blocks_alone_and_by_one_thread() {
    let trial = Trial::new();
    assert_granted("write-blocks", Thread::Keeper);
    for thread in [Thread::Worker, Thread::Control] {
        let answer = trial.wish("write-blocks", GivenUp::All, thread);
        assert!(matches!(answer, Answer::Denied(_)), "{thread:?}: {answer:?}");
    }
    for given_up in [GivenUp::All, GivenUp::Landlock(Part::Files)] {
        let answer = trial.wish("write-file", given_up, Thread::Keeper);
        assert!(!matches!(answer, Answer::Granted | Answer::Killed), "{given_up:?}: {answer:?}");
    }
}

#[test]
fn a_taken_gateway_that_runs_a_program_ends() {
    assert_fatal("run-program");
}

#[test]
fn a_taken_gateway_starts_no_process() {
    assert_denied("start-process", &[GivenUp::SystemCalls]);
}

#[test]
#[ignore = "needs root"]
fn a_taken_gateway_that_enters_another_name_space_ends() {
    assert_fatal("enter-name-space");
}

#[test]
fn a_taken_gateway_connects_to_nobody() {
    assert_denied("connect", &[GivenUp::Landlock(Part::Tcp), GivenUp::SystemCalls]);
    assert_denied("connect-abstract", &[GivenUp::Landlock(Part::Scope), GivenUp::SystemCalls]);
    assert_denied("send-datagram", &[GivenUp::SystemCalls]);
}

#[test]
fn a_connection_by_a_ring_is_denied_as_well() {
    assert_denied("connect-by-ring", &[GivenUp::Landlock(Part::Tcp), GivenUp::SystemCalls]);
}

#[test]
fn a_listener_that_is_turned_round_connects_to_nobody() {
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").unwrap_or_default();
    if setting.trim().parse::<u32>().is_ok_and(|bits| bits & 1 == 0) {
        eprintln!("this host lets nobody do that");
        return;
    }
    assert_denied("turn-listener-round", &[GivenUp::SystemCalls]);
}

#[test]
fn a_taken_gateway_makes_no_new_ring() {
    assert_denied("make-ring", &[GivenUp::SystemCalls]);
}

#[test]
fn a_taken_gateway_listens_on_no_further_port() {
    assert_denied("listen", &[GivenUp::Landlock(Part::Tcp), GivenUp::SystemCalls]);
}

#[test]
fn a_taken_gateway_signals_no_other_process() {
    assert_denied("signal-parent", &[GivenUp::Landlock(Part::Scope), GivenUp::SystemCalls]);
}

#[test]
#[ignore = "needs root"]
fn a_taken_gateway_hears_no_packets_even_as_root() {
    assert_denied("packet-socket", &[GivenUp::SystemCalls, GivenUp::Capabilities]);
}

#[test]
fn nobody_of_the_same_user_reads_the_memory_of_a_gateway() {
    assert_denied("be-dumped", &[]);
}

#[test]
fn the_ring_of_the_control_thread_opens_no_file_that_the_thread_may_read() {
    let trial = Trial::new();
    assert_granted("read-configuration", Thread::Control);
    let answer = trial.wish("open-by-control-ring", GivenUp::Nothing, Thread::Control);
    assert!(matches!(answer, Answer::Denied(_)), "rings are restricted without the sandbox too");
    assert_eq!(trial.wish("open-by-ring", GivenUp::Nothing, Thread::Control), Answer::Granted);
}

#[test]
fn the_control_thread_reads_files_that_were_replaced_or_whose_link_was_turned() {
    assert_granted("read-replaced-files", Thread::Control);
}

#[test]
fn the_metrics_still_know_the_process() {
    assert_granted("read-own-process", Thread::Control);
}

#[test]
fn a_fault_ends_a_confined_thread_as_it_would_elsewhere() {
    for thread in [Thread::Worker, Thread::Control] {
        let trial = Trial::new();
        assert_eq!(trial.signal_of("abort", thread), Some(rustix::process::Signal::ABORT));
    }
}

#[test]
fn a_taken_server_connects_to_the_ports_of_its_backends_and_to_no_others() {
    let trial = Trial::of_server();
    for thread in [Thread::Worker, Thread::Control] {
        assert_eq!(trial.wish("connect-configured", GivenUp::All, thread), Answer::Granted);
        let answer = trial.wish("connect", GivenUp::Landlock(Part::Tcp), thread);
        assert!(!matches!(answer, Answer::Granted | Answer::Killed), "{thread:?}: {answer:?}");
        assert_eq!(trial.wish("run-program", GivenUp::All, thread), Answer::Killed);
    }
}
