//! Reads a TOML table key by key. Every method reports what it does not like and goes on, so that
//! one run finds every error; `None` means that the key is absent or was reported.

use std::cell::RefCell;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Report, Written};
use super::suggest::nearest;
use crate::limits::Range;

/// A table being read.
pub(super) struct Table<'t> {
    pub(super) report: &'t Report<'t>,
    entries: &'t DeTable<'t>,
    /// The header, such as `[[listeners]]`; `None` for the file itself.
    header: Option<Written<()>>,
    /// Keys that were asked for: any other one is unknown.
    known: RefCell<Vec<&'static str>>,
}

/// A key and its value.
pub(super) struct Field<'t> {
    report: &'t Report<'t>,
    key: &'static str,
    /// A value that may stand here, as TOML.
    example: &'static str,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Table<'t> {
    /// Reads the whole file with `read`, then reports the keys that it did not ask for.
    pub(super) fn read_file<R>(
        report: &'t Report<'t>,
        entries: &'t DeTable<'t>,
        read: impl FnOnce(&Self) -> R,
    ) -> R {
        Self { report, entries, header: None, known: RefCell::default() }.read(read)
    }

    /// Where the table begins, to report what is wrong with it as a whole.
    pub(super) fn here(&self) -> Written<()> {
        self.header.unwrap_or(Written { value: (), span: (0..0).into() })
    }

    pub(super) fn optional(&self, key: &'static str, example: &'static str) -> Option<Field<'t>> {
        self.known.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        Some(Field { report: self.report, key, example, value })
    }

    pub(super) fn required(&self, key: &'static str, example: &'static str) -> Option<Field<'t>> {
        let field = self.optional(key, example);
        if field.is_none() {
            self.error(format!("missing key `{key}`: write `{key} = {example}`"));
        }
        field
    }

    /// A required path, relative to the folder of the file.
    pub(super) fn path(&self, key: &'static str, example: &'static str) -> Option<PathBuf> {
        self.required(key, example)?.path().map(|path| path.value)
    }

    pub(super) fn boolean(&self, key: &'static str, default: bool) -> bool {
        let field = self.optional(key, if default { "false" } else { "true" });
        field.and_then(|field| field.boolean()).map_or(default, |written| written.value)
    }

    /// A number within its range; the default where it is absent or was reported.
    pub(super) fn number(&self, key: &'static str, range: Range) -> u64 {
        self.written_number(key, range).map_or(range.default, |written| written.value)
    }

    pub(super) fn written_number(&self, key: &'static str, range: Range) -> Option<Written<u64>> {
        self.optional(key, "")?.number(range)
    }

    /// A required word out of `choices`.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<Written<T>> {
        let words = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>();
        let Some(field) = self.optional(key, "") else {
            self.error(format!("missing key `{key}`: write one of {}", words.join(", ")));
            return None;
        };
        field.parse(|text| {
            let choice = choices.iter().find(|(word, _)| *word == text);
            choice.map(|(_, value)| *value).ok_or_else(|| {
                format!("`{key}` can't be \"{text}\": write one of {}", words.join(", "))
            })
        })
    }

    /// Reports a key that has no effect in this table.
    pub(super) fn refuse(&self, key: &'static str, reason: &str) {
        if self.optional(key, "").is_some() {
            self.error_at(key, format!("`{key}` has no effect here: {reason}"));
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Lets keys pass whose meaning can't be told, since another key is wrong.
    pub(super) fn ignore(&self, keys: &[&'static str]) {
        self.known.borrow_mut().extend_from_slice(keys);
    }

    /// An optional table.
    pub(super) fn table<R>(&self, key: &'static str, read: impl FnOnce(&Self) -> R) -> Option<R> {
        let field = self.optional(key, "")?;
        let DeValue::Table(entries) = field.value.get_ref() else {
            field.wrong_type("a table", &format!("write `[{key}]` and its keys below it"));
            return None;
        };
        Some(self.inner(field.value, entries).read(read))
    }

    /// An optional table that reads as an empty one where it is absent: each default has one place.
    pub(super) fn table_or_empty<R>(&self, key: &'static str, read: impl Fn(&Table<'_>) -> R) -> R {
        self.table(key, &read)
            .unwrap_or_else(|| Table::read_file(self.report, &DeTable::new(), &read))
    }

    /// A list of tables, empty where it is absent.
    pub(super) fn tables<R>(&self, key: &'static str, mut read: impl FnMut(&Self) -> R) -> Vec<R> {
        let Some(field) = self.optional(key, "") else { return Vec::new() };
        let advice = format!("write `[[{key}]]` above each");
        let DeValue::Array(values) = field.value.get_ref() else {
            field.wrong_type("a list of tables", &advice);
            return Vec::new();
        };
        let mut all = Vec::new();
        for value in values {
            if let DeValue::Table(entries) = value.get_ref() {
                all.push(self.inner(value, entries).read(&mut read));
            } else {
                Field { value, ..field }.wrong_type("a list of tables", &advice);
            }
        }
        all
    }

    /// A list of tables that must not be empty.
    pub(super) fn required_tables<R>(
        &self,
        key: &'static str,
        read: impl FnMut(&Self) -> R,
    ) -> Vec<R> {
        let all = self.tables(key, read);
        let is_empty = match self.entries.get(key).map(Spanned::get_ref) {
            None => true,
            Some(DeValue::Array(values)) => values.is_empty(),
            Some(_) => false,
        };
        if is_empty {
            self.error(format!("missing `[[{key}]]`: at least one is needed"));
        }
        all
    }

    pub(super) fn error(&self, message: String) {
        match self.header {
            Some(header) => self.report.error(header.span, message),
            None => self.report.error_in_file(message),
        }
    }

    /// Reports what is wrong with `key`, at that key.
    pub(super) fn error_at(&self, key: &str, message: String) {
        let entry = self.entries.get_key_value(key);
        self.report.error(entry.map_or(self.here().span, |(key, _)| key.span().into()), message);
    }

    fn inner(&self, value: &Spanned<DeValue<'_>>, entries: &'t DeTable<'t>) -> Self {
        let header = Some(Written { value: (), span: value.span().into() });
        Self { report: self.report, entries, header, known: RefCell::default() }
    }

    fn read<R>(self, read: impl FnOnce(&Self) -> R) -> R {
        let result = read(&self);
        let known = self.known.borrow();
        for key in self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let advice = match nearest(name, known.iter().copied()) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => format!("; known here: {}", known.join(", ")),
            };
            self.report.error(key.span().into(), format!("unknown key `{name}`{advice}"));
        }
        result
    }
}

