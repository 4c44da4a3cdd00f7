//! Processes that are killed, and a network that swallows packets without a word.

use std::time::{Duration, Instant};

use super::process::{PATIENCE, wait_for};
use super::scene::{KNOWN_AFTER, MESSAGE, Scene};
use super::site::{Baseline, Site};

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn after_the_server_is_killed_and_started_again_sessions_flow_and_the_gateway_holds_nothing() {
    Scene::test(|scene| {
        let baseline = Baseline::of(&scene.site.gateway);
        let sessions = scene.open_sessions();
        scene.site.server.kill();
        scene.expect_broken(sessions);
        wait_for("the gateway knows that its server is gone", KNOWN_AFTER, || {
            (!scene.site.gateway_is_ready()).then_some(())
        });
        let restarted = Instant::now();
        scene.site.start_server();
        scene.wait_until_sessions_flow("the server was started again", restarted);
        scene.site.wait_until_ready();
        scene.site.wait_until_at_rest();
        baseline.wait_for_return(&scene.site.gateway);
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn after_the_gateway_is_killed_and_started_again_sessions_flow_and_the_server_holds_nothing() {
    Scene::test(|scene| {
        let baseline = Baseline::of(&scene.site.server);
        let sessions = scene.open_sessions();
        scene.site.gateway.kill();
        scene.expect_broken(sessions);
        wait_for("the server knows that its gateway is gone", KNOWN_AFTER, || {
            (!scene.site.server_is_connected()).then_some(())
        });
        let restarted = Instant::now();
        scene.site.start_gateway();
        scene.wait_until_sessions_flow("the gateway was started again", restarted);
        scene.site.wait_until_ready();
        scene.site.wait_until_at_rest();
        baseline.wait_for_return(&scene.site.server);
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_cut_link_is_known_to_both_ends_and_sessions_outlive_it() {
    Scene::test(|scene| {
        let baselines = [Baseline::of(&scene.site.gateway), Baseline::of(&scene.site.server)];
        let mut sessions = scene.open_sessions();
        let start = Instant::now();
        let cut = scene.site.network.cut();
        wait_for("both ends know that the other is gone", KNOWN_AFTER, || {
            let known = !scene.site.gateway_is_ready() && !scene.site.server_is_connected();
            known.then_some(())
        });
        println!("the cut was known to both ends after {:.2} s", start.elapsed().as_secs_f64());
        drop(cut);
        let restored = Instant::now();
        scene.wait_until_sessions_flow("the link was restored", restored);
        for session in &mut sessions {
            scene.on_the_internet(|| session.exchange(MESSAGE)).expect("it outlives the cut");
        }
        for session in sessions {
            scene.on_the_internet(|| session.finish()).expect("a clean end");
        }
        scene.site.wait_until_ready();
        scene.site.wait_until_at_rest();
        baselines[0].wait_for_return(&scene.site.gateway);
        baselines[1].wait_for_return(&scene.site.server);
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn silence_in_one_direction_of_the_signal_connection_alone_is_known_to_both_ends() {
    Scene::test(|scene| {
        let mut sessions = scene.open_sessions();
        for (direction, interface, port) in
            [("outward", "lan", "sport"), ("inward", "dmz", "dport")]
        {
            let old = scene.site.signal_connection().expect("it is up");
            let rule = format!("iifname \"{interface}\" tcp {port} {}", old.port());
            let start = Instant::now();
            let silence = scene.site.network.swallow(&rule);
            // The server dials again only once it knows; the gateway may still believe in the old.
            let known = wait_for("both ends have another connection only", KNOWN_AFTER, || {
                let links = scene.site.gateway_status().signal_connections;
                let forgotten = links.iter().all(|link| link.address != Some(old));
                let replaced = links.iter().any(|link| link.address.is_some());
                (forgotten && replaced && scene.site.server_is_connected()).then(|| start.elapsed())
            });
            println!("silence {direction} was known after {:.2} s", known.as_secs_f64());
            drop(silence);
            for session in &mut sessions {
                scene.on_the_internet(|| session.exchange(MESSAGE)).expect("it never noticed");
            }
        }
        for session in sessions {
            scene.on_the_internet(|| session.finish()).expect("a clean end");
        }
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn on_sigterm_both_end_well_and_what_lives_may_finish() {
    Scene::test(|scene| {
        let mut session = scene.open_sessions().pop().expect("one of many");
        scene.site.server.ask_to_end();
        wait_for("the gateway sends no more agents to it", KNOWN_AFTER, || {
            (!scene.site.gateway_is_ready()).then_some(())
        });
        scene.on_the_internet(|| session.exchange(MESSAGE)).expect("it may finish");
        scene.on_the_internet(|| session.finish()).expect("a clean end");
        scene.site.server.wait_for_end();
        scene.site.start_server();
        scene.site.wait_until_ready();
        scene.site.gateway.ask_to_end();
        scene.site.gateway.wait_for_end();
        scene.site.start_gateway();
        scene.wait_until_sessions_flow("the gateway was told to end", Instant::now());
        scene.site.wait_until_ready();
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn spares_that_a_firewall_forgot_are_known_to_be_dead_at_both_ends() {
    Scene::test(|scene| {
        scene.site.restart_gateway(Duration::from_secs(600));
        for session in scene.open_sessions() {
            scene.on_the_internet(|| session.finish()).expect("a clean end");
        }
        let spares = |site: &Site| {
            [site.gateway_status(), site.server_status()].map(|status| {
                status.signal_connections.iter().map(|signal| signal.spares).sum::<u64>()
            })
        };
        wait_for("both ends hold spares", PATIENCE, || {
            spares(scene.site).iter().all(|count| *count > 0).then_some(())
        });
        let signal = scene.site.signal_connection().expect("it is up").port();
        let start = Instant::now();
        let rule = format!("iifname \"lan\" tcp dport 13000 tcp sport != {signal}");
        let silence = scene.site.network.swallow(&rule);
        wait_for("both ends know that their spares are dead", KNOWN_AFTER, || {
            (spares(scene.site) == [0, 0]).then_some(())
        });
        println!("dead spares were known after {:.2} s", start.elapsed().as_secs_f64());
        drop(silence);
        assert_eq!(scene.site.signal_connection().map(|end| end.port()), Some(signal));
        scene.wait_until_sessions_flow("the firewall let them pass again", Instant::now());
        scene.site.restart_gateway(Duration::from_secs(2));
    });
}
