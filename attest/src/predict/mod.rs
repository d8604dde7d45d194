//! What the PCRs of a machine will hold, from files alone.
//!
//! PCR 2 to 7 are firmware's (PC Client Platform Firmware Profile 1.06, section 3.3.4), 11 and 12
//! boot's. PCR 0 and 1 depend on the firmware's build and on the shape of the machine: they cannot be
//! told from an image.

mod authority;
mod gpt;
mod pcr;
mod report;
#[cfg(test)]
mod tests;
mod variables;

use std::fmt;

use attest_core::measured::{CALLING, CONFIGURATION_NAME, SEALED, SEPARATOR, SERVICE_NAME};

use crate::image::{self, Efi, Kind, NotAnImage, NotEfi};

pub(crate) use gpt::MAX_BYTES as MAX_DISK_BYTES;

pub use authority::Refused;
pub use gpt::NoTable;
pub use pcr::{Digest, Pcr, sha256};
pub use variables::{NoStore, Variables};

/// What firmware says when it is dismissed.
const DISMISSED: [&[u8]; 2] =
    [b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success"];

/// When a PCR holds a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// While boot runs, before it extends `sealed`: when a sealed key opens.
    Booting,
    /// Once the machine is sealed: what a quote shows.
    Sealed,
    /// At both times.
    Always,
}

/// A PCR that was foretold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foretold {
    /// Which one.
    pub pcr: u32,
    /// When.
    pub when: When,
    /// What it holds.
    pub value: Digest,
    /// What it was made of.
    pub of: &'static str,
}

/// What an image would be started by.
#[derive(Clone, Debug)]
pub enum SecureBoot {
    /// Firmware without any key.
    Off,
    /// Firmware with these variables.
    Variables(Box<Variables>),
}

/// One address space that boot may build: the layout digest in the seal record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What is different about the machine.
    pub machine: &'static str,
    /// The digest of its layout.
    pub digest: Digest,
}

/// Everything that is known of an image's measurements before it runs.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The SHA-256 of the file.
    pub sha256: Digest,
    /// Which way it is started.
    pub kind: Kind,
    /// By what firmware measures it, if firmware does.
    pub authenticode: Option<Digest>,
    /// How many signatures it has.
    pub signatures: usize,
    /// The digest of what is measured as the service.
    pub service: Digest,
    /// The digest of what is measured as the configuration.
    pub configuration: Digest,
    /// The digest of the gate's text in the seal record, if the gate can be found.
    pub gate: Option<Digest>,
    /// The layout digests that may be in the seal record.
    pub layouts: Vec<Layout>,
    /// Whether `seal audit` finds every property to hold.
    pub is_sealed: bool,
    /// The PCRs, ascending.
    pub pcrs: Vec<Foretold>,
}

/// Why nothing can be foretold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unforeseeable {
    /// The disk has no partition table.
    Disk(NoTable),
    /// The image is none.
    Image(NotAnImage),
    /// Firmware could not read the image.
    NotEfi(NotEfi),
    /// Firmware would not start the image.
    Refused(Refused),
    /// It is started directly: nobody measures a disk.
    NoFirmware,
}

impl fmt::Display for Unforeseeable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "{error}"),
            Self::Image(error) => write!(f, "{error}"),
            Self::NotEfi(error) => write!(f, "{error}"),
            Self::Refused(error) => write!(f, "{error}"),
            Self::NoFirmware => {
                write!(f, "an ELF image is started without firmware's measurements")
            }
        }
    }
}

impl std::error::Error for Unforeseeable {}

impl Prediction {
    /// Foretells the measurements of an image, and of the disk that it is on, if that is known.
    ///
    /// # Errors
    ///
    /// [`Unforeseeable`] if it would not run, or if what is asked for is never measured.
    pub fn of(
        file: &[u8],
        disk: Option<&[u8]>,
        secure_boot: &SecureBoot,
    ) -> Result<Self, Unforeseeable> {
        let parts = image::parts(file).map_err(Unforeseeable::Image)?;
        let (service, configuration) = (sha256(&parts.service), sha256(&parts.configuration));
        let mut pcrs = Vec::new();
        let efi = match parts.kind {
            Kind::Efi => Some(Efi::parse(file).map_err(Unforeseeable::NotEfi)?),
            Kind::Direct => None,
        };
        match &efi {
            Some(efi) => pcrs.extend(by_firmware(efi, disk, secure_boot)?),
            None if disk.is_some() => return Err(Unforeseeable::NoFirmware),
            None => {}
        }
        pcrs.extend(by_boot(service, configuration));
        // An image in which not even the layout can be read is no image that boot would start.
        let report = seal::audit(file).ok();
        let gate = report.as_ref().and_then(|it| it.gate.as_ref()).map(|gate| gate.sha256);
        let layouts = report.iter().flat_map(|it| &it.layouts);
        let layouts = layouts.filter(|it| it.refused.is_none());
        let layouts = layouts.map(|it| Layout { machine: it.name, digest: it.digest }).collect();
        Ok(Self {
            sha256: sha256(file),
            kind: parts.kind,
            authenticode: efi.as_ref().map(|efi| efi.digest),
            signatures: efi.as_ref().map_or(0, |efi| efi.signatures.len()),
            service,
            configuration,
            gate,
            layouts,
            is_sealed: report.as_ref().is_some_and(seal::Report::is_sealed),
            pcrs,
        })
    }

