//! What a log says was started: firmware's program in PCR 4, and boot's own events in 11 and 12.

use alloc::vec::Vec;
use core::fmt;

use crate::Sha256;
use crate::event_log::{Event, EventLog, Kind};
use crate::hash::Algorithm;

/// The bank that everything is judged by.
pub const BANK: Algorithm = Algorithm::Sha256;

/// Firmware's program.
pub const PROGRAM_PCR: u8 = 4;
/// The image's parts and phases, in the convention of systemd-stub.
pub const IMAGE_PCR: u8 = 11;
/// The configuration and the seal record.
pub const SEAL_PCR: u8 = 12;

/// What firmware says before it starts a boot option's program.
pub const CALLING: &[u8] = b"Calling EFI Application from Boot Option";
/// What it says when that program came back.
pub const RETURNING: &[u8] = b"Returning from EFI Application from Boot Option";
/// What a separator holds where nothing went wrong (PC Client Platform Firmware Profile 1.06,
/// section 10.4.5).
pub const SEPARATOR: [u8; 4] = [0; 4];

/// The names of the two parts, as they are measured: with the zero at their end.
pub const SERVICE_NAME: &[u8] = b".linux\0";
/// See [`SERVICE_NAME`].
pub const CONFIGURATION_NAME: &[u8] = b".cmdline\0";
/// What the events of the two parts say: too little to be what was hashed.
const SERVICE_EVENT: &[u8] = b"linux";
/// See [`SERVICE_EVENT`].
const CONFIGURATION_EVENT: &[u8] = b"cmdline";
/// The phase that the seal begins.
pub const SEALED: &[u8] = b"sealed";

/// Why a log is not that of a machine like ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusual {
    /// PCR 4 is not: calls, one separator, calls, and one program behind it.
    Program(&'static str),
    /// PCR 11 is not: service, configuration, and the phase "sealed" at most once.
    Image,
    /// PCR 12 is not: configuration, and at most one seal record.
    Seal,
}

impl fmt::Display for Unusual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(what) => write!(f, "PCR 4: {what}"),
            Self::Image => write!(f, "PCR 11 holds other events than boot makes"),
            Self::Seal => write!(f, "PCR 12 holds other events than boot makes"),
        }
    }
}

/// The digest of the one program that firmware started.
///
/// # Errors
///
/// [`Unusual::Program`] unless the log has exactly one, behind exactly one separator.
pub fn program(log: &EventLog<'_>) -> Result<Sha256, Unusual> {
    let mut separators = 0;
    let mut found = None;
    for event in log.of(PROGRAM_PCR) {
        match event.kind {
            // Firmware that goes on after the program had it back: what runs now is something else.
            Kind::EFI_ACTION if found.is_some() => {
                return Err(Unusual::Program("firmware went on behind the program"));
            }
            Kind::EFI_ACTION if [CALLING, RETURNING].contains(&event.data) => {
                proven(event).ok_or(Unusual::Program("an action is not what its digest says"))?;
            }
            Kind::SEPARATOR if event.data == SEPARATOR => {
                proven(event).ok_or(Unusual::Program("a separator is not what its digest says"))?;
                separators += 1;
            }
            Kind::BOOT_SERVICES_APPLICATION if separators == 1 => {
                let digest = event.digest(BANK).and_then(|digest| digest.try_into().ok());
                if found.is_some() || is_a_marker(event) {
                    return Err(Unusual::Program("more than one program was started"));
                }
                found = digest;
            }
            Kind::BOOT_SERVICES_APPLICATION => {
                return Err(Unusual::Program("a program was started before the separator"));
            }
            _ => return Err(Unusual::Program("an event that has no place there")),
        }
    }
    if separators != 1 {
        return Err(Unusual::Program("there is not exactly one separator"));
    }
    found.ok_or(Unusual::Program("no program was started"))
}

