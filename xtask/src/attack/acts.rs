//! Every act, and what the machine has to do about it: one line an act.
//!
//! What is expected comes from the manuals, not from what was seen. Where a CPU and QEMU's emulation
//! of one differ, both outcomes are listed and a note says why.

mod doors;

use abi::gate::{IDLE, LOG, NOTIFY, QUOTE, STOP, TPM_READ};
use machine::tpm::Interface;
use machine::{Chipset, Firmware};

use super::Outcome;

/// What an act runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// A small machine, fast to boot: qboot on a Q35 board.
    Small,
    /// An i440FX board whose firmware has woken USB and a keyboard.
    CrowdedPc,
    /// A Q35 board whose firmware has woken USB and a keyboard.
    CrowdedQ35,
    /// The small machine with a TPM.
    Tpm(Interface),
    /// A board without PCI: the gate rings the card's bells.
    Microvm,
}

impl Setup {
    pub(super) fn memory_mib(self) -> u64 {
        match self {
            Self::Small | Self::Tpm(_) | Self::Microvm => 16,
            Self::CrowdedPc | Self::CrowdedQ35 => 24,
        }
    }

    pub(super) fn chipset(self) -> Chipset {
        match self {
            Self::CrowdedPc => Chipset::Pc,
            Self::Small | Self::CrowdedQ35 | Self::Tpm(_) => Chipset::Q35,
            Self::Microvm => Chipset::Microvm,
        }
    }

    pub(super) fn firmware(self) -> Firmware {
        match self {
            Self::Small | Self::Tpm(_) | Self::Microvm => Firmware::Qboot,
            Self::CrowdedPc | Self::CrowdedQ35 => Firmware::SeaBios,
        }
    }

    pub(super) fn devices(self) -> &'static [&'static str] {
        match self {
            Self::Small | Self::Tpm(_) | Self::Microvm => &[],
            Self::CrowdedPc => &["-device", "piix3-usb-uhci", "-device", "usb-kbd"],
            Self::CrowdedQ35 => {
                &["-device", "qemu-xhci", "-device", "usb-kbd", "-device", "virtio-rng-pci"]
            }
        }
    }

    pub(super) fn has_keyboard(self) -> bool {
        matches!(self, Self::CrowdedPc | Self::CrowdedQ35)
    }

    /// How it talks to its TPM, if it has one.
    pub(super) fn tpm(self) -> Option<Interface> {
        match self {
            Self::Tpm(interface) => Some(interface),
            Self::Small | Self::CrowdedPc | Self::CrowdedQ35 | Self::Microvm => None,
        }
    }

    /// Whether a port ends it. Where there is none it halts, and the gate has no other way either.
    pub(super) fn has_reset(self) -> bool {
        self != Self::Microvm
    }

    fn words(self) -> &'static str {
        match self {
            Self::Small => "",
            Self::CrowdedPc => " (pc, SeaBIOS, keys)",
            Self::CrowdedQ35 => " (q35, SeaBIOS, keys)",
            Self::Tpm(Interface::Crb) => " (TPM, CRB)",
            Self::Tpm(Interface::Tis) => " (TPM, TIS)",
            Self::Microvm => " (microvm)",
        }
    }
}

/// One act.
#[derive(Clone, Debug)]
pub struct Act {
    /// The probe's name for it, with a number where it has one.
    pub name: String,
    /// What it runs on.
    pub setup: Setup,
    /// What the machine may do about it.
    pub allowed: Vec<Outcome>,
    /// Why there is more than one.
    pub note: Option<&'static str>,
}

impl Act {
    fn new(name: impl Into<String>, allowed: Outcome) -> Self {
        Self { name: name.into(), setup: Setup::Small, allowed: vec![allowed], note: None }
    }

    fn or(mut self, other: Outcome, note: &'static str) -> Self {
        if !self.allowed.contains(&other) {
            self.allowed.push(other);
        }
        self.note = Some(note);
        self
    }

    fn on(mut self, setup: Setup) -> Self {
        self.setup = setup;
        self
    }

    /// The act that is none.
    pub(super) fn control() -> Self {
        Self::new("control", nothing("the end of its program"))
    }

