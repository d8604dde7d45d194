//! The few facts boot needs from ACPI: ports, interrupt controllers, PCI's window, the VM's id.
//!
//! Source: ACPI 6.5, sections 5.2.5 (RSDP), 5.2.7-8 (RSDT, XSDT), 5.2.9 (FADT), 5.2.12 (MADT), 6.4.3
//! (resource descriptors), 20.2 (AML); PCI firmware specification 3.3, section 4.1.2 (MCFG); "Virtual Machine Generation ID" (Microsoft);
//! TCG ACPI Specification 1.4, section 7.3 (TPM2).

use arrayvec::ArrayVec;

use crate::{Malformed, Physical, u8_at, u16_at, u32_at, u64_at};

/// The largest table we read: 1 MiB. QEMU's DSDT has some 8 KiB.
const MAX_TABLE_BYTES: u32 = 1 << 20;

/// How many entries of the root table we look at.
const MAX_TABLES: usize = 64;

/// How many I/O APICs we can quiet.
const MAX_IO_APICS: usize = 8;

/// How many virtio devices in memory we look at: QEMU's microvm has 24 places for them.
const MAX_VIRTIO: usize = 32;

/// How far into its device's definition a name may lie: QEMU's is 65 bytes in all.
const MAX_DEVICE_BYTES: usize = 256;

/// Where the id lies in the page that VGIA names (QEMU docs/specs/vmgenid).
const GENERATION_ID_OFFSET: u64 = 40;

/// How the machine is reset by a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The I/O port.
    pub port: u16,
    /// What to write there.
    pub value: u8,
}

/// PCI configuration space as memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// The physical address of bus 0's configuration.
    pub base: u64,
    /// The first bus.
    pub first_bus: u8,
    /// The last bus.
    pub last_bus: u8,
}

/// A TPM, and how it is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tpm2 {
    /// The physical address of its control area, or 0 if it has none.
    pub control_area: u64,
    /// How it is made to run a command: 6 for TIS, 7 for CRB.
    pub start_method: u32,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// The physical address of its registers.
    pub address: u64,
    /// The number that its first line has in the whole machine.
    pub first_line: u32,
}

/// A line to an I/O APIC, as a device uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number in the whole machine.
    pub number: u32,
    /// Whether an interrupt is a change of the line, and not its state.
    pub is_edge: bool,
    /// Whether the line is active when it is low.
    pub is_active_low: bool,
}

/// A virtio device whose registers lie in memory, with no bus around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmio {
    /// The physical address of its registers.
    pub address: u64,
    /// The size of its registers.
    pub length: u64,
    /// The line that it interrupts by.
    pub line: Line,
}

/// What we took from ACPI. A machine without ACPI has none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acpi {
    /// The port of the 3.579545 MHz power management timer.
    pub pm_timer: Option<u16>,
    /// The port of the PM1a control register, and the value that powers the machine off.
    pub power_off: Option<(u16, u16)>,
    /// How the machine is reset.
    pub reset: Option<Reset>,
    /// The RTC's index of the century.
    pub century: Option<u8>,
    /// Whether the machine has none of ACPI's fixed registers, so no port that ends it either.
    pub is_reduced: bool,
    /// The I/O APICs.
    pub io_apics: ArrayVec<IoApic, MAX_IO_APICS>,
    /// PCI configuration space as memory.
    pub ecam: Option<Ecam>,
    /// The physical address of the 16 bytes that change when the machine is cloned.
    pub generation_id: Option<u64>,
    /// The TPM.
    pub tpm: Option<Tpm2>,
    /// Virtio devices with registers in memory.
    pub virtio: ArrayVec<VirtioMmio, MAX_VIRTIO>,
}

