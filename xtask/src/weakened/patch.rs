//! A weakening: a patch in `tests/weakened` whose first lines say what it breaks and who notices.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::build;
use crate::steps::{Error, while_doing};

/// The longest patch, in bytes: each breaks one property.
const MAX_BYTES: usize = 8 << 10;

/// Who may notice that a property does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checker {
    /// Boot's own audit, before it serves.
    Boot,
    /// The walk of the running machine's tables, registers and memory from outside.
    Outside,
    /// `seal audit`, from the image file alone.
    Image,
    /// A forbidden act of the probe, by its name: it ends in another way than it should.
    Act(String),
}

impl Checker {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "boot" => Some(Self::Boot),
            "outside" => Some(Self::Outside),
            "image" => Some(Self::Image),
            other => other.strip_prefix("act ").map(|act| Self::Act(act.to_owned())),
        }
    }
}

impl fmt::Display for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot => write!(f, "boot"),
            Self::Outside => write!(f, "outside"),
            Self::Image => write!(f, "image"),
            Self::Act(act) => write!(f, "act {act}"),
        }
    }
}

/// One property, broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weakening {
    /// The patch's name without its ending.
    pub name: String,
    /// The patch.
    pub path: PathBuf,
    /// The property.
    pub breaks: String,
    /// What is done to break it.
    pub weakens: String,
    /// Whether it takes a machine with a TPM to see it.
    pub has_tpm: bool,
    /// Who has to notice.
    pub noticed_by: Vec<Checker>,
}

impl Weakening {
    /// Reads a patch's head.
    ///
    /// # Errors
    ///
    /// [`Error`] if the file cannot be read or its head is not whole.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(while_doing(path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        parse(&text, name, path).map_err(while_doing(path.display()))
    }
}

/// All weakenings, by name.
///
/// # Errors
///
/// [`Error`] as for [`Weakening::read`].
pub fn all() -> Result<Vec<Weakening>, Error> {
    let folder = folder();
    let entries = fs::read_dir(&folder).map_err(while_doing(folder.display()))?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(while_doing::<std::io::Error>(folder.display()))?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "patch"));
    paths.sort();
    paths.iter().map(|path| Weakening::read(path)).collect()
}

/// Where the patches are.
pub(super) fn folder() -> PathBuf {
    build::root().join("tests/weakened")
}

fn parse(text: &str, name: String, path: &Path) -> Result<Weakening, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("more than {MAX_BYTES} bytes"));
    }
    let head: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).collect();
    let field = |key: &str| field(&head, key).ok_or(format!("no line begins with `{key}: `"));
    let mut noticed_by = Vec::new();
    let names = field("Noticed by")?;
    for name in names.split(", ").filter(|name| *name != "nobody") {
        noticed_by.push(Checker::parse(name).ok_or(format!("nobody is called {name:?}"))?);
    }
    let (breaks, weakens) = (field("Breaks")?, field("Weakens")?);
    let has_tpm = match self::field(&head, "Machine").as_deref() {
        None => false,
        Some("with a TPM") => true,
        Some(other) => return Err(format!("no machine is {other:?}")),
    };
    Ok(Weakening { name, path: path.to_owned(), breaks, weakens, has_tpm, noticed_by })
}

/// The sentence after a key, its lines joined and without its full stop.
fn field(head: &[&str], key: &str) -> Option<String> {
    let of_key = |line: &str| line.strip_prefix(key)?.strip_prefix(": ").map(str::to_owned);
    let at = head.iter().position(|line| of_key(line).is_some())?;
    let mut sentence = of_key(head[at])?;
    for line in head[at + 1..].iter().take_while(|line| line.starts_with("  ")) {
        sentence.push(' ');
        sentence.push_str(line.trim());
    }
    Some(sentence.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, complaint: &str) {
        let error = parse(text, String::new(), Path::new("")).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }

    #[test]
    fn a_head_says_what_is_broken_and_who_notices() {
        let text = "Breaks: one thing\n  in two lines.\nWeakens: It is off.\n\
            Noticed by: boot, outside,\n  image, act out 0xcf8.\n\n--- a/x\nBreaks: no\n";
        let seen = parse(text, "n".to_owned(), Path::new("n.patch")).unwrap();
        assert_eq!(seen.breaks, "one thing in two lines");
        assert_eq!(seen.weakens, "It is off");
        assert!(!seen.has_tpm);
        let tpm = text.replace("Noticed by", "Machine: with a TPM.\nNoticed by");
        assert!(parse(&tpm, "n".to_owned(), Path::new("n.patch")).unwrap().has_tpm);
        let act = Checker::Act("out 0xcf8".to_owned());
        assert_eq!(seen.noticed_by, [Checker::Boot, Checker::Outside, Checker::Image, act]);
        assert_eq!(seen.noticed_by.last().unwrap().to_string(), "act out 0xcf8");
    }

    #[test]
    fn a_head_that_is_not_whole_is_refused() {
        check("Breaks: a.\nWeakens: b.\n\nNoticed by: boot.\n", "`Noticed by: `");
        check("Weakens: b.\nNoticed by: boot.\n", "`Breaks: `");
        check("Breaks: a.\nNoticed by: boot.\n", "`Weakens: `");
        check("Breaks: a.\nWeakens: b.\nNoticed by: somebody.\n", "nobody is called \"somebody\"");
        let machine = "Breaks: a.\nWeakens: b.\nMachine: with wings.\nNoticed by: boot.\n";
        check(machine, "no machine is \"with wings\"");
        check(&" ".repeat(MAX_BYTES + 1), "more than 8192 bytes");
    }

    #[test]
    fn every_weakening_but_the_control_has_somebody_who_notices() {
        let all = all().unwrap();
        assert!(all.len() > 20, "{}", all.len());
        for weakening in all {
            let is_control = weakening.name == super::super::CONTROL;
            assert_eq!(weakening.noticed_by.is_empty(), is_control, "{}", weakening.name);
        }
    }
}