impl<'t> Field<'t> {
    pub(super) fn text(&self) -> Option<Written<&'t str>> {
        let DeValue::String(text) = self.value.get_ref() else {
            self.wrong_type("text in quotes", &self.advice());
            return None;
        };
        Some(self.written(text.as_ref()))
    }

    /// Text that `parse` makes a value of, or says what is wrong with it.
    pub(super) fn parse<T>(
        &self,
        parse: impl FnOnce(&'t str) -> Result<T, String>,
    ) -> Option<Written<T>> {
        let text = self.text()?;
        match parse(text.value) {
            Ok(value) => Some(self.written(value)),
            Err(message) => {
                self.report.error(text.span, message);
                None
            }
        }
    }

    pub(super) fn path(&self) -> Option<Written<PathBuf>> {
        self.parse(|text| match text {
            "" => Err(format!("`{}` is empty: write the path of a file", self.key)),
            text => Ok(self.report.resolve(text)),
        })
    }

    pub(super) fn boolean(&self) -> Option<Written<bool>> {
        let DeValue::Boolean(value) = self.value.get_ref() else {
            self.wrong_type("true or false without quotes", &self.advice());
            return None;
        };
        Some(self.written(*value))
    }

    pub(super) fn number(&self, Range { min, max, default }: Range) -> Option<Written<u64>> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            let advice = format!("write `{} = {default}`", self.key);
            self.wrong_type("a whole number without quotes", &advice);
            return None;
        };
        // A number that does not fit 64 bits is out of any range.
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let within = value.filter(|value| (min..=max).contains(value));
        if within.is_none() {
            let key = self.key;
            let message = format!("`{key}` must be from {min} to {max}; the default is {default}");
            self.report.error(self.value.span().into(), message);
        }
        within.map(|value| self.written(value))
    }

    /// A list of texts, each made a value by `parse`. Those that are wrong are reported and left out.
    pub(super) fn parse_each<T>(
        &self,
        parse: impl Fn(&'t str) -> Result<T, String>,
    ) -> Option<Vec<Written<T>>> {
        let DeValue::Array(values) = self.value.get_ref() else {
            self.wrong_type("a list", &self.advice());
            return None;
        };
        let elements = values.iter().map(|value| Field { value, ..*self });
        Some(elements.filter_map(|element| element.parse(&parse)).collect())
    }

    /// As [`Self::parse_each`], for a list that must not be empty.
    pub(super) fn parse_nonempty<T>(
        &self,
        parse: impl Fn(&'t str) -> Result<T, String>,
    ) -> Option<Vec<Written<T>>> {
        if self.value.get_ref().as_array().is_some_and(|values| values.is_empty()) {
            let message = format!("`{}` is empty: {}", self.key, self.advice());
            self.report.error(self.value.span().into(), message);
            return None;
        }
        self.parse_each(parse)
    }

    /// A list of paths.
    pub(super) fn paths(&self) -> Option<Vec<Written<PathBuf>>> {
        self.parse_each(|text| match text {
            "" => Err(format!("an empty path in `{}`: write that of a file", self.key)),
            text => Ok(self.report.resolve(text)),
        })
    }

    pub(super) fn is_list(&self) -> bool {
        self.value.get_ref().is_array()
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    pub(super) fn written<T>(&self, value: T) -> Written<T> {
        Written { value, span: self.value.span().into() }
    }

    fn wrong_type(&self, expected: &str, advice: &str) {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let message = format!("`{}` takes {expected}, not {found}: {advice}", self.key);
        self.report.error(self.value.span().into(), message);
    }

    fn advice(&self) -> String {
        format!("write `{} = {}`", self.key, self.example)
    }
}
