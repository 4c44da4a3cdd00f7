//! The status page for people.

use std::fmt::Write;
use std::net::SocketAddr;

use super::{Configuration, Count, State, Status};

/// Close reasons shown of each kind; the JSON has them all.
const TOP_REASONS: usize = 5;

/// The page for a terminal: plain text, no colour, whose columns line up. Names that peers chose are
/// shown without their control characters.
pub fn render(status: &Status) -> String {
    let mut page = headline(status);
    section(&mut page, "Listeners", &listeners(status));
    section(&mut page, "Signal connections", &signal_connections(status));
    section(&mut page, "Lists of revoked certificates", &revocation(status));
    section(&mut page, "Now", &now(status));
    section(&mut page, &oldest_title(status), &oldest(status));
    section(&mut page, "Since the start", &totals(status));
    section(&mut page, "Time of each stage", &latencies(status));
    section(&mut page, "Workers", &workers(status));
    section(&mut page, "Sandbox", &sandbox(status));
    page
}

fn headline(status: &Status) -> String {
    let state = match status.state {
        State::Starting => "starting: no session is possible yet",
        State::Ready => "ready",
        State::Draining => "draining: no new sessions",
    };
    format!(
        "vestibule {} {}, {state}\nup {}, process {}, instance {}, on {}, relay {}\n{}",
        status.role.word(),
        printable(&status.version),
        age(status.uptime_s),
        status.pid,
        printable(&status.instance),
        printable(&status.event_loop),
        printable(&status.relay),
        configuration(status),
    )
}

fn configuration(status: &Status) -> String {
    let Configuration { age_s, refused } = &status.configuration;
    let mut lines = format!("configuration read {} ago\n", age(*age_s));
    if let Some(refused) = refused {
        let (age, reason) = (age(refused.age_s), printable(&refused.reason));
        writeln!(lines, "reload refused {age} ago, nothing was changed: {reason}")
            .expect("a String takes all that is written to it");
    }
    lines
}

fn listeners(status: &Status) -> Vec<Row> {
    let row = |listener: &super::Listener| {
        row([&listener.name, &listener.kind, &addresses(&listener.addresses)])
    };
    status.listeners.iter().map(row).collect()
}

fn signal_connections(status: &Status) -> Vec<Row> {
    if status.signal_connections.is_empty() {
        let peer = status.role.peer().word();
        return vec![row([&format!("none: no {peer} is connected, and no session can start")])];
    }
    let row = |signal: &super::SignalConnection| {
        let address = signal.address.map_or_else(|| "not connected".to_owned(), |a| a.to_string());
        let up = signal.up_s.map_or_else(String::new, |up_s| format!("up {}", age(up_s)));
        row([
            &signal.peer,
            &address,
            &up,
            &counted(signal.sessions, "session"),
            &format!("{} waiting", grouped(signal.waiting)),
            &counted(signal.spares, "spare"),
            &signal.services.join(", "),
        ])
    };
    status.signal_connections.iter().map(row).collect()
}

fn revocation(status: &Status) -> Vec<Row> {
    let row = |known: &super::RevocationList| {
        let Some(list) = &known.list else {
            return row([&known.place, &known.ca, "none is here"]);
        };
        let due = match u64::try_from(list.due_in_s) {
            Ok(left) => format!("next due in {}", age(left)),
            Err(_) => format!("stale since {}", age(list.due_in_s.unsigned_abs())),
        };
        let number = match list.number.as_str() {
            "" => String::new(),
            number => format!("number {number}"),
        };
        let entries = format!("{} revoked", grouped(list.entries));
        row([&known.place, &known.ca, &number, &entries, &due, &format!("from {}", list.from)])
    };
    status.revocation.iter().map(row).collect()
}

fn now(status: &Status) -> Vec<Row> {
    let waiting = status.waiting;
    let mut rows = vec![row(["sessions", &grouped(status.sessions.live)])];
    // At a server nobody waits: that is the gateway's to show.
    if waiting.bound > 0 {
        let of = format!("{} of {}", grouped(waiting.agents), grouped(waiting.bound));
        rows.push(row(["agents waiting", &of]));
    }
    let operator = &status.operator;
    if operator.blocks > 0 {
        rows.push(row(["blocked", &grouped(operator.blocks), "see vestibule blocks"]));
    }
    if !operator.drained_servers.is_empty() {
        rows.push(row(["drained", &operator.drained_servers.join(", ")]));
    }
    rows
}

