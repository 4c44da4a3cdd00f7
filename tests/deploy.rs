//! What is shipped beside the program fits the program: example configurations, alert rules, and the
//! tables that operators read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use vestibule::config;
use vestibule::relay::CloseReason;
use vestibule::telemetry::ledger::Ledger;
use vestibule::telemetry::metrics::{self, Snapshot};
use vestibule::telemetry::status::Role;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn words() -> BTreeSet<&'static str> {
    CloseReason::all().map(CloseReason::word).collect()
}

/// Runs of letters, digits and `_` that begin with one of the prefixes.
fn names<'t>(text: &'t str, prefixes: &[&str]) -> BTreeSet<&'t str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        .collect()
}

/// Every name under which a sample may stand on the metrics page.
fn metric_names() -> BTreeSet<String> {
    let page = metrics::render(Snapshot {
        role: Role::Gateway,
        event_loop: "io_uring",
        relay: "userspace",
        workers: Vec::new(),
        figures: Ledger::new(1).figures(),
        waiting_agents: 0,
        invitations: Vec::new(),
        signal_connections: Vec::new(),
        certificates: Vec::new(),
        lists: Vec::new(),
        lists_brought: Vec::new(),
        reloads: Vec::new(),
        configuration_read: 0,
        operator_requests: Vec::new(),
    });
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let families = types.filter_map(|family| family.split_once(' '));
    families
        .flat_map(|(name, kind)| {
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                _ => &[""],
            };
            suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
        })
        .collect()
}

/// The words in backquotes in the first column of the table under that heading.
fn first_column(text: &str, heading: &str) -> Vec<String> {
    let (_, section) = text.split_once(heading).expect("the heading is there");
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    let cells =
        rows.take_while(|line| line.starts_with('|')).filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

#[test]
fn the_example_configurations_are_sound() {
    for file in ["gateway.toml", "server.toml", "agent.toml"] {
        let path = Path::new("deploy").join(file);
        let text = read(&format!("deploy/{file}"));
        let problems = match file {
            "gateway.toml" => config::parse_gateway(&text, &path).map(|read| read.warnings),
            "server.toml" => config::parse_server(&text, &path).map(|read| read.warnings),
            _ => config::parse_agent(&text, &path).map(|read| read.warnings),
        };
        let warnings = problems.unwrap_or_else(|problems| panic!("{problems}"));
        assert!(warnings.is_empty(), "{file}: {warnings:?}");
    }
}

#[test]
fn every_metric_of_the_alert_rules_and_the_operators_guide_exists() {
    let known = metric_names();
    for file in ["deploy/prometheus/vestibule.rules.yml", "deploy/OPERATIONS.md"] {
        let text = read(file);
        let used = names(&text, &["vestibule_", "process_"]);
        assert!(!used.is_empty(), "{file}");
        for name in used {
            assert!(known.contains(name), "{file}: there is no metric {name}; known: {known:#?}");
        }
    }
}

#[test]
fn every_metric_stands_in_the_table_of_the_readme() {
    let readme = read("README.md");
    let listed: BTreeSet<String> = first_column(&readme, "### Metrics").into_iter().collect();
    let mut expected = metric_names();
    expected.retain(|name| !name.ends_with("_sum") && !name.ends_with("_count"));
    assert_eq!(listed, expected);
}

#[test]
fn every_reason_of_the_alert_rules_exists() {
    let rules = read("deploy/prometheus/vestibule.rules.yml");
    let lists = rules.split("reason=~\"").skip(1).filter_map(|rest| rest.split('"').next());
    let used: Vec<_> = lists.flat_map(|list| list.split('|')).collect();
    assert!(!used.is_empty());
    for word in used {
        assert!(words().contains(word), "there is no close reason {word}");
    }
}

#[test]
fn the_readme_explains_every_close_reason_once_and_no_other() {
    let listed = first_column(&read("README.md"), "### Close reasons");
    let unique: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    assert_eq!(unique.len(), listed.len(), "a word stands twice: {listed:?}");
    assert_eq!(unique, words());
}

#[test]
fn every_test_that_a_page_names_exists() {
    let known = tests();
    for page in ["deploy/THREAT-MODEL.md", "tests/PITFALLS.md"] {
        let text = read(page);
        // Parts of the sandbox, calls and settings are shorter.
        let is_test = |word: &&str| {
            word.matches('_').count() >= 3
                && word.to_lowercase() == **word
                && !word.starts_with("vestibule_")
        };
        let named: Vec<_> = text.split('`').skip(1).step_by(2).filter(is_test).collect();
        assert!(named.len() > 10, "{page}");
        for name in named {
            assert!(known.contains(name), "{page}: there is no test {name}");
        }
    }
}

/// The names of all tests.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests")];
    let mut names = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of ours") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let code = fs::read_to_string(path).expect("a file of ours");
                // `#[tokio::test]` as well.
                names.extend(code.split("test]").skip(1).filter_map(function_name));
            }
        }
    }
    names
}

/// The name of the first function in a piece of code.
fn function_name(code: &str) -> Option<String> {
    let (_, name) = code.split_once("fn ")?;
    Some(name.split(['(', '<']).next()?.to_owned())
}

#[test]
fn the_operators_guide_names_no_reason_that_does_not_exist() {
    let known = words();
    for word in first_column(&read("deploy/OPERATIONS.md"), "## Symptoms") {
        assert!(known.contains(word.as_str()), "there is no close reason {word}");
    }
}
