//! Names that one table of a file gives and others refer to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::hash::Hash;

use super::problem::{Report, Written};
use super::suggest::nearest;

/// The names of all services, or of all listeners.
pub(super) struct Names<'t> {
    kind: &'static str,
    indexes: HashMap<&'t str, usize>,
    /// A table whose name could not be read may bear any name: not to find one proves nothing.
    complete: bool,
}

impl<'t> Names<'t> {
    /// Takes the names in their order and reports each that is taken already.
    pub(super) fn new(
        report: &Report<'_>,
        kind: &'static str,
        names: impl Iterator<Item = Option<Written<&'t str>>>,
    ) -> Self {
        let names = names.collect::<Vec<_>>();
        let complete = names.iter().all(Option::is_some);
        let mut indexes = HashMap::new();
        for (index, name) in names.iter().enumerate() {
            if let Some(name) = name {
                indexes.entry(name.value).or_insert(index);
            }
        }
        report_duplicates(report, kind, names.into_iter().flatten());
        Self { kind, indexes, complete }
    }

    /// Indexes of the tables of those names, without those that are unknown or stand again.
    pub(super) fn find_all(&self, report: &Report<'_>, list: &[Written<&str>]) -> Vec<usize> {
        report_duplicates(report, self.kind, list.iter().copied());
        let mut found = list.iter().filter_map(|name| self.find(report, *name)).collect::<Vec<_>>();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Index of the table of that name.
    pub(super) fn find(&self, report: &Report<'_>, name: Written<&str>) -> Option<usize> {
        let index = self.indexes.get(name.value).copied();
        if index.is_none() && self.complete {
            let (kind, unknown) = (self.kind, name.value);
            let mut known = self.indexes.keys().copied().collect::<Vec<_>>();
            known.sort_unstable();
            let advice = match nearest(unknown, known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None if known.is_empty() => format!("the file has no {kind}"),
                None => format!("the file has \"{}\"", known.join("\", \"")),
            };
            report.error(name.span, format!("unknown {kind} \"{unknown}\"; {advice}"));
        }
        index
    }
}

/// Reports every value that stands a second time, with the line of the first.
pub(super) fn report_duplicates<T: Hash + Eq + Display>(
    report: &Report<'_>,
    kind: &str,
    values: impl Iterator<Item = Written<T>>,
) {
    let mut firsts = HashMap::new();
    for Written { value, span } in values {
        match firsts.entry(value) {
            Entry::Vacant(entry) => _ = entry.insert(span),
            Entry::Occupied(entry) => {
                let (value, line) = (entry.key(), report.line(*entry.get()));
                let message = format!("{kind} \"{value}\" again: it stands in line {line} already");
                report.error(span, message);
            }
        }
    }
}
