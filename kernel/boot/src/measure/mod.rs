//! Measured boot: what the TPM is told of this boot, what it gives, and what is taken from it.
//!
//! Before anything of the service is changed, the image's parts go into PCR 11 and 12. Then the TPM
//! makes the attestation key, opens the sealed key if this is the image that it is for, and loses
//! what could undo either later. Once the audit has passed it learns what was sealed and, as the very
//! last thing, that it is sealed: whoever later extends those registers says something else.
//!
//! The boot record is filled on the way. Ring 3 will only read it; boot may write it until the drop,
//! because boot's tables map all of memory but the sealed tables writable. That takes nothing from
//! the audit: the audit is about who may do what after the drop, and the record's frames belong to no
//! other region ([`seal_core::Draft::finish`] has seen that), so no write to them reaches anything
//! that the audit has read.
//!
//! **A TPM that fails is a refusal.** Where ACPI names a TPM, boot goes on only if it measured: a
//! machine whose TPM was made to fail must not look like one that has none. Where ACPI names none and
//! something still answers at the TPM's address (microvm), it counts from the moment it has started;
//! whoever could keep it from that could as well have left it out.

mod log;

use abi::Span;
use abi::record::{self, Part};
use firmware::Physical;
use seal_core::TPM_REGISTERS;
use tpm::key_file::KeyFile;
use tpm::{Ak, Banks, Digests, Either, Interface, Secret, Tpm, WINDOW_BYTES, quote_command};
use zeroize::Zeroizing;

use crate::arch::console::say;
use crate::arch::entropy;
use crate::arch::gate::{NONCE_AT, QUOTE_BYTES, Quote, QuoteInterface};
use crate::describe::Firmware;
use crate::image::Image;
use crate::memory::{FirmwareMemory, Frames, Memory, Registers};
use crate::refusal::Refusal;

/// The PCR of the image (systemd's "kernel-boot", UAPI group's Linux TPM PCR Registry), and that of
/// what configures it.
const IMAGE_PCR: u32 = 11;
const CONFIGURATION_PCR: u32 = 12;

/// What is extended besides the parts themselves, as `systemd-measure` has it: a name before each
/// part, with its zero, and the phase that begins with the drop.
const SERVICE_NAME: &[u8] = b".linux\0";
const CONFIGURATION_NAME: &[u8] = b".cmdline\0";
const SEALED: &[u8] = b"sealed";

/// What the log says of the parts, whose bytes it does not hold.
const SERVICE_EVENT: &[u8] = b"linux";
const CONFIGURATION_EVENT: &[u8] = b"cmdline";

/// ACPI's start methods, and the control area that goes with CRB (TCG ACPI Specification 1.4, 7.3).
const START_TIS: u32 = 6;
const START_CRB: u32 = 7;
const CRB_CONTROL_AREA: u64 = TPM_REGISTERS + 0x40;

/// A TPM behind registers of either kind.
type Device = Tpm<Either<Registers>>;

const _: () = assert!(tpm::key_file::MAX_BYTES == Part::KeyFile.max_bytes());

/// A machine that was measured, up to the seal.
pub(crate) struct Measured {
    tpm: Device,
    interface: Interface,
    banks: Banks,
    record: Frames,
    quote: Quote,
    secret: Option<Secret>,
}

impl From<tpm::Error> for Refusal {
    fn from(error: tpm::Error) -> Self {
        Self::Tpm(error)
    }
}

/// Measures the image, if the machine has a TPM.
pub(crate) fn measure(
    firmware: &Firmware,
    image: &Image,
    memory: &mut Memory,
) -> Result<Option<Measured>, Refusal> {
    let Some((interface, mut tpm)) = find(firmware, memory)? else { return Ok(None) };
    let banks = tpm.banks()?;
    let record = memory.take("the boot record", record::BYTES)?;
    let quote = Quote { interface: interface.into(), command: [0; QUOTE_BYTES] };
    let mut measured = Measured { tpm, interface, banks, record, quote, secret: None };
    measured.begin_record(firmware)?;
    measured.measure_image(image)?;
    let ak = measured.make_key()?;
    let is_answered = measured.identify(&ak, firmware)?;
    let is_open = measured.open_key_file(firmware)?;
    measured.tpm.take_away_hierarchies(&mut *entropy::draw_password()?)?;
    measured.say(is_answered, is_open);
    Ok(Some(measured))
}

