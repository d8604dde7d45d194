//! A TOML file, read key by key, so that every complaint names file, line, key and remedy.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use edge_config::KeyOrigin;
use edge_config::bounds::{Bounds, Invalid};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::identity;
use super::units;

/// What is wrong with a configuration file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named to us.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The key with the names of its tables, or nothing where there is none.
    pub key: String,
    /// What is wrong.
    pub problem: Box<Problem>,
}

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is none of the words that it may be.
    Choice {
        /// What it is.
        found: String,
        /// The words that it may be.
        choices: Vec<&'static str>,
    },
    /// The heap would be larger than an image may ask for.
    Heap {
        /// How large, in bytes.
        bytes: u64,
    },
    /// The certificates or the key.
    Identity(identity::Fault),
    /// The configuration as a whole does not hold together.
    Invalid(Invalid),
    /// It is not there.
    Missing {
        /// A line that would do.
        example: &'static str,
    },
    /// It does not say what it should.
    NotA {
        /// What it says.
        found: String,
        /// What it should say.
        expected: &'static str,
        /// One that would do.
        example: &'static str,
    },
    /// It is too small or too large.
    Range {
        /// What it is.
        found: String,
        /// The smallest that is allowed.
        least: String,
        /// The largest that is allowed.
        most: String,
    },
    /// It has no meaning for a key that comes from there.
    Origin(KeyOrigin),
    /// The file is not TOML.
    Syntax(String),
    /// It is of another type.
    Type {
        /// Its type.
        found: &'static str,
        /// The type it should have.
        expected: &'static str,
        /// A line that would do.
        example: &'static str,
    },
    /// Nobody knows the key.
    Unknown {
        /// The keys that are known there.
        known: Vec<&'static str>,
    },
    /// A file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, key, problem } = self;
        write!(f, "{}:{line}: ", file.display())?;
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        write!(f, "{problem}; remedy: ")?;
        problem.write_remedy(f)
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Choice { found, .. } => write!(f, "{found:?} is not known"),
            Self::Heap { bytes } => {
                write!(f, "all limits and buffers together need a heap of {}", units::size(*bytes))
            }
            Self::Identity(fault) => write!(f, "{fault}"),
            Self::Invalid(invalid) => {
                // The key is already there.
                let text = invalid.to_string();
                f.write_str(text.split_once(": ").map_or(text.as_str(), |(_, rest)| rest))
            }
            Self::Missing { .. } => write!(f, "it is missing"),
            Self::NotA { found, expected, .. } => write!(f, "{found:?} is not {expected}"),
            Self::Range { found, least, most } => {
                write!(f, "{found} is not between {least} and {most}")
            }
            Self::Origin(origin) => {
                write!(f, "it has no meaning with key_origin = {:?}", origin.word())
            }
            Self::Syntax(message) => write!(f, "this is not TOML: {message}"),
            Self::Type { found, expected, .. } => write!(f, "{expected} belongs here, not {found}"),
            Self::Unknown { .. } => write!(f, "nobody knows this key"),
            Self::Unreadable { path, reason } => {
                write!(f, "{} cannot be read: {reason}", path.display())
            }
        }
    }
}

impl Problem {
    fn write_remedy(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Choice { choices, .. } => write!(f, "write one of {}", choices.join(", ")),
            Self::Heap { .. } => write!(f, "allow fewer connections or make the buffers smaller"),
            Self::Identity(fault) => fault.write_remedy(f),
            Self::Invalid(invalid) => f.write_str(remedy_for(invalid)),
            Self::Missing { example } => write!(f, "add a line like `{example}`"),
            Self::NotA { example, .. } => write!(f, "write it like {example:?}"),
            Self::Range { least, most, .. } => write!(f, "write a value from {least} to {most}"),
            Self::Origin(_) => write!(f, "remove it, or write another tls.key_origin"),
            Self::Syntax(_) => write!(f, "correct the line; strings stand in \"quotes\""),
            Self::Type { example, .. } => write!(f, "write it like `{example}`"),
            Self::Unknown { known } => write!(f, "remove it; known here: {}", known.join(", ")),
            Self::Unreadable { .. } => {
                write!(f, "check the name; it is looked for beside the configuration file")
            }
        }
    }
}

