//! The audit of the segments and of the task state: what privilege is made of.

use abi::Span;

use crate::bits::{field, u64_at};
use crate::kind::Kind;
use crate::layout::Layout;
use crate::violation::Violation;

/// The gate's code segment.
pub const KERNEL_CODE: u16 = 0x08;

/// The gate's stack segment.
pub const KERNEL_DATA: u16 = 0x10;

/// The service's data segment, without the requested privilege 3.
pub const USER_DATA: u16 = 0x18;

/// The service's code segment, without the requested privilege 3.
pub const USER_CODE: u16 = 0x20;

/// The task state segment.
pub const TASK_STATE: u16 = 0x28;

/// The first five descriptors, for boot to write; the task state's two words follow.
///
/// The auditor does not compare with these: it decodes the fields of what it finds.
pub const GDT_HEAD: [u64; 5] =
    [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff];

/// Bytes of the table.
pub const GDT_BYTES: usize = 56;

/// The limit that boot loads into GDTR.
pub const GDT_LIMIT: u16 = 55;

/// Bytes of the task state segment, without an I/O permission map.
pub const TSS_BYTES: usize = 104;

/// The limit in the task state's descriptor.
pub const TSS_LIMIT: u16 = 103;

/// The I/O map base: past the limit, so that every port is denied (Intel SDM 1, 19.5.2).
pub const IO_MAP_BASE: u16 = 104;

/// How many interrupt stacks the machine has; the numbers are beside [`crate::audit_idt`].
pub const INTERRUPT_STACKS: usize = 3;

/// What a segment descriptor says (Intel SDM 3A, figures 3-8 and 8-4).
struct Segment {
    base: u64,
    limit: u64,
    kind: u64,
    /// Code or data, as opposed to a system segment.
    is_plain: u64,
    privilege: u64,
    is_present: u64,
    is_available: u64,
    is_long: u64,
    is_big: u64,
    is_granular: u64,
}

/// Code that may be read, and data that may be written, each marked accessed in advance: the table
/// is read-only, so the CPU must have no reason to write there (Intel SDM 3A, 3.4.5.1).
const CODE: u64 = 0xb;
const DATA: u64 = 0x3;

/// A 64-bit task state that is in use, since `ltr` was before the table became read-only.
const BUSY_TASK: u64 = 0xb;

impl Segment {
    fn read(word: u64) -> Self {
        Self {
            base: field(word, 16, 24) | field(word, 56, 8) << 24,
            limit: field(word, 0, 16) | field(word, 48, 4) << 16,
            kind: field(word, 40, 4),
            is_plain: field(word, 44, 1),
            privilege: field(word, 45, 2),
            is_present: field(word, 47, 1),
            is_available: field(word, 52, 1),
            is_long: field(word, 53, 1),
            is_big: field(word, 54, 1),
            is_granular: field(word, 55, 1),
        }
    }

    const NULL: Self = Self {
        base: 0,
        limit: 0,
        kind: 0,
        is_plain: 0,
        privilege: 0,
        is_present: 0,
        is_available: 0,
        is_long: 0,
        is_big: 0,
        is_granular: 0,
    };

    /// A segment of all addresses. Long mode ignores base and limit, so they could be anything, but
    /// then a difference would go unseen.
    const fn flat(kind: u64, privilege: u64, is_long: u64) -> Self {
        let is_big = 1_u64.wrapping_sub(is_long);
        Self {
            limit: 0xf_ffff,
            kind,
            is_plain: 1,
            privilege,
            is_present: 1,
            is_long,
            is_big,
            is_granular: 1,
            ..Self::NULL
        }
    }

    fn task_state(base: u64) -> Self {
        let limit = u64::from(TSS_LIMIT);
        Self { base: field(base, 0, 32), limit, kind: BUSY_TASK, is_present: 1, ..Self::NULL }
    }

