//! The gate's code as it is meant: one instruction after the other from its first byte.

use std::collections::BTreeSet;
use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use crate::scan::{Family, Findings, opcode_offset};
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
    /// Where each instruction's opcode begins, behind its prefixes.
    opcodes: Vec<u64>,
    /// Which instructions are padding.
    is_padding: Vec<bool>,
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
        let mut sweep = Self {
            instructions: Vec::new(),
            opcodes: Vec::new(),
            is_padding: Vec::new(),
            code_bytes: gate.len(),
            faults: Vec::new(),
        };
        while decoder.position() < sweep.code_bytes {
            let start = decoder.position();
            let at = wide(start);
            let instruction = decoder.decode();
            if instruction.is_invalid() || decoder.position() > sweep.code_bytes {
                sweep.faults.push(Fault::Decode { at });
                break;
            }
            let prefixes = gate.get(start..).map_or(0, opcode_offset);
            sweep.instructions.push(instruction);
            sweep.opcodes.push(at.saturating_add(wide(prefixes)));
            if instruction.is_ip_rel_memory_operand() {
                sweep.meet_text(at, instruction.ip_rel_memory_address(), decoder.position());
            }
        }
        sweep.check_texts(gate);
        sweep.check_flow();
        sweep.find_padding();
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

    /// The instructions from one number up to, not including, another.
    pub(super) fn between(&self, from: usize, to: usize) -> &[Instruction] {
        self.instructions.get(from..to).unwrap_or_default()
    }

    /// The number of the instruction that begins at an offset.
    pub(super) fn number_at(&self, offset: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&offset, Instruction::ip).ok()
    }

    /// The instruction whose opcode begins at an offset of the gate.
    pub(super) fn with_opcode_at(&self, offset: usize) -> Option<&Instruction> {
        self.instructions.get(self.number_with_opcode_at(offset)?)
    }

    fn number_with_opcode_at(&self, offset: usize) -> Option<usize> {
        self.opcodes.binary_search(&wide(offset)).ok()
    }

    /// The numbers of the instructions that either scanner calls privileged, and as what; padding
    /// not counted.
    pub(super) fn privileged(&self, first: &Findings, second: &Findings) -> Vec<(usize, Family)> {
        let found = super::union(first, second);
        let numbers =
            found.filter_map(|(at, family)| Some((self.number_with_opcode_at(at)?, family)));
        numbers.filter(|(number, _)| !self.pads(*number)).collect()
    }

    /// An `int3` that no path reaches is padding: it follows the end of a path, or other padding.
    fn find_padding(&mut self) {
        let targets: BTreeSet<u64> = self.branches().map(Instruction::near_branch_target).collect();
        let mut is_reached = true;
        for instruction in &self.instructions {
            is_reached = is_reached || targets.contains(&instruction.ip());
            let is_int3 = instruction.mnemonic() == Mnemonic::Int3;
            self.is_padding.push(is_int3 && !is_reached);
            // Code behind padding is reached through the IDT.
            is_reached = !ends_path(instruction) && (is_reached || !is_int3);
        }
    }

    fn pads(&self, number: usize) -> bool {
        self.is_padding.get(number).copied().unwrap_or(false)
    }

    pub(super) fn padding(&self) -> impl Iterator<Item = &Instruction> {
        let numbered = self.instructions.iter().enumerate();
        numbered.filter(|(number, _)| self.pads(*number)).map(|(_, it)| it)
    }

    /// The instructions but for padding.
    pub(super) fn code(&self) -> impl Iterator<Item = &Instruction> {
        let numbered = self.instructions.iter().enumerate();
        numbered.filter(|(number, _)| !self.pads(*number)).map(|(_, it)| it)
    }

    pub(super) fn branches(&self) -> impl Iterator<Item = &Instruction> {
        self.instructions.iter().filter(|instruction| is_near_branch(instruction))
    }

    /// What writes memory by an address of its own, with its number.
    pub(super) fn stores(&self) -> impl Iterator<Item = (usize, &Instruction)> {
        self.instructions.iter().enumerate().filter(|(_, instruction)| writes_memory(instruction))
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
