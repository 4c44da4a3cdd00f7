//! A file that somebody wrote for one of the roles: a configuration or problems, each of which says where,
//! and never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vestibule::config::{
    Checked, Problem, Problems, guess_role, parse_agent, parse_gateway, parse_server,
};

fn check<T>(text: &str, parsed: Result<Checked<T>, Problems>) {
    let problems = match &parsed {
        Ok(checked) => &checked.warnings[..],
        Err(problems) => problems.problems(),
    };
    assert!(parsed.is_ok() || !problems.is_empty(), "an error without a word");
    let lines = text.split('\n').count();
    let mut last = 0;
    for problem in problems {
        let Problem { file, place, message } = problem;
        assert!(!message.is_empty() && problem.to_string().contains(&file.display().to_string()));
        match place {
            Some(place) => {
                assert!((1..=lines).contains(&place.line) && place.column >= 1, "{problem}");
                assert!(last <= place.line, "in the order of the file");
                last = place.line;
            }
            // What is not there stands in no line, and what there is too much of in many.
            None => {
                assert!(message.contains("missing") || message.contains("at most"), "{problem}")
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = Path::new("etc/vestibule.toml");
    check(text, parse_gateway(text, file));
    check(text, parse_server(text, file));
    check(text, parse_agent(text, file));
    guess_role(text);
});
