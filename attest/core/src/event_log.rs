//! The event log: why the PCRs hold what they hold, in the firmware's and boot's words.
//!
//! A replay that reaches the quoted values proves which digests went into which PCR in which order,
//! and nothing else. An event's type and data are proven only where the data's hash is the digest.
//! Formats: TCG PC Client Platform Firmware Profile 1.06, section 10. All numbers are little-endian.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use crate::cursor::Cursor;
use crate::hash::Algorithm;

/// The most bytes a log may have.
pub const MAX_BYTES: usize = 1 << 20;

/// The most events a log may have.
pub const MAX_EVENTS: usize = 4096;

/// The last PCR.
const LAST_PCR: u32 = 23;

/// The most hash functions a log may name.
const MAX_ALGORITHMS: u32 = 8;

/// PCRs of dynamic launch begin as ones (TCG PC Client Platform TPM Profile, table 5).
const DYNAMIC: core::ops::RangeInclusive<u8> = 17..=22;

const SPEC_ID_03: &[u8; 16] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// What an event says it is (section 10.4.1). Only a claim: see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub u32);

impl Kind {
    /// Information that was extended into no PCR.
    pub const NO_ACTION: Self = Self(3);
    /// The end of the firmware's part.
    pub const SEPARATOR: Self = Self(4);
    /// A boot loader's own event, and boot's.
    pub const IPL: Self = Self(0xd);
    /// A variable that configures Secure Boot.
    pub const VARIABLE_DRIVER_CONFIG: Self = Self(0x8000_0001);
    /// A program that firmware started.
    pub const BOOT_SERVICES_APPLICATION: Self = Self(0x8000_0003);
    /// A partition table.
    pub const GPT: Self = Self(0x8000_0006);
    /// What firmware did, in words.
    pub const EFI_ACTION: Self = Self(0x8000_0007);
    /// The certificate that let a program start.
    pub const VARIABLE_AUTHORITY: Self = Self(0x8000_00e0);

