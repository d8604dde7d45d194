//! What can be promised at all.

use seal_core::{
    Access, Cache, Draft, Fault, Kind, MAX_REGIONS, MAX_TABLES, Region, Ring, Violation,
};

use crate::machine::{
    GATE_BASE, PAGE, PHYSICAL_BITS, SERVICE_BASE, TABLES, layout, region, sample,
};

#[test]
fn accepts_a_layout_like_boots_in_any_order() {
    let mut regions = sample();
    let sorted = layout(&regions).unwrap();
    assert!(sorted.regions().is_sorted_by_key(|region| region.virt));
    assert_eq!(sorted.page_tables(), TABLES);
    regions.reverse();
    assert_eq!(layout(&regions).unwrap().regions(), sorted.regions());
}

#[track_caller]
fn check(bad: Region, fault: Fault) {
    assert_eq!(Draft::new(PHYSICAL_BITS).push(bad), Err(Violation::Region { region: bad, fault }));
}

#[test]
fn refuses_regions_that_cannot_be_mapped() {
    let at = |virt, phys, length| Region { kind: Kind::ServiceText, virt, phys, length };
    check(at(PAGE, PAGE, 0), Fault::Empty);
    check(at(PAGE + 1, PAGE, PAGE), Fault::Misaligned);
    check(at(PAGE, PAGE + 0x800, PAGE), Fault::Misaligned);
    check(at(PAGE, PAGE, PAGE + 1), Fault::Misaligned);
    check(at(0, PAGE, PAGE), Fault::PageZero);
    check(at(PAGE, 0, PAGE), Fault::PageZero);
    check(at(u64::MAX - PAGE + 1, PAGE, PAGE), Fault::Wraps);
    check(at(PAGE, u64::MAX - PAGE + 1, PAGE), Fault::Wraps);
    check(at(0x7fff_ffff_f000, PAGE, 2 * PAGE), Fault::NonCanonical);
    check(at(0x8000_0000_0000, PAGE, PAGE), Fault::NonCanonical);
    check(at(0xffff_7fff_ffff_f000, PAGE, PAGE), Fault::NonCanonical);
    check(at(0xffff_7fff_ffff_f000, PAGE, 2 * PAGE), Fault::NonCanonical);
    check(at(PAGE, 1 << PHYSICAL_BITS, PAGE), Fault::BeyondMemory);
    check(at(PAGE, (1 << PHYSICAL_BITS) - PAGE, 2 * PAGE), Fault::BeyondMemory);
    check(region(Kind::Doorbell, PAGE, PAGE, 2), Fault::ManyRegisters);
    check(region(Kind::LocalApic, GATE_BASE, PAGE, 2), Fault::ManyRegisters);
    check(region(Kind::DeviceRegisters, GATE_BASE, PAGE, 2), Fault::ManyRegisters);
    check(region(Kind::DeviceRegisters, PAGE, PAGE, 1), Fault::WrongHalf);
    check(region(Kind::PageTables, GATE_BASE, PAGE, MAX_TABLES + 1), Fault::Long);
    check(region(Kind::TpmRegisters, GATE_BASE, 0xfed4_1000, 1), Fault::NoTpm);
}

#[test]
fn accepts_the_last_page_that_can_be_mapped() {
    let mut draft = Draft::new(PHYSICAL_BITS);
    let last_frame = (1 << PHYSICAL_BITS) - PAGE;
    assert_eq!(draft.push(region(Kind::ServiceText, 0x7fff_ffff_f000, last_frame, 1)), Ok(()));
    assert_eq!(draft.push(region(Kind::GateText, 0xffff_8000_0000_0000, PAGE, 1)), Ok(()));
}

#[test]
fn no_cpu_has_more_than_52_bits_of_physical_addresses() {
    for bits in [52, 53, 64, u32::MAX] {
        let bad = region(Kind::ServiceText, PAGE, 1 << 52, 1);
        let refused = Violation::Region { region: bad, fault: Fault::BeyondMemory };
        assert_eq!(Draft::new(bits).push(bad), Err(refused));
    }
}

#[test]
fn keeps_each_ring_in_its_half() {
    for kind in Kind::ALL {
        let (_, ring, _) = kind.promise();
        let other = if ring == Ring::Service { GATE_BASE } else { SERVICE_BASE };
        check(region(kind, other, PAGE, 1), Fault::WrongHalf);
    }
}

#[track_caller]
fn check_pair(first: Region, second: Region, expected: Option<Violation>) {
    assert_eq!(layout(&[first, TABLES, second]).err(), expected);
    assert_eq!(layout(&[second, first, TABLES]).is_err(), expected.is_some());
}

#[test]
fn gives_each_address_and_each_frame_one_page() {
    let text = region(Kind::ServiceText, 0x10_0000, 0x80_0000, 4);
    let data = |virt, phys| region(Kind::ServiceData, virt, phys, 2);
    let shares_address = |above| Some(Violation::SharedAddress { below: text, above });
    let shares_frame = |second| Some(Violation::SharedFrame { first: text, second });
    check_pair(text, data(0x10_4000, 0x80_4000), None);
    check_pair(text, data(0x10_3000, 0x90_0000), shares_address(data(0x10_3000, 0x90_0000)));
    check_pair(text, data(0x10_1000, 0x90_0000), shares_address(data(0x10_1000, 0x90_0000)));
    check_pair(text, data(0x20_0000, 0x80_3000), shares_frame(data(0x20_0000, 0x80_3000)));
    check_pair(text, data(0x20_0000, 0x80_0000), shares_frame(data(0x20_0000, 0x80_0000)));
    check_pair(text, data(0x20_0000, 0x7f_e000), None);
    // A table that the service can write: the alias the seal is about.
    let alias = data(0x10_4000, TABLES.phys);
    check_pair(text, alias, Some(Violation::SharedFrame { first: alias, second: TABLES }));
}

