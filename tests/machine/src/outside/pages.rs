//! The sealed address space, page by page: rights, aliases, and what is in it.

use super::descriptors::{GATE_TEXT, REGION};
use super::{Finding, Image, Leaf, PAGE, Snapshot, Walk};

/// The lowest address that boot gives a service, and the first one above the highest: 28 random
/// bits of pages, and the largest service.
const SERVICE: std::ops::Range<u64> = (16 << 40)..(18 << 40);

/// The first megabyte is firmware's, before and after: unmapped, not wiped. On a direct boot the
/// first 8 KiB of the file lie there, where QEMU's loader reads its headers.
const FIRMWARE: u64 = 1 << 20;

/// The local APIC's registers, and where ring 0 has them.
const APIC: u64 = 0xfee0_0000;
const LOCAL_APIC: u64 = REGION + 0x1_0000;

/// Where ring 0 sees the page tables, up to the end of its 2 MiB.
const TABLES: std::ops::Range<u64> = (REGION + 0x2_0000)..(REGION + 0x20_0000);

/// Every page of ring 0 but the tables: where it is and what may be done with it.
const GATE: [(u64, &str); 10] = [
    (GATE_TEXT, "ring 0 r-x write-back"),
    (REGION + 0x3000, "ring 0 r-- write-back"),
    (REGION + 0x4000, "ring 0 r-- write-back"),
    (REGION + 0x5000, "ring 0 r-- write-back"),
    (REGION + 0x6000, "ring 0 r-- write-back"),
    (REGION + 0x8000, "ring 0 rw- write-back"),
    (REGION + 0xa000, "ring 0 rw- write-back"),
    (REGION + 0xc000, "ring 0 rw- write-back"),
    (REGION + 0xe000, "ring 0 rw- write-back"),
    (LOCAL_APIC, "ring 0 rw- uncached"),
];

/// Where a PC's TPM has its registers, and where ring 0 has them and the TPM's answer.
const TPM: u64 = 0xfed4_0000;
const TPM_REGISTERS: u64 = REGION + 0x1_1000;

/// What ring 0 has besides if the machine has a TPM.
const TPM_PAGES: [(u64, &str); 2] =
    [(TPM_REGISTERS, "ring 0 rw- uncached"), (REGION + 0x1_2000, "ring 0 rw- write-back")];

/// What ring 0 has besides if the card is on no bus: the page of its registers. Its doorbell is on
/// the same page as its configuration, so it is not the service's.
const CARD: u64 = REGION + 0x1_3000;
const CARD_PAGE: (u64, &str) = (CARD, "ring 0 rw- uncached");

/// Where the gate is told which registers of that page are the card's: their offset, and 1; or zero.
const CARD_WORD: u64 = 72;
const GATE_DATA: u64 = REGION + 0x4000;

/// How the boot record begins, and its size: only a machine with a TPM has one.
const RECORD: &[u8] = b"BULLARE\x01";
const RECORD_BYTES: u64 = 96 << 10;

/// The parts of the image that the service keeps, and their right.
const KEPT: [(&str, &str); 5] = [
    (".service.text", "ring 3 r-x write-back"),
    (".service.rodata", "ring 3 r-- write-back"),
    (".service.relro", "ring 3 r-- write-back"),
    (".configuration", "ring 3 r-- write-back"),
    (".service.data", "ring 3 rw- write-back"),
];

/// The parts among them whose bytes nobody changed, boot's relocations included.
const UNCHANGED: [&str; 3] = [".service.text", ".service.rodata", ".configuration"];

/// Everything about the pages that is not as promised.
pub(super) fn findings(seen: &Snapshot, walk: &Walk, image: &Image) -> Vec<Finding> {
    let mut findings = Vec::new();
    for leaf in &walk.leaves {
        findings.extend(fault(leaf, seen).map(|what| Finding::Page { virt: leaf.virt, what }));
    }
    findings.extend(aliases(walk));
    findings.extend(gate(seen, walk));
    findings.extend(tables(seen, walk));
    findings.extend(service(seen, walk, image));
    findings.extend(gate_text(seen, walk, image));
    findings.extend(boot(seen, walk, image));
    findings
}

