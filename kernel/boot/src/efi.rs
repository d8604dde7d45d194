//! What boot takes from UEFI firmware before it dismisses it.
//!
//! Everything goes into pages of our own, because whatever else the firmware gave us is nobody's
//! memory afterwards.

use abi::record::Part;
use abi::{PAGE_BYTES, Span};
use firmware::event_log;
use uefi_raw::Status;

use crate::arch::efi::{ACPI, FINAL_EVENTS, Map, Services};
use crate::memory::{FirmwareMemory, Frames, own_image, reaches};
use crate::refusal::Refusal;

/// The longest memory map: more than a thousand ranges.
const MAX_MAP_BYTES: u64 = 64 << 10;

/// The longest file beside the image.
const MAX_FILE_BYTES: u64 = Part::KeyFile.max_bytes() as u64;

/// What boot took: first [`Taken`], then each part at its place.
const MAP: Span = Span::new(PAGE_BYTES, MAX_MAP_BYTES);
const LOG: Span = Span::new(MAP.start + MAP.length, event_log::MAX_BYTES);
const KEY: Span = Span::new(LOG.start + LOG.length, MAX_FILE_BYTES);
const CHALLENGE: Span = Span::new(KEY.start + KEY.length, MAX_FILE_BYTES);

/// All of it.
pub(crate) const BYTES: u64 = CHALLENGE.start + CHALLENGE.length;

/// The key file, on the volume that we were loaded from.
const KEY_PATH: &str = r"\EFI\BULLA\KEY.SEALED";

/// The challenge, likewise.
const CHALLENGE_PATH: &str = r"\EFI\BULLA\CHALLENGE";

/// What the parts hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// Where ACPI's root pointer is.
    pub(crate) rsdp: Option<u64>,
    /// Bytes of the memory map.
    map_bytes: u64,
    /// How far apart its descriptors are.
    map_stride: u64,
    /// Bytes of the event log.
    log_bytes: u64,
    /// Where events are that were measured later.
    final_events: Option<u64>,
    /// How many of them the log already has.
    final_known: u64,
    /// Bytes of the key file.
    key_bytes: u64,
    /// Bytes of the challenge.
    challenge_bytes: u64,
}

/// Takes what boot needs and dismisses the firmware.
pub(crate) fn take(services: Services) -> Result<Frames, Refusal> {
    // The tables that boot goes on with map the first 4 GiB.
    if !reaches(own_image().boot()) {
        return Err(Refusal::Efi {
            what: "it put this image above 4 GiB, where boot cannot go on",
        });
    }
    // Whoever wrote it, nobody measured it (the firmware does not).
    match services.command_line_bytes() {
        Some(0) => {}
        Some(bytes) => return Err(Refusal::CommandLine { bytes }),
        None => return Err(Refusal::Efi { what: "it does not say how this image was loaded" }),
    }
    let none = Refusal::Efi { what: "it has no memory below 4 GiB to give" };
    let mut frames = services.allocate(BYTES).ok_or(none)?;
    let mut taken = Taken { rsdp: services.table(&ACPI), ..Taken::default() };
    take_log(&services, &mut taken, &mut frames)?;
    taken.key_bytes = take_file(&services, KEY_PATH, part(&mut frames, KEY))?;
    taken.challenge_bytes = take_file(&services, CHALLENGE_PATH, part(&mut frames, CHALLENGE))?;
    let Map { bytes, stride } =
        services.dismiss(part(&mut frames, MAP)).map_err(|status| Refusal::Efi {
            what: match status {
                Status::BUFFER_TOO_SMALL => "its memory map has more than 64 KiB",
                _ => "it could not be dismissed",
            },
        })?;
    (taken.map_bytes, taken.map_stride) = (bytes as u64, stride as u64);
    taken.write(&mut frames);
    Ok(frames)
}

fn part(frames: &mut Frames, place: Span) -> &mut [u8] {
    let (start, length) = (place.start as usize, place.length as usize);
    frames.bytes_mut().get_mut(start..start + length).unwrap_or_default()
}