/// Reads what can be read from the root pointer on.
///
/// A table that is not there leaves its facts out; a table that is there must be whole.
///
/// # Errors
///
/// [`Malformed`] with the first table that is not what it says it is.
pub fn parse(physical: &impl Physical, rsdp: u64) -> Result<Acpi, Malformed> {
    let mut acpi = Acpi::default();
    let root = root_table(physical, rsdp)?;
    let entry_bytes = if root.is_wide { 8 } else { 4 };
    let entries = root.table.get(36..).unwrap_or(&[]).chunks_exact(entry_bytes);
    for entry in entries.take(MAX_TABLES) {
        let address = if root.is_wide { u64_at(entry, 0) } else { u32_at(entry, 0).map(u64::from) };
        let Some(table) = address.map(|address| table(physical, address)).transpose()? else {
            continue;
        };
        match table.get(..4) {
            Some(b"FACP") => fixed(physical, table, &mut acpi)?,
            Some(b"APIC") => interrupts(table, &mut acpi)?,
            Some(b"MCFG") => acpi.ecam = ecam(table),
            Some(b"TPM2") => acpi.tpm = Some(tpm(table)?),
            Some(b"SSDT") => {
                let id = generation_id(physical, table);
                acpi.generation_id = acpi.generation_id.or(id);
            }
            _ => {}
        }
    }
    Ok(acpi)
}

struct Root<'a> {
    table: &'a [u8],
    is_wide: bool,
}

fn root_table(physical: &impl Physical, rsdp: u64) -> Result<Root<'_>, Malformed> {
    let missing = Malformed::OutOfReach("the ACPI root pointer lies where there is no memory");
    let first = physical.read(rsdp, 20).ok_or(missing)?;
    if first.get(..8) != Some(b"RSD PTR ") {
        return Err(Malformed::Signature("there is no ACPI root pointer where the loader says"));
    }
    if sum(first) != 0 {
        return Err(Malformed::Checksum("RSDP"));
    }
    let revision = u8_at(first, 15).unwrap_or(0);
    if revision >= 2 {
        let whole = physical.read(rsdp, 36).ok_or(missing)?;
        if sum(whole) != 0 {
            return Err(Malformed::Checksum("RSDP"));
        }
        if let Some(address) = u64_at(whole, 24).filter(|address| *address != 0) {
            return Ok(Root { table: table(physical, address)?, is_wide: true });
        }
    }
    let address = u32_at(first, 16).ok_or(missing)?;
    Ok(Root { table: table(physical, u64::from(address))?, is_wide: false })
}

