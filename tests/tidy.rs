//! The rules of the house that a machine can see, as a test: see "How the code is written" in
//! `src/ARCHITECTURE.md`.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;

/// Modules whose decisions are pure, and what they may not name: sockets, threads, clocks, effects.
const PURE: [&str; 8] = [
    "src/wire",
    "src/relay",
    "src/control",
    "src/gateway/admission.rs",
    "src/sandbox/needs.rs",
    "src/operator/blocks.rs",
    "src/operator/message.rs",
    "src/operator/selection.rs",
];
const IMPURE: [&str; 9] = [
    "Instant::now",
    "SystemTime",
    "std::thread",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "tokio",
    "crate::engine",
    "crate::uring",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of ours, relative to the root, with its text.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["src", "bench/src", "tests"].map(|dir| root().join(dir)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap_or(Path::new("")).display().to_string();
                files.push((name, fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    assert!(files.len() > 50, "the walk sees the sources");
    files
}

fn assert_none(found: &[String], rule: &str) {
    let mut list = String::new();
    for line in found {
        let _ = writeln!(list, "  {line}");
    }
    assert!(found.is_empty(), "{rule}:\n{list}");
}

/// The lines before the tests inside a file.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let long: Vec<String> = sources()
        .iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_FILE_LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert_none(&long, "files over 500 lines: split them where the subject changes");
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut long = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if !is_function(line) || is_declaration(&lines[start..]) {
                continue;
            }
            // rustfmt puts the closing brace under the beginning of the function.
            let end = format!("{}}}", " ".repeat(indent));
            let len = lines[start..].iter().position(|line| *line == end).map_or(1, |at| at + 1);
            if len > MAX_FUNCTION_LINES {
                long.push(format!("{name}:{}: {len} lines", start + 1));
            }
        }
    }
    assert_none(&long, "functions over 70 lines: name their steps");
}

fn is_function(line: &str) -> bool {
    let line = line.trim_start();
    // `pub(super)` has a bracket before that of the parameters.
    let rest =
        line.strip_prefix("pub(").and_then(|rest| rest.split_once(')')).map(|(_, rest)| rest);
    let words = rest.unwrap_or(line).split(['(', '<']).next().unwrap_or_default();
    words.split_whitespace().any(|word| word == "fn") && !line.starts_with("//")
}

/// A method of a trait without a body.
fn is_declaration(lines: &[&str]) -> bool {
    let end = lines.iter().find(|line| line.ends_with(['{', ';', '}']));
    end.is_some_and(|line| line.ends_with(';'))
}

#[test]
fn unsafe_code_is_in_the_ring_alone() {
    let found: Vec<String> = sources()
        .iter()
        .filter(|(name, _)| name.starts_with("src/") && !name.starts_with("src/uring/"))
        .filter(|(_, text)| text.contains("unsafe {") || text.contains("unsafe fn"))
        .map(|(name, _)| name.clone())
        .collect();
    assert_none(&found, "unsafe outside src/uring");
}

#[test]
fn decisions_name_no_sockets_threads_or_clocks() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if !PURE.iter().any(|pure| name.starts_with(pure)) || name.ends_with("tests.rs") {
            continue;
        }
        for word in IMPURE {
            if without_tests(&text).contains(word) {
                found.push(format!("{name} names {word}"));
            }
        }
    }
    assert_none(&found, "pure modules take bytes and `now`, and give actions");
}

#[test]
fn a_module_uses_those_above_it_only() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("the library");
    let order: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut found = Vec::new();
    for (name, text) in sources() {
        let Some(module) = name.strip_prefix("src/").and_then(|rest| rest.split(['/', '.']).next())
        else {
            continue;
        };
        let Some(place) = order.iter().position(|known| *known == module) else { continue };
        for below in &order[place + 1..] {
            if without_tests(&text).contains(&format!("crate::{below}::")) && !is_test_file(&name) {
                found.push(format!("{name} uses crate::{below}"));
            }
        }
    }
    assert_none(&found, "modules that use one below them in src/lib.rs");
}

fn is_test_file(name: &str) -> bool {
    name.contains("/tests") || name.ends_with("testing.rs")
}

#[test]
fn nothing_is_left_for_later_without_a_reason() {
    // Put together here, so that this file does not find itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let found: Vec<String> = sources()
        .iter()
        .filter(|(_, text)| marks.iter().any(|mark| text.contains(mark)))
        .map(|(name, _)| name.clone())
        .collect();
    assert_none(&found, "marks of unfinished work");
}
