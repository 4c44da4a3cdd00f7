//! Processes that are stopped, killed, starved of descriptors, memory and disk, and links that come and
//! go, while sessions talk: whoever is not hit notices nothing, and what is hit comes back.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::echo::{EchoBackend, spawn};
use super::network::{DMZ_OUTSIDE, output};
use super::process::{PATIENCE, wait_for};
use super::scene::{KNOWN_AFTER, MESSAGE, Scene, Witnesses};
use super::site::{AGENT_SSH_PORT, SSH_BACKEND};

const WITNESSES: usize = 20;

// ---- processes ----

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_server_that_was_stopped_for_a_while_costs_no_session() {
    Scene::test(|scene| {
        let witnesses = Witnesses::start(scene, WITNESSES);
        scene.site.server.signal(Signal::STOP);
        wait_for("the gateway knows that its server is gone", KNOWN_AFTER, || {
            (!scene.site.gateway_is_ready()).then_some(())
        });
        scene.site.server.signal(Signal::CONT);
        scene.wait_until_sessions_flow("the server went on", Instant::now());
        witnesses.wait_for_answers(WITNESSES as u64);
        witnesses.finish();
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_gateway_that_was_stopped_for_a_while_costs_no_session() {
    Scene::test(|scene| {
        let witnesses = Witnesses::start(scene, WITNESSES);
        scene.site.gateway.signal(Signal::STOP);
        wait_for("the server knows that its gateway is gone", KNOWN_AFTER, || {
            (!scene.site.server_is_connected()).then_some(())
        });
        scene.site.gateway.signal(Signal::CONT);
        scene.wait_until_sessions_flow("the gateway went on", Instant::now());
        witnesses.wait_for_answers(WITNESSES as u64);
        witnesses.finish();
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_killed_agent_leaves_nothing_behind_and_serves_again_when_it_is_back() {
    Scene::test(|scene| {
        let backend = EchoBackend::start(&scene.site.network.lan, SSH_BACKEND);
        let witnesses = Witnesses::start(scene, WITNESSES);
        let port = SocketAddr::from(([127, 0, 0, 1], AGENT_SSH_PORT));
        for _ in 0..2 {
            let agent = scene.site.start_agent();
            let mut program = wait_for("the agent gives a session", PATIENCE, || {
                scene.on_the_internet(|| exchange(TcpStream::connect(port).ok()?))
            });
            agent.kill();
            scene.on_the_internet(|| program.read(&mut [0; 1]).map_or(0, |len| len));
            wait_for("nothing of it is left at the backend", PATIENCE, || {
                (backend.open() == 0).then_some(())
            });
        }
        witnesses.finish();
        backend.stop(&scene.site.network.lan);
    });
}

fn exchange(mut program: TcpStream) -> Option<TcpStream> {
    program.set_read_timeout(Some(PATIENCE)).ok()?;
    program.write_all(MESSAGE).ok()?;
    let mut answer = vec![0; MESSAGE.len()];
    program.read_exact(&mut answer).ok()?;
    (answer == MESSAGE).then_some(program)
}

// ---- the network ----

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn links_that_come_and_go_lose_no_byte() {
    Scene::test(|scene| {
        let before = scene.backend.received();
        let witnesses = Witnesses::start(scene, WITNESSES);
        for _ in 0..5 {
            let cut = scene.site.network.cut();
            thread::sleep(Duration::from_millis(1_500));
            drop(cut);
            witnesses.wait_for_answers(WITNESSES as u64);
        }
        let echoed = witnesses.finish();
        assert_eq!(scene.backend.received() - before, echoed, "each byte came there once");
        scene.site.wait_until_ready();
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_device_in_a_black_hole_loses_its_session_and_no_other_does() {
    Scene::test(|scene| {
        let old = "spare_life_ms = 2000";
        let new = "spare_life_ms = 2000\nkeepalive_ms = 1000\nuser_timeout_ms = 2000";
        scene.site.configure_gateway(old, new);
        scene.site.restart_the_gateway();
        let witnesses = Witnesses::start(scene, WITNESSES);
        let mut lost = scene.on_the_internet(|| scene.device.open().expect("it is taken"));
        scene.on_the_internet(|| lost.exchange(MESSAGE)).expect("it lives");
        let rule = format!("ip saddr 198.18.0.2 tcp sport {}", lost.port());
        let hole = scene.site.network.swallow_at_the_gateway(&rule);
        wait_for("the gateway has ended that session", KNOWN_AFTER, || {
            (scene.site.gateway_status().sessions.live == WITNESSES as u64).then_some(())
        });
        witnesses.wait_for_answers(WITNESSES as u64);
        witnesses.finish();
        drop(hole);
    });
}

// ---- what a host has too little of ----

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_full_disk_stops_no_session_and_the_log_goes_on_once_there_is_room() {
    Scene::test(|scene| {
        let disk = Disk::new(&scene.site.path("small"), "32k");
        scene.site.restart_gateway_logging_to(&disk.0);
        let witnesses = Witnesses::start(scene, WITNESSES);
        let lost = "vestibule_log_lines_dropped_total";
        wait_for("lines are lost", PATIENCE, || {
            for session in scene.open_sessions() {
                scene.on_the_internet(|| session.finish()).expect("a clean end");
            }
            (scene.site.gateway_metric(lost) > 0).then_some(())
        });
        witnesses.wait_for_answers(WITNESSES as u64);
        let log = disk.0.join("gateway.log");
        fs::File::options().write(true).open(&log).and_then(|file| file.set_len(0)).expect("room");
        witnesses.finish();
        wait_for("the log goes on", PATIENCE, || {
            scene.site.gateway.log().contains("session ended").then_some(())
        });
        scene.site.wait_until_at_rest();
        scene.site.restart_the_gateway();
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn when_descriptors_run_out_silent_strangers_give_theirs_to_sessions() {
    Scene::test(|scene| {
        let witnesses = Witnesses::start(scene, WITNESSES);
        let pid = scene.site.gateway.id().to_string();
        let held = scene.site.gateway.footprint().descriptors;
        let limit = |descriptors: usize| {
            let limit = format!("--nofile={descriptors}:20000");
            output(Command::new("prlimit").args(["--pid", &pid, &limit]));
        };
        limit(held + 20);
        let address = SocketAddr::new(DMZ_OUTSIDE, 13_000);
        let dial = || TcpStream::connect(address).expect("the kernel accepts");
        let strangers: Vec<_> = scene.on_the_internet(|| (0..100).map(|_| dial()).collect());
        wait_for("descriptors have run out", PATIENCE, || {
            (scene.site.gateway_metric("vestibule_accepts_failed_total") > 0).then_some(())
        });
        witnesses.wait_for_answers(WITNESSES as u64);
        scene.wait_until_sessions_flow("the descriptors ran out", Instant::now());
        drop(strangers);
        limit(20_000);
        witnesses.finish();
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn peers_that_do_not_read_stay_within_a_small_memory() {
    /// Sessions that are blocked: at most 0.8 MB each were seen at a gateway, in process and kernel.
    const BLOCKED: usize = 150;
    Scene::test(|scene| {
        scene.site.restart_the_gateway();
        let cage = Cage::new(256 << 20);
        cage.hold(scene.site.gateway.id());
        let witnesses = Witnesses::start(scene, WITNESSES);
        let blocked: Vec<_> = scene.on_the_internet(|| {
            let open = |_| scene.device.open().expect("the gateway takes it");
            let sessions: Vec<_> = (0..BLOCKED).map(open).collect();
            let floods = sessions.into_iter().map(|mut session| {
                spawn(move || {
                    session.send_until_stuck();
                    session
                })
            });
            let floods: Vec<_> = floods.collect();
            floods.into_iter().map(|thread| thread.join().expect("it is stuck")).collect()
        });
        println!("{}", scene.site.gateway.footprint());
        witnesses.wait_for_answers(10 * WITNESSES as u64);
        scene.wait_until_sessions_flow("all were stuck", Instant::now());
        drop(blocked);
        witnesses.finish();
        // The firewall takes some of the gateway's resets for strays, since both directions were full. The
        // server then hears of it when it probes the shut window again, after up to two minutes.
        wait_for("the server has ended every session", 3 * PATIENCE, || {
            (scene.site.server_status().sessions.live == 0).then_some(())
        });
        scene.site.wait_until_at_rest();
        scene.site.restart_the_gateway();
    });
}

/// A file system of a few pages, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn new(path: &Path, size: &str) -> Self {
        fs::create_dir(path).expect("a new folder");
        let size = format!("size={size}");
        output(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path));
        Self(path.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: after a panic the gateway still has its log there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A bound on the memory of what is in it (cgroups, version 1 or 2).
struct Cage(PathBuf);

impl Cage {
    fn new(bytes: u64) -> Self {
        let name = format!("vestibule-test-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let (parent, limit) = if first.exists() {
            (first, "memory.limit_in_bytes")
        } else {
            let second = Path::new("/sys/fs/cgroup");
            // Where it is on already, or the kernel has none, the write of the limit says so.
            let _ = fs::write(second.join("cgroup.subtree_control"), "+memory");
            (second, "memory.max")
        };
        let cage = parent.join(name);
        fs::create_dir(&cage).expect("root may make a control group");
        fs::write(cage.join(limit), bytes.to_string()).expect("the kernel bounds memory");
        Self(cage)
    }

    /// What the process allocates from now on counts.
    fn hold(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it runs");
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Fails while a process is in it, as after a panic.
        let _ = fs::remove_dir(&self.0);
    }
}
