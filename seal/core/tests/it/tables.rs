//! Page tables: what was promised is accepted, and nothing else is.

use abi::Span;
use seal_core::{Audited, Kind, Layout, Region, Violation, audit};

use crate::machine::{
    GATE_BASE, LARGE_PAGE, Memory, PAGE, Random, SERVICE_BASE, TABLES, layout, leaf,
    random_regions, region, sample, upper,
};

const LAYOUTS: u64 = 40;

fn read_back(memory: &Memory, layout: &Layout) -> Result<Audited, Violation> {
    audit(memory, memory.root, layout)
}

#[test]
fn accepts_what_was_promised() {
    let layout = layout(&sample()).unwrap();
    let memory = Memory::write(&layout);
    let audited = read_back(&memory, &layout).unwrap();
    let pages: u64 = sample().iter().map(|region| region.length / PAGE).sum();
    assert_eq!(audited.tables() as usize, memory.tables.len());
    assert_eq!(audited.large_leaves(), 1);
    assert_eq!(u64::from(audited.small_leaves()), pages - 512);
    assert_eq!(audited.regions() as usize, sample().len());
}

#[test]
fn accepts_layouts_that_nobody_thought_of() {
    let mut random = Random(1);
    for _ in 0..LAYOUTS {
        let regions = random_regions(&mut random);
        let layout = layout(&regions).unwrap();
        let audited = read_back(&Memory::write(&layout), &layout).unwrap();
        assert_eq!(audited.regions() as usize, regions.len());
        let bytes = u64::from(audited.small_leaves()) * PAGE
            + u64::from(audited.large_leaves()) * LARGE_PAGE;
        assert_eq!(bytes, regions.iter().map(|region| region.length).sum::<u64>());
    }
}

/// Flips each of the 64 bits of an entry.
#[track_caller]
fn flip(memory: &mut Memory, layout: &Layout, (frame, index, entry): (u64, usize, u64)) {
    for bit in 0..64 {
        memory.set(frame, index, entry ^ 1 << bit);
        let seen = read_back(memory, layout);
        assert!(seen.is_err(), "bit {bit} of entry {index} of {frame:#x}, {entry:#x}");
    }
    memory.set(frame, index, entry);
}

/// There is no bit that does not matter: every bit of every entry that is present, and every bit of
/// a sample of those that are not.
fn flip_every_bit(layout: &Layout, random: &mut Random) {
    let mut memory = Memory::write(layout);
    for place in memory.entries() {
        if place.2 != 0 || random.below(128) == 0 {
            flip(&mut memory, layout, place);
        }
    }
    assert!(read_back(&memory, layout).is_ok(), "every bit was put back");
}

#[test]
fn finds_every_bit_that_is_flipped() {
    flip_every_bit(&layout(&sample()).unwrap(), &mut Random(2));
}

#[test]
fn finds_every_bit_that_is_flipped_in_layouts_that_nobody_thought_of() {
    let mut random = Random(3);
    for _ in 0..6 {
        let layout = layout(&random_regions(&mut random)).unwrap();
        flip_every_bit(&layout, &mut random);
    }
}

/// Entries copied, exchanged, led astray: whatever differs from what was written is refused.
#[test]
fn accepts_nothing_else() {
    let mut random = Random(4);
    for _ in 0..LAYOUTS {
        let layout = layout(&random_regions(&mut random)).unwrap();
        let good = Memory::write(&layout);
        let entries = good.entries();
        let present: Vec<_> = entries.iter().filter(|(_, _, entry)| *entry != 0).collect();
        for _ in 0..50 {
            let mut memory = good.clone();
            for _ in 0..1 + random.below(3) {
                let (frame, index, entry) = *present[random.below(present.len() as u64) as usize];
                let (other_frame, other, _) = entries[random.below(entries.len() as u64) as usize];
                match random.below(4) {
                    0 => memory.set(other_frame, other, entry),
                    1 => memory.set(frame, index, 0),
                    2 => memory.set(frame, index, entry + PAGE),
                    _ => memory.set(frame, index, entry ^ random.next() & random.next()),
                }
            }
            let is_changed = memory.tables != good.tables;
            assert_eq!(read_back(&memory, &layout).is_err(), is_changed);
        }
    }
}

