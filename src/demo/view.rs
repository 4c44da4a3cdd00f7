//! What the viewer reads: figures in, text out. No line is wider than a terminal of 80 columns,
//! unless a path is long.

use std::path::Path;
use std::time::Duration;

use super::addresses::Addresses;
use super::figures::{Figures, Throughput};
use super::setup::YOU;
use super::tally::Counts;
use crate::telemetry::status::{bytes, grouped, micros};

/// All that the viewer watches.
#[derive(Debug, Clone, Default)]
pub(super) struct Scene {
    /// Since the devices started.
    pub(super) elapsed: Duration,
    /// What the gateway and the kernel tell.
    pub(super) figures: Figures,
    /// Between the last two looks.
    pub(super) throughput: Throughput,
    /// The most connections that the gateway was seen to have opened.
    pub(super) most_opened: usize,
    /// What the devices tell.
    pub(super) counts: Counts,
}

/// Who is where. An arrow points the way in which a connection is opened.
pub(super) fn picture(addresses: &Addresses) -> String {
    let Addresses { tls, plain, backend, .. } = addresses;
    let (tls, plain) = (tls.to_string(), plain.to_string());
    let picture = format!(
        "\x20 internet                       DMZ               firewall  LAN
  laptop-1, -2, -3 --- TLS ----> gateway              |
  kiosk, by an agent - TLS ----> {tls:<15} <----|---- server ---> backend
  scanner ------------ plain --> {plain:<15}      |{backend:>24}
Arrows point the way a connection is opened. The firewall is only drawn here.
"
    );
    if addresses.taken.is_empty() {
        return picture;
    }
    let taken = addresses.taken.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    picture + &format!("Usual ports taken ({taken}): others were chosen.\n")
}

/// What to try by hand. `program` is how this program is called.
pub(super) fn commands(addresses: &Addresses, folder: &Path, program: &Path) -> String {
    let Addresses { tls, plain, forward, gateway_telemetry, .. } = addresses;
    let (folder, program, port) = (folder.display(), program.display(), tls.port());
    format!(
        "\
Try it from another terminal (logs, configurations and certificates are there):
  cd {folder}
  curl --cacert gateways-ca.crt --cert {YOU}.crt --key {YOU}.key \\
       https://localhost:{port}/
  curl http://{forward}/    # by the agent, as the kiosk
  curl http://{plain}/   # plain, as an old agent
  {program} status --address {gateway_telemetry}
  curl http://{gateway_telemetry}/metrics
"
    )
}

/// The live view on a terminal.
pub(super) fn lines(scene: &Scene) -> String {
    let Scene { figures, throughput, counts, .. } = scene;
    let text = format!(
        "\
sessions     {} live, {} since the start
invitations  {} sent, {} claimed; needed none, by a spare: {}
new session  {}
throughput   up {}/s, down {}/s
verified     up {}, down {}; errors: {}
",
        figures.live,
        grouped(figures.sessions),
        grouped(figures.invitations_sent),
        grouped(figures.invitations_claimed),
        grouped(figures.over_spares),
        latency(figures),
        bytes(throughput.up),
        bytes(throughput.down),
        bytes(counts.verified_up),
        bytes(counts.verified_down),
        errors(counts),
    );
    let gateway = figures.sockets.map_or_else(String::new, |sockets| {
        let (open, opened) = (sockets.accepted + sockets.opened, sockets.opened);
        format!("gateway      {open} connections open; it opened itself: {opened}\n")
    });
    let seconds = scene.elapsed.as_secs();
    text + &gateway + &format!("{seconds} s so far; Ctrl-C ends it\n")
}

/// The same on one line, where there is no terminal.
pub(super) fn line(scene: &Scene) -> String {
    let Scene { figures, throughput, counts, .. } = scene;
    let opened = figures.sockets.map_or_else(String::new, |sockets| {
        format!("; opened by the gateway itself: {}", sockets.opened)
    });
    format!(
        "{:>3} s  sessions {} live, {} in all; invitations {} sent, {} claimed; by spares {}; \
         new session {}; up {}/s, down {}/s; errors: {}{opened}\n",
        scene.elapsed.as_secs(),
        figures.live,
        grouped(figures.sessions),
        grouped(figures.invitations_sent),
        grouped(figures.invitations_claimed),
        grouped(figures.over_spares),
        latency(figures),
        bytes(throughput.up),
        bytes(throughput.down),
        errors(counts),
    )
}