fn table(physical: &impl Physical, address: u64) -> Result<&[u8], Malformed> {
    let missing = Malformed::OutOfReach("an ACPI table lies where there is no memory");
    let header = physical.read(address, 36).ok_or(missing)?;
    let length = u32_at(header, 4).ok_or(missing)?;
    if !(36..=MAX_TABLE_BYTES).contains(&length) {
        return Err(Malformed::OutOfReach(
            "an ACPI table is shorter than its header or over 1 MiB",
        ));
    }
    let table = physical.read(address, u64::from(length)).ok_or(missing)?;
    if sum(table) != 0 {
        return Err(Malformed::Checksum("table"));
    }
    Ok(table)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn fixed(physical: &impl Physical, fadt: &[u8], acpi: &mut Acpi) -> Result<(), Malformed> {
    let port = |offset| {
        let port = u32_at(fadt, offset).and_then(|port| u16::try_from(port).ok());
        port.filter(|port| *port != 0)
    };
    acpi.pm_timer = port(76);
    acpi.century = u8_at(fadt, 108).filter(|index| *index != 0);
    let flags = u32_at(fadt, 112).unwrap_or(0);
    acpi.is_reduced = flags & (1 << 20) != 0;
    // The reset register: a generic address in I/O space (1), if the flag RESET_REG_SUP says so.
    let has_reset = flags & (1 << 10) != 0;
    if has_reset && u8_at(fadt, 116) == Some(1) {
        let port = u64_at(fadt, 120).and_then(|port| u16::try_from(port).ok());
        acpi.reset = port.zip(u8_at(fadt, 128)).map(|(port, value)| Reset { port, value });
    }
    let dsdt = u64_at(fadt, 140).filter(|address| *address != 0);
    let Some(dsdt) = dsdt.or(u32_at(fadt, 40).map(u64::from)).filter(|address| *address != 0)
    else {
        return Ok(());
    };
    let dsdt = table(physical, dsdt)?;
    let sleep_type = soft_off(dsdt);
    virtio(dsdt, acpi)?;
    // SLP_TYP is bits 10 to 12, SLP_EN is bit 13 (ACPI 6.5, 4.8.3.2.1).
    acpi.power_off = port(64).zip(sleep_type).map(|(port, kind)| (port, kind << 10 | 1 << 13));
    Ok(())
}

/// The value of SLP_TYPa for S5, from `Name (_S5, Package () { a, ... })` in a DSDT.
///
/// The encoding is fixed: NameOp, "_S5_", PackageOp, a length of one byte, a count, and then an
/// integer as ZeroOp, OneOp or BytePrefix and a byte (ACPI 6.5, 20.2.3, 20.2.5.4).
fn soft_off(dsdt: &[u8]) -> Option<u16> {
    // One byte decides almost every place of a large table; the rest is looked at only then.
    let at = (0..dsdt.len())
        .zip(dsdt)
        .filter(|(_, byte)| **byte == b'5')
        .filter_map(|(at, _)| at.checked_sub(3))
        .find(|at| dsdt.get(*at..at.saturating_add(6)) == Some(b"\x08_S5_\x12"))?;
    let body = dsdt.get(at.checked_add(6)?..)?;
    let value = match *body.get(..4)? {
        [length, _count, small @ (0 | 1), _] if length < 0x40 => small,
        [length, _count, 0x0a, value] if length < 0x40 => value,
        _ => return None,
    };
    (value < 8).then_some(u16::from(value))
}

/// The virtio devices of a DSDT: `Device (..) { Name (_HID, "LNRO0005") .. Name (_CRS, Buffer ..) }`.
///
/// A device whose definition has another form than [`virtio_device`] knows is none that boot uses.
fn virtio(dsdt: &[u8], acpi: &mut Acpi) -> Result<(), Malformed> {
    const ID: &[u8] = b"\x08_HID\x0dLNRO0005\x00";
    // As in `soft_off`, one byte decides almost every place: the id's first letter.
    let places = (0..dsdt.len()).zip(dsdt).filter(|(_, byte)| **byte == b'L');
    for end in places.filter_map(|(at, _)| at.checked_sub(6)?.checked_add(ID.len())) {
        if dsdt.get(end.saturating_sub(ID.len())..end) != Some(ID) {
            continue;
        }
        let rest = dsdt.get(end..).unwrap_or(&[]);
        // Up to the next device's id, so that nobody gets another one's resources.
        let next = rest.windows(5).position(|name| name == b"\x08_HID").unwrap_or(rest.len());
        let body = rest.get(..next.min(MAX_DEVICE_BYTES)).unwrap_or(&[]);
        if let Some(device) = virtio_device(body) {
            let full = Malformed::TooMany("the machine has more than 32 virtio devices in memory");
            acpi.virtio.try_push(device).map_err(|_| full)?;
        }
    }
    Ok(())
}

/// A device's registers and line, from `Name (_CRS, ResourceTemplate () { Memory32Fixed (..),
/// Interrupt (..) { one line } })`.
///
/// The encoding is fixed: NameOp, "_CRS", BufferOp, a length of one byte, BytePrefix and a byte for
/// the size, then the resources (ACPI 6.5, 20.2.5.4): a descriptor of 9 bytes (6.4.3.4) and one of
/// 6 bytes (6.4.3.6).
fn virtio_device(body: &[u8]) -> Option<VirtioMmio> {
    let at = body.windows(6).position(|window| window == b"\x08_CRS\x11")?;
    let buffer = body.get(at.checked_add(6)?..)?;
    let [length, 0x0a, _size, resources @ ..] = buffer else { return None };
    let registers = resources.get(..12)?;
    let interrupt = resources.get(12..21)?;
    let is_known = *length < 0x40
        && registers.starts_with(&[0x86, 9, 0])
        && interrupt.starts_with(&[0x89, 6, 0])
        && u8_at(interrupt, 4) == Some(1);
    let flags = u8_at(interrupt, 3)?;
    let device = VirtioMmio {
        address: u32_at(registers, 4)?.into(),
        length: u32_at(registers, 8)?.into(),
        line: Line {
            number: u32_at(interrupt, 5)?,
            is_edge: flags & 1 << 1 != 0,
            is_active_low: flags & 1 << 2 != 0,
        },
    };
    is_known.then_some(device)
}

fn interrupts(madt: &[u8], acpi: &mut Acpi) -> Result<(), Malformed> {
    let mut rest = madt.get(44..).unwrap_or(&[]);
    while let [kind, length, ..] = *rest {
        let Some((entry, next)) = rest.split_at_checked(usize::from(length)) else { break };
        if entry.len() < 2 {
            break;
        }
        if let (1, Some(address), Some(first_line)) = (kind, u32_at(entry, 4), u32_at(entry, 8)) {
            let full = Malformed::TooMany("the machine has more than 8 I/O APICs");
            let io_apic = IoApic { address: address.into(), first_line };
            acpi.io_apics.try_push(io_apic).map_err(|_| full)?;
        }
        rest = next;
    }
    Ok(())
}

fn ecam(mcfg: &[u8]) -> Option<Ecam> {
    // One allocation of 16 bytes for each segment; we use segment 0.
    let entries = mcfg.get(44..)?.chunks_exact(16);
    entries.filter(|entry| u16_at(entry, 8) == Some(0)).find_map(|entry| {
        Some(Ecam {
            base: u64_at(entry, 0)?,
            first_bus: u8_at(entry, 10)?,
            last_bus: u8_at(entry, 11)?,
        })
    })
}

/// A TPM that firmware names is one that boot has to understand, so this table must be whole.
fn tpm(table: &[u8]) -> Result<Tpm2, Malformed> {
    let short = Malformed::OutOfReach("the TPM2 table is too short to name a TPM");
    Ok(Tpm2 {
        control_area: u64_at(table, 40).ok_or(short)?,
        start_method: u32_at(table, 48).ok_or(short)?,
    })
}

/// The generation id's address, from `Name (VGIA, <dword>)` in the SSDT that QEMU makes for it.
fn generation_id(physical: &impl Physical, ssdt: &[u8]) -> Option<u64> {
    // The name is filled up with blanks or zeros, by version.
    if ssdt.get(16..23)? != b"VMGENID" {
        return None;
    }
    // NameOp, "VGIA", DWordPrefix, four bytes.
    let at = ssdt.windows(6).position(|window| window == b"\x08VGIA\x0c")?;
    let base = u64::from(u32_at(ssdt, at.checked_add(6)?)?);
    let address = base.checked_add(GENERATION_ID_OFFSET)?;
    (base != 0 && physical.read(address, 16).is_some()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Islands;
    use std::vec;
    use std::vec::Vec;

    fn sealed(signature: &[u8; 4], oem: &[u8; 8], body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 36];
        bytes[..4].copy_from_slice(signature);
        bytes[16..24].copy_from_slice(oem);
        bytes.extend_from_slice(body);
        let length = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[9] = 0u8.wrapping_sub(sum(&bytes));
        bytes
    }

    /// The last device of QEMU 7.2's `-machine microvm`, in the form of its DSDT.
    const VIRTIO: &[u8] =
        b"\x5b\x82\x42\x04VR23\x08_HID\x0dLNRO0005\x00\x08_UID\x0a\x17\x08_CCA\x01\
        \x08_CRS\x11\x1a\x0a\x17\x86\x09\x00\x01\x00\x2e\xb0\xfe\x00\x02\x00\x00\
        \x89\x06\x00\x01\x01\x2f\x00\x00\x00\x79\x00";

    fn root_pointer(rsdt: u32) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes[..8].copy_from_slice(b"RSD PTR ");
        bytes[16..20].copy_from_slice(&rsdt.to_le_bytes());
        bytes[8] = 0u8.wrapping_sub(sum(&bytes));
        bytes
    }

    fn facp() -> Vec<u8> {
        let mut body = vec![0; 244 - 36];
        let mut put = |offset: usize, bytes: &[u8]| {
            body[offset - 36..offset - 36 + bytes.len()].copy_from_slice(bytes);
        };
        put(40, &0x5000u32.to_le_bytes());
        put(64, &0x604u32.to_le_bytes());
        put(76, &0x608u32.to_le_bytes());
        put(108, &[0x32]);
        put(112, &(1u32 << 10).to_le_bytes());
        put(116, &[1]);
        put(120, &0xcf9u64.to_le_bytes());
        put(128, &[0x0f]);
        sealed(b"FACP", b"TEST    ", &body)
    }

    fn machine() -> Islands {
        let madt = [vec![0; 8], vec![0, 8, 0, 0, 1, 0, 0, 0], {
            let mut io_apic = vec![1, 12, 0, 0];
            io_apic.extend_from_slice(&0xfec0_0000u32.to_le_bytes());
            io_apic.extend_from_slice(&0x18u32.to_le_bytes());
            io_apic
        }];
        let mut mcfg = vec![0; 8];
        mcfg.extend_from_slice(&0xb000_0000u64.to_le_bytes());
        mcfg.extend_from_slice(&[0, 0, 0, 0xff, 0, 0, 0, 0]);
        let ssdt = sealed(b"SSDT", b"VMGENID ", b"\x08VGIA\x0c\x00\x80\x00\x00");
        let mut tpm = vec![0; 4];
        tpm.extend_from_slice(&0xfed4_0040u64.to_le_bytes());
        tpm.extend_from_slice(&7u32.to_le_bytes());
        let dsdt = [&b"..\x08_S5_\x12\x06\x04\x0a\x05\x00\x00.."[..], VIRTIO].concat();
        let tables: [(u64, Vec<u8>); 6] = [
            (0x3000, facp()),
            (0x5000, sealed(b"DSDT", b"TEST    ", &dsdt)),
            (0x6000, sealed(b"APIC", b"TEST    ", &madt.concat())),
            (0x7000, sealed(b"MCFG", b"TEST    ", &mcfg)),
            (0x7800, ssdt),
            (0x7900, sealed(b"TPM2", b"TEST    ", &tpm)),
        ];
        let mut pointers = Vec::new();
        for address in [0x3000u32, 0x6000, 0x7000, 0x7800, 0x7900] {
            pointers.extend_from_slice(&address.to_le_bytes());
        }
        let mut islands = Islands(tables.into());
        islands.0.push((0x1000, root_pointer(0x2000)));
        islands.0.push((0x2000, sealed(b"RSDT", b"TEST    ", &pointers)));
        islands.0.push((0x8000, vec![9; 64]));
        islands
    }

    #[test]
    fn finds_every_fact() {
        let acpi = parse(&machine(), 0x1000).unwrap();
        assert_eq!(acpi.pm_timer, Some(0x608));
        assert_eq!(acpi.power_off, Some((0x604, 5 << 10 | 1 << 13)));
        assert_eq!(acpi.reset, Some(Reset { port: 0xcf9, value: 0x0f }));
        assert_eq!(acpi.century, Some(0x32));
        assert!(!acpi.is_reduced);
        let io_apic = IoApic { address: 0xfec0_0000, first_line: 0x18 };
        assert_eq!(acpi.io_apics.as_slice(), &[io_apic]);
        assert_eq!(acpi.ecam, Some(Ecam { base: 0xb000_0000, first_bus: 0, last_bus: 0xff }));
        assert_eq!(acpi.generation_id, Some(0x8028));
        assert_eq!(acpi.tpm, Some(Tpm2 { control_area: 0xfed4_0040, start_method: 7 }));
        let line = Line { number: 47, is_edge: false, is_active_low: false };
        let device = VirtioMmio { address: 0xfeb0_2e00, length: 0x200, line };
        assert_eq!(acpi.virtio.as_slice(), &[device]);
    }

    /// The devices of a DSDT that holds `VIRTIO` with one byte changed, and then `VIRTIO` itself.
    fn two_devices(at: usize, value: u8) -> Acpi {
        let mut changed = VIRTIO.to_vec();
        changed[at] = value;
        let mut acpi = Acpi::default();
        virtio(&[&changed, VIRTIO].concat(), &mut acpi).unwrap();
        acpi
    }

    #[test]
    fn finds_every_virtio_device_and_how_its_line_works() {
        let flags = VIRTIO.len() - 8;
        let level = |is_edge, is_active_low| Line { number: 47, is_edge, is_active_low };
        for (value, line) in [
            (0b0001, level(false, false)),
            (0b0011, level(true, false)),
            (0b0101, level(false, true)),
            (0b1111, level(true, true)),
        ] {
            let acpi = two_devices(flags, value);
            assert_eq!(acpi.virtio.len(), 2);
            assert_eq!(acpi.virtio[0].line, line, "{value:#b}");
        }
    }

    #[test]
    fn a_virtio_device_in_another_form_is_none_and_borrows_nothing() {
        let name = 4 + 4 + 5 + 10;
        let resources = VIRTIO.len() - 2 - 9 - 12;
        for at in [name - 2, resources - 3, resources - 2, resources, resources + 12] {
            let acpi = two_devices(at, 0xee);
            assert_eq!(acpi.virtio.len(), 1, "byte {at}");
        }
        // Two lines are one too many: which of them is it?
        assert_eq!(two_devices(resources + 16, 2).virtio.len(), 1);
        let mut acpi = Acpi::default();
        for length in 0..VIRTIO.len() - 2 {
            virtio(&VIRTIO[..length], &mut acpi).unwrap();
        }
        assert_eq!(acpi.virtio.len(), 0);
    }

    #[test]
    fn more_virtio_devices_than_anybody_has_are_refused() {
        let many = VIRTIO.repeat(MAX_VIRTIO + 1);
        let expected = "the machine has more than 32 virtio devices in memory";
        assert_eq!(virtio(&many, &mut Acpi::default()), Err(Malformed::TooMany(expected)));
    }

    #[test]
    fn knows_a_machine_without_fixed_registers() {
        let mut machine = machine();
        let flags = 1u32 << 20 | 1 << 10;
        let mut body = facp()[36..].to_vec();
        body[112 - 36..116 - 36].copy_from_slice(&flags.to_le_bytes());
        // The reset register is memory here, which is none of ours.
        body[116 - 36] = 0;
        machine.0[0].1 = sealed(b"FACP", b"TEST    ", &body);
        let acpi = parse(&machine, 0x1000).unwrap();
        assert!(acpi.is_reduced);
        assert_eq!(acpi.reset, None);
    }

    #[test]
    fn a_table_with_a_wrong_sum_is_refused() {
        let mut machine = machine();
        machine.0[2].1[40] ^= 1;
        assert_eq!(parse(&machine, 0x1000), Err(Malformed::Checksum("table")));
    }

    #[test]
    fn a_root_pointer_that_is_none_is_refused() {
        let mut machine = machine();
        machine.0[6].1[0] = b'X';
        let expected = "there is no ACPI root pointer where the loader says";
        assert_eq!(parse(&machine, 0x1000), Err(Malformed::Signature(expected)));
    }

    #[test]
    fn a_tpm_that_is_not_described_whole_is_refused() {
        let mut machine = machine();
        machine.0[5].1 = sealed(b"TPM2", b"TEST    ", &[0; 15]);
        let expected = "the TPM2 table is too short to name a TPM";
        assert_eq!(parse(&machine, 0x1000), Err(Malformed::OutOfReach(expected)));
    }

    #[test]
    fn nothing_that_firmware_says_makes_it_panic() {
        // Every byte of every table changed to a few values, the sums made right again.
        for island in 0..machine().0.len() {
            for offset in 0..machine().0[island].1.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut machine = machine();
                    let bytes = &mut machine.0[island].1;
                    bytes[offset] = value;
                    let fix = 0u8.wrapping_sub(sum(bytes));
                    let at = if island == 6 { 8 } else { 9 };
                    bytes[at] = bytes[at].wrapping_add(fix);
                    let _either = parse(&machine, 0x1000);
                }
            }
        }
    }
}