const fn remedy_for(invalid: &Invalid) -> &'static str {
    match invalid {
        Invalid::Address { .. } => "write the address of one machine, and not its network's",
        Invalid::Exceeds { .. } => "make it smaller, or the whole larger",
        Invalid::Gateway(_) => "name a router in the same network",
        Invalid::Name { .. } => "write a host name without a wildcard, or an IPv4 address",
        Invalid::Prefix(_) => "write a network like \"10.0.0.0/8\"",
        Invalid::Mac(_) => "write the address of one card, its first byte even",
        Invalid::Range { .. } => "write a value between the two",
        Invalid::Twice(_) => "give each listener a port of its own",
        Invalid::Unreachable(_) => "add network.gateway, or name a backend in the same network",
    }
}

/// A file that is being read, and the lines of the keys that were taken from it.
pub(crate) struct Source<'a> {
    file: &'a Path,
    text: &'a str,
    lines: RefCell<BTreeMap<String, usize>>,
}

/// A table, from which keys are taken one by one.
pub(crate) struct Table<'s, 't> {
    source: &'s Source<'s>,
    name: String,
    line: usize,
    rest: BTreeMap<&'t str, Field<'s, 't>>,
    known: Vec<&'static str>,
}

/// A key and its value.
pub(crate) struct Field<'s, 't> {
    source: &'s Source<'s>,
    key: String,
    line: usize,
    value: &'t DeValue<'t>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, lines: RefCell::default() }
    }

    /// Parses the file. The tree belongs to the caller; [`Source::top`] reads it.
    pub(crate) fn parse(&self) -> Result<Spanned<DeTable<'a>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let line = self.line_at(error.span().map_or(0, |span| span.start));
            let content = self.text.lines().nth(line - 1).unwrap_or_default();
            let key = content.split_once('=').map_or("", |(key, _)| key.trim());
            self.error(line, key, Problem::Syntax(error.message().to_owned()))
        })
    }

    /// The file's own table.
    pub(crate) fn top<'s, 't>(&'s self, tree: &'t DeTable<'t>) -> Table<'s, 't> {
        Table::new(self, String::new(), 1, tree)
    }

    /// An error about a key that was taken before, at its line.
    pub(crate) fn error_at(&self, key: &str, problem: Problem) -> ConfigError {
        let line = self.lines.borrow().get(key).copied().unwrap_or(1);
        self.error(line, key, problem)
    }

    fn error(&self, line: usize, key: &str, problem: Problem) -> ConfigError {
        let (file, key, problem) = (self.file.to_owned(), key.to_owned(), Box::new(problem));
        ConfigError { file, line, key, problem }
    }

    fn line_at(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

impl<'s, 't> Table<'s, 't> {
    fn new(source: &'s Source<'s>, name: String, line: usize, table: &'t DeTable<'t>) -> Self {
        let mut rest = BTreeMap::new();
        for (key, value) in table {
            let dot = if name.is_empty() { "" } else { "." };
            let field = Field {
                source,
                key: format!("{name}{dot}{}", key.get_ref()),
                line: source.line_at(key.span().start),
                value: value.get_ref(),
            };
            rest.insert(key.get_ref().as_ref(), field);
        }
        Self { source, name, line, rest, known: Vec::new() }
    }

    /// A key that may be there.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Field<'s, 't>> {
        self.known.push(key);
        let field = self.rest.remove(key)?;
        self.source.lines.borrow_mut().insert(field.key.clone(), field.line);
        Some(field)
    }

    /// A key that must be there.
    pub(crate) fn require(
        &mut self,
        key: &'static str,
        example: &'static str,
    ) -> Result<Field<'s, 't>, ConfigError> {
        let missing = self.missing(key, example);
        self.take(key).ok_or(missing)
    }

    fn missing(&self, key: &str, example: &'static str) -> ConfigError {
        let dot = if self.name.is_empty() { "" } else { "." };
        let key = format!("{}{dot}{key}", self.name);
        self.source.error(self.line, &key, Problem::Missing { example })
    }

    /// A table in this one; an empty one if it is not there.
    pub(crate) fn table(&mut self, key: &'static str) -> Result<Self, ConfigError> {
        match self.take(key) {
            Some(field) => field.table(),
            None => Ok(Self {
                source: self.source,
                name: key.to_owned(),
                line: self.line,
                rest: BTreeMap::new(),
                known: Vec::new(),
            }),
        }
    }

    /// Refuses what nobody has taken, the first line first.
    pub(crate) fn finish(self) -> Result<(), ConfigError> {
        let Some(field) = self.rest.values().min_by_key(|field| field.line) else {
            return Ok(());
        };
        Err(field.error(Problem::Unknown { known: self.known }))
    }
}

