//! The gate: all of ring 0 that stays, read at every byte offset.
//!
//! Section `.boot.gate` holds the tail and the gate in one piece. The tail's last instruction is
//! `mov cr3`, and a gate never holds one; so the gate begins behind the *last* `0F 22 D8`, and its
//! first instruction has to be the one that takes the gate's stack. Behind the code lie the texts
//! of the crash record: the code ends where the first of them begins that an instruction refers to.

mod cut;
mod policy;
mod ports;
mod sweep;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};

use crate::file::File;
use crate::property::{Complaints, Name, Property, not_checked};
use crate::scan::{self, Family, Findings, opcode_offset};
use crate::units::{bytes_of, spaced_hex, wide};
use abi::{PAGE_BYTES, Span};
use cut::Cut;
use sha2::{Digest, Sha256};
use sweep::Sweep;

/// The section that holds the tail and the gate.
pub(crate) const SECTION: &str = ".boot.gate";

/// The largest blob that is looked at; what is larger is no gate.
const MAX_BLOB_BYTES: usize = 16 << 10;

/// What the gate is made of.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Bytes of the tail.
    pub tail_bytes: u64,
    /// Bytes of the gate, texts included.
    pub bytes: u64,
    /// The SHA-256 of those bytes: zeros follow them to the end of the gate's page.
    pub sha256: [u8; 32],
    /// Bytes of its code.
    pub code_bytes: u64,
    /// Instructions of its code, padding not counted.
    pub instructions: u64,
    /// Bytes of `int3` between them, which no path reaches.
    pub padding_bytes: u64,
    /// Branches and calls, each direct and to an instruction's first byte.
    pub branches: u64,
    /// Privileged instructions that it is meant to hold, each with its reason.
    pub allowed: Vec<Listed>,
    /// What it writes besides its stack, each with its reason.
    pub stores: Vec<Listed>,
    /// Privileged instructions that appear when decoding begins inside another instruction or in a
    /// text. None can undo the seal, and none can be reached.
    pub unintended: Vec<Decoding>,
    /// Instructions that must not be there, at whatever offset.
    pub forbidden: Vec<Decoding>,
    /// How many findings the decoder has.
    pub decoder_findings: u64,
    /// How many findings the patterns have.
    pub pattern_findings: u64,
    /// Where the two differ.
    pub differences: Vec<u64>,
}

/// An instruction of the gate that is there for a reason.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its first byte, from the gate's first.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its disassembly.
    pub text: String,
    /// Why it is there.
    pub reason: &'static str,
}

/// What decoding at an offset gives.
#[derive(Clone, Debug)]
pub struct Decoding {
    /// The opcode's first byte, from the gate's first.
    pub offset: u64,
    /// Its family.
    pub family: Family,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its disassembly.
    pub text: String,
}

/// Looks at the gate. The facts are there as soon as there is a gate, whatever else is wrong.
pub(crate) fn check(file: &File<'_>) -> (Vec<Property>, Option<Gate>) {
    let tail = Name::TailEndsInMovCr3;
    let others = [Name::GateSize, Name::GateInstructions, Name::GateScannersAgree];
    let refuse = |complaint: String| {
        let mut complaints = Complaints::default();
        complaints.add(complaint);
        let rest = others.map(|name| not_checked(name, tail));
        let properties = [complaints.about(tail, String::new())].into_iter().chain(rest);
        (properties.collect(), None)
    };
    let blob = match file.section(SECTION) {
        Ok((_, blob)) => blob,
        Err(fault) => return refuse(format!("section {SECTION} {fault}")),
    };
    if blob.len() > MAX_BLOB_BYTES {
        return refuse(format!("section {SECTION} has {} bytes", blob.len()));
    }
    let Some(cut) = Cut::at_last_mov_cr3(blob) else {
        return refuse("no mov cr3".to_owned());
    };
    let sweep = Sweep::of(cut.gate);
    let (first, second) = (scan::decoder(cut.gate), scan::patterns(cut.gate));
    let gate = facts(&cut, &sweep, &first, &second);
    let properties = vec![
        cut.check(file, &sweep),
        check_size(&gate),
        check_instructions(&gate, &sweep, &first, &second),
        check_agreement(&gate, &first, &second),
    ];
    (properties, Some(gate))
}

