//! The gate's code as it is meant: one instruction after the other from its first byte.

use std::collections::BTreeSet;
use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use crate::scan::{Findings, opcode_offset};
use crate::units::{bytes_of, index, wide};
use abi::Span;

/// What is wrong with the gate's code as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A branch leads to where no instruction begins.
    Branch { from: u64, to: u64 },
    /// An instruction cannot be decoded, or lies across the end of the code.
    Decode { at: u64 },
    /// The code has no end: its last instruction goes on to the texts.
    FallsThrough { at: u64 },
    /// A jump or call whose target is not in the instruction.
    Indirect { at: u64 },
    /// A byte behind the code is not part of a text.
    NotText { at: u64 },
    /// An instruction refers to a text that lies in the code.
    TextInCode { from: u64, to: u64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch { from, to } => {
                write!(f, "branch at +{from:#05x} to {to:#x}, where no instruction begins")
            }
            Self::Decode { at } => write!(f, "no instruction at +{at:#05x}"),
            Self::FallsThrough { at } => write!(f, "code runs into the texts at +{at:#05x}"),
            Self::Indirect { at } => write!(f, "indirect branch at +{at:#05x}"),
            Self::NotText { at } => write!(f, "neither code nor text at +{at:#05x}"),
            Self::TextInCode { from, to } => {
                write!(f, "+{from:#05x} refers to +{to:#05x}, which is code")
            }
        }
    }
}

/// The gate's instructions, in order.
pub(super) struct Sweep {
    instructions: Vec<Instruction>,
    /// Where the code ends and the texts begin.
    pub(super) code_bytes: usize,
    pub(super) faults: Vec<Fault>,
}

impl Sweep {
    /// Decodes from the first byte to where the first text begins.
    ///
    /// Texts are what `lea` refers to relative to the instruction pointer; the lowest of them ends
    /// the code. A gate that refers to none is code to its end.
    pub(super) fn of(gate: &[u8]) -> Self {
        let mut decoder = Decoder::with_ip(64, gate, 0, DecoderOptions::NONE);
        let mut sweep = Self { instructions: Vec::new(), code_bytes: gate.len(), faults: Vec::new() };
        while decoder.position() < sweep.code_bytes {
            let at = wide(decoder.position());
            let instruction = decoder.decode();
            if instruction.is_invalid() || decoder.position() > sweep.code_bytes {
                sweep.faults.push(Fault::Decode { at });
                break;
            }
            sweep.instructions.push(instruction);
            if instruction.is_ip_rel_memory_operand() {
                sweep.meet_text(at, instruction.ip_rel_memory_address(), decoder.position());
            }
        }
        sweep.check_texts(gate);
        sweep.check_flow();
        sweep
    }

    fn meet_text(&mut self, from: u64, text: u64, position: usize) {
        if text < wide(position) {
            self.faults.push(Fault::TextInCode { from, to: text });
        }
        // One that lies outside is no text; `check_texts` will not miss it.
        self.code_bytes = self.code_bytes.min(index(text)).max(position);
    }

    fn check_texts(&mut self, gate: &[u8]) {
        let texts = gate.get(self.code_bytes..).unwrap_or_default();
        let is_text = |byte: &u8| matches!(byte, 0 | b'\r' | b'\n' | b' '..=b'~');
        let stray = texts.iter().position(|byte| !is_text(byte));
        let unended = texts.last().filter(|last| **last != 0).map(|_| texts.len());
        if let Some(at) = stray.or(unended) {
            self.faults.push(Fault::NotText { at: wide(self.code_bytes.saturating_add(at)) });
        }
    }

    /// Every branch is direct and leads to an instruction: with the texts out of reach and every
    /// other way in through the IDT, no path begins inside an instruction.
    fn check_flow(&mut self) {
        let starts: BTreeSet<u64> = self.instructions.iter().map(Instruction::ip).collect();
        let mut faults = Vec::new();
        for instruction in &self.instructions {
            let at = instruction.ip();
            let is_branch = matches!(instruction.mnemonic(), Mnemonic::Jmp | Mnemonic::Call);
            if is_near_branch(instruction) {
                let to = instruction.near_branch_target();
                if !starts.contains(&to) {
                    faults.push(Fault::Branch { from: at, to });
                }
            } else if is_branch {
                faults.push(Fault::Indirect { at });
            }
        }
        match self.instructions.last() {
            Some(last) if ends_path(last) => {}
            last => faults.push(Fault::FallsThrough { at: last.map_or(0, Instruction::next_ip) }),
        }
        self.faults.append(&mut faults);
    }

    pub(super) fn instruction(&self, at: usize) -> Option<&Instruction> {
        self.instructions.get(at)
    }