/// What is wrong with a page by itself.
fn fault(leaf: &Leaf, seen: &Snapshot) -> Option<&'static str> {
    let is_memory = leaf.phys + leaf.bytes <= seen.memory.length();
    let rules = [
        (leaf.is_writable && leaf.is_executable, "writable and executable"),
        (leaf.is_user != SERVICE.contains(&leaf.virt), "in the other ring's half"),
        (!leaf.is_user && leaf.virt < REGION, "of ring 0, but outside of its region"),
        (is_memory && leaf.is_uncached, "memory that is not cached"),
        (!is_memory && !leaf.is_uncached, "registers that are cached"),
        (!is_memory && leaf.is_executable, "registers that can be executed"),
        (leaf.phys < FIRMWARE, "the first megabyte, which is firmware's"),
    ];
    rules.into_iter().find(|(is_broken, _)| *is_broken).map(|(_, what)| what)
}

/// Frames that more than one page names.
fn aliases(walk: &Walk) -> Vec<Finding> {
    let mut frames: Vec<_> = walk.leaves.iter().map(|leaf| (leaf.phys, leaf.bytes)).collect();
    frames.sort_unstable();
    let overlaps = frames.windows(2).filter(|pair| pair[0].0 + pair[0].1 > pair[1].0);
    overlaps.map(|pair| Finding::Frame { phys: pair[1].0, what: "mapped twice" }).collect()
}

/// Ring 0 has its pages and nothing else.
fn gate(seen: &Snapshot, walk: &Walk) -> Vec<Finding> {
    let mut findings = Vec::new();
    let tpm = TPM_PAGES.into_iter().filter(|_| seen.has_tpm);
    let card = (!seen.mmio.is_empty()).then_some(CARD_PAGE);
    let promised: Vec<_> = GATE.into_iter().chain(tpm).chain(card).collect();
    for &(virt, rights) in &promised {
        let leaf = walk.at(virt);
        if leaf.is_none_or(|leaf| leaf.bytes != PAGE || leaf.rights() != rights) {
            findings.push(Finding::Page { virt, what: "ring 0 has another right" });
        }
        let is_at = |phys| leaf.is_some_and(|leaf| leaf.phys == phys);
        if virt == LOCAL_APIC && !is_at(APIC) {
            findings.push(Finding::Page { virt, what: "not the local APIC" });
        }
        if virt == TPM_REGISTERS && !is_at(TPM) {
            findings.push(Finding::Page { virt, what: "not the TPM" });
        }
        if virt == CARD && !is_at(seen.mmio.start / PAGE * PAGE) {
            findings.push(Finding::Page { virt, what: "not the card" });
        }
    }
    let word = walk.at(GATE_DATA).and_then(|leaf| seen.memory.number::<8>(leaf.phys + CARD_WORD));
    let promised_word = if seen.mmio.is_empty() { 0 } else { seen.mmio.start % PAGE + 1 };
    if word != Some(promised_word) {
        findings.push(Finding::Page { virt: GATE_DATA, what: "the gate rings another device" });
    }
    for leaf in walk.leaves.iter().filter(|leaf| !leaf.is_user) {
        let is_listed = promised.iter().any(|(virt, _)| *virt == leaf.virt);
        if !is_listed && !TABLES.contains(&leaf.virt) {
            findings.push(Finding::Page { virt: leaf.virt, what: "ring 0 needs no such page" });
        }
    }
    findings
}

/// The tables in force are mapped once, read-only, for ring 0; and what else is mapped with them
/// is empty.
fn tables(seen: &Snapshot, walk: &Walk) -> Vec<Finding> {
    let mut findings = Vec::new();
    for &table in &walk.tables {
        let mut pages = walk.mapping(table, table + PAGE);
        let page = pages.next();
        let is_right = page.is_some_and(|page| {
            page.rights() == "ring 0 r-- write-back" && TABLES.contains(&page.virt)
        });
        if !is_right || pages.next().is_some() {
            findings.push(Finding::Frame { phys: table, what: "a page table has another right" });
        }
    }
    for leaf in walk.leaves.iter().filter(|leaf| TABLES.contains(&leaf.virt)) {
        if leaf.rights() != "ring 0 r-- write-back" {
            findings.push(Finding::Page { virt: leaf.virt, what: "a table that can be written" });
        }
        let is_spare = !walk.tables.contains(&leaf.phys);
        if is_spare && !is_zero(seen, leaf.phys, leaf.bytes) {
            findings.push(Finding::Frame { phys: leaf.phys, what: "a table that hangs nowhere" });
        }
    }
    findings
}

