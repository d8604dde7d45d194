//! The variables of a UEFI firmware, as OVMF keeps them in its flash: `OVMF_VARS.fd` and copies of
//! it in which keys are enrolled.
//!
//! The format is edk2's: a firmware volume (UEFI PI 1.8, volume 3, section 3.2.1) that holds a store
//! of authenticated variables (edk2, MdeModulePkg/Include/Guid/VariableFormat.h).

use std::fmt;

use crate::units::index;

/// A GUID, as it lies in memory.
pub(crate) type Guid = [u8; 16];

/// `EFI_GLOBAL_VARIABLE`.
pub(crate) const GLOBAL: Guid = guid(0x8be4_df61, 0x93ca, 0x11d2, 0xaa0d_00e0_9803_2b8c);

/// `EFI_IMAGE_SECURITY_DATABASE_GUID`.
pub(crate) const SECURITY: Guid = guid(0xd719_b2cb, 0x3d3a, 0x4596, 0xa3bc_dad0_0e67_656f);

/// edk2's switch that keeps Secure Boot off although there are keys.
const SWITCH: Guid = guid(0xf0a3_0bc7, 0xaf08, 0x4556, 0x99c4_0010_09c9_3a44);

const VOLUME: Guid = guid(0xfff1_2b8d, 0x7696, 0x4c8b, 0xa985_2747_075b_4f50);
const STORE: Guid = guid(0xaaf3_2c78, 0x947b, 0x439a, 0xa180_2e14_4ec3_7792);

/// Where in a volume's header its signature and its own length are.
const VOLUME_SIGNATURE_AT: usize = 40;
const VOLUME_LENGTH_AT: usize = 48;

const STORE_HEADER_BYTES: usize = 28;
const VARIABLE_HEADER_BYTES: usize = 60;

/// Every variable begins so.
const START: u16 = 0x55aa;

/// The state of a variable that is there (bits are cleared as it lives).
const ADDED: u8 = 0x3f;

/// The same, while a newer one is being written.
const ADDED_BUT_LEAVING: u8 = 0x3e;

/// The most variables that are read.
const MAX_VARIABLES: usize = 4096;

/// The GUID of these four fields; the last is written big endian, the others are not.
const fn guid(first: u32, second: u16, third: u16, last: u64) -> Guid {
    let ([a, b, c, d], [e, f], [g, h]) =
        (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
    let [i, j, k, l, m, n, o, p] = last.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Why a file is no store of variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStore {
    /// It is some other file.
    Format,
    /// It has more variables than any firmware.
    TooMany,
    /// It ends within a variable.
    Truncated {
        /// Where that begins.
        at: usize,
    },
}

impl fmt::Display for NoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => write!(f, "not a store of UEFI variables"),
            Self::TooMany => write!(f, "more than {MAX_VARIABLES} variables"),
            Self::Truncated { at } => write!(f, "variable at {at:#x} does not end"),
        }
    }
}

impl std::error::Error for NoStore {}

/// A variable that is there.
struct Variable<'a> {
    vendor: Guid,
    /// UTF-16, its NUL left out.
    name: &'a [u8],
    data: &'a [u8],
    is_leaving: bool,
}

/// What decides about Secure Boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    /// The platform key: without it everything is allowed.
    pub platform_key: Vec<u8>,
    /// Who may change the two databases.
    pub exchange_keys: Vec<u8>,
    /// What may be started.
    pub allowed: Vec<u8>,
    /// What may not.
    pub forbidden: Vec<u8>,
    /// Whether somebody has switched Secure Boot off.
    pub is_switched_off: bool,
}

impl Variables {
    /// Reads a store.
    ///
    /// # Errors
    ///
    /// [`NoStore`] if it is none.
    pub fn parse(file: &[u8]) -> Result<Self, NoStore> {
        let variables = read(file)?;
        let value = |vendor: Guid, name: &str| {
            let is_it = |it: &&Variable<'_>| it.vendor == vendor && it.name == utf16(name);
            let mut all = variables.iter().filter(is_it);
            // Of two, the one that is leaving has been replaced.
            all.clone().find(|it| !it.is_leaving).or_else(|| all.next()).map(|it| it.data)
        };
        let owned = |vendor, name| value(vendor, name).unwrap_or_default().to_vec();
        Ok(Self {
            platform_key: owned(GLOBAL, "PK"),
            exchange_keys: owned(GLOBAL, "KEK"),
            allowed: owned(SECURITY, "db"),
            forbidden: owned(SECURITY, "dbx"),
            is_switched_off: value(SWITCH, "SecureBootEnable") == Some(&[0]),
        })
    }