/// What is printed at the end.
pub(super) fn summary(scene: &Scene) -> String {
    let Scene { figures, counts, .. } = scene;
    let text = format!(
        "\
Summary, after {:.1} s
  sessions     {}, each over a connection that the server opened
  verified     up {}, down {}, by length and SHA-256; errors: {}
  new session  {}, from accept to joined
",
        scene.elapsed.as_secs_f64(),
        grouped(figures.sessions),
        bytes(counts.verified_up),
        bytes(counts.verified_down),
        errors(counts),
        latency(figures),
    );
    let gateway = figures.sockets.map_or_else(String::new, |_| {
        let most = scene.most_opened;
        format!("  gateway      opened itself: {most} connections (/proc, each second)\n")
    });
    text + &gateway
}

/// What to look at after a demo that went well.
pub(super) fn next_steps(program: &Path) -> String {
    let program = program.display();
    format!(
        "\
Next
  README.md             from here to three hosts
  {program} pki --help
                        certificates of your own, in one command each
  deploy/gateway.toml   the configurations with every key explained; server.toml
                        and agent.toml are beside it
"
    )
}

fn latency(figures: &Figures) -> String {
    match (figures.p50_us, figures.p99_us) {
        (Some(p50), Some(p99)) => format!("p50 {}, p99 {}", micros(p50), micros(p99)),
        _ => "not measured yet".to_owned(),
    }
}

fn errors(counts: &Counts) -> String {
    match &counts.last_error {
        Some(last) => format!("{}, the last: {last}", grouped(counts.errors)),
        None => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::addresses;
    use super::super::sockets::Sockets;
    use super::*;

    fn scene() -> Scene {
        Scene {
            elapsed: Duration::from_hours(1),
            figures: Figures {
                live: 5,
                sessions: 123_456,
                invitations_sent: 123_456,
                invitations_claimed: 123_456,
                over_spares: 123_456,
                p50_us: Some(4_200),
                p99_us: Some(11_000),
                bytes_up: 5_000_000,
                bytes_down: 5_000_000,
                sockets: Some(Sockets { listening: 5, accepted: 12, opened: 0 }),
            },
            throughput: Throughput { up: 5_300_000, down: 6_100_000 },
            most_opened: 0,
            counts: Counts {
                visits: 123_456,
                verified_up: 999_000_000,
                verified_down: 999_000_000,
                ..Counts::default()
            },
        }
    }

    #[test]
    fn all_of_it_fits_a_terminal_of_80_by_24() {
        let (mut addresses, _backend) = addresses::choose().expect("ports");
        addresses.taken = vec![13000, 14000, 8081, 9113, 9114, 8080];
        let (folder, program) = (Path::new("/tmp/vestibule-demo-AbCdEf"), Path::new("vestibule"));
        let screen = picture(&addresses)
            + "\n"
            + &commands(&addresses, folder, program)
            + "\n"
            + &lines(&scene());
        assert!(screen.lines().count() < 24, "{screen}");
        for line in screen.lines().chain(summary(&scene()).lines()) {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(next_steps(program).lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn the_line_without_a_terminal_is_one_line() {
        assert_eq!(line(&scene()).lines().count(), 1);
    }

    #[test]
    fn nothing_is_said_of_the_gateways_sockets_where_they_are_not_known() {
        let mut scene = scene();
        scene.figures.sockets = None;
        for text in [lines(&scene), line(&scene), summary(&scene)] {
            assert!(!text.contains("itself"), "{text}");
        }
    }

    #[test]
    fn the_last_error_is_shown() {
        let mut scene = scene();
        scene.counts.errors = 2;
        scene.counts.last_error = Some("laptop-1.demo: no connection".to_owned());
        assert!(lines(&scene).contains("errors: 2, the last: laptop-1.demo: no connection"));
    }
}