    /// What a PCR holds while boot runs, if that is known.
    pub fn while_booting(&self, pcr: u32) -> Option<Digest> {
        self.find(pcr, When::Booting)
    }

    /// What a quote shows of a PCR, if that is known.
    pub fn once_sealed(&self, pcr: u32) -> Option<Digest> {
        self.find(pcr, When::Sealed)
    }

    fn find(&self, pcr: u32, when: When) -> Option<Digest> {
        let is_it = |it: &&Foretold| it.pcr == pcr && [when, When::Always].contains(&it.when);
        self.pcrs.iter().find(is_it).map(|it| it.value)
    }
}

fn always(pcr: u32, value: Pcr, of: &'static str) -> Foretold {
    Foretold { pcr, when: When::Always, value: value.value(), of }
}

fn by_firmware(
    efi: &Efi,
    disk: Option<&[u8]>,
    secure_boot: &SecureBoot,
) -> Result<Vec<Foretold>, Unforeseeable> {
    let separator = Pcr::ZERO.measure(&SEPARATOR);
    let started = Pcr::ZERO.measure(CALLING).measure(&SEPARATOR).extend(efi.digest);
    let mut pcrs = vec![
        always(2, separator, "no option ROM"),
        always(3, separator, "no option ROM"),
        always(4, started, "this image, started first"),
    ];
    if let Some(disk) = disk {
        let table = gpt::digest(disk).map_err(Unforeseeable::Disk)?;
        let dismiss = |pcr: Pcr, action: &[u8]| pcr.measure(action);
        let pcr = DISMISSED.into_iter().fold(separator.extend(table), dismiss);
        pcrs.push(always(5, pcr, "the disk's partitions, firmware dismissed"));
    }
    pcrs.push(always(7, secure_boot_pcr(efi, secure_boot)?, of_secure_boot(secure_boot)));
    Ok(pcrs)
}

fn of_secure_boot(secure_boot: &SecureBoot) -> &'static str {
    match secure_boot {
        SecureBoot::Off => "no Secure Boot keys",
        SecureBoot::Variables(it) if it.is_secure() => "Secure Boot on, and who vouches",
        SecureBoot::Variables(_) => "Secure Boot off, with these variables",
    }
}

/// PCR 7 (PC Client Platform Firmware Profile 1.06, section 3.3.4.8): the variables, whether or not
/// there is anything in them; a separator; and by whose word the image was started.
fn secure_boot_pcr(efi: &Efi, secure_boot: &SecureBoot) -> Result<Pcr, Unforeseeable> {
    let empty = Variables::default();
    let variables = match secure_boot {
        SecureBoot::Off => &empty,
        SecureBoot::Variables(variables) => variables,
    };
    let mut pcr = Pcr::ZERO;
    for (vendor, name, data) in variables.measured() {
        pcr = pcr.measure(&variable_data(vendor, name, data));
    }
    pcr = pcr.measure(&SEPARATOR);
    if variables.is_secure() {
        let entry = authority::authority(efi, variables).map_err(Unforeseeable::Refused)?;
        pcr = pcr.measure(&variable_data(variables::SECURITY, "db", &entry));
    }
    Ok(pcr)
}

/// `UEFI_VARIABLE_DATA` (the same profile, section 10.2.6): its name in UTF-16 without a NUL.
fn variable_data(vendor: variables::Guid, name: &str, data: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| crate::units::wide(bytes).to_le_bytes();
    let utf16 = variables::utf16(name);
    let letters = name.encode_utf16().count();
    [&vendor[..], &length(letters), &length(data.len()), &utf16, data].concat()
}

/// PCR 11 and 12 in systemd-stub's convention (systemd.io, "TPM2 PCR Measurements Made by systemd"):
/// each section's name with its NUL, then the section; the phase without one.
fn by_boot(service: Digest, configuration: Digest) -> [Foretold; 3] {
    let booted = Pcr::ZERO.measure(SERVICE_NAME).extend(service);
    let booted = booted.measure(CONFIGURATION_NAME).extend(configuration);
    let foretold = |pcr, when, value: Pcr, of| Foretold { pcr, when, value: value.value(), of };
    [
        foretold(11, When::Booting, booted, "service and configuration"),
        foretold(11, When::Sealed, booted.measure(SEALED), "service, configuration, sealed"),
        foretold(12, When::Booting, Pcr::ZERO.extend(configuration), "configuration"),
    ]
}
