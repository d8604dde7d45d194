//! `cargo xtask symbolize`: from a crash record to the functions and lines that it names.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Read as _};
use std::path::PathBuf;

use abi::image::MAX_SERVICE_BYTES;
use addr2line::Context;
use addr2line::gimli::{self, Dwarf, EndianSlice, LittleEndian, SectionId};
use object::{Object, ObjectSection, ObjectSymbol};

use crate::steps::{Error, while_doing};

/// What stands before an offset into the service in a record that the gate prints.
const MARK: &str = "service+";

/// The most bytes of a record that are read: a console's whole log is far below this.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// The most offsets of a record that are looked up.
const MAX_OFFSETS: usize = 1024;

/// A function at an offset, the innermost inlined one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The function's name, or nothing if only the line is known.
    pub function: Option<String>,
    /// The file, the line and the column, as far as they are known.
    pub location: Option<(String, u32, u32)>,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.function.as_deref().unwrap_or("(unknown function)"))?;
        match &self.location {
            // The compiler writes line 0 for what it added itself.
            Some((file, 0, _)) => write!(f, "\n      at {file}, in no line of it"),
            Some((file, line, column)) => write!(f, "\n      at {file}:{line}:{column}"),
            None => write!(f, "\n      (no line: nothing was compiled for it, or it was assembly)"),
        }
    }
}

/// Why a record could not be turned into lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SymbolizeError {
    /// The record names no place in the service.
    NoOffset,
    /// The symbols are of a file without any.
    NoSymbols,
    /// No function of the service is at the offset.
    Outside(u64),
    /// The symbols cannot be read.
    Symbols(String),
}

impl fmt::Display for SymbolizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOffset => {
                write!(f, "the record has no `{MARK}..`; a line like")?;
                write!(f, " `CRASH vector=0e .. rip=service+00000000000123ab ..` is what it takes")
            }
            Self::NoSymbols => {
                write!(f, "the file has no symbols; name NAME.service.debug,")?;
                write!(f, " which `cargo xtask image` writes beside the image")
            }
            Self::Outside(offset) => {
                write!(f, "no function of this service is at {offset:#x};")?;
                write!(f, " are the symbols of the image that crashed?")
            }
            Self::Symbols(reason) => write!(f, "{reason}"),
        }
    }
}

impl std::error::Error for SymbolizeError {}

/// Prints the functions and lines of a crash record, as the arguments say.
///
/// # Errors
///
/// [`Error`] if the arguments are wrong or there is nothing to find.
pub fn command(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Error> {
    let (symbols_path, record) = parse(arguments)?;
    let record = record.map_or_else(read_record, Ok)?;
    let found = offsets(&record);
    if found.is_empty() {
        return Err(Error::Failed(SymbolizeError::NoOffset.to_string()));
    }
    let file = fs::read(&symbols_path).map_err(while_doing(symbols_path.display()))?;
    let in_symbols = || while_doing(symbols_path.display());
    let symbols = Symbols::parse(&file).map_err(in_symbols())?;
    for offset in found {
        println!("{MARK}{offset:#x}");
        for frame in symbols.frames(offset).map_err(in_symbols())? {
            println!("   {frame}");
        }
    }
    Ok(())
}

fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<(PathBuf, Option<String>), Error> {
    use lexopt::prelude::{Long, Value};
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut symbols = None;
    let mut words: Vec<String> = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("symbols") => symbols = Some(PathBuf::from(parser.value()?)),
            // A record that was pasted without quotes comes in words.
            Value(word) => words.push(word.to_string_lossy().into_owned()),
            other => return Err(other.unexpected().into()),
        }
    }
    let symbols = symbols.ok_or_else(|| {
        Error::Usage("symbolize: --symbols DIR/NAME.service.debug is missing".to_owned())
    })?;
    Ok((symbols, (!words.is_empty()).then(|| words.join(" "))))
}