/// Tables of noise, and tables that lead in circles: an audit ends, and it ends with a refusal.
#[test]
fn survives_any_tables() {
    let mut random = Random(5);
    let layout = layout(&sample()).unwrap();
    let good = Memory::write(&layout);
    for round in 0..2000 {
        let mut memory = good.clone();
        for table in memory.tables.values_mut() {
            for _ in 0..1 + random.below(64) {
                let at = random.below(512) as usize;
                let frame = TABLES.phys + random.below(20) * PAGE;
                table[at] = match round % 4 {
                    0 => random.next(),
                    1 => frame | random.next() & 0xfff | 1,
                    2 => frame | 0x27,
                    _ => frame | 0x23 | random.below(2) << 7,
                };
            }
        }
        assert!(read_back(&memory, &layout).is_err());
        let anywhere = if round % 2 == 0 { random.next() } else { random.next() & !0xfff };
        assert!(audit(&memory, anywhere, &layout).is_err());
    }
}

/// Writes the sample's tables, changes something and expects a violation.
#[track_caller]
fn check(change: impl FnOnce(&mut Memory), expected: Violation) {
    let layout = layout(&sample()).unwrap();
    let mut memory = Memory::write(&layout);
    change(&mut memory);
    assert_eq!(read_back(&memory, &layout), Err(expected));
}

/// The sample's region of a kind.
fn of(kind: Kind) -> Region {
    sample().into_iter().find(|region| region.kind == kind).unwrap()
}

#[test]
fn finds_every_region_that_is_missing() {
    for Region { kind, virt, length, .. } in sample() {
        let layout = layout(&sample()).unwrap();
        let mut memory = Memory::write(&layout);
        for page in (0..length).step_by(PAGE as usize) {
            let level = if kind == Kind::Heap && page < LARGE_PAGE { 2 } else { 1 };
            *memory.slot(virt + page, level) = 0;
        }
        let seen = read_back(&memory, &layout);
        if kind == Kind::Heap {
            // It had a table to itself, and the walk meets that before the next page that is due.
            assert!(matches!(seen, Err(Violation::EmptyTable { level: 1, .. })), "{seen:?}");
        } else {
            assert_eq!(seen, Err(Violation::Missing { kind, virt }));
        }
    }
}

#[test]
fn finds_pages_that_nobody_promised() {
    for (virt, kind) in [
        (PAGE, Kind::Heap),
        (0, Kind::ServiceRodata),
        (SERVICE_BASE - PAGE, Kind::ServiceText),
        (SERVICE_BASE + 0x2_f000, Kind::Stack),
        (GATE_BASE, Kind::GateText),
        (0xffff_ffff_ffff_f000, Kind::GateData),
    ] {
        let entry = leaf(kind, 0x100_0000, false);
        check(|m| *m.slot(virt, 1) = entry, Violation::Unpromised { virt, entry });
    }
}

#[test]
fn finds_what_is_writable_and_executable_whoever_promised_it() {
    let text = of(Kind::ServiceText);
    let entry = leaf(text.kind, text.phys, false) | 2;
    let virt = text.virt;
    check(|m| *m.slot(virt, 1) = entry, Violation::WritableAndExecutable { virt, entry });

    let heap = of(Kind::Heap);
    let entry = leaf(heap.kind, heap.phys, true) & !(1 << 63);
    let virt = heap.virt;
    check(|m| *m.slot(virt, 2) = entry, Violation::WritableAndExecutable { virt, entry });

    // A gate page below everything promised, and nobody's frame.
    let (virt, entry) = (PAGE, 0x100_0063);
    check(|m| *m.slot(virt, 1) = entry, Violation::WritableAndExecutable { virt, entry });
}