/// The TPM, once it has started; `None` where there is none.
fn find(firmware: &Firmware, memory: &Memory) -> Result<Option<(Interface, Device)>, Refusal> {
    let named = match firmware.acpi.tpm {
        None => None,
        Some(tpm) => Some(match (tpm.start_method, tpm.control_area) {
            (START_CRB, CRB_CONTROL_AREA) => Interface::Crb,
            (START_TIS, _) => Interface::Tis,
            (method, _) => return Err(Refusal::TpmStart { method }),
        }),
    };
    let window = Span::new(TPM_REGISTERS, WINDOW_BYTES);
    if named.is_none() && !memory.is_unused(window) {
        return Ok(None);
    }
    let registers = memory.registers(window)?;
    let start = |interface| -> Result<_, tpm::Error> {
        let mut tpm = Tpm::new(Either::new(interface, registers)?);
        tpm.start_up()?;
        Ok((interface, tpm))
    };
    match (named, Interface::detect(&registers)) {
        (None, None) => Ok(None),
        (None, Some(found)) => Ok(start(found).ok()),
        (Some(named), Some(found)) if named == found => Ok(Some(start(found)?)),
        (Some(_), _) => Err(Refusal::TpmAbsent),
    }
}

impl Measured {
    /// Where the boot record is.
    pub(crate) fn record(&self) -> Span {
        self.record.span()
    }

    /// The one command that is left to the gate.
    pub(crate) fn quote(&self) -> Quote {
        self.quote
    }

    /// What the TPM unsealed, as the handoff has it.
    pub(crate) fn secret(&self) -> Option<Zeroizing<[u64; 4]>> {
        let mut words = Zeroizing::new([0; 4]);
        let bytes = self.secret.as_ref()?.as_chunks::<8>().0;
        for (word, bytes) in words.iter_mut().zip(bytes) {
            *word = u64::from_le_bytes(*bytes);
        }
        Some(words)
    }

    /// Tells the TPM what was sealed, and that it is; nothing follows but reading.
    pub(crate) fn seal(&mut self, seal_record: &[u8]) -> Result<(), Refusal> {
        self.add(Part::SealRecord, seal_record)?;
        self.extend(CONFIGURATION_PCR, seal_record)?;
        self.extend(IMAGE_PCR, SEALED)?;
        self.record_pcrs()?;
        // After the last extend, which would make the TPM forget it again.
        Ok(self.tpm.shutdown_clear()?)
    }

    /// An empty record with what firmware left for it; where firmware has no log, boot begins one.
    fn begin_record(&mut self, firmware: &Firmware) -> Result<(), Refusal> {
        record::begin(self.record.bytes_mut()).map_err(Refusal::Record)?;
        let physical = FirmwareMemory::all();
        self.add(Part::KeyFile, read(&physical, firmware.key_file))?;
        match read(&physical, firmware.event_log) {
            [] => {
                let banks = self.banks.iter();
                let banks = banks.map(|bank| (*bank as u16, bank.digest_bytes() as u16));
                log::begin(&mut self.record, banks)
            }
            log => self.add(Part::EventLog, log),
        }
    }

    fn measure_image(&mut self, image: &Image) -> Result<(), Refusal> {
        let configuration = image.configuration_bytes();
        let banks = &self.banks;
        let service = image.show_service(|bytes| Digests::of(banks, bytes))?;
        let configuration = Digests::of(banks, configuration);
        self.extend(IMAGE_PCR, SERVICE_NAME)?;
        self.extend_digests(IMAGE_PCR, &service, SERVICE_EVENT)?;
        self.extend(IMAGE_PCR, CONFIGURATION_NAME)?;
        self.extend_digests(IMAGE_PCR, &configuration, CONFIGURATION_EVENT)?;
        self.extend_digests(CONFIGURATION_PCR, &configuration, CONFIGURATION_EVENT)
    }

    /// Makes the attestation key and the gate's command for it.
    fn make_key(&mut self) -> Result<Ak, Refusal> {
        let ak = self.tpm.create_ak()?;
        self.add(Part::AkPublic, &ak.public)?;
        let quote = quote_command(ak.handle, &[0; 32]);
        let command = <[u8; QUOTE_BYTES]>::try_from(quote.command.as_slice());
        let other = Refusal::Bound { what: "bytes of quote command", limit: QUOTE_BYTES };
        match command {
            Ok(command) if quote.qualifying_at == NONCE_AT => self.quote.command = command,
            _ => return Err(other),
        }
        Ok(ak)
    }

