//! What an audit claims, one name a claim.

use std::fmt;

/// How many complaints about one property are worth reading.
const MAX_COMPLAINTS: usize = 6;

/// A property's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The file's segments are what a loader expects, apart from each other, and need no loader's
    /// work.
    Segments,
    /// Nothing is writable and executable.
    WriteXorExecute,
    /// The manifest points to what the program headers say, and nothing else is loaded.
    Manifest,
    /// Every relocation is inside data that boot may change.
    Relocations,
    /// The configuration's header is understood whole.
    Configuration,
    /// The tail ends in `mov cr3`, and the gate begins on the next byte.
    TailEndsInMovCr3,
    /// The gate fits its page.
    GateSize,
    /// At no byte offset does the gate hold an instruction that could undo the seal, and what it
    /// holds of privileged ones has a reason.
    GateInstructions,
    /// The two scanners see the same.
    GateScannersAgree,
    /// The address space that boot will build can be sealed.
    Layout,
}

impl Name {
    /// Every property, in the order in which they are checked.
    pub const ALL: [Self; 10] = [
        Self::Segments,
        Self::WriteXorExecute,
        Self::Manifest,
        Self::Relocations,
        Self::Configuration,
        Self::TailEndsInMovCr3,
        Self::GateSize,
        Self::GateInstructions,
        Self::GateScannersAgree,
        Self::Layout,
    ];

    /// The name as it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::WriteXorExecute => "write-xor-execute",
            Self::Manifest => "manifest",
            Self::Relocations => "relocations",
            Self::Configuration => "configuration",
            Self::TailEndsInMovCr3 => "tail-ends-in-mov-cr3",
            Self::GateSize => "gate-size",
            Self::GateInstructions => "gate-instructions",
            Self::GateScannersAgree => "gate-scanners-agree",
            Self::Layout => "layout",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was found out about one property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Which one.
    pub name: Name,
    /// Whether it holds.
    pub holds: bool,
    /// The facts behind it, or what is wrong.
    pub detail: String,
}

/// What is wrong with a property, as it is being looked at.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    first: Vec<String>,
    others: usize,
}

impl Complaints {
    /// Remembers a complaint; all but the first few are only counted.
    pub(crate) fn add(&mut self, complaint: impl fmt::Display) {
        if self.first.len() < MAX_COMPLAINTS {
            self.first.push(complaint.to_string());
        } else {
            self.others = self.others.saturating_add(1);
        }
    }

    /// Remembers a complaint unless something is as it should be.
    pub(crate) fn unless(&mut self, is_good: bool, complaint: impl FnOnce() -> String) {
        if !is_good {
            self.add(complaint());
        }
    }

    /// The property: it holds if there was no complaint.
    pub(crate) fn about(self, name: Name, facts: String) -> Property {
        if self.first.is_empty() {
            return Property { name, holds: true, detail: facts };
        }
        let mut detail = self.first.join("; ");
        if self.others > 0 {
            detail.push_str(&format!("; and {} more", self.others));
        }
        Property { name, holds: false, detail }
    }
}

/// A property that could not be looked at. What is not shown does not hold.
pub(crate) fn not_checked(name: Name, because: Name) -> Property {
    Property { name, holds: false, detail: format!("not checked: {because} does not hold") }
}