#[test]
fn finds_rights_that_an_upper_entry_gives_or_takes() {
    for (kind, is_service) in [(Kind::ServiceText, true), (Kind::GateText, false)] {
        let virt = of(kind).virt;
        for level in 2..=4_u32 {
            let start = match level {
                4 => virt >> 39 << 39,
                3 => virt >> 30 << 30,
                _ => virt >> 21 << 21,
            };
            // Each of: not writable, the other ring, not executable, dirty, uncached, not accessed.
            for bits in [1 << 1, 1 << 2, 1 << 63, 1 << 6, 1 << 4, 1 << 3, 1 << 5, 1 << 52] {
                let layout = layout(&sample()).unwrap();
                let mut memory = Memory::write(&layout);
                let slot = memory.slot(virt, level);
                let promised = *slot;
                assert_eq!(promised & 4 != 0, is_service);
                *slot ^= bits;
                let found = promised ^ bits;
                let level = level as u8;
                let expected = Violation::Entry { level, virt: start, found, promised };
                assert_eq!(read_back(&memory, &layout), Err(expected));
            }
        }
    }
}

#[test]
fn finds_a_frame_that_is_mapped_twice() {
    let (text, data) = (of(Kind::ServiceText), of(Kind::ServiceData));
    let found = leaf(data.kind, text.phys, false);
    let promised = leaf(data.kind, data.phys, false);
    let virt = data.virt;
    check(|m| *m.slot(virt, 1) = found, Violation::Entry { level: 1, virt, found, promised });
}

#[test]
fn finds_a_table_that_is_used_twice() {
    // Two gigabytes with one directory: every page of the first appears a second time.
    let virt = SERVICE_BASE >> 30 << 30;
    let alias = virt + (1 << 30);
    let layout = layout(&sample()).unwrap();
    let mut memory = Memory::write(&layout);
    let entry = *memory.slot(virt, 3);
    *memory.slot(alias, 3) = entry;
    let frame = entry & !0xfff;
    let expected = Violation::SharedTable { level: 2, virt: alias, frame };
    assert_eq!(read_back(&memory, &layout), Err(expected));

    // A root that is its own child: the classic window onto the tables.
    let frame = TABLES.phys;
    check(
        |m| m.set(frame, 0, frame | upper(0)),
        Violation::SharedTable { level: 3, virt: 0, frame },
    );
}

#[test]
fn finds_tables_where_no_tables_are() {
    let heap = of(Kind::Heap).phys;
    let outside = |frame| Violation::TableOutside { level: 3, virt: 0, frame };
    check(|m| m.set(TABLES.phys, 0, heap | upper(0)), outside(heap));
    let end = TABLES.phys + TABLES.length;
    check(|m| m.set(TABLES.phys, 0, end | upper(0)), outside(end));
    check(|m| m.set(TABLES.phys, 0, upper(0)), outside(0));

    let spare = TABLES.phys + TABLES.length - PAGE;
    let change = |m: &mut Memory| m.set(TABLES.phys, 0, spare | upper(0));
    check(change, Violation::TableUnreadable { frame: spare });

    let layout = layout(&sample()).unwrap();
    let memory = Memory::write(&layout);
    for root in [0, TABLES.phys + 8, TABLES.phys - PAGE, end, u64::MAX] {
        let expected = Violation::TableOutside { level: 4, virt: 0, frame: root };
        assert_eq!(audit(&memory, root, &layout), Err(expected));
    }
    let not_the_root = TABLES.phys + PAGE;
    assert!(audit(&memory, not_the_root, &layout).is_err());
}

#[test]
fn finds_a_table_that_waits_for_an_entry() {
    let layout = layout(&sample()).unwrap();
    let mut memory = Memory::write(&layout);
    let frame = memory.allocate();
    memory.set(TABLES.phys, 0, frame | upper(0));
    let expected = Violation::EmptyTable { level: 3, virt: 0, frame };
    assert_eq!(read_back(&memory, &layout), Err(expected));
}

