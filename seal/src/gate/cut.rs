//! Where the tail ends and the gate begins.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::sweep::{self, Sweep};
use crate::file::File;
use crate::layout;
use crate::property::{Complaints, Name, Property};

/// `mov cr3, rax`.
const MOV_CR3_RAX: [u8; 3] = [0x0f, 0x22, 0xd8];

/// The first two bytes of every write to a control register.
const MOV_TO_CONTROL: [u8; 2] = [0x0f, 0x22];

/// The largest tail: its page begins with the list of what it wipes.
const MAX_TAIL_BYTES: usize = 2048;

/// How much of the gate's beginning has to be unique in the file, so that the section is the gate
/// that boot copies and not a decoy.
const UNIQUE_BYTES: usize = 32;

/// The tail and the gate.
pub(super) struct Cut<'a> {
    pub(super) tail: &'a [u8],
    pub(super) gate: &'a [u8],
}

impl<'a> Cut<'a> {
    /// Cuts behind the last `mov cr3, rax`.
    pub(super) fn at_last_mov_cr3(blob: &'a [u8]) -> Option<Self> {
        let last = blob.windows(MOV_CR3_RAX.len()).rposition(|bytes| bytes == MOV_CR3_RAX)?;
        let (tail, gate) = blob.split_at_checked(last.checked_add(MOV_CR3_RAX.len())?)?;
        Some(Self { tail, gate })
    }

    /// Checks that the tail falls into the gate and can do nothing else.
    pub(super) fn check(&self, file: &File<'_>, gate: &Sweep) -> Property {
        let mut complaints = Complaints::default();
        let (instructions, fault) = sweep::decode(self.tail);
        if let Some(offset) = fault {
            complaints.add(format_args!("tail+{offset:#x} does not decode"));
        }
        let ends = instructions.last().is_some_and(|last| last.code() == Code::Mov_cr_r64);
        complaints.unless(ends, || "the tail's last instruction is not mov cr3".to_owned());
        let writes = self.tail.windows(2).filter(|bytes| *bytes == MOV_TO_CONTROL).count();
        complaints.unless(writes == 1, || {
            format!("{writes} writes to control registers before the gate, not one")
        });
        for instruction in &instructions {
            check_tail_instruction(instruction, &instructions, &mut complaints);
        }
        complaints.unless(self.tail.len() <= MAX_TAIL_BYTES, || {
            format!("tail of {} bytes, more than {MAX_TAIL_BYTES}", self.tail.len())
        });
        complaints.unless(gate.instruction(0).is_some_and(takes_stack), || {
            "the byte after mov cr3 is not the gate's first: it does not take the gate's stack"
                .to_owned()
        });
        let start = self.gate.get(..UNIQUE_BYTES.min(self.gate.len())).unwrap_or_default();
        let copies = count(file.bytes, start);
        complaints.unless(copies == 1, || format!("{copies} gates in the file"));
        let facts = format!(
            "{} bytes that only fall through to 0f 22 d8; the gate begins on the next byte",
            self.tail.len()
        );
        complaints.about(Name::TailEndsInMovCr3, facts)
    }
}

/// Whether it is `mov rsp, imm` with an address in the gate's stack.
fn takes_stack(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_register() == Register::RSP
        && instruction.op1_kind() == OpKind::Immediate32to64
        && layout::GATE_STACK.contains(instruction.immediate(1))
}

/// The tail has loops, but no way out other than its end.
fn check_tail_instruction(
    instruction: &Instruction,
    all: &[Instruction],
    complaints: &mut Complaints,
) {
    let at = instruction.ip();
    if sweep::is_near_branch(instruction) {
        let target = instruction.near_branch_target();
        let is_inside = all.iter().any(|other| other.ip() == target);
        complaints.unless(is_inside, || format!("tail+{at:#x} branches to {target:#x}"));
        return;
    }
    let leaves = matches!(
        instruction.mnemonic(),
        Mnemonic::Ret
            | Mnemonic::Retf
            | Mnemonic::Iret
            | Mnemonic::Iretd
            | Mnemonic::Iretq
            | Mnemonic::Call
            | Mnemonic::Jmp
            | Mnemonic::Int
            | Mnemonic::Int1
            | Mnemonic::Int3
            | Mnemonic::Syscall
            | Mnemonic::Sysret
            | Mnemonic::Sysretq
            | Mnemonic::Sysenter
            | Mnemonic::Sysexit
            | Mnemonic::Sysexitq
    );
    complaints.unless(!leaves, || format!("tail+{at:#x} can leave the tail"));
}

fn count(bytes: &[u8], wanted: &[u8]) -> usize {
    if wanted.is_empty() {
        return 0;
    }
    bytes.windows(wanted.len()).filter(|window| *window == wanted).count()
}
