//! What is wrong with a file, each with its place, as the operator reads it.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// A configuration that passed, and what its operator should know nevertheless.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked<T> {
    /// The configuration.
    pub config: T,
    /// What is allowed but weak or without effect, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// Everything that is wrong with a file. The operator erred; each problem says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems in the order of the file; at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named to us.
    pub file: PathBuf,
    /// Where in the file; `None` where it concerns the file as a whole.
    pub place: Option<Place>,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    source_line: String,
    width: usize,
}

impl Problem {
    /// On one line, for the log: the line of the file is named and not shown.
    pub fn to_line(&self) -> String {
        let (file, message) = (self.file.display(), &self.message);
        match &self.place {
            Some(Place { line, column, .. }) => format!("{file}:{line}:{column}: {message}"),
            None => format!("{file}: {message}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_line())?;
        let Some(Place { line, column, source_line, width }) = &self.place else { return Ok(()) };
        if *column > MAX_EXCERPT_LEN {
            return Ok(());
        }
        write!(f, "\n{line:>5} | {source_line}\n      | ")?;
        write!(f, "{:indent$}{:^<width$}", "", "", indent = column - 1)
    }
}

/// Characters of a source line that are shown: a line of a megabyte would bury the message.
const MAX_EXCERPT_LEN: usize = 200;

/// Bytes of the file, as the TOML parser counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    start: usize,
    end: usize,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// A value and where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

impl<T> Written<T> {
    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Written<U> {
        Written { value: map(self.value), span: self.span }
    }
}

/// Collects the problems of one file while it is read.
#[derive(Debug)]
pub(super) struct Report<'t> {
    file: &'t Path,
    text: &'t str,
    line_starts: Vec<usize>,
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str, file: &'t Path) -> Self {
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(after_newlines).collect();
        Self { file, text, line_starts, errors: RefCell::default(), warnings: RefCell::default() }
    }

    pub(super) fn error(&self, at: Span, message: impl Into<String>) {
        self.errors.borrow_mut().push(self.problem(Some(at), message.into()));
    }

    /// An error of the file as a whole: something is not there.
    pub(super) fn error_in_file(&self, message: impl Into<String>) {
        self.errors.borrow_mut().push(self.problem(None, message.into()));
    }

    pub(super) fn warning(&self, at: Span, message: impl Into<String>) {
        self.warnings.borrow_mut().push(self.problem(Some(at), message.into()));
    }

    /// Line of a span, counted from 1.
    pub(super) fn line(&self, at: Span) -> usize {
        self.line_starts.partition_point(|&start| start <= at.start)
    }

    /// A path as written, relative to the folder of the file.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        // `./pki` and `pki` are to compare equal.
        folder.join(path).components().filter(|part| *part != Component::CurDir).collect()
    }

    /// The configuration if nothing was wrong. `None` stands for one that is wrong somewhere.
    pub(super) fn finish<T>(self, config: Option<T>) -> Result<Checked<T>, Problems> {
        let mut errors = self.errors.into_inner();
        match config {
            Some(config) if errors.is_empty() => {
                let mut warnings = self.warnings.into_inner();
                warnings.sort_by_key(order);
                Ok(Checked { config, warnings })
            }
            _ => {
                errors.sort_by_key(order);
                Err(Problems(errors))
            }
        }
    }

    pub(super) fn problem(&self, at: Option<Span>, message: String) -> Problem {
        Problem { file: self.file.to_owned(), place: at.map(|at| self.place(at)), message }
    }

    fn place(&self, at: Span) -> Place {
        let line = self.line(at);
        let line_start = self.line_starts[line - 1];
        let rest = &self.text[line_start..];
        let source_line = rest.split('\n').next().unwrap_or(rest).trim_end();
        let chars_before = |end: usize| {
            source_line.char_indices().take_while(|(start, _)| line_start + start < end).count()
        };
        let (before, through) = (chars_before(at.start), chars_before(at.end));
        let shown = source_line.chars().take(MAX_EXCERPT_LEN);
        Place {
            line,
            column: before + 1,
            // A tab or an escape sequence would put the caret elsewhere.
            source_line: shown.map(|c| if c.is_control() { ' ' } else { c }).collect(),
            width: through.min(MAX_EXCERPT_LEN).saturating_sub(before).max(1),
        }
    }
}

fn order(problem: &Problem) -> (usize, usize) {
    problem.place.as_ref().map_or((0, 0), |place| (place.line, place.column))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, at: Range<usize>) -> String {
        let report = Report::new(text, Path::new("a.toml"));
        report.error(at.into(), "wrong");
        report.finish(Some(())).expect_err("an error was reported").to_string()
    }

    #[test]
    fn the_caret_stands_under_the_error_whatever_is_before_it() {
        assert_eq!(shown("a = 1\n\tb = 22\r\n", 11..13), EXPECTED_AFTER_TAB);
        assert_eq!(shown("ä = 'ö'", 6..8), "a.toml:1:6: wrong\n    1 | ä = 'ö'\n      |      ^");
        assert_eq!(shown("", 0..0), "a.toml:1:1: wrong\n    1 | \n      | ^");
        assert_eq!(shown("a\n", 2..2), "a.toml:2:1: wrong\n    2 | \n      | ^");
    }

    const EXPECTED_AFTER_TAB: &str = "a.toml:2:6: wrong\n    2 |  b = 22\n      |      ^^";

    #[test]
    fn a_line_of_a_megabyte_is_not_shown_whole() {
        let text = "x".repeat(1 << 20);
        assert!(shown(&text, 3..1 << 20).len() < 500);
        assert_eq!(shown(&text, 1000..1001), "a.toml:1:1001: wrong");
    }

    #[test]
    fn paths_are_relative_to_the_folder_of_the_file() {
        let report = Report::new("", Path::new("/etc/vestibule/gateway.toml"));
        assert_eq!(report.resolve("./pki/ca.crt"), Path::new("/etc/vestibule/pki/ca.crt"));
        assert_eq!(report.resolve("/pki/ca.crt"), Path::new("/pki/ca.crt"));
        let report = Report::new("", Path::new("gateway.toml"));
        assert_eq!(report.resolve("./ca.crt"), Path::new("ca.crt"));
    }
}