#[test]
fn refuses_leaves_larger_than_what_was_promised() {
    let text = of(Kind::ServiceText).virt;
    let entry = 0x4000_00e5 | 1 << 63;
    for (level, start) in [(3, text >> 30 << 30), (4, text >> 39 << 39)] {
        let expected = Violation::HugeLeaf { level: level as u8, virt: start, entry };
        check(|m| *m.slot(text, level) = entry, expected);
    }

    // A heap that is one page short of a large leaf, and one in frames that do not fit.
    let straddling = |phys, pages, expected| {
        let heap = region(Kind::Heap, 0x4000_0000, phys, pages);
        let layout = layout(&[heap, TABLES]).unwrap();
        let mut memory = Memory::write(&layout);
        let slot = memory.slot(heap.virt, 2);
        *slot = leaf(heap.kind, heap.phys, true);
        assert_eq!(read_back(&memory, &layout), Err(expected));
    };
    let (kind, virt, remaining) = (Kind::Heap, 0x4000_0000, 511 * PAGE);
    straddling(0x60_0000, 511, Violation::LargeLeafStraddles { kind, virt, remaining });
    let promised = 0x60_2000;
    straddling(promised, 512, Violation::LargeLeafMisaligned { virt, promised });
}

#[test]
fn finds_what_is_left_of_an_entry_that_is_not_present() {
    let virt = GATE_BASE;
    let change = |m: &mut Memory| *m.slot(virt, 1) = 1 << 40;
    check(change, Violation::NotZero { level: 1, virt, entry: 1 << 40 });
}

#[test]
fn audits_tables_that_fill_their_region() {
    let mut regions = sample();
    let needed = Memory::write(&layout(&regions).unwrap()).tables.len() as u64;
    let tables = regions.iter_mut().find(|region| region.kind == Kind::PageTables).unwrap();
    tables.length = needed * PAGE;
    let span = Span::new(tables.phys, tables.length);
    let exact = layout(&regions).unwrap();
    let memory = Memory::write(&exact);
    assert!(memory.tables.keys().all(|frame| span.contains(*frame)));
    assert!(read_back(&memory, &exact).is_ok());

    let tables = regions.iter_mut().find(|region| region.kind == Kind::PageTables).unwrap();
    tables.length -= PAGE;
    let short = layout(&regions).unwrap();
    let seen = read_back(&Memory::write(&short), &short);
    assert!(matches!(seen, Err(Violation::TableOutside { .. })), "{seen:?}");
}

#[test]
fn tells_many_tables_apart() {
    // Frames that do not fit large leaves: 200 tables for the pages alone.
    let data = region(Kind::ServiceData, 0x4000_0000, 0x4000_1000, 200 * 512);
    let tables = region(Kind::PageTables, TABLES.virt, TABLES.phys, 256);
    let layout = layout(&[data, tables]).unwrap();
    let audited = read_back(&Memory::write(&layout), &layout).unwrap();
    assert_eq!(audited.small_leaves(), 200 * 512 + 256);
    assert_eq!(audited.tables(), 1 + 2 + 2 + 201);
}

#[test]
fn says_what_differs_and_where() {
    let said =
        |found, promised| Violation::Entry { level: 1, virt: 0x5000, found, promised }.to_string();
    assert_eq!(
        said(0x20_0067, 0x20_0065),
        "level 1 entry for 0x5000 is 0x200067, promised 0x200065: writable differs"
    );
    let differs = |bit: u32| said(0x20_0065 ^ 1 << bit, 0x20_0065);
    for (bit, name) in [
        (0, "present"),
        (2, "user"),
        (3, "write-through"),
        (4, "cache disable"),
        (5, "accessed"),
        (6, "dirty"),
        (7, "page size or attribute"),
        (8, "global"),
        (9, "an ignored bit"),
        (12, "the frame"),
        (51, "the frame"),
        (52, "an ignored bit"),
        (62, "an ignored bit"),
        (63, "execute disable"),
    ] {
        assert!(differs(bit).ends_with(&format!(": {name} differs")), "{}", differs(bit));
    }
}
