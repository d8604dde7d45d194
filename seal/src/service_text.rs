//! The service's text: how many privileged instructions it decodes to, for information.
//!
//! The service runs in ring 3, where the CPU refuses every one of them, meant or not. The table
//! shows why that door has to be shut by the CPU and cannot be shut by keeping bytes out.

use abi::image::{Manifest, SegmentAccess};
use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::file::File;
use crate::scan::{self, Family, Findings, opcode_offset};
use crate::units::{index, wide};
use abi::Span;

/// How often a family's opcodes are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// As an instruction of the linear sweep. Data between code can look like one.
    pub intended: u64,
    /// At any other offset.
    pub unintended: u64,
}

/// What the two scanners found in the service's text.
#[derive(Clone, Debug, Default)]
pub struct ServiceText {
    /// Bytes scanned.
    pub bytes: u64,
    /// For each family that was found: what the decoder counts, and what the patterns count.
    pub families: Vec<(Family, Count, Count)>,
    /// At how many offsets the two differ in what both know.
    pub differences: u64,
}

/// Scans every executable segment of the service.
pub(crate) fn look(file: &File<'_>, manifest: &Manifest) -> ServiceText {
    let mut text = ServiceText::default();
    let mut counts = Family::ALL.map(|family| (family, Count::default(), Count::default()));
    let executable = manifest.segments.iter().flatten();
    for segment in executable.filter(|segment| segment.access == SegmentAccess::Execute) {
        let start = file.origin().and_then(|origin| origin.checked_add(segment.offset));
        let code = start.and_then(|start| file.at(Span::new(start, segment.file_bytes)));
        let code = code.unwrap_or_default();
        let (first, second) = (scan::decoder(code), scan::patterns(code));
        let intended = intended_opcodes(code);
        for (family, by_decoder, by_patterns) in &mut counts {
            count(*family, &first, &intended, by_decoder);
            count(*family, &second, &intended, by_patterns);
        }
        text.bytes = text.bytes.saturating_add(wide(code.len()));
        let differences = wide(scan::differences(&first, &second).len());
        text.differences = text.differences.saturating_add(differences);
    }
    let none = Count::default();
    text.families = counts.into_iter().filter(|it| (it.1, it.2) != (none, none)).collect();
    text
}

fn count(family: Family, findings: &Findings, intended: &[bool], count: &mut Count) {
    for (found, is_intended) in findings.iter().zip(intended) {
        if *found == Some(family) {
            let slot = if *is_intended { &mut count.intended } else { &mut count.unintended };
            *slot = slot.saturating_add(1);
        }
    }
}

/// Where the opcodes of the linear sweep's privileged instructions begin.
fn intended_opcodes(code: &[u8]) -> Vec<bool> {
    let mut is_opcode = vec![false; code.len()];
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let start = decoder.position();
        decoder.decode_out(&mut instruction);
        let prefixes = code.get(start..).map_or(0, opcode_offset);
        let opcode = index(wide(start).saturating_add(wide(prefixes)));
        if let (Some(_), Some(slot)) = (scan::family(&instruction), is_opcode.get_mut(opcode)) {
            *slot = true;
        }
    }
    is_opcode
}