    /// The name, and the machine if it is not the usual one.
    pub fn label(&self) -> String {
        format!("{}{}", self.name, self.setup.words())
    }

    /// What the machine may do about it, in words.
    pub fn expected(&self) -> String {
        let outcomes: Vec<String> = self.allowed.iter().map(ToString::to_string).collect();
        let note = self.note.map(|note| format!(" ({note})")).unwrap_or_default();
        outcomes.join(" or ") + &note
    }
}

/// A page fault's error code (Intel SDM 3A, 4.7): the page is there, it was a write, it came from
/// ring 3, it was a fetch.
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const FETCH: u64 = 16;

/// Writing, reading or executing what is mapped for ring 0 only, or with another right.
const WRITE_REFUSED: Outcome = page_fault(PRESENT | WRITE | USER);
const READ_REFUSED: Outcome = page_fault(PRESENT | USER);
const FETCH_REFUSED: Outcome = page_fault(PRESENT | USER | FETCH);

/// The same where nothing is mapped at all.
const WRITE_NOWHERE: Outcome = page_fault(WRITE | USER);
const READ_NOWHERE: Outcome = page_fault(USER);
const FETCH_NOWHERE: Outcome = page_fault(USER | FETCH);

const PRIVILEGED: Outcome = protection(0);
const DEBUG: Outcome = Outcome::Fault { vector: 1, error: 0 };
const UNDEFINED: Outcome = Outcome::Fault { vector: 6, error: 0 };

const fn page_fault(error: u64) -> Outcome {
    Outcome::Fault { vector: 14, error }
}

const fn protection(error: u64) -> Outcome {
    Outcome::Fault { vector: 13, error }
}

fn nothing(seen: &str) -> Outcome {
    Outcome::Nothing(seen.to_owned())
}

/// `iretq` and a far return read the service's stack. QEMU before 9.1 takes that for an access of
/// ring 0's, and SMAP refuses it.
const SMAP_NOTE: &str = "#PF: QEMU before 9.1 reads the frame as ring 0";
const SMAP_REFUSED: Outcome = page_fault(PRESENT);

/// QEMU's CPU says that it is AMD's.
const AMD_NOTE: &str = "#UD: AMD's CPUs have it only outside of long mode";

/// A gate of 64-bit mode has 16 bytes, yet its error code counts in eights.
const GATE_NOTE: &str = "QEMU 7.2 counts in sixteens";

/// Acts with one outcome each.
const MEMORY: &[(&str, Outcome)] = &[
    ("write_text", WRITE_REFUSED),
    ("write_rodata", WRITE_REFUSED),
    ("write_relro", WRITE_REFUSED),
    ("write_configuration", WRITE_REFUSED),
    ("write_page_table", WRITE_REFUSED),
    ("write_descriptor_table", WRITE_REFUSED),
    ("write_transmit_descriptor", WRITE_REFUSED),
    ("write_used_ring", WRITE_REFUSED),
    ("write_gate_text", WRITE_REFUSED),
    ("write_gate_data", WRITE_REFUSED),
    ("write_gate_stack", WRITE_REFUSED),
    ("write_idt", WRITE_REFUSED),
    ("write_gdt", WRITE_REFUSED),
    ("write_tss", WRITE_REFUSED),
    ("write_null", WRITE_NOWHERE),
    ("execute_heap", FETCH_REFUSED),
    ("execute_stack", FETCH_REFUSED),
    ("execute_data", FETCH_REFUSED),
    ("execute_packet_buffer", FETCH_REFUSED),
    ("execute_gate", FETCH_REFUSED),
    ("execute_tail", FETCH_NOWHERE),
    ("execute_boot", FETCH_NOWHERE),
    // Boot's entry and what lay behind it; the tail's first page; the first megabyte.
    ("return_to 0x100000", FETCH_NOWHERE),
    ("return_to 0x101000", FETCH_NOWHERE),
    ("return_to 0x108000", FETCH_NOWHERE),
    ("return_to 0xffffffffffc01ff0", FETCH_NOWHERE),
    ("return_to 0x7c00", FETCH_NOWHERE),
    ("return_to 0xffffffffffc02000", FETCH_REFUSED),
    ("null_call", FETCH_NOWHERE),
    ("null_read", READ_NOWHERE),
    ("read_boot", READ_NOWHERE),
    ("read_real_mode", READ_NOWHERE),
    ("read_page_table", READ_REFUSED),
    ("read_gate_text", READ_REFUSED),
    ("read_gate_data", READ_REFUSED),
    ("read_gate_stack", READ_REFUSED),
    ("read_tail", READ_NOWHERE),
    ("read_non_canonical", PRIVILEGED),
    ("touch_device_configuration", WRITE_NOWHERE),
    ("touch_lapic", WRITE_REFUSED),
    ("touch_lapic_registers", WRITE_NOWHERE),
    ("touch_io_apic", WRITE_NOWHERE),
    ("touch_pci_window", WRITE_NOWHERE),
    ("stack_overflow", WRITE_NOWHERE),
    ("heap_guard_below", WRITE_NOWHERE),
    ("heap_guard_above", WRITE_NOWHERE),
    // The stack pointer is useless when a fault comes: the CPU takes the gate's.
    ("stack_read_only", UNDEFINED),
    ("stack_null", UNDEFINED),
    ("stack_gate", UNDEFINED),
];