    const NAMES: [(u32, &'static str); 26] = [
        (0, "EV_PREBOOT_CERT"),
        (1, "EV_POST_CODE"),
        (3, "EV_NO_ACTION"),
        (4, "EV_SEPARATOR"),
        (5, "EV_ACTION"),
        (6, "EV_EVENT_TAG"),
        (7, "EV_S_CRTM_CONTENTS"),
        (8, "EV_S_CRTM_VERSION"),
        (9, "EV_CPU_MICROCODE"),
        (0xa, "EV_PLATFORM_CONFIG_FLAGS"),
        (0xb, "EV_TABLE_OF_DEVICES"),
        (0xc, "EV_COMPACT_HASH"),
        (0xd, "EV_IPL"),
        (0x11, "EV_NONHOST_INFO"),
        (0x12, "EV_OMIT_BOOT_DEVICE_EVENTS"),
        (0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
        (0x8000_0002, "EV_EFI_VARIABLE_BOOT"),
        (0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION"),
        (0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER"),
        (0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER"),
        (0x8000_0006, "EV_EFI_GPT_EVENT"),
        (0x8000_0007, "EV_EFI_ACTION"),
        (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
        (0x8000_0009, "EV_EFI_HANDOFF_TABLES"),
        (0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"),
        (0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY"),
    ];

    /// Whether an event of this kind has the hash of its data as its digest.
    const fn is_hash_of_data(self) -> bool {
        matches!(
            self,
            Self::SEPARATOR
                | Self::VARIABLE_DRIVER_CONFIG
                | Self::GPT
                | Self::EFI_ACTION
                | Self::VARIABLE_AUTHORITY
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "type {:#010x}", self.0),
        }
    }
}

/// Why bytes are no event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It ends inside an event, or an event is longer than the rest.
    Length {
        /// Which event, counted from 0.
        event: usize,
    },
    /// Its first event, which says how the others are to be read, is broken or repeated.
    SpecId,
    /// An event has no digest, or not exactly one by each of the log's functions.
    Digests {
        /// Which event, counted from 0.
        event: usize,
    },
    /// An event is for a PCR that there is not.
    Index {
        /// Which event, counted from 0.
        event: usize,
        /// The PCR it names.
        pcr: u32,
    },
    /// The locality of TPM2_Startup is told too late, twice, of another PCR than 0, or is none that
    /// may start a TPM.
    StartupLocality,
    /// It is longer than a log may be.
    TooLong,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { event } => write!(f, "event {event} ends beyond the log"),
            Self::SpecId => write!(f, "its specification event is broken or comes twice"),
            Self::Digests { event } => {
                write!(f, "event {event} has not one digest by each of the log's functions")
            }
            Self::Index { event, pcr } => write!(f, "event {event} is for PCR {pcr}"),
            Self::StartupLocality => write!(f, "its startup locality is misplaced or impossible"),
            Self::TooLong => {
                write!(f, "it has more than {MAX_BYTES} bytes or {MAX_EVENTS} events")
            }
        }
    }
}

impl core::error::Error for Malformed {}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The PCR it was extended into, unless it is of kind [`Kind::NO_ACTION`].
    pub pcr: u8,
    /// What it says it is.
    pub kind: Kind,
    /// A digest by each of the log's functions, in the log's order.
    pub digests: Vec<(Algorithm, &'a [u8])>,
    /// What it is about.
    pub data: &'a [u8],
}

impl Event<'_> {
    /// Its digest in one bank.
    pub fn digest(&self, bank: Algorithm) -> Option<&[u8]> {
        self.digests.iter().find(|(algorithm, _)| *algorithm == bank).map(|(_, digest)| *digest)
    }

    /// Whether its digest in one bank is the hash of its data, so that the data is proven too.
    pub fn is_of_its_data(&self, bank: Algorithm) -> bool {
        self.digest(bank) == Some(&bank.digest(&[self.data])[..])
    }
}

/// A log, read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog<'a> {
    algorithms: Vec<Algorithm>,
    events: Vec<Event<'a>>,
    /// The locality of TPM2_Startup, if the log says so: zero is one, too.
    startup_locality: Option<u8>,
}

impl<'a> EventLog<'a> {
    /// Reads a log: crypto-agile, or of the old kind with SHA-1 only.
    ///
    /// # Errors
    ///
    /// [`Malformed`] with the first thing that is wrong. Bytes behind the last event are wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_BYTES {
            return Err(Malformed::TooLong);
        }
        let mut cursor = Cursor::new(bytes);
        let first = old_event(&mut cursor).ok_or(Malformed::Length { event: 0 })?;
        let is_agile = first.kind == Kind::NO_ACTION && first.data.starts_with(SPEC_ID_03);
        let mut log = Self { algorithms: Vec::new(), events: Vec::new(), startup_locality: None };
        let sizes = if is_agile {
            let sizes = spec_id(first.data).ok_or(Malformed::SpecId)?;
            log.algorithms.extend(sizes.iter().filter_map(|(id, _)| Algorithm::parse(*id)));
            sizes
        } else {
            log.algorithms.push(Algorithm::Sha1);
            Vec::new()
        };
        log.push(first)?;
        while !cursor.is_empty() {
            let event = log.events.len();
            let next = if is_agile {
                agile_event(&mut cursor, &sizes, event)?
            } else {
                old_event(&mut cursor).ok_or(Malformed::Length { event })?
            };
            log.push(next)?;
        }
        Ok(log)
    }

    fn push(&mut self, raw: Raw<'a>) -> Result<(), Malformed> {
        let event = self.events.len();
        if event == MAX_EVENTS {
            return Err(Malformed::TooLong);
        }
        let Some(pcr) = u8::try_from(raw.pcr).ok().filter(|_| raw.pcr <= LAST_PCR) else {
            return Err(Malformed::Index { event, pcr: raw.pcr });
        };
        if raw.kind == Kind::NO_ACTION {
            if event > 0 && raw.data.starts_with(SPEC_ID_03) {
                return Err(Malformed::SpecId);
            }
            if let Some(rest) = raw.data.strip_prefix(STARTUP_LOCALITY) {
                let is_first = event <= 2 && pcr == 0 && self.startup_locality.is_none();
                match (rest, is_first) {
                    ([locality @ (0 | 3 | 4)], true) => self.startup_locality = Some(*locality),
                    _ => return Err(Malformed::StartupLocality),
                }
            }
        }
        self.events.push(Event { pcr, kind: raw.kind, digests: raw.digests, data: raw.data });
        Ok(())
    }