/// The boot record's addresses: read-only pages in a row, the first of which begins like one.
fn record(seen: &Snapshot, walk: &Walk) -> Option<std::ops::Range<u64>> {
    let begins = |leaf: &&Leaf| {
        leaf.rights() == "ring 3 r-- write-back"
            && seen.memory.bytes(leaf.phys, RECORD.len() as u64) == Some(RECORD)
    };
    let mut first = walk.leaves.iter().filter(begins);
    let (Some(only), None) = (first.next(), first.next()) else { return None };
    let range = only.virt..only.virt + RECORD_BYTES;
    let rows = range.clone().step_by(PAGE as usize);
    rows.into_iter()
        .all(|virt| walk.at(virt).is_some_and(|leaf| leaf.rights() == only.rights()))
        .then_some(range)
}

/// The service has its parts of the image where they were loaded, its rings, its one page of
/// doorbells unless the gate rings them, the boot record if there is a TPM, and memory that it may write.
fn service(seen: &Snapshot, walk: &Walk, image: &Image) -> Vec<Finding> {
    let mut findings = Vec::new();
    let parts = KEPT.iter().filter_map(|(name, rights)| Some((image.part(name)?, *rights)));
    let parts: Vec<_> = parts.collect();
    for (part, rights) in &parts {
        if !super::device::is_mapped(walk, part.start, part.length, rights) {
            findings.push(Finding::Frame { phys: part.start, what: "a part has another right" });
        }
        let is_fixed = UNCHANGED.contains(&part.name.as_str());
        if is_fixed && seen.memory.bytes(part.start, part.length) != Some(&part.bytes) {
            findings.push(Finding::Frame { phys: part.start, what: "a part has other bytes" });
        }
    }
    let is_ring = |leaf: &Leaf| {
        seen.queues.iter().any(|queue| leaf.phys == queue.table || leaf.phys == queue.used)
    };
    let record = record(seen, walk);
    if record.is_some() != seen.has_tpm {
        findings.push(Finding::Missing("a boot record where there is a TPM, and only there"));
    }
    let is_record = |leaf: &Leaf| record.as_ref().is_some_and(|it| it.contains(&leaf.virt));
    let mut doorbells = 0;
    for leaf in walk.leaves.iter().filter(|leaf| leaf.is_user) {
        let is_part = parts.iter().any(|(part, _)| leaf.overlaps(part.start, part.end()));
        if !leaf.is_writable && !is_part && !is_ring(leaf) && !is_record(leaf) {
            findings.push(Finding::Page { virt: leaf.virt, what: "nobody promised it" });
        }
        if leaf.is_uncached {
            doorbells += 1;
            let is_bell = seen.bells.contains(&leaf.phys) && leaf.phys + PAGE <= seen.bells.end;
            if !leaf.is_writable || leaf.bytes != PAGE || !is_bell {
                findings.push(Finding::Page { virt: leaf.virt, what: "no doorbell" });
            }
        }
    }
    let has_bells = !seen.queues.is_empty() && seen.mmio.is_empty();
    if doorbells != usize::from(has_bells) {
        findings
            .push(Finding::Missing("a page of doorbells where the service rings, and only there"));
    }
    findings
}

/// The gate in memory is the gate in the file, in one place, and the rest of its page is zero.
fn gate_text(seen: &Snapshot, walk: &Walk, image: &Image) -> Vec<Finding> {
    let (Some(gate), Some(leaf)) = (image.gate(), walk.at(GATE_TEXT)) else {
        return vec![Finding::Missing("the gate")];
    };
    let page = seen.memory.bytes(leaf.phys, PAGE).unwrap_or_default();
    let mut promised = gate.to_vec();
    promised.resize(PAGE as usize, 0);
    if page != promised {
        return vec![Finding::Frame { phys: leaf.phys, what: "the gate has other bytes" }];
    }
    Vec::new()
}

/// Nothing is left of boot: no page names its frames, and they are zero, as is the list of
/// relocations behind the service.
fn boot(seen: &Snapshot, walk: &Walk, image: &Image) -> Vec<Finding> {
    let relocations = image.part(".service.relocations").map(|part| (part.start, part.end()));
    let mut findings = Vec::new();
    for (start, end) in [image.boot()].into_iter().chain(relocations) {
        let length = end - start;
        if !is_zero(seen, start, length) {
            findings.push(Finding::Frame { phys: start, what: "boot is not wiped" });
        }
        for leaf in walk.mapping(start, end) {
            findings.push(Finding::Page { virt: leaf.virt, what: "boot is mapped" });
        }
    }
    for (what, trace) in image.traces() {
        for phys in seen.memory.find(&trace).into_iter().filter(|&phys| phys >= FIRMWARE) {
            findings.push(Finding::Frame { phys, what });
        }
    }
    findings
}

fn is_zero(seen: &Snapshot, phys: u64, length: u64) -> bool {
    seen.memory.bytes(phys, length).is_some_and(super::is_zero)
}