const INSTRUCTIONS: &[(&str, Outcome)] = &[
    ("mov_cr0", PRIVILEGED),
    ("mov_cr2", PRIVILEGED),
    ("mov_cr3", PRIVILEGED),
    ("mov_cr4", PRIVILEGED),
    ("mov_cr8", PRIVILEGED),
    ("read_cr0", PRIVILEGED),
    ("read_cr2", PRIVILEGED),
    ("read_cr3", PRIVILEGED),
    ("read_cr4", PRIVILEGED),
    ("mov_dr7", PRIVILEGED),
    ("read_dr7", PRIVILEGED),
    ("wrmsr", PRIVILEGED),
    ("rdmsr", PRIVILEGED),
    ("rdpmc", PRIVILEGED),
    ("xsetbv", PRIVILEGED),
    ("lgdt", PRIVILEGED),
    ("lidt", PRIVILEGED),
    ("lldt", PRIVILEGED),
    ("ltr", PRIVILEGED),
    ("lmsw", PRIVILEGED),
    // UMIP: the machine's CPU has it.
    ("sgdt", PRIVILEGED),
    ("sidt", PRIVILEGED),
    ("sldt", PRIVILEGED),
    ("str", PRIVILEGED),
    ("smsw", PRIVILEGED),
    ("clts", PRIVILEGED),
    ("invlpg", PRIVILEGED),
    ("invd", PRIVILEGED),
    ("wbinvd", PRIVILEGED),
    ("swapgs", PRIVILEGED),
    ("hlt", PRIVILEGED),
    ("cli", PRIVILEGED),
    ("sti", PRIVILEGED),
    // EFER.SCE is clear and IA32_SYSENTER_CS is zero.
    ("sysretq", UNDEFINED),
    ("syscall", UNDEFINED),
    ("vmcall", UNDEFINED),
    ("vmmcall", UNDEFINED),
    // CR4 has neither FSGSBASE nor PKE.
    ("rdfsbase", UNDEFINED),
    ("wrfsbase", UNDEFINED),
    ("wrgsbase", UNDEFINED),
    ("wrpkru", UNDEFINED),
    ("clac", UNDEFINED),
    ("stac", UNDEFINED),
    ("monitor", UNDEFINED),
    ("ud2", UNDEFINED),
    ("divide", Outcome::Fault { vector: 0, error: 0 }),
    ("insb", PRIVILEGED),
    ("outsb", PRIVILEGED),
    ("popf_trap", DEBUG),
    ("iretq_nested", PRIVILEGED),
];

/// Ports that could undo a seal: PCI configuration, the keyboard controller's reset, fast A20, the
/// management interrupt, fw_cfg with its DMA, VMware's backdoor, the console.
const PORTS: [u16; 9] = [0xcf8, 0xcfc, 0x64, 0x92, 0xb2, 0x510, 0x514, 0x5658, 0x3f8];