fn oldest_title(status: &Status) -> String {
    let listed = status.sessions.oldest.len() as u64;
    if listed < status.sessions.live {
        format!("Sessions, the oldest {listed}")
    } else {
        "Sessions".to_owned()
    }
}

fn oldest(status: &Status) -> Vec<Row> {
    let row = |session: &super::Session| {
        row([&session.who, &session.service, &session.path, &age(session.age_s)])
    };
    status.sessions.oldest.iter().map(row).collect()
}

fn totals(status: &Status) -> Vec<Row> {
    let totals = &status.totals;
    let ended: u64 = totals.ended.sessions.iter().map(|count| count.count).sum();
    let mut rows = vec![
        row(["connections", &grouped(totals.connections)]),
        row(["to servers", &bytes(totals.bytes_to_server)]),
        row(["to agents", &bytes(totals.bytes_to_agent)]),
        row(["sessions ended", &grouped(ended), &top(&totals.ended.sessions)]),
    ];
    let lost: u64 = totals.ended.connections.iter().map(|count| count.count).sum();
    if lost > 0 {
        rows.push(row(["without a session", &grouped(lost), &top(&totals.ended.connections)]));
    }
    rows
}

fn latencies(status: &Status) -> Vec<Row> {
    if status.latencies.is_empty() {
        return Vec::new();
    }
    let head = row(["", "p50", "p99", "longest", "count"]);
    let row = |latency: &super::Latency| {
        row([
            &latency.stage.replace('_', " "),
            &micros(latency.p50_us),
            &micros(latency.p99_us),
            &micros(latency.max_us),
            &grouped(latency.count),
        ])
    };
    std::iter::once(head).chain(status.latencies.iter().map(row)).collect()
}

fn workers(status: &Status) -> Vec<Row> {
    let row = |(index, worker): (usize, &super::Worker)| {
        row([
            &index.to_string(),
            &counted(worker.connections, "connection"),
            &counted(worker.sessions, "session"),
            &format!("{} relayed", bytes(worker.bytes)),
        ])
    };
    status.workers.iter().enumerate().map(row).collect()
}

/// What is on in one line, and each other part in one of its own.
fn sandbox(status: &Status) -> Vec<Row> {
    let (on, off): (Vec<_>, Vec<_>) =
        status.sandbox.iter().partition(|part| part.why_off.is_none());
    let on: Vec<&str> = on.iter().map(|part| part.part.as_str()).collect();
    let mut rows = Vec::new();
    if !on.is_empty() {
        rows.push(row(["on", &on.join(", ")]));
    }
    rows.extend(off.iter().map(|part| {
        let why = part.why_off.as_deref().unwrap_or_default();
        row(["off", &format!("{}: {why}", part.part)])
    }));
    rows
}

type Row = Vec<String>;

fn row<const N: usize>(cells: [&str; N]) -> Row {
    cells.map(printable).to_vec()
}

/// Appends a title and its rows, each column as wide as its widest cell; nothing where there are none.
fn section(page: &mut String, title: &str, rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| column + 1 < row.len());
        cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    page.push('\n');
    page.push_str(title);
    page.push('\n');
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            write!(line, "  {cell:width$}").expect("a String takes all that is written to it");
        }
        page.push_str(line.trim_end());
        page.push('\n');
    }
}

/// A terminal obeys control characters, and a device may have some in its name.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn addresses(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn top(counts: &[Count]) -> String {
    let shown = counts.iter().take(TOP_REASONS);
    let mut words: Vec<String> =
        shown.map(|count| format!("{} {}", count.reason, grouped(count.count))).collect();
    let rest: u64 = counts.iter().skip(TOP_REASONS).map(|count| count.count).sum();
    if rest > 0 {
        words.push(format!("others {}", grouped(rest)));
    }
    words.join(", ")
}

fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn bytes(count: u64) -> String {
    scaled(count, 1000, &["bytes", "kB", "MB", "GB", "TB", "PB", "EB"])
}

