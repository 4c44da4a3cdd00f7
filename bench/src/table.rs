//! Results as tables in Markdown, for the terminal and the README alike.

use std::fmt::Write;

use crate::figures::{Figure, Part, Subject, metrics, of, processes, reference};
use crate::results::Results;
use crate::scenario::{Scenario, Size};

/// All scenarios that have samples, and everything that went wrong.
pub(crate) fn render(results: &Results) -> String {
    let mut text = results.machine.to_string();
    for (name, version) in &results.peers {
        writeln!(text, "{name}: {version}").expect("writing to a string does not fail");
    }
    text.push_str(&explanation(results.size));
    for scenario in Scenario::ALL {
        if results.samples.iter().any(|sample| sample.scenario == scenario) {
            text.push('\n');
            text.push_str(&scenario_table(results, scenario));
        }
    }
    text.push_str(&complaints(results));
    text
}

/// What the cells are.
pub(crate) fn explanation(size: Size) -> String {
    let mut text =
        "Medians over the runs, with the smallest and largest in parentheses.\n".to_owned();
    if size == Size::Quick {
        text.push_str("Taken with --quick: these are no figures, only a sign that all works.\n");
    }
    text
}

/// A row for each process of each target.
fn scenario_table(results: &Results, scenario: Scenario) -> String {
    let mut header = vec!["target".to_owned(), "process".to_owned()];
    header.extend(metrics(scenario).iter().map(|metric| metric.title.to_owned()));
    let reference = reference(scenario, results);
    header.insert(3, format!("÷ {}", reference.name()));
    header.push("clean runs".to_owned());

    let mut rows = vec![header];
    for target in results.targets() {
        let taken = of(results, scenario, target).count();
        if taken == 0 {
            continue;
        }
        let clean = of(results, scenario, target).filter(|sample| sample.is_clean()).count();
        let taken_of = of(results, scenario, target).map(processes);
        let longest = taken_of.max_by_key(|processes| processes.len()).unwrap_or_default();
        let mut parts: Vec<(Part, String)> = Part::ALL
            .into_iter()
            .filter(|part| *part != Part::Together || longest.len() > 1)
            .filter_map(|part| Some((part, part.usage(longest)?.name)))
            .collect();
        if parts.is_empty() {
            // A target that never got so far still has its row.
            parts.push((Part::Gateway, "-".to_owned()));
        }
        for (part, name) in parts {
            let subject = |metric| Subject { scenario, target, part, metric };
            let multiple = metrics(scenario)
                .first()
                .and_then(|first| subject(*first).over(subject(*first).on(reference), results));
            let mut row = vec![target.name().to_owned(), name];
            let figures = metrics(scenario).iter();
            row.extend(figures.map(|m| cell(subject(*m).figure(results), m.decimals)));
            row.insert(3, cell(multiple, 2));
            row.push(format!("{clean} of {taken}"));
            rows.push(row);
        }
    }
    format!("### {}\n\n{}", scenario.name(), align(&rows))
}

/// A median with its extremes, or a dash.
pub(crate) fn cell(figure: Option<Figure>, decimals: usize) -> String {
    let Some(Figure { median, min, max }) = figure else { return "-".to_owned() };
    let [median, min, max] = [median, min, max].map(|value| format!("{value:.decimals$}"));
    if min == max { median } else { format!("{median} ({min}-{max})") }
}

/// Columns as wide as their widest cell.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, &width) in row.iter().zip(&widths) {
            text.push_str("| ");
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 1));
        }
        text.push_str("|\n");
        if number == 0 {
            text.extend(widths.iter().map(|&width| format!("|{}", "-".repeat(width + 2))));
            text.push_str("|\n");
        }
    }
    text
}

fn complaints(results: &Results) -> String {
    let mut text = String::new();
    for sample in &results.samples {
        for complaint in sample.complaints() {
            let (scenario, target) = (sample.scenario.name(), sample.target.name());
            let run = sample.run + 1;
            writeln!(text, "\nERROR in {scenario} on {target}, run {run}: {complaint}")
                .expect("writing to a string does not fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{bulk, results};
    use crate::results::Outcome;
    use crate::target::{BuildName, Target};

    fn rows(results: &Results) -> Vec<String> {
        let text = render(results);
        let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(squeeze).filter(|line| line.starts_with("| ")).skip(1).collect()
    }

    #[test]
    fn the_multiple_compares_runs_that_were_taken_side_by_side() {
        // A machine that was twice as slow in the second run changes no multiple.
        let samples = vec![
            bulk(Target::Vestibule, "gateway", 0, 3),
            bulk(Target::Floor, "floor", 0, 2),
            bulk(Target::Floor, "floor", 1, 4),
            bulk(Target::Vestibule, "gateway", 1, 6),
        ];
        assert_eq!(
            rows(&results(samples)),
            [
                "| vestibule | gateway | 2.197 (1.465-2.930) | 1.50 | 0.512 | 4.000 | 2 of 2 |",
                "| floor | floor | 1.465 (0.977-1.953) | 1.00 | 0.512 | 4.000 | 2 of 2 |",
            ]
        );
    }

    #[test]
    fn builds_have_their_rows_and_are_compared_with_the_first_where_the_usual_one_is_missing() {
        let samples = vec![
            bulk(Target::Build(BuildName("h8")), "gateway", 0, 2),
            bulk(Target::Vestibule, "gateway", 0, 4),
        ];
        let results = results(samples);
        assert!(render(&results).contains("÷ vestibule"));
        assert_eq!(
            rows(&results),
            [
                "| vestibule | gateway | 1.953 | 1.00 | 0.512 | 4.000 | 1 of 1 |",
                "| h8 | gateway | 0.977 | 0.50 | 0.512 | 4.000 | 1 of 1 |",
            ]
        );
    }

    #[test]
    fn a_sample_that_went_wrong_is_shown_and_is_in_no_figure() {
        let mut short = bulk(Target::Vestibule, "gateway", 0, 1);
        if let Outcome::Measured { load, .. } = &mut short.outcome {
            load.bytes_up -= 1;
        }
        let mut failed = bulk(Target::Floor, "floor", 0, 1);
        failed.outcome = Outcome::Failed { what: "no port".to_owned() };
        let results = results(vec![short, failed]);
        assert_eq!(
            rows(&results),
            [
                "| vestibule | gateway | - | - | - | - | 0 of 1 |",
                "| floor | - | - | - | - | - | 0 of 1 |"
            ]
        );
        let text = render(&results);
        assert!(text.contains("ERROR in bulk-up on floor, run 1: no port"), "{text}");
        assert!(text.contains("on vestibule, run 1: not all of the work was done"), "{text}");
        assert_eq!(results.unclean(), 2);
    }

    #[test]
    fn a_process_that_does_not_end_is_an_error_and_its_figures_stay() {
        let mut stuck = bulk(Target::Floor, "floor", 0, 2);
        if let Outcome::Measured { afterwards, .. } = &mut stuck.outcome {
            *afterwards = Some("still ran".to_owned());
        }
        let results = results(vec![stuck]);
        assert_eq!(rows(&results), ["| floor | floor | 0.977 | 1.00 | 0.512 | 4.000 | 0 of 1 |"]);
        assert_eq!(results.unclean(), 1);
    }

    #[test]
    fn kept_results_print_the_same_table() {
        let results = results(vec![bulk(Target::Vestibule, "gateway", 0, 3)]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("results.json");
        results.write(&path).expect("the folder is writable");
        assert_eq!(render(&Results::read(&path).expect("it was just written")), render(&results));
    }
}