    /// The hash functions it has digests by, as far as they are known here.
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// All events, in order.
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// The events that were extended into one PCR.
    pub fn of(&self, pcr: u8) -> impl Iterator<Item = &Event<'a>> {
        self.events.iter().filter(move |it| it.pcr == pcr && it.kind != Kind::NO_ACTION)
    }

    /// What the PCRs that the log extends must hold in one bank; nothing if it lacks that bank.
    pub fn replay(&self, bank: Algorithm) -> Option<BTreeMap<u8, Vec<u8>>> {
        if !self.algorithms.contains(&bank) {
            return None;
        }
        let mut values = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.kind != Kind::NO_ACTION) {
            let value = values.entry(event.pcr).or_insert_with(|| self.initial(event.pcr, bank));
            *value = bank.extend(value, event.digest(bank)?);
        }
        Some(values)
    }

    /// What a PCR holds after a reset.
    fn initial(&self, pcr: u8, bank: Algorithm) -> Vec<u8> {
        let fill = if DYNAMIC.contains(&pcr) { 0xff } else { 0 };
        let mut value = alloc::vec![fill; bank.digest_bytes()];
        if let (0, Some(last)) = (pcr, value.last_mut()) {
            *last = self.startup_locality.unwrap_or(0);
        }
        value
    }

    /// The first event of one PCR whose data must be what its digest says, and is not.
    pub fn unproven(&self, pcr: u8, bank: Algorithm) -> Option<&Event<'a>> {
        self.of(pcr).find(|event| event.kind.is_hash_of_data() && !event.is_of_its_data(bank))
    }
}

/// An event as it lies in the log.
struct Raw<'a> {
    pcr: u32,
    kind: Kind,
    digests: Vec<(Algorithm, &'a [u8])>,
    data: &'a [u8],
}

/// `TCG_PCR_EVENT`: one SHA-1 digest.
fn old_event<'a>(cursor: &mut Cursor<'a>) -> Option<Raw<'a>> {
    let (pcr, kind) = (cursor.u32_le()?, Kind(cursor.u32_le()?));
    let digest = cursor.take(Algorithm::Sha1.digest_bytes())?;
    let size = usize::try_from(cursor.u32_le()?).ok()?;
    let data = cursor.take(size)?;
    Some(Raw { pcr, kind, digests: alloc::vec![(Algorithm::Sha1, digest)], data })
}

/// `TCG_PCR_EVENT2`: a digest by each of the log's functions.
fn agile_event<'a>(
    cursor: &mut Cursor<'a>,
    sizes: &[(u16, u16)],
    event: usize,
) -> Result<Raw<'a>, Malformed> {
    let length = Malformed::Length { event };
    let mut head = || Some((cursor.u32_le()?, Kind(cursor.u32_le()?), cursor.u32_le()?));
    let (pcr, kind, count) = head().ok_or(length)?;
    if usize::try_from(count) != Ok(sizes.len()) {
        return Err(Malformed::Digests { event });
    }
    let mut seen: Vec<u16> = Vec::new();
    let mut digests = Vec::new();
    for _ in 0..count {
        let id = cursor.u16_le().ok_or(length)?;
        let size = sizes.iter().find(|(known, _)| *known == id).map(|(_, size)| *size);
        let size = size.filter(|_| !seen.contains(&id)).ok_or(Malformed::Digests { event })?;
        seen.push(id);
        let digest = cursor.take(size.into()).ok_or(length)?;
        digests.extend(Algorithm::parse(id).map(|algorithm| (algorithm, digest)));
    }
    let mut tail = || {
        let size = usize::try_from(cursor.u32_le()?).ok()?;
        cursor.take(size)
    };
    Ok(Raw { pcr, kind, digests, data: tail().ok_or(length)? })
}

/// Algorithms and digest sizes of `TCG_EfiSpecIDEvent`; nothing unless it is whole and makes sense.
fn spec_id(data: &[u8]) -> Option<Vec<(u16, u16)>> {
    let mut cursor = Cursor::new(data);
    // Signature, platform class, version and the size of UINTN say nothing that we need.
    cursor.take(SPEC_ID_03.len() + 8)?;
    let count = cursor.u32_le()?;
    if count == 0 || count > MAX_ALGORITHMS {
        return None;
    }
    let mut sizes: Vec<(u16, u16)> = Vec::new();
    for _ in 0..count {
        let (id, size) = (cursor.u16_le()?, cursor.u16_le()?);
        let is_right = Algorithm::parse(id).is_none_or(|it| it.digest_bytes() == usize::from(size));
        if !is_right || size == 0 || size > 64 || sizes.iter().any(|(other, _)| *other == id) {
            return None;
        }
        sizes.push((id, size));
    }
    let vendor_bytes = cursor.u8()?;
    cursor.take(vendor_bytes.into())?;
    cursor.is_empty().then_some(sizes)
}