/// Everything in the GDT, and four selectors outside of it: behind its end, at the end of any
/// table's reach, and two of a local table, which there is none of.
const SELECTORS: [u16; 7 * 2 + 4] = [
    0x00, 0x03, 0x08, 0x0b, 0x10, 0x13, 0x18, 0x1b, 0x20, 0x23, 0x28, 0x2b, 0x30,
    0x33, // in it
    0x38, 0xfffb, 0x04, 0x0f,
];

/// Ring 3's own segments, with their privilege.
const USER_DATA: u16 = 0x1b;
const USER_CODE: u16 = 0x23;

const LOADED: &str = "a segment of ring 3 was loaded";

/// Every act, in the table's order.
pub fn acts() -> Vec<Act> {
    let mut acts: Vec<Act> = [MEMORY, INSTRUCTIONS]
        .into_iter()
        .flatten()
        .map(|(name, outcome)| Act::new(*name, outcome.clone()))
        .collect();
    acts.extend(disputed());
    for port in PORTS {
        acts.push(Act::new(format!("in {port:#x}"), PRIVILEGED));
        acts.push(Act::new(format!("out {port:#x}"), PRIVILEGED));
    }
    acts.extend(SELECTORS.map(load_ds));
    acts.extend(SELECTORS.map(load_ss));
    acts.extend(SELECTORS.map(far_return));
    acts.extend(calls());
    acts.extend(rings());
    acts.extend(doors::notify());
    acts.extend(doors::tpm());
    acts.extend((0..=u8::MAX).map(interrupt));
    acts
}

/// Where a CPU and QEMU differ, and what only looks as if it could change a flag.
fn disputed() -> Vec<Act> {
    let kept = "IF and IOPL stayed clear";
    let int3 = Act { name: "int3".to_owned(), ..interrupt(3) };
    vec![
        int3,
        Act::new("int1", DEBUG).or(UNDEFINED, "#UD: QEMU does not emulate it"),
        Act::new("sysenter", PRIVILEGED).or(UNDEFINED, AMD_NOTE),
        Act::new("sysexit", PRIVILEGED).or(UNDEFINED, AMD_NOTE),
        Act::new("popf", nothing(kept)),
        Act::new("iretq_flags", nothing(kept)).or(SMAP_REFUSED, SMAP_NOTE),
        Act::new("iretq_kernel", protection(0x08)).or(SMAP_REFUSED, SMAP_NOTE),
    ]
}

/// The error code of a selector: without its privilege (Intel SDM 3A, 6.13).
fn error(selector: u16) -> u64 {
    u64::from(selector & !3)
}

/// A data or readable code segment of ring 3 may be loaded, and null, which is no segment.
fn load_ds(selector: u16) -> Act {
    let name = format!("load_ds {selector:#x}");
    match selector & !3 {
        0x00 | 0x18 | 0x20 => Act::new(name, nothing(LOADED)),
        _ => Act::new(name, protection(error(selector))),
    }
}

/// Only ring 3's own data segment, with its own privilege.
fn load_ss(selector: u16) -> Act {
    let name = format!("load_ss {selector:#x}");
    match selector {
        USER_DATA => Act::new(name, nothing(LOADED)),
        _ => Act::new(name, protection(error(selector))),
    }
}

/// Only ring 3's own code segment, with its own privilege.
fn far_return(selector: u16) -> Act {
    let name = format!("far_return {selector:#x}");
    let outcome = match selector {
        USER_CODE => nothing(LOADED),
        _ => protection(error(selector)),
    };
    Act::new(name, outcome).or(SMAP_REFUSED, SMAP_NOTE)
}

/// Every call with arguments and in states that none has.
fn calls() -> Vec<Act> {
    let all = u64::MAX;
    let alive = || Act::new("idle_alive", nothing("only the timer woke us"));
    vec![
        Act::new("log_length", nothing("sixteen bytes at most were written each time")),
        Act::new("log_registers", nothing("every register came back, and nothing else")),
        Act::new("call_flags", nothing("two calls came back")),
        Act::new("call_stack 0", nothing("the call came back")),
        Act::new("call_stack 0x100000", nothing("the call came back")),
        Act::new("call_stack 0xffffffffffc09000", nothing("the call came back")),
        Act::new("call_stack 0x8000000000000000", nothing("the call came back")),
        Act::new("idle_past", nothing("a deadline that has passed ends the sleep at once")),
        Act::new("idle_far", nothing("the longest sleep ended")),
        Act::new("stop_reason 0", Outcome::Stop(0)),
        Act::new("stop_reason 0x100", Outcome::Stop(0)),
        Act::new(format!("stop_reason {all:#x}"), Outcome::Stop(0xff)),
        // Interrupts that firmware left alive would reach a vector without a gate, or wake us.
        alive(),
        alive().on(Setup::CrowdedPc),
        alive().on(Setup::CrowdedQ35),
        alive().on(Setup::Microvm),
    ]
}