    /// Whether firmware lets only what it knows start (edk2, SecurityPkg/Library/AuthVariableLib: in
    /// user mode it is on unless it is switched off).
    pub fn is_secure(&self) -> bool {
        !self.platform_key.is_empty() && !self.is_switched_off
    }

    /// The variables in the order in which they are measured, with the values that they have then
    /// (PC Client Platform Firmware Profile 1.06, section 3.3.4.8).
    pub(crate) fn measured(&self) -> [(Guid, &'static str, &[u8]); 5] {
        [
            (GLOBAL, "SecureBoot", if self.is_secure() { &[1] } else { &[0] }),
            (GLOBAL, "PK", &self.platform_key),
            (GLOBAL, "KEK", &self.exchange_keys),
            (SECURITY, "db", &self.allowed),
            (SECURITY, "dbx", &self.forbidden),
        ]
    }
}

/// A name in UTF-16, without a NUL.
pub(crate) fn utf16(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn read(file: &[u8]) -> Result<Vec<Variable<'_>>, NoStore> {
    let is_volume = file.get(16..32) == Some(&VOLUME[..])
        && file.get(VOLUME_SIGNATURE_AT..).is_some_and(|it| it.starts_with(b"_FVH"));
    let header = file.get(VOLUME_LENGTH_AT..).and_then(|it| it.first_chunk());
    let header = usize::from(u16::from_le_bytes(*header.ok_or(NoStore::Format)?));
    let store = file.get(header..).filter(|it| is_volume && it.starts_with(&STORE));
    let store = store.ok_or(NoStore::Format)?;
    let size = store.get(16..).and_then(|it| it.first_chunk()).ok_or(NoStore::Format)?;
    let size = index(u64::from(u32::from_le_bytes(*size)));
    let store = store.get(..size).ok_or(NoStore::Format)?;
    let mut variables = Vec::new();
    let mut at = STORE_HEADER_BYTES;
    for _ in 0..MAX_VARIABLES {
        let Some((variable, end)) = next(store, at)? else { return Ok(variables) };
        variables.extend(variable);
        at = end;
    }
    Err(NoStore::TooMany)
}

/// The variable at a place, if it is one that is there, and where the next begins; nothing at the end.
type Next<'a> = Option<(Option<Variable<'a>>, usize)>;

fn next(store: &[u8], at: usize) -> Result<Next<'_>, NoStore> {
    let truncated = NoStore::Truncated { at };
    let Some(header) = store.get(at..).and_then(|it| it.first_chunk::<VARIABLE_HEADER_BYTES>())
    else {
        return Ok(None);
    };
    let [start_low, start_high, state, ..] = *header;
    if u16::from_le_bytes([start_low, start_high]) != START {
        return Ok(None);
    }
    let long = |from: usize| {
        let bytes = header.get(from..).and_then(|it| it.first_chunk()).ok_or(truncated)?;
        Ok(index(u64::from(u32::from_le_bytes(*bytes))))
    };
    let (name_bytes, data_bytes) = (long(36)?, long(40)?);
    let mut take =
        store.get(at..).and_then(|it| it.get(VARIABLE_HEADER_BYTES..)).ok_or(truncated)?;
    let name = take.get(..name_bytes).ok_or(truncated)?;
    take = take.get(name_bytes..).ok_or(truncated)?;
    let data = take.get(..data_bytes).ok_or(truncated)?;
    let end = at.saturating_add(VARIABLE_HEADER_BYTES).saturating_add(name_bytes);
    let end = end.saturating_add(data_bytes).checked_next_multiple_of(4).ok_or(truncated)?;
    let vendor = header.get(44..).and_then(|it| it.first_chunk()).ok_or(truncated)?;
    let is_there = state == ADDED || state == ADDED_BUT_LEAVING;
    let variable = is_there.then(|| Variable {
        vendor: *vendor,
        name: name.strip_suffix(&[0, 0]).unwrap_or(name),
        data,
        is_leaving: state == ADDED_BUT_LEAVING,
    });
    Ok(Some((variable, end)))
}