fn facts(cut: &Cut<'_>, sweep: &Sweep, first: &Findings, second: &Findings) -> Gate {
    let count = |findings: &Findings| wide(findings.iter().flatten().count());
    let (mut unintended, mut forbidden) = (Vec::new(), Vec::new());
    for (offset, family) in union(first, second) {
        let intended = sweep.with_opcode_at(offset);
        if family.is_forbidden() && !intended.is_some_and(policy::is_own_iretq) {
            forbidden.push(decoding(cut.gate, offset, family));
        } else if intended.is_none() {
            unintended.push(decoding(cut.gate, offset, family));
        }
    }
    let listed = |instruction: &Instruction, reason| Listed {
        offset: instruction.ip(),
        bytes: sweep::bytes_of_instruction(cut.gate, instruction).to_vec(),
        text: disassemble(instruction),
        reason,
    };
    let reasons = sweep.privileged(first, second).into_iter().filter_map(|(number, _)| {
        Some(listed(sweep.instruction(number)?, policy::reason(sweep, number)?))
    });
    let stores = sweep
        .stores()
        .filter_map(|(number, store)| Some(listed(store, policy::store(sweep, number)?)));
    Gate {
        tail_bytes: wide(cut.tail.len()),
        bytes: wide(cut.gate.len()),
        sha256: Sha256::digest(cut.gate).into(),
        code_bytes: wide(sweep.code_bytes),
        instructions: wide(sweep.code().count()),
        padding_bytes: wide(sweep.padding().count()),
        branches: wide(sweep.branches().count()),
        allowed: reasons.collect(),
        stores: stores.collect(),
        unintended,
        forbidden,
        decoder_findings: count(first),
        pattern_findings: count(second),
        differences: scan::differences(first, second).into_iter().map(wide).collect(),
    }
}

/// What either scanner found.
fn union<'a>(
    first: &'a Findings,
    second: &'a Findings,
) -> impl Iterator<Item = (usize, Family)> + 'a {
    let pairs = first.iter().zip(second).enumerate();
    pairs.filter_map(|(offset, (first, second))| Some((offset, second.or(*first)?)))
}

fn check_size(gate: &Gate) -> Property {
    let mut complaints = Complaints::default();
    complaints.unless(gate.bytes <= PAGE_BYTES, || {
        format!("{} bytes, more than a page of {PAGE_BYTES}", gate.bytes)
    });
    let facts = format!("{} of {PAGE_BYTES} bytes", gate.bytes);
    complaints.about(Name::GateSize, facts)
}

fn check_instructions(gate: &Gate, sweep: &Sweep, first: &Findings, second: &Findings) -> Property {
    let mut complaints = Complaints::default();
    for found in &gate.forbidden {
        complaints.add(format_args!(
            "{} at +{:#05x}: {} ({})",
            found.family.name(),
            found.offset,
            spaced_hex(&found.bytes),
            found.text
        ));
    }
    for fault in &sweep.faults {
        complaints.add(fault);
    }
    for (number, family) in sweep.privileged(first, second) {
        let Some(instruction) = sweep.instruction(number) else { continue };
        // What must never be there was named above already.
        let is_named = family.is_forbidden() && !policy::is_own_iretq(instruction);
        complaints.unless(is_named || policy::reason(sweep, number).is_some(), || {
            format!("no reason for `{}` at +{:#05x}", disassemble(instruction), instruction.ip())
        });
    }
    let is_unexplained = |number: &usize| policy::store(sweep, *number).is_none();
    for (_, store) in sweep.stores().filter(|(number, _)| is_unexplained(number)) {
        let text = disassemble(store);
        complaints.add(format_args!("no reason for `{text}` at +{:#05x}", store.ip()));
    }
    let facts = format!(
        "none that could undo the seal at any of {} offsets; {} privileged ones, each with a \
         reason; {} branches, all direct, all to an instruction's first byte; {} unintended \
         decodings, all harmless and out of reach",
        gate.bytes,
        gate.allowed.len(),
        gate.branches,
        gate.unintended.len()
    );
    complaints.about(Name::GateInstructions, facts)
}

fn check_agreement(gate: &Gate, first: &Findings, second: &Findings) -> Property {
    let mut complaints = Complaints::default();
    let name = |findings: &Findings, at: usize| {
        findings.get(at).copied().flatten().map_or("nothing", Family::name)
    };
    for at in scan::differences(first, second) {
        complaints.add(format_args!(
            "scanners disagree at +{at:#05x}: the decoder sees {}, the patterns {}",
            name(first, at),
            name(second, at)
        ));
    }
    let facts = format!(
        "the decoder and the byte patterns see the same {} privileged opcodes at {} offsets",
        gate.pattern_findings, gate.bytes
    );
    complaints.about(Name::GateScannersAgree, facts)
}

/// What the decoder makes of the bytes at an offset; nothing if it does not know them.
fn decoding(gate: &[u8], offset: usize, family: Family) -> Decoding {
    // A prefix may be what makes it the instruction it is.
    let start = (offset.saturating_sub(14)..offset)
        .find(|start| {
            gate.get(*start..)
                .is_some_and(|rest| opcode_offset(rest) == offset.saturating_sub(*start))
        })
        .unwrap_or(offset);
    let mut padded = gate.get(start..).unwrap_or_default().to_vec();
    padded.truncate(15);
    padded.resize(15, 0);
    let options = DecoderOptions::NO_INVALID_CHECK;
    let instruction = Decoder::with_ip(64, &padded, wide(start), options).decode();
    let length = if instruction.is_invalid() { 4 } else { instruction.len() };
    let bytes = bytes_of(&padded, Span::new(0, wide(length))).unwrap_or_default().to_vec();
    Decoding { offset: wide(offset), family, bytes, text: disassemble(&instruction) }
}

/// An instruction as Intel's manuals write it; branch targets are offsets in the gate.
fn disassemble(instruction: &Instruction) -> String {
    if instruction.is_invalid() {
        return "unknown to the decoder".to_owned();
    }
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}