fn read_record() -> Result<String, Error> {
    if io::stdin().is_terminal() {
        eprintln!("xtask: paste the crash record, then Ctrl-D");
    }
    let mut bytes = Vec::new();
    let mut input = io::stdin().lock().take(MAX_RECORD_BYTES);
    input.read_to_end(&mut bytes).map_err(while_doing("standard input"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The offsets into the service that a record names, each once, in order.
pub fn offsets(record: &str) -> Vec<u64> {
    let mut found = Vec::new();
    for (at, mark) in record.match_indices(MARK) {
        let rest = record.get(at + mark.len()..).unwrap_or_default();
        // The gate writes sixteen bare digits; our own output and people write 0x before them.
        let rest = rest.strip_prefix("0x").unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        let offset = rest.get(..end).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if let Some(offset) = offset.filter(|offset| !found.contains(offset)) {
            found.push(offset);
        }
        if found.len() == MAX_OFFSETS {
            break;
        }
    }
    found
}

/// The symbols and line tables of a service that was not stripped.
pub struct Symbols<'a> {
    context: Context<EndianSlice<'a, LittleEndian>>,
    /// Start, end and name of each function, ascending.
    functions: Vec<(u64, u64, String)>,
}

impl<'a> Symbols<'a> {
    /// Reads an ELF file's symbols.
    ///
    /// # Errors
    ///
    /// [`SymbolizeError`] if it is none, or has none.
    pub fn parse(file: &'a [u8]) -> Result<Self, SymbolizeError> {
        let unreadable = |error: &dyn fmt::Display| SymbolizeError::Symbols(error.to_string());
        let elf = object::File::parse(file).map_err(|error| unreadable(&error))?;
        let section = |id: SectionId| -> Result<_, gimli::Error> {
            // A section that is not there is one that is empty.
            let section = elf.section_by_name(id.name());
            let data = section.and_then(|section| section.data().ok()).unwrap_or_default();
            Ok(EndianSlice::new(data, LittleEndian))
        };
        let dwarf = Dwarf::load(section).map_err(|error| unreadable(&error))?;
        let context = Context::from_dwarf(dwarf).map_err(|error| unreadable(&error))?;
        let mut functions: Vec<_> = elf
            .symbols()
            .filter(|symbol| symbol.kind() == object::SymbolKind::Text && symbol.size() > 0)
            .filter_map(|symbol| {
                let end = symbol.address().checked_add(symbol.size())?;
                Some((symbol.address(), end, demangle(symbol.name().ok()?)))
            })
            .collect();
        functions.sort();
        if functions.is_empty() {
            return Err(SymbolizeError::NoSymbols);
        }
        Ok(Self { context, functions })
    }

    /// The functions at an offset, the innermost inlined one first.
    ///
    /// # Errors
    ///
    /// [`SymbolizeError::Outside`] if there is none.
    pub fn frames(&self, offset: u64) -> Result<Vec<Frame>, SymbolizeError> {
        // A service is not that large, and a reader of line tables may count past the end.
        if offset > MAX_SERVICE_BYTES {
            return Err(SymbolizeError::Outside(offset));
        }
        let unreadable = |error: gimli::Error| SymbolizeError::Symbols(error.to_string());
        let mut frames = Vec::new();
        let mut lookup = self.context.find_frames(offset).skip_all_loads().map_err(unreadable)?;
        while let Some(frame) = lookup.next().map_err(unreadable)? {
            let function = frame.function.as_ref().and_then(|name| name.demangle().ok());
            let location = frame.location.and_then(|location| {
                let file = location.file?.to_owned();
                Some((file, location.line.unwrap_or(0), location.column.unwrap_or(0)))
            });
            frames.push(Frame { function: function.map(String::from), location });
        }
        // Line tables alone have no names of functions, and assembly has neither.
        let name = self.function_at(offset);
        match frames.last_mut() {
            Some(outermost) if outermost.function.is_none() => outermost.function = name,
            Some(_) => {}
            None => match name {
                Some(name) => frames.push(Frame { function: Some(name), location: None }),
                None => return Err(SymbolizeError::Outside(offset)),
            },
        }
        Ok(frames)
    }

    fn function_at(&self, offset: u64) -> Option<String> {
        let after = self.functions.partition_point(|(start, ..)| *start <= offset);
        let (_, end, name) = self.functions.get(after.checked_sub(1)?)?;
        (offset < *end).then(|| name.clone())
    }
}

fn demangle(name: &str) -> String {
    addr2line::demangle_auto(name.into(), None).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_offset_of_a_record_once() {
        let record = "noise\nCRASH vector=0e error=0000000000000004 \
                      rip=service+00000000000123ab cr2=0000000000000000\n\
                      caller service+0x1f, service+0x123AB again\n";
        assert_eq!(offsets(record), [0x123ab, 0x1f]);
    }

    #[test]
    fn what_is_no_offset_is_passed_over() {
        for record in ["", "rip=0x123", "service+0x", "service+0xg", "service+0x11112222333344445"]
        {
            assert_eq!(offsets(record), [], "{record}");
        }
        assert_eq!(offsets("service+0x\u{e4}service+0x7"), [7]);
    }

    /// The line of the landmark's only statement.
    const LANDMARK: u32 = line!() + 5;

    /// A function of this test program itself, which has symbols.
    #[inline(never)]
    fn landmark(number: u64) -> u64 {
        std::hint::black_box(inlined(number) + 1)
    }

    #[inline(always)]
    fn inlined(number: u64) -> u64 {
        std::hint::black_box(number * 3)
    }

    #[test]
    fn names_function_file_and_line() {
        assert_eq!(landmark(2), 7);
        let file = fs::read(std::env::current_exe().unwrap()).unwrap();
        let symbols = Symbols::parse(&file).unwrap();
        let is_landmark = |name: &str| name.contains("symbolize::tests::landmark");
        let found = symbols.functions.iter().find(|(.., name)| is_landmark(name)).unwrap();
        let (start, end, _) = found.clone();
        let (mut deepest, mut lines) = (0, Vec::new());
        for offset in start..end {
            let frames = symbols.frames(offset).unwrap();
            let outermost = frames.last().unwrap();
            assert!(outermost.function.as_deref().is_some_and(is_landmark), "{frames:?}");
            let (path, line, _) = outermost.location.clone().unwrap();
            assert!(path.ends_with("symbolize.rs"), "{frames:?}");
            lines.push(line);
            deepest = deepest.max(frames.len());
        }
        assert!(deepest >= 2, "the inlined function is named too");
        assert!(lines.contains(&LANDMARK), "{LANDMARK}: {lines:?}");
    }

    #[test]
    fn says_what_is_missing() {
        let file = fs::read(std::env::current_exe().unwrap()).unwrap();
        let symbols = Symbols::parse(&file).unwrap();
        assert_eq!(symbols.frames(u64::MAX), Err(SymbolizeError::Outside(u64::MAX)));
        assert!(matches!(Symbols::parse(b"no ELF"), Err(SymbolizeError::Symbols(_))));
    }

    #[track_caller]
    fn check(line: &str, says: &str) {
        let error = command(line.split(' ').map(OsString::from)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn errors_say_what_would_help() {
        check("CRASH", "--symbols DIR/NAME.service.debug is missing");
        check("--symbols /nowhere CRASH rip=0", "a line like `CRASH vector=0e");
        check("--symbols /nowhere service+0x10", "/nowhere: No such file");
        check("--symbol x", "invalid option '--symbol'");
        check("--symbols Cargo.toml service+0x10", "Cargo.toml: ");
    }

    #[test]
    fn a_record_without_quotes_is_put_together_again() {
        let line = "--symbols s CRASH rip=service+0x1 cr2=0";
        let (symbols, record) = parse(line.split(' ').map(OsString::from)).unwrap();
        assert_eq!(symbols, PathBuf::from("s"));
        assert_eq!(record.as_deref(), Some("CRASH rip=service+0x1 cr2=0"));
        assert_eq!(parse(["--symbols".into(), "s".into()]).unwrap().1, None);
    }
}