impl<'s, 't> Field<'s, 't> {
    pub(crate) fn error(&self, problem: Problem) -> ConfigError {
        self.source.error(self.line, &self.key, problem)
    }

    fn type_error(&self, expected: &'static str, example: &'static str) -> ConfigError {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(Problem::Type { found, expected, example })
    }

    pub(crate) fn table(self) -> Result<Table<'s, 't>, ConfigError> {
        match self.value {
            DeValue::Table(table) => Ok(Table::new(self.source, self.key, self.line, table)),
            _ => Err(self.type_error("a table", "[name]")),
        }
    }

    /// The tables of a list that is written as `[[name]]`.
    pub(crate) fn tables(self) -> Result<Vec<Table<'s, 't>>, ConfigError> {
        const EXAMPLE: &str = "[[listener]]";
        let DeValue::Array(values) = self.value else {
            return Err(self.type_error("a list of tables", EXAMPLE));
        };
        let table = |value: &'t Spanned<DeValue<'t>>| {
            let line = self.source.line_at(value.span().start);
            match value.get_ref() {
                DeValue::Table(table) => Ok(Table::new(self.source, self.key.clone(), line, table)),
                _ => Err(self.type_error("a list of tables", EXAMPLE)),
            }
        };
        values.iter().map(table).collect()
    }

    /// The items of a list, each with its own line.
    pub(crate) fn items(&self, example: &'static str) -> Result<Vec<Self>, ConfigError> {
        let DeValue::Array(values) = self.value else {
            return Err(self.type_error("a list", example));
        };
        let item = |value: &'t Spanned<DeValue<'t>>| Self {
            source: self.source,
            key: self.key.clone(),
            line: self.source.line_at(value.span().start),
            value: value.get_ref(),
        };
        Ok(values.iter().map(item).collect())
    }

    pub(crate) fn text(&self, example: &'static str) -> Result<&'t str, ConfigError> {
        match self.value {
            DeValue::String(text) => Ok(text),
            _ => Err(self.type_error("a string", example)),
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &self,
        choices: &[(&'static str, T)],
        example: &'static str,
    ) -> Result<T, ConfigError> {
        let found = self.text(example)?;
        match choices.iter().find(|(word, _)| *word == found) {
            Some((_, choice)) => Ok(*choice),
            None => Err(self.error(Problem::Choice {
                found: found.to_owned(),
                choices: choices.iter().map(|(word, _)| *word).collect(),
            })),
        }
    }

    /// A text that `parse` understands.
    pub(crate) fn parsed<T>(
        &self,
        expected: &'static str,
        example: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let found = self.text(example)?;
        let problem = || Problem::NotA { found: found.to_owned(), expected, example };
        parse(found).ok_or_else(|| self.error(problem()))
    }

    pub(crate) fn count(&self, bounds: Bounds) -> Result<u32, ConfigError> {
        let DeValue::Integer(digits) = self.value else {
            return Err(self.type_error("a whole number", "= 100"));
        };
        // What does not fit is out of bounds as well.
        let value = i128::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(i128::MAX);
        let found = || digits.as_str().to_owned();
        self.bounded(u64::try_from(value).ok(), bounds, found, |number| number.to_string())
    }

    pub(crate) fn size(&self, bounds: Bounds) -> Result<u32, ConfigError> {
        let size = self.parsed("a size", "16 KiB", units::parse_size)?;
        self.bounded(Some(size), bounds, || units::size(size), units::size)
    }

    pub(crate) fn duration_ms(&self, bounds: Bounds) -> Result<u32, ConfigError> {
        let ms = self.parsed("a duration", "10 s", units::parse_duration_ms)?;
        self.bounded(Some(ms), bounds, || units::duration_ms(ms), units::duration_ms)
    }

    fn bounded(
        &self,
        value: Option<u64>,
        bounds: Bounds,
        found: impl FnOnce() -> String,
        written: impl Fn(u64) -> String,
    ) -> Result<u32, ConfigError> {
        let small = value.and_then(|value| u32::try_from(value).ok());
        match small {
            Some(value) if bounds.check(value).is_ok() => Ok(value),
            _ => Err(self.error(Problem::Range {
                found: found(),
                least: written(bounds.least.into()),
                most: written(bounds.most.into()),
            })),
        }
    }
}