    pub(super) fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The instruction whose opcode begins at an offset of the gate.
    pub(super) fn with_opcode_at(&self, offset: usize) -> Option<&Instruction> {
        self.instructions.get(self.number_with_opcode_at(offset)?)
    }

    fn number_with_opcode_at(&self, offset: usize) -> Option<usize> {
        let offset = wide(offset);
        let after = self.instructions.partition_point(|instruction| instruction.ip() <= offset);
        let number = after.checked_sub(1)?;
        let instruction = self.instructions.get(number)?;
        (opcode_at(instruction) == Some(offset)).then_some(number)
    }

    /// The numbers of the instructions that either scanner calls privileged; padding not counted.
    pub(super) fn privileged(&self, first: &Findings, second: &Findings) -> Vec<usize> {
        let found = super::union(first, second);
        let numbers = found.filter_map(|(offset, _)| self.number_with_opcode_at(offset));
        numbers.filter(|number| !self.is_padding(*number)).collect()
    }

    /// Whether an instruction is an `int3` that no path reaches: it follows the end of one, or
    /// other padding.
    fn is_padding(&self, number: usize) -> bool {
        let is_int3 = |number| {
            self.instruction(number).is_some_and(|it| it.mnemonic() == Mnemonic::Int3)
        };
        let mut before = number;
        if !is_int3(number) {
            return false;
        }
        while let Some(previous) = before.checked_sub(1) {
            if !is_int3(previous) {
                let is_reached = self.branches().any(|branch| {
                    let to = branch.near_branch_target();
                    self.instruction(number).is_some_and(|it| it.ip() == to)
                });
                return !is_reached && self.instruction(previous).is_some_and(ends_path);
            }
            before = previous;
        }
        false
    }

    pub(super) fn padding(&self) -> impl Iterator<Item = &Instruction> {
        let numbered = self.instructions.iter().enumerate();
        numbered.filter(|(number, _)| self.is_padding(*number)).map(|(_, it)| it)
    }

    /// The instructions but for padding.
    pub(super) fn code(&self) -> impl Iterator<Item = &Instruction> {
        let numbered = self.instructions.iter().enumerate();
        numbered.filter(|(number, _)| !self.is_padding(*number)).map(|(_, it)| it)
    }

    pub(super) fn branches(&self) -> impl Iterator<Item = &Instruction> {
        self.instructions.iter().filter(|instruction| is_near_branch(instruction))
    }

    /// What writes memory by an address of its own.
    pub(super) fn stores(&self) -> impl Iterator<Item = &Instruction> {
        self.instructions.iter().filter(|instruction| writes_memory(instruction))
    }
}

/// Decodes all of `code`: the instructions, and where it stopped if not at the end.
pub(super) fn decode(code: &[u8]) -> (Vec<Instruction>, Option<usize>) {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut instructions = Vec::new();
    while decoder.can_decode() {
        let at = decoder.position();
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return (instructions, Some(at));
        }
        instructions.push(instruction);
    }
    (instructions, None)
}

/// An instruction's bytes.
pub(super) fn bytes_of_instruction<'a>(code: &'a [u8], instruction: &Instruction) -> &'a [u8] {
    let span = Span::new(instruction.ip(), wide(instruction.len()));
    bytes_of(code, span).unwrap_or_default()
}

/// Whether it is a jump or call whose target is in the instruction.
pub(super) fn is_near_branch(instruction: &Instruction) -> bool {
    instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64
}

/// Whether the CPU never goes on to the next instruction.
fn ends_path(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Jmp | Mnemonic::Ret | Mnemonic::Iretq)
}

/// Where an instruction's opcode begins. The decoder does not say, but it knows the prefixes.
fn opcode_at(instruction: &Instruction) -> Option<u64> {
    let _ = opcode_offset;
    Some(instruction.ip())
}

/// Whether the first operand is memory that the instruction changes, or it is a string instruction
/// that writes.
fn writes_memory(instruction: &Instruction) -> bool {
    let reads_only = matches!(
        instruction.mnemonic(),
        Mnemonic::Bt
            | Mnemonic::Call
            | Mnemonic::Cmp
            | Mnemonic::Div
            | Mnemonic::Idiv
            | Mnemonic::Imul
            | Mnemonic::Jmp
            | Mnemonic::Mul
            | Mnemonic::Push
            | Mnemonic::Test
    );
    match instruction.op0_kind() {
        OpKind::Memory => instruction.op_count() > 0 && !reads_only,
        OpKind::MemoryESRDI | OpKind::MemoryESEDI | OpKind::MemoryESDI => true,
        _ => false,
    }
}