    /// Compares field by field.
    fn check(&self, promised: &Self, selector: u16) -> Result<(), Violation> {
        let fields = [
            ("present bit", self.is_present, promised.is_present),
            ("privilege", self.privilege, promised.privilege),
            ("plain bit", self.is_plain, promised.is_plain),
            ("type", self.kind, promised.kind),
            ("long bit", self.is_long, promised.is_long),
            ("big bit", self.is_big, promised.is_big),
            ("base", self.base, promised.base),
            ("limit", self.limit, promised.limit),
            ("granularity", self.is_granular, promised.is_granular),
            ("available bit", self.is_available, promised.is_available),
        ];
        match fields.into_iter().find(|(_, found, promised)| found != promised) {
            Some((field, found, promised)) => {
                Err(Violation::Segment { selector, field, found, promised })
            }
            None => Ok(()),
        }
    }
}

/// Decodes every descriptor and compares with what it has to be.
///
/// `tss_base` is the virtual address of the task state segment.
///
/// # Errors
///
/// [`Violation`] with the first descriptor that differs.
pub fn audit_gdt(gdt: &[u8], tss_base: u64) -> Result<(), Violation> {
    if gdt.len() != GDT_BYTES {
        return Err(Violation::SegmentTable { bytes: gdt.len() });
    }
    let promised = [
        (0, Segment::NULL),
        (KERNEL_CODE, Segment::flat(CODE, 0, 1)),
        (KERNEL_DATA, Segment::flat(DATA, 0, 0)),
        (USER_DATA, Segment::flat(DATA, 3, 0)),
        (USER_CODE, Segment::flat(CODE, 3, 1)),
        (TASK_STATE, Segment::task_state(tss_base)),
    ];
    for (selector, promised) in promised {
        Segment::read(u64_at(gdt, usize::from(selector))).check(&promised, selector)?;
    }
    let (found, promised) = (u64_at(gdt, 48), field(tss_base, 32, 32));
    if found != promised {
        let field = "upper base";
        return Err(Violation::Segment { selector: TASK_STATE, field, found, promised });
    }
    Ok(())
}

/// Where the CPU's stack pointer goes on the way into ring 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stacks {
    /// RSP0: the end of the stack of the gate's calls.
    pub calls: u64,
    /// IST1 to IST3: the ends of the interrupt stacks.
    pub interrupts: [u64; INTERRUPT_STACKS],
}

/// Decodes the task state and compares with what it has to be (Intel SDM 3A, figure 8-11).
///
/// Each stack is the end of a gate stack region of its own, so that each has a guard page of its
/// own; every other field is zero, and no port is allowed.
///
/// # Errors
///
/// [`Violation`] with the first field that differs.
pub fn audit_tss(
    tss: &[u8; TSS_BYTES],
    promised: &Stacks,
    layout: &Layout,
) -> Result<(), Violation> {
    let word = |offset: usize| u64_at(tss, offset);
    let [first, second, third] = promised.interrupts;
    // The structure is packed and begins with a reserved half word, hence the odd offsets.
    let fields = [
        ("reserved word 0", field(word(0), 0, 32), 0),
        ("RSP0", word(4), promised.calls),
        ("RSP1", word(12), 0),
        ("RSP2", word(20), 0),
        ("reserved word 28", word(28), 0),
        ("IST1", word(36), first),
        ("IST2", word(44), second),
        ("IST3", word(52), third),
        ("IST4", word(60), 0),
        ("IST5", word(68), 0),
        ("IST6", word(76), 0),
        ("IST7", word(84), 0),
        ("reserved word 92", word(92), 0),
        ("reserved word 100", field(word(96), 32, 16), 0),
        ("I/O map base", field(word(96), 48, 16), u64::from(IO_MAP_BASE)),
    ];
    if let Some((field, found, promised)) = fields.into_iter().find(|(_, found, to)| found != to) {
        return Err(Violation::TaskState { field, found, promised });
    }
    let stacks = [("RSP0", promised.calls), ("IST1", first), ("IST2", second), ("IST3", third)];
    for (index, (field, top)) in stacks.into_iter().enumerate() {
        let is_shared = stacks.iter().take(index).any(|(_, other)| *other == top);
        if is_shared || !is_end_of_gate_stack(layout, top) {
            return Err(Violation::TaskStateStack { field, top });
        }
    }
    Ok(())
}

fn is_end_of_gate_stack(layout: &Layout, top: u64) -> bool {
    let last = Span::new(top.wrapping_sub(1), 1);
    layout.holding(Kind::GateStack, &last).is_some_and(|region| region.virtual_end() == top)
}