pub(crate) fn micros(us: u64) -> String {
    scaled(us, 1000, &["µs", "ms", "s"])
}

/// Three digits and the largest unit that fits, each unit `step` of the one before it.
fn scaled(value: u64, step: u64, units: &[&str]) -> String {
    let mut unit_value = 1;
    let mut unit = 0;
    while unit + 1 < units.len() && value / unit_value >= step {
        unit_value *= step;
        unit += 1;
    }
    let (whole, name) = (value / unit_value, units[unit]);
    let hundredths = (value % unit_value) / (unit_value / 100).max(1);
    match whole {
        _ if unit == 0 => format!("{whole} {name}"),
        0..10 => format!("{whole}.{hundredths:02} {name}"),
        10..100 => format!("{whole}.{} {name}", hundredths / 10),
        _ => format!("{} {name}", grouped(whole)),
    }
}

/// The two largest units of an age.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if minutes == 0 => format!("{seconds} s"),
        () if hours == 0 => format!("{minutes} min {} s", seconds % 60),
        () if days == 0 => format!("{hours} h {} min", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Latency, sample};
    use super::*;

    #[test]
    fn the_page_of_a_busy_gateway_reads_as_intended() {
        assert_eq!(render(&sample()), include_str!("page_of_a_busy_gateway.txt"));
    }

    #[test]
    fn the_page_says_what_is_missing_when_nobody_is_connected() {
        let mut status = sample();
        status.state = State::Starting;
        status.signal_connections.clear();
        status.sessions = super::super::Sessions::default();
        status.latencies.clear();
        let page = render(&status);
        assert!(page.contains("no server is connected, and no session can start"), "{page}");
        assert!(!page.contains("Time of each stage"), "{page}");
        assert!(!page.contains("\nSessions\n"), "{page}");
    }

    #[test]
    fn the_page_says_why_a_reload_was_refused() {
        let mut status = sample();
        let reason = "/etc/vestibule/gw.crt: expired\x1b[2J".to_owned();
        status.configuration.refused = Some(super::super::RefusedReload { age_s: 61, reason });
        let page = render(&status);
        let line =
            "\nreload refused 1 min 1 s ago, nothing was changed: /etc/vestibule/gw.crt: expired";
        assert!(page.contains(line) && !page.contains('\x1b'), "{page}");
    }

    #[test]
    fn a_devices_name_moves_no_cursor() {
        let mut status = sample();
        status.sessions.oldest[0].who = "dns:a\x1b[2J\r\nb".to_owned();
        let page = render(&status);
        assert!(page.chars().all(|c| c == '\n' || !c.is_control()), "{page:?}");
    }

    #[test]
    fn reasons_beyond_the_most_frequent_are_summed() {
        let count = |reason: &str, count| Count { reason: reason.to_owned(), count };
        let counts = ["a", "b", "c", "d", "e", "f", "g"].map(|reason| count(reason, 10));
        assert_eq!(top(&counts), "a 10, b 10, c 10, d 10, e 10, others 20");
    }

    #[test]
    fn numbers_carry_the_unit_that_fits() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(1_500), "1.50 kB");
        assert_eq!(bytes(12_345_678_901), "12.3 GB");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
        assert_eq!(micros(250), "250 µs");
        assert_eq!(micros(999_999), "999 ms");
        assert_eq!(micros(3_600_000_000), "3,600 s");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(age(59), "59 s");
        assert_eq!(age(3_600 * 50), "2 d 2 h");
    }

    #[test]
    fn columns_of_a_table_line_up() {
        let mut status = sample();
        status.latencies = ["handshake", "accept_to_joined"]
            .map(|stage| Latency {
                stage: stage.to_owned(),
                count: 1,
                p50_us: 90,
                p99_us: 1_000,
                max_us: 20_000_000,
            })
            .to_vec();
        let page = render(&status);
        let longest = |line: &str| line.find("20.0 s");
        let columns: Vec<_> = page.lines().filter_map(longest).collect();
        assert_eq!(columns.len(), 2);
        // The byte of µ's second half is in both lines, so the offsets compare.
        assert_eq!(columns[0], columns[1], "{page}");
    }
}