/// Whether a program's digest is one of an action or a separator under another type.
fn is_a_marker(event: &Event<'_>) -> bool {
    let digest = event.digest(BANK);
    let markers = [CALLING, RETURNING, &SEPARATOR, &[0xff; 4]];
    markers.iter().any(|marker| digest == Some(&BANK.digest(&[marker])[..]))
}

fn proven(event: &Event<'_>) -> Option<()> {
    event.is_of_its_data(BANK).then_some(())
}

/// What boot measured of its own image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// SHA-256 of the service.
    pub service: Sha256,
    /// SHA-256 of the configuration section.
    pub configuration: Sha256,
    /// The seal record, if the machine came that far.
    pub seal_record: Option<&'a [u8]>,
    /// Whether the phase "sealed" began.
    pub is_sealed: bool,
}

/// Reads boot's events.
///
/// # Errors
///
/// [`Unusual`] unless they are exactly those that boot makes, in its order.
pub fn image<'a>(log: &EventLog<'a>) -> Result<Image<'a>, Unusual> {
    let events: Vec<_> = log.of(IMAGE_PCR).collect();
    let (parts, phases) = events.split_at_checked(4).ok_or(Unusual::Image)?;
    let [service_name, service, configuration_name, configuration] = parts else {
        return Err(Unusual::Image);
    };
    let is_named = said(service_name, SERVICE_NAME) && said(configuration_name, CONFIGURATION_NAME);
    let is_sealed = match phases {
        [] => false,
        [phase] if said(phase, SEALED) => true,
        _ => return Err(Unusual::Image),
    };
    let (Some(service), Some(configuration), true) =
        (part(service, SERVICE_EVENT), part(configuration, CONFIGURATION_EVENT), is_named)
    else {
        return Err(Unusual::Image);
    };
    let mut second = log.of(SEAL_PCR);
    if second.next().and_then(|event| part(event, CONFIGURATION_EVENT)) != Some(configuration) {
        return Err(Unusual::Seal);
    }
    let is_boots = |event: &Event<'_>| event.kind == Kind::IPL && event.is_of_its_data(BANK);
    let seal_record = match (second.next(), second.next()) {
        (None, _) => None,
        (Some(record), None) if is_boots(record) => Some(record.data),
        _ => return Err(Unusual::Seal),
    };
    Ok(Image { service, configuration, seal_record, is_sealed })
}

/// The digest of a part, from boot's own event of that name.
fn part(event: &Event<'_>, name: &[u8]) -> Option<Sha256> {
    let is_boots = event.kind == Kind::IPL && event.data == name;
    is_boots.then(|| event.digest(BANK)?.try_into().ok())?
}

/// Whether an event is boot's own, and says and hashes this text.
fn said(event: &Event<'_>, text: &[u8]) -> bool {
    event.kind == Kind::IPL && event.data == text && event.is_of_its_data(BANK)
}

/// What PCR 11 holds once boot has measured both parts, and after "sealed".
pub fn image_pcr(service: &Sha256, configuration: &Sha256, is_sealed: bool) -> Vec<u8> {
    let names = [SERVICE_NAME, CONFIGURATION_NAME].map(|name| BANK.digest(&[name]));
    let mut value = alloc::vec![0; BANK.digest_bytes()];
    for digest in [&names[0][..], service, &names[1], configuration] {
        value = BANK.extend(&value, digest);
    }
    if is_sealed {
        value = BANK.extend(&value, &BANK.digest(&[SEALED]));
    }
    value
}

/// What PCR 12 holds after the seal record.
pub fn seal_pcr(configuration: &Sha256, record: &[u8]) -> Vec<u8> {
    let value = BANK.extend(&alloc::vec![0; BANK.digest_bytes()], configuration);
    BANK.extend(&value, &BANK.digest(&[record]))
}

/// What a PCR holds into which firmware only puts its separator.
pub fn separator_pcr() -> Vec<u8> {
    BANK.extend(&alloc::vec![0; BANK.digest_bytes()], &BANK.digest(&[&SEPARATOR]))
}