    /// Records who vouches for this TPM, and answers an enrolment's challenge if there is one;
    /// whether it was for this TPM.
    fn identify(&mut self, ak: &Ak, firmware: &Firmware) -> Result<Option<bool>, Refusal> {
        if let Some(certificate) = self.tpm.read_ek_certificate()? {
            self.add(Part::EkCertificate, &certificate)?;
        }
        let physical = FirmwareMemory::all();
        let challenge = read(&physical, firmware.challenge_file);
        if challenge.is_empty() {
            return Ok(None);
        }
        let answer = self.tpm.activate_credential(ak, challenge)?;
        if let Some(answer) = &answer {
            self.add(Part::CredentialAnswer, answer)?;
        }
        Ok(Some(answer.is_some()))
    }

    /// Opens the sealed key's secret if there is a file; whether it could be opened. A service that
    /// needs it and does not get it is the one to refuse: it alone knows.
    fn open_key_file(&mut self, firmware: &Firmware) -> Result<Option<bool>, Refusal> {
        let physical = FirmwareMemory::all();
        let file = read(&physical, firmware.key_file);
        if file.is_empty() {
            return Ok(None);
        }
        if let Some(file) = KeyFile::parse(file) {
            self.secret = self.tpm.unseal(&file)?;
        }
        Ok(Some(self.secret.is_some()))
    }

    fn record_pcrs(&mut self) -> Result<(), Refusal> {
        for bank in self.banks.clone() {
            let head = [bank as u16, bank.digest_bytes() as u16].map(u16::to_le_bytes);
            self.add(Part::PcrValues, head.as_flattened())?;
            for value in self.tpm.read_pcrs(bank)? {
                self.add(Part::PcrValues, value.bytes())?;
            }
        }
        Ok(())
    }

    fn extend(&mut self, pcr: u32, bytes: &[u8]) -> Result<(), Refusal> {
        self.extend_digests(pcr, &Digests::of(&self.banks, bytes), bytes)
    }

    fn extend_digests(&mut self, pcr: u32, digests: &Digests, event: &[u8]) -> Result<(), Refusal> {
        self.tpm.extend(pcr, digests)?;
        let each = digests.iter().map(|it| (it.algorithm as u16, it.bytes()));
        log::append(&mut self.record, pcr, each, event)
    }

    fn add(&mut self, part: Part, bytes: &[u8]) -> Result<(), Refusal> {
        record::append(self.record.bytes_mut(), part, bytes).map_err(Refusal::Record)
    }

    fn say(&self, is_answered: Option<bool>, is_open: Option<bool>) {
        let words = |is_so: Option<bool>, yes, no| match is_so {
            None => "none",
            Some(true) => yes,
            Some(false) => no,
        };
        say!(
            "boot: TPM: {:?}, {} banks; image measured; sealed key {}; challenge {}",
            self.interface,
            self.banks.len(),
            words(is_open, "opened", "not for this TPM, image and firmware"),
            words(is_answered, "answered", "not for this TPM")
        );
    }
}

impl From<Interface> for QuoteInterface {
    fn from(interface: Interface) -> Self {
        match interface {
            Interface::Crb => Self::Crb,
            Interface::Tis => Self::Tis,
        }
    }
}

/// What firmware left at a place, or nothing.
fn read(physical: &FirmwareMemory, place: Span) -> &[u8] {
    physical.read(place.start, place.length).unwrap_or(&[])
}

/// The TPM's registers. What lies beyond them reads as on an empty bus.
impl tpm::Registers for Registers {
    fn read_u8(&self, offset: u64) -> u8 {
        self.read(offset).unwrap_or(u8::MAX)
    }

    fn read_u32(&self, offset: u64) -> u32 {
        self.read(offset).unwrap_or(u32::MAX)
    }

    fn write_u8(&self, offset: u64, value: u8) {
        let _done = self.write(offset, value);
    }

    fn write_u32(&self, offset: u64, value: u32) {
        let _done = self.write(offset, value);
    }
}