#[test]
fn wants_guard_pages_where_they_are_due() {
    let below = region(Kind::ServiceData, 0x10_0000, 0x80_0000, 4);
    let check = |kind, hole: u64, is_refused: bool| {
        let above = region(kind, 0x10_4000 + hole, 0x90_0000, 4);
        let refused = Violation::NoGuard { below, above };
        check_pair(below, above, is_refused.then_some(refused));
    };
    check(Kind::Stack, 0, true);
    check(Kind::Stack, PAGE, false);
    check(Kind::Heap, 0, true);
    check(Kind::Heap, PAGE, false);
    check(Kind::ServiceBss, 0, false);

    let heap = region(Kind::Heap, 0x10_0000, 0x80_0000, 4);
    let above = region(Kind::ServiceData, 0x10_4000, 0x90_0000, 4);
    check_pair(heap, above, Some(Violation::NoGuard { below: heap, above }));
    let text = region(Kind::GateText, GATE_BASE, 0x80_0000, 1);
    let stack = region(Kind::GateStack, GATE_BASE + PAGE, 0x90_0000, 1);
    check_pair(text, stack, Some(Violation::NoGuard { below: text, above: stack }));
    // Nobody runs off the top of a stack.
    let stack = region(Kind::Stack, 0x10_0000, 0x80_0000, 4);
    check_pair(stack, above, None);
}

#[test]
fn wants_one_region_of_page_tables() {
    let mut regions = sample();
    regions.push(region(Kind::PageTables, GATE_BASE + 0x80_0000, 0x9000_0000, 1));
    assert_eq!(layout(&regions).err(), Some(Violation::PageTables { is_absent: false }));
    regions.retain(|region| region.kind != Kind::PageTables);
    assert_eq!(layout(&regions).err(), Some(Violation::PageTables { is_absent: true }));
}

#[test]
fn has_an_end() {
    let mut draft = Draft::new(PHYSICAL_BITS);
    let numbered =
        |n: usize| region(Kind::ServiceData, (n as u64 + 1) * PAGE, (n as u64 + 1) * PAGE, 1);
    for n in 0..MAX_REGIONS {
        assert_eq!(draft.push(numbered(n)), Ok(()));
    }
    let one_more = numbered(MAX_REGIONS);
    assert_eq!(draft.push(one_more), Err(Violation::TooManyRegions(one_more)));
}

/// The table "The sealed address space" of DESIGN section 1, written a second time.
#[test]
fn every_kind_has_the_right_the_design_gives_it() {
    use Access::{Execute, Read, ReadWrite};
    use Cache::{Uncached, WriteBack};
    use Ring::{Gate, Service};
    let table = [
        ("service text", Execute, Service, WriteBack),
        ("service rodata", Read, Service, WriteBack),
        ("service relro", Read, Service, WriteBack),
        ("service data", ReadWrite, Service, WriteBack),
        ("service bss", ReadWrite, Service, WriteBack),
        ("configuration", Read, Service, WriteBack),
        ("heap", ReadWrite, Service, WriteBack),
        ("stack", ReadWrite, Service, WriteBack),
        ("packet buffers", ReadWrite, Service, WriteBack),
        ("descriptor table", Read, Service, WriteBack),
        ("available ring", ReadWrite, Service, WriteBack),
        ("used ring", Read, Service, WriteBack),
        ("doorbell", ReadWrite, Service, Uncached),
        ("kvmclock", Read, Service, WriteBack),
        ("generation id", Read, Service, WriteBack),
        ("boot record", Read, Service, WriteBack),
        ("gate text", Execute, Gate, WriteBack),
        ("gate data", Read, Gate, WriteBack),
        ("IDT", Read, Gate, WriteBack),
        ("GDT", Read, Gate, WriteBack),
        ("TSS", Read, Gate, WriteBack),
        ("gate stack", ReadWrite, Gate, WriteBack),
        ("crash record", ReadWrite, Gate, WriteBack),
        ("local APIC", ReadWrite, Gate, Uncached),
        ("TPM registers", ReadWrite, Gate, Uncached),
        ("device registers", ReadWrite, Gate, Uncached),
        ("TPM answer", ReadWrite, Gate, WriteBack),
        ("page tables", Read, Gate, WriteBack),
    ];
    for (kind, (name, access, ring, cache)) in Kind::ALL.into_iter().zip(table) {
        assert_eq!(kind.name(), name);
        assert_eq!(kind.promise(), (access, ring, cache), "{name}");
        let is_device_reachable = kind.is_device_reachable();
        assert!(!is_device_reachable || (ring == Service && access != Execute), "{name}");
    }
    let reachable = Kind::ALL.into_iter().filter(|kind| kind.is_device_reachable()).count();
    assert_eq!(reachable, 4, "buffers, descriptors and the two rings");
}

#[test]
fn says_what_is_wrong_and_where() {
    let stack = region(Kind::Stack, 0x10_4000, 0x90_0000, 4);
    let data = region(Kind::ServiceData, 0x10_0000, 0x80_0000, 4);
    let said = |violation: Violation| violation.to_string();
    assert_eq!(
        said(Violation::NoGuard { below: data, above: stack }),
        "no guard page between service data (0x4000 bytes at 0x100000, frame 0x800000) and stack \
         (0x4000 bytes at 0x104000, frame 0x900000)"
    );
    assert_eq!(
        said(Violation::Region { region: stack, fault: Fault::WrongHalf }),
        "stack (0x4000 bytes at 0x104000, frame 0x900000) is in the other ring's half of the \
         address space"
    );
}