/// The rings that the service shares with the device.
fn rings() -> Vec<Act> {
    let untouched = "the device took nothing";
    let mut acts = vec![
        Act::new("ring_offer_all", nothing("the device took every descriptor")),
        Act::new("ring_jump 257", nothing("no place of the ring names anything else")),
        Act::new("ring_jump 0xffff", nothing("no place of the ring names anything else")),
        Act::new("ring_all_bells", nothing("every bell was rung")),
    ];
    for index in [256, 300, 0x8000, 0xffff] {
        acts.push(Act::new(format!("ring_offer {index:#x}"), nothing(untouched)));
    }
    // The transmit queue's, the control queue's and one that no card has.
    for number in [1, 2, 0xffff] {
        acts.push(Act::new(
            format!("ring_foreign_doorbell {number:#x}"),
            nothing("a bell was rung"),
        ));
    }
    // The same rings where the gate rings the bells.
    acts.push(
        Act::new("ring_offer_all", nothing("the device took every descriptor")).on(Setup::Microvm),
    );
    acts.push(Act::new("ring_offer 0xffff", nothing(untouched)).on(Setup::Microvm));
    let place = "no place of the ring names anything else";
    acts.push(Act::new("ring_jump 257", nothing(place)).on(Setup::Microvm));
    acts
}

/// `int n`: six doors are ring 3's, and all else is refused before its gate is looked at (Intel
/// SDM 3A, 6.12.1.1 and 6.13: 8 times the vector, and 2 for the IDT).
fn interrupt(vector: u8) -> Act {
    let name = format!("int {vector:#04x}");
    match vector {
        IDLE | LOG | NOTIFY | QUOTE | TPM_READ => {
            Act::new(name, nothing("a door of the gate took zeros"))
        }
        STOP => Act::new(name, Outcome::Stop(0)),
        _ => {
            let index = u64::from(vector);
            Act::new(name, protection(8 * index + 2)).or(protection(16 * index + 2), GATE_NOTE)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;

    use super::*;
    use crate::build;

    #[test]
    fn no_act_is_there_twice() {
        let acts = acts();
        let labels: HashSet<String> = acts.iter().map(Act::label).collect();
        assert_eq!(labels.len(), acts.len());
        assert!(acts.len() >= 400, "{}", acts.len());
        let is_interrupt = |act: &&Act| act.name.starts_with("int 0x");
        assert_eq!(acts.iter().filter(is_interrupt).count(), 256);
    }

    /// The names in the probe's own tables.
    fn known() -> HashSet<String> {
        let folder = build::root().join("tests/probe/src/acts");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let text: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("(\""));
        lines.filter_map(|line| line.split_once("\", ")).map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn the_table_has_every_act_of_the_probe_and_no_other() {
        let listed =
            acts().iter().filter_map(|act| act.name.split(' ').next().map(str::to_owned)).collect();
        assert_eq!(known(), listed);
    }

    #[track_caller]
    fn check(label: &str, expected: &str) {
        let act = acts().into_iter().find(|act| act.label() == label).unwrap();
        assert_eq!(act.expected(), expected);
    }

    #[test]
    fn what_is_expected_can_be_read() {
        check("write_text", "#PF 0x7");
        check("int 0x50", "#GP 0x282 or #GP 0x502 (QEMU 7.2 counts in sixteens)");
        check("int 0x82", "stop 0x00");
        check("load_ss 0xfffb", "#GP 0xfff8");
        check(
            "far_return 0x8",
            "#GP 0x8 or #PF 0x1 (#PF: QEMU before 9.1 reads the frame as ring 0)",
        );
        check("idle_alive (pc, SeaBIOS, keys)", "no effect: only the timer woke us");
    }
}
