//! Results as tables in Markdown, for the terminal and the README alike.

use std::fmt::Write;

use crate::figures::{self, Figure, metrics, multiple, of, processes, reference};
use crate::results::Results;
use crate::scenario::{Scenario, Size};
use crate::target::Target;

/// All scenarios that have samples, and everything that went wrong.
pub(crate) fn render(results: &Results) -> String {
    let mut text = heading(results);
    for scenario in Scenario::ALL {
        if results.samples.iter().any(|sample| sample.scenario == scenario) {
            text.push('\n');
            text.push_str(&scenario_table(results, scenario));
        }
    }
    text.push_str(&complaints(results));
    text
}

fn heading(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "{}, {} cores, Linux {}, load {}; {}\n{} ({}, {}, {} build)\n",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.load_average,
        machine.date,
        machine.vestibule,
        machine.revision,
        machine.rustc,
        machine.profile,
    );
    text.push_str("Medians over the runs, with the smallest and largest in parentheses.\n");
    if results.size == Size::Quick {
        text.push_str("Taken with --quick: these are no figures, only a sign that all works.\n");
    }
    text
}

/// A row for each process of each target.
fn scenario_table(results: &Results, scenario: Scenario) -> String {
    let mut header = vec!["target".to_owned(), "process".to_owned()];
    header.extend(metrics(scenario).iter().map(|metric| metric.title.to_owned()));
    header.insert(3, format!("÷ {}", reference(scenario).name()));
    header.push("clean runs".to_owned());

    let mut rows = vec![header];
    for target in Target::ALL {
        let taken = of(results, scenario, target).count();
        if taken == 0 {
            continue;
        }
        let clean = of(results, scenario, target).filter(|sample| sample.is_clean()).count();
        let names = of(results, scenario, target).map(processes).max_by_key(|names| names.len());
        let names = names.unwrap_or_default().iter().map(|process| process.name.as_str());
        let names: Vec<&str> = names.collect();
        // A target that never got so far still has its row.
        let names = if names.is_empty() { vec!["-"] } else { names };
        for name in names {
            let figure = |metric| figures::figure(results, scenario, target, name, metric);
            let mut row = vec![target.name().to_owned(), name.to_owned()];
            row.extend(metrics(scenario).iter().map(|m| cell(figure(*m), m.decimals)));
            row.insert(3, cell(multiple(results, scenario, target, name), 2));
            row.push(format!("{clean} of {taken}"));
            rows.push(row);
        }
    }
    format!("### {}\n\n{}", scenario.name(), align(&rows))
}

fn cell(figure: Option<Figure>, decimals: usize) -> String {
    figure.map_or("-".to_owned(), |Figure { median, min, max }| {
        format!("{median:.decimals$} ({min:.decimals$}-{max:.decimals$})")
    })
}

/// Columns as wide as their widest cell.
fn align(rows: &[Vec<String>]) -> String {
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
