//! The layout as text: what is hashed into the layout digest.
//!
//! Boot writes the rows of the layout it sealed, the command line those it predicted from the file;
//! only the format is shared, so that equal digests mean equal address spaces.

use core::fmt;

use crate::kind::{Access, Cache, Kind, Ring};
use crate::layout::Region;

/// The first line: the format and its version.
const TITLE: &str = "bulla layout 1";

/// Where a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At an offset from the service's base.
    Service(u64),
    /// At an address.
    Gate(u64),
}

/// A region of the sealed address space, but for its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is for, and hence what may be done with it.
    pub kind: Kind,
    /// Where it is.
    pub place: Place,
    /// Its size in bytes.
    pub length: u64,
}

impl Row {
    /// The row of a region, for a service at `base`.
    pub const fn of(region: &Region, base: u64) -> Self {
        let Region { kind, virt, length, .. } = *region;
        let (_, ring, _) = kind.promise();
        let place = match ring {
            Ring::Service => Place::Service(virt.wrapping_sub(base)),
            Ring::Gate => Place::Gate(virt),
        };
        Self { kind, place, length }
    }
}

/// Writes rows one a line, in the order given, which has to be that of their addresses:
///
/// ```text
/// bulla layout 1
/// KIND|ADDRESS|LENGTH|RIGHTS
/// ```
///
/// `KIND` is the kind in words; `ADDRESS` is `+0x..` from the service's base or `0x..` for ring 0;
/// `LENGTH` is in bytes, `0x..`; `RIGHTS` is the ring, the access and the caching, such as
/// `ring 3 r-x write-back`. Every line ends in a line feed, numbers are lower-case hexadecimal
/// without leading zeros.
///
/// # Errors
///
/// What `out` says.
pub fn write_canonical(
    rows: impl IntoIterator<Item = Row>,
    out: &mut impl fmt::Write,
) -> fmt::Result {
    writeln!(out, "{TITLE}")?;
    for Row { kind, place, length } in rows {
        writeln!(out, "{kind}|{place}|{length:#x}|{}", Rights(kind))?;
    }
    Ok(())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(offset) => write!(f, "+{offset:#x}"),
            Self::Gate(address) => write!(f, "{address:#x}"),
        }
    }
}

/// The ring, the access and the caching of a kind of region, in words.
#[derive(Clone, Copy, Debug)]
pub struct Rights(pub Kind);

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (access, ring, cache) = self.0.promise();
        let cache = match cache {
            Cache::WriteBack => "write-back",
            Cache::Uncached => "uncached",
        };
        write!(f, "ring {} {} {cache}", ring.number(), access.letters())
    }
}

impl Ring {
    /// The ring's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Gate => 0,
            Self::Service => 3,
        }
    }
}

impl Access {
    /// The access as `ls` would write it.
    pub const fn letters(self) -> &'static str {
        match self {
            Self::Execute => "r-x",
            Self::Read => "r--",
            Self::ReadWrite => "rw-",
        }
    }
}