/// Copies the event log: the firmware's is in memory that will be somebody else's.
fn take_log(services: &Services, taken: &mut Taken, frames: &mut Frames) -> Result<(), Refusal> {
    let Some(log) = services.event_log() else { return Ok(()) };
    if log.is_truncated {
        return Err(Refusal::Efi { what: "it has lost the end of its event log" });
    }
    let physical = FirmwareMemory::but(frames.span());
    let bytes = event_log::read(&physical, log.start, log.last)?;
    for (to, from) in part(frames, LOG).iter_mut().zip(bytes) {
        *to = *from;
    }
    taken.log_bytes = bytes.len() as u64;
    // Asked for the log, the firmware puts every event from now on into this table as well. What it
    // has by now, somebody before us has asked for, and the log has it too.
    taken.final_events = services.table(&FINAL_EVENTS);
    if let Some(table) = taken.final_events {
        taken.final_known = event_log::final_events(&physical, table)?;
    }
    Ok(())
}

fn take_file(services: &Services, path: &str, buffer: &mut [u8]) -> Result<u64, Refusal> {
    match services.read_file(path, buffer) {
        None => Ok(0),
        Some(Ok(bytes)) => Ok(bytes as u64),
        Some(Err(Status::BAD_BUFFER_SIZE)) => {
            Err(Refusal::Efi { what: "a file in \\EFI\\BULLA has more than 8 KiB" })
        }
        Some(Err(_)) => Err(Refusal::Efi { what: "a file in \\EFI\\BULLA cannot be read" }),
    }
}

impl Taken {
    fn write(&self, frames: &mut Frames) {
        let words = [
            self.rsdp.unwrap_or(0),
            self.map_bytes,
            self.map_stride,
            self.log_bytes,
            self.final_events.unwrap_or(0),
            self.final_known,
            self.key_bytes,
            self.challenge_bytes,
        ];
        for (to, word) in frames.words_mut().iter_mut().zip(words) {
            *to = word;
        }
    }

    /// What [`take`] left in the frames.
    pub(crate) fn read(frames: &Frames) -> Self {
        let word = |index: usize| frames.words().get(index).copied().unwrap_or(0);
        let address = |index| Some(word(index)).filter(|address| *address != 0);
        Self {
            rsdp: address(0),
            map_bytes: word(1),
            map_stride: word(2),
            log_bytes: word(3),
            final_events: address(4),
            final_known: word(5),
            key_bytes: word(6),
            challenge_bytes: word(7),
        }
    }

    /// The firmware's memory map.
    pub(crate) fn map<'a>(&self, frames: &'a Frames) -> (&'a [u8], usize) {
        let (start, length) = (MAP.start as usize, self.map_bytes as usize);
        let bytes = frames.bytes().get(start..start + length).unwrap_or_default();
        (bytes, self.map_stride as usize)
    }

    /// Puts the events behind the log that were measured after it was taken: the firmware's
    /// farewell is among them.
    pub(crate) fn complete_log(&mut self, frames: &mut Frames) -> Result<(), Refusal> {
        let Some(table) = self.final_events.filter(|_| self.log_bytes > 0) else { return Ok(()) };
        let physical = FirmwareMemory::but(frames.span());
        let known = self.final_known;
        let log = part(frames, LOG);
        let used = self.log_bytes as usize;
        self.log_bytes = event_log::append(log, used, &physical, table, known)? as u64;
        Ok(())
    }

    /// Where the log is.
    pub(crate) fn event_log(&self, frames: &Frames) -> Span {
        Span::new(frames.start() + LOG.start, self.log_bytes)
    }

    /// Where the key file is.
    pub(crate) fn key_file(&self, frames: &Frames) -> Span {
        Span::new(frames.start() + KEY.start, self.key_bytes)
    }

    /// Where the challenge is.
    pub(crate) fn challenge_file(&self, frames: &Frames) -> Span {
        Span::new(frames.start() + CHALLENGE.start, self.challenge_bytes)
    }
}
