//! Composing: what comes out, and what is refused.

use abi::configuration::{self, Header, OnStop};
use abi::image::{BYTES, MAX_SERVICE_BYTES, Manifest, Segment, SegmentAccess};
use abi::{PAGE_BYTES, Span};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{LittleEndian as LE, elf};

use super::sketch::{
    self, BOOT_EFI_ENTRY, BOOT_END, BOOT_ENTRY, BOOT_MANIFEST, DYNAMIC, EXECUTE, READ, Sketch,
    WRITE, load,
};
use super::{Composed, Fault, ImageError, Settings, compose};

const SETTINGS: Settings = Settings {
    heap_bytes: 8 << 20,
    stack_bytes: 256 << 10,
    on_stop: OnStop::PowerOff,
    needs_nic: true,
    build_unix_s: 1_800_000_000,
};

const PAYLOAD: &[u8] = b"what only the service reads";

fn composed() -> Composed {
    compose(&sketch::boot().bytes(), &sketch::service().bytes(), &SETTINGS, PAYLOAD).unwrap()
}

/// What a loader would put into memory from boot's first byte on, and which bytes may be written.
fn loaded(file: &[u8]) -> Vec<u8> {
    let header = elf::FileHeader64::<LE>::parse(file).unwrap();
    let mut memory = vec![0; 0x20_0000];
    for segment in header.program_headers(LE, file).unwrap() {
        if segment.p_type(LE) == elf::PT_LOAD {
            assert_eq!(segment.p_vaddr(LE), segment.p_paddr(LE));
            assert_eq!(segment.p_offset(LE) % PAGE_BYTES, segment.p_vaddr(LE) % PAGE_BYTES);
            let bytes = segment.data(LE, file).unwrap();
            let at = segment.p_vaddr(LE) as usize - 0x10_0000;
            memory[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
    memory
}

fn part(memory: &[u8], span: Span) -> &[u8] {
    &memory[span.start as usize..(span.start + span.length) as usize]
}

#[test]
fn the_manifest_in_the_file_leads_to_every_part() {
    let image = composed();
    let memory = loaded(&image.bytes);
    let place = Span::new(BOOT_MANIFEST - 0x10_0000, BYTES as u64);
    let manifest = Manifest::parse(part(&memory, place).try_into().unwrap()).unwrap();
    assert_eq!(manifest, image.manifest);
    assert_eq!(manifest.entry, 0x1004);
    assert_eq!(part(&memory, manifest.relocations), sketch::words(&[0x2000, 0b1011]));

    let section = part(&memory, manifest.configuration);
    let header = Header::parse(section).unwrap();
    assert_eq!(header, image.header);
    assert_eq!((header.heap_bytes, header.on_stop), (SETTINGS.heap_bytes, OnStop::PowerOff));
    assert_eq!(part(section, header.payload()), PAYLOAD);

    let segments: Vec<Segment> = manifest.segments.into_iter().flatten().collect();
    let rights: Vec<_> = segments.iter().map(|s| (s.address, s.access, s.memory_bytes)).collect();
    let expected = [
        (0, SegmentAccess::Read, 0x40),
        (0x1000, SegmentAccess::Execute, 0x234),
        (0x2000, SegmentAccess::ReadAfterRelocation, 0x1000),
        (0x3000, SegmentAccess::ReadWrite, 0x5_0000),
    ];
    assert_eq!(rights, expected);
    let bytes_of = |s: &Segment| part(&memory, Span::new(s.offset, s.file_bytes)).to_vec();
    assert_eq!(bytes_of(&segments[1]), [0xcc; 0x234]);
    assert_eq!(bytes_of(&segments[2])[..8], 0x10u64.to_le_bytes());
    assert_eq!(bytes_of(&segments[2]).len(), 0x1000, "all of relro is in the file");
    assert_eq!(bytes_of(&segments[3]), [0x5a; 0x1234]);
}

#[test]
fn parts_lie_behind_boots_zeroed_data_on_pages_of_their_own() {
    let image = composed();
    let mut free = BOOT_END - 0x10_0000;
    let Manifest { relocations, configuration, segments, .. } = image.manifest;
    let segments = segments.iter().flatten().map(|s| Span::new(s.offset, s.file_bytes));
    for place in segments.chain([relocations, configuration]) {
        assert!(place.start >= free && place.start % PAGE_BYTES == 0, "{place:x?}");
        free = place.end().unwrap().next_multiple_of(PAGE_BYTES);
    }
    assert_eq!(image.loaded, Span::new(0x10_0000, free));
}

#[test]
fn boots_own_bytes_stay_where_they_were_and_only_the_manifest_is_filled_in() {
    let boot = sketch::boot();
    let memory = loaded(&composed().bytes);
    for load in &boot.loads {
        let place = Span::new(load.address - 0x10_0000, load.bytes.len() as u64);
        let seen = part(&memory, place);
        for (index, (seen, was)) in seen.iter().zip(&load.bytes).enumerate() {
            let address = load.address + index as u64;
            if !Span::new(BOOT_MANIFEST, BYTES as u64).contains(address) {
                assert_eq!(seen, was, "at {address:#x}");
            }
        }
    }
}

#[test]
fn loaders_find_the_entry_the_note_and_the_sections() {
    let file = composed().bytes;
    let header = elf::FileHeader64::<LE>::parse(&*file).unwrap();
    assert_eq!(header.e_entry(LE), BOOT_ENTRY);
    assert_eq!(header.e_type(LE), elf::ET_EXEC);
    let segments = header.program_headers(LE, &*file).unwrap();
    let mut notes = segments[0].notes(LE, &*file).unwrap().unwrap();
    let note = notes.next().unwrap().unwrap();
    assert_eq!((note.name(), note.n_type(LE).0), (&b"Xen"[..], 18));
    assert_eq!(note.desc(), (BOOT_ENTRY as u32).to_le_bytes());

    let table = header.sections(LE, &*file).unwrap();
    let names: Vec<_> = table.iter().map(|s| table.section_name(LE, s).unwrap()).collect();
    let expected = [
        "",
        ".note.pvh",
        ".boot.text",
        ".manifest",
        ".boot.bss",
        ".service.rodata",
        ".service.text",
        ".service.relro",
        ".service.data",
        ".service.relocations",
        ".configuration",
        ".shstrtab",
    ];
    assert_eq!(names, expected.map(str::as_bytes));
    for section in table.iter().filter(|s| s.sh_type(LE) == elf::SHT_PROGBITS) {
        let bytes = section.data(LE, &*file).unwrap();
        let at = Span::new(section.sh_addr(LE) - 0x10_0000, section.sh_size(LE));
        assert_eq!(bytes, part(&loaded(&file), at));
    }
}

/// What UEFI firmware would put into memory behind the header, by another reader of PE files.
fn loaded_efi(file: &[u8]) -> Vec<u8> {
    let pe = object::read::pe::PeFile64::parse(file).unwrap();
    let mut memory = vec![0; 0x20_0000];
    for section in pe.section_table().iter() {
        let bytes = section.pe_data(file).unwrap();
        let at = section.virtual_address.get(LE) as usize - 0x1000;
        let length = bytes.len().min(section.virtual_size.get(LE) as usize);
        memory[at..at + length].copy_from_slice(&bytes[..length]);
    }
    memory
}

#[test]
fn firmware_loads_the_same_bytes_at_the_same_distances() {
    let image = composed();
    let (elf, efi) = (loaded(&image.bytes), loaded_efi(&image.efi));
    let end = image.loaded.length as usize;
    assert!(elf[..end] == efi[..end]);
}

#[test]
fn firmware_finds_an_application_that_goes_anywhere_and_tells_no_time() {
    use object::pe;
    let file = composed().efi;
    let image = object::read::pe::PeFile64::parse(&*file).unwrap();
    let header = image.nt_headers().file_header;
    let optional = image.nt_headers().optional_header;
    assert_eq!(header.machine.get(LE), pe::IMAGE_FILE_MACHINE_AMD64);
    assert_eq!(header.time_date_stamp.get(LE), 0);
    assert_eq!(header.characteristics.get(LE).0 & pe::IMAGE_FILE_RELOCS_STRIPPED.0, 0);
    assert_eq!(optional.subsystem.get(LE), pe::IMAGE_SUBSYSTEM_EFI_APPLICATION);
    assert_eq!(optional.check_sum.get(LE), 0);
    assert_eq!(optional.image_base.get(LE), 0);
    let entry = u64::from(optional.address_of_entry_point.get(LE));
    assert_eq!(entry, BOOT_EFI_ENTRY - 0x10_0000 + PAGE_BYTES);
    let sections: Vec<_> = image.section_table().iter().collect();
    let last = sections.last().unwrap();
    let end = last.virtual_address.get(LE) + last.virtual_size.get(LE);
    assert_eq!(optional.size_of_image.get(LE), end.next_multiple_of(4096));
    let directories = image.data_directories();
    let mut blocks =
        directories.relocation_blocks(&*file, &image.section_table()).unwrap().unwrap();
    let block = blocks.next().unwrap().unwrap();
    assert!(block.into_iter().all(|entry| entry.typ == pe::IMAGE_REL_BASED_ABSOLUTE));
    assert!(blocks.next().unwrap().is_none());
}

#[test]
fn firmware_is_given_no_section_that_is_writable_and_executable_and_no_gap_in_the_file() {
    let file = composed().efi;
    let image = object::read::pe::PeFile64::parse(&*file).unwrap();
    // A signer hashes and appends: it wants every byte to belong to the header or to a section.
    let mut next = 4096;
    for section in image.section_table().iter() {
        let flags = section.characteristics.get(LE).0;
        let (write, execute) = (1 << 31, 1 << 29);
        assert_ne!(flags & (write | execute), write | execute);
        assert_eq!(section.pointer_to_raw_data.get(LE), next);
        assert_eq!(section.virtual_address.get(LE) % 4096, 0);
        next += section.size_of_raw_data.get(LE);
    }
    assert_eq!(file.len(), next as usize);
    assert_eq!(file.len() % 4096, 0);
}

#[test]
fn the_gate_has_a_section_that_ends_with_it() {
    let mut boot = sketch::boot();
    boot.loads[1].bytes = [vec![7; 0x321], vec![0; 0xcdf], vec![0; BYTES], vec![9; 16]].concat();
    boot.loads[1].memory_bytes = boot.loads[1].bytes.len() as u64;
    boot.loads[2].address += 0x1000;
    boot.loads[2].memory_bytes -= 0x1000;
    boot.sections[2].2 = 0x10_2000;
    boot.sections[3].2 += 0x1000;
    boot.sections[3].3 -= 0x1000;
    boot.sections.insert(1, (".gate", elf::SHT_PROGBITS, 0x10_1000, 0x321));
    let image = compose(&boot.bytes(), &sketch::service().bytes(), &SETTINGS, b"").unwrap();
    let pe = object::read::pe::PeFile64::parse(&*image.efi).unwrap();
    let names: Vec<_> = pe.section_table().iter().map(|s| s.raw_name().to_vec()).collect();
    assert_eq!(names[..4], [".text", ".gate", ".rodata", ".data"].map(|n| n.as_bytes().to_vec()));
    let gate = pe.section_table().iter().nth(1).unwrap();
    assert_eq!(gate.virtual_size.get(LE), 0x321);
    let end = image.loaded.length as usize;
    assert!(loaded(&image.bytes)[..end] == loaded_efi(&image.efi)[..end]);
}

#[track_caller]
fn check_boot_relocation(words: [u64; 3], expected: Option<Fault>) {
    let mut boot = sketch::boot();
    // The table and the dynamic section lie behind the manifest; the word is in the data.
    let table = BOOT_MANIFEST + BYTES as u64 + 16;
    boot.loads[1].bytes.extend(sketch::words(&words));
    let entries = [(elf::DT_RELA, table), (elf::DT_RELASZ, 24)];
    boot.loads[1].bytes.extend(sketch::dynamic(&entries));
    boot.loads[1].memory_bytes = boot.loads[1].bytes.len() as u64;
    boot.views.push((elf::PT_DYNAMIC, table + 24, DYNAMIC.1));
    put(&mut boot, 0x10_2008, &0x10_1234u64.to_le_bytes());
    let seen = compose(&boot.bytes(), &sketch::service().bytes(), &SETTINGS, b"");
    assert_eq!(seen.err(), expected.map(ImageError::Boot));
}

#[test]
fn refuses_relocations_of_boots_own_that_its_stub_could_not_apply() {
    check_boot_relocation([0x10_2008, 8, 0x10_1234], None);
    check_boot_relocation([0x10_2008, 8, 0x10_1235], Some(Fault::RelocationTarget(0x10_2008)));
    check_boot_relocation([0x10_1000, 8, 0], Some(Fault::RelocationTarget(0x10_1000)));
    check_boot_relocation([0x10_207c, 8, 0], Some(Fault::RelocationTarget(0x10_207c)));
    check_boot_relocation([u64::MAX, 8, 0], Some(Fault::RelocationTarget(u64::MAX)));
    let kind = Fault::Relocation { address: 0x10_2008, kind: 6 };
    check_boot_relocation([0x10_2008, 1 << 32 | 6, 0], Some(kind));
}

#[test]
fn nothing_in_the_file_is_writable_and_executable() {
    let file = composed().bytes;
    let header = elf::FileHeader64::<LE>::parse(&*file).unwrap();
    for segment in header.program_headers(LE, &*file).unwrap() {
        assert_ne!(segment.p_flags(LE).0 & 3, 3);
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_and_another_one_does_not() {
    assert!(composed() == composed());
    let later = Settings { build_unix_s: SETTINGS.build_unix_s + 1, ..SETTINGS };
    let (boot, service) = (sketch::boot().bytes(), sketch::service().bytes());
    assert!(compose(&boot, &service, &later, PAYLOAD).unwrap() != composed());
}

#[test]
fn the_file_is_little_more_than_its_parts() {
    let pages = 3 + 1 + 1 + 1 + 2 + 1 + 1;
    assert!(composed().bytes.len() <= (pages + 2) * 4096);
}

#[test]
fn a_service_without_relocations_or_data_composes_too() {
    let service = Sketch {
        loads: vec![load(0, EXECUTE, vec![0xcc; 16])],
        entry: 0,
        views: vec![],
        ..sketch::service()
    };
    let image = compose(&sketch::boot().bytes(), &service.bytes(), &SETTINGS, b"").unwrap();
    assert_eq!(image.manifest.relocations.length, 0);
    assert_eq!(image.manifest.segments.iter().flatten().count(), 1);
}

#[test]
fn one_writable_segment_is_split_where_relro_ends() {
    let mut relro_and_data = load(0x2000, WRITE, vec![1; 0x1800]);
    relro_and_data.memory_bytes = 0x9000;
    let service = Sketch {
        loads: vec![load(0x1000, EXECUTE, vec![0xcc; 16]), relro_and_data],
        views: vec![(elf::PT_GNU_RELRO, 0x2000, 0x1000)],
        entry: 0x1000,
        ..sketch::service()
    };
    let image = compose(&sketch::boot().bytes(), &service.bytes(), &SETTINGS, b"").unwrap();
    let segments: Vec<_> = image.manifest.segments.into_iter().flatten().collect();
    let relro = (segments[1].address, segments[1].access, segments[1].memory_bytes);
    assert_eq!(relro, (0x2000, SegmentAccess::ReadAfterRelocation, 0x1000));
    let data = (segments[2].address, segments[2].access, segments[2].memory_bytes);
    assert_eq!(data, (0x3000, SegmentAccess::ReadWrite, 0x8000));
    assert_eq!(segments[2].file_bytes, 0x800);
}

#[test]
fn a_segment_that_begins_within_a_page_is_led_in_by_zeros() {
    let service = Sketch {
        loads: vec![load(0x30, READ, vec![1; 16]), load(0x1230, EXECUTE, vec![0xcc; 16])],
        views: vec![],
        entry: 0x1230,
        ..sketch::service()
    };
    let image = compose(&sketch::boot().bytes(), &service.bytes(), &SETTINGS, b"").unwrap();
    let text = image.manifest.segments[1].unwrap();
    assert_eq!((text.address, text.file_bytes), (0x1000, 0x240));
    let memory = loaded(&image.bytes);
    let bytes = part(&memory, Span::new(text.offset, text.file_bytes));
    assert!(bytes[..0x230].iter().all(|b| *b == 0) && bytes[0x230..] == [0xcc; 16]);
}

#[track_caller]
fn check_service(change: impl FnOnce(&mut Sketch), expected: Fault) {
    let mut service = sketch::service();
    change(&mut service);
    let seen = compose(&sketch::boot().bytes(), &service.bytes(), &SETTINGS, PAYLOAD);
    assert_eq!(seen.unwrap_err(), ImageError::Service(expected));
}

/// Puts bytes at an address of a sketched file.
fn put(sketch: &mut Sketch, address: u64, bytes: &[u8]) {
    let holds =
        |l: &&mut sketch::Load| (l.address..l.address + l.bytes.len() as u64).contains(&address);
    let load = sketch.loads.iter_mut().find(holds).unwrap();
    let at = (address - load.address) as usize;
    load.bytes[at..at + bytes.len()].copy_from_slice(bytes);
}

fn table(words: &[u64]) -> impl FnOnce(&mut Sketch) {
    let bytes = sketch::words(words);
    move |service| put(service, sketch::TABLE, &bytes)
}

fn dynamic(entries: &[(elf::DynamicTag, u64)]) -> impl FnOnce(&mut Sketch) {
    let bytes = sketch::dynamic(entries);
    move |service| put(service, DYNAMIC.0, &bytes)
}

#[test]
fn refuses_what_a_service_must_not_be() {
    check_service(|s| s.loads[3].flags = 7, Fault::WritableAndExecutable(0x3000));
    check_service(|s| s.views.push((elf::PT_TLS, 0x3000, 8)), Fault::ThreadLocal);
    check_service(|s| s.views.push((elf::PT_INTERP, 0, 8)), Fault::Dependency);
    check_service(|s| s.kind = elf::ET_EXEC, Fault::Kind(2));
    check_service(|s| s.kind = elf::ET_REL, Fault::Kind(1));
    check_service(|s| s.entry = 0x3000, Fault::Entry(0x3000));
    check_service(|s| s.entry = 0x1234, Fault::Entry(0x1234));
    check_service(|s| s.loads.clear(), Fault::NoSegment);
    check_service(|s| s.loads[1].memory_bytes = 0x1001, Fault::Overlap(0x2000));
    check_service(|s| s.loads[0].address = 0xff0, Fault::Overlap(0x1000));
    check_service(|s| s.loads[3].memory_bytes = 0x1000, Fault::Truncated(0x3000));
    check_service(|s| s.loads[3].memory_bytes = u64::MAX - 0x2fff, Fault::Overlap(0x3000));
    let bytes = MAX_SERVICE_BYTES - 0x3000;
    check_service(|s| s.loads[3].memory_bytes = bytes + 1, Fault::TooLarge(MAX_SERVICE_BYTES + 1));
    let extra = (0..3).map(|i| load(0x10_0000 + i * 0x1000, READ, vec![0]));
    check_service(|s| s.loads.extend(extra), Fault::TooManySegments(7));
}

#[test]
fn refuses_relocations_that_boot_could_not_apply() {
    check_service(table(&[0x1000, 1]), Fault::RelocationTarget(0x1000));
    check_service(table(&[0x2004, 1]), Fault::RelocationTarget(0x2004));
    check_service(table(&[0x3000, 1]), Fault::RelocationTarget(0x3000));
    check_service(table(&[0x2ffc, 1]), Fault::RelocationTarget(0x2ffc));
    check_service(table(&[0x2000, 0b101]), Fault::RelocationTarget(0x2010));
    check_service(table(&[0x2f00, 1 << 63 | 1]), Fault::RelocationTarget(0x30f8));
    check_service(table(&[u64::MAX - 1, 1]), Fault::RelocationTarget(u64::MAX - 1));
    check_service(table(&[0b11, 1]), Fault::RelocationTarget(0));
}

#[test]
fn refuses_work_for_a_loader_that_is_not_there() {
    let of = |address, kind| Fault::Relocation { address, kind };
    // The words at 0x2000 read as a relocation of address 0x10, type 0x1000.
    let rela = [(elf::DT_RELA, 0x2000), (elf::DT_RELASZ, 24)];
    check_service(dynamic(&rela), of(0x10, 0x1000));
    check_service(dynamic(&[(elf::DT_REL, 0x2000), (elf::DT_RELSZ, 16)]), of(0x10, 0x1000));
    check_service(dynamic(&[(elf::DT_JMPREL, 0x2000), (elf::DT_PLTRELSZ, 24)]), of(0x10, 0x1000));
    check_service(
        dynamic(&[(elf::DT_RELA, 0x9999_0000), (elf::DT_RELASZ, 24)]),
        of(0x9999_0000, 0),
    );
    check_service(dynamic(&[(elf::DT_NEEDED, 1)]), Fault::Dependency);
    check_service(dynamic(&[(elf::DT_INIT_ARRAYSZ, 8)]), Fault::Initialisers);
    check_service(dynamic(&[(elf::DT_INIT, 0x1000)]), Fault::Initialisers);
    let outside = [(elf::DT_RELR, 0x38), (elf::DT_RELRSZ, 16)];
    check_service(dynamic(&outside), Fault::RelocationTable(Span::new(0x38, 16)));
    let odd = [(elf::DT_RELR, 0x10), (elf::DT_RELRSZ, 12)];
    check_service(dynamic(&odd), Fault::RelocationTable(Span::new(0x10, 12)));
    let wild = [(elf::DT_RELR, u64::MAX), (elf::DT_RELRSZ, u64::MAX)];
    check_service(dynamic(&wild), Fault::RelocationTable(Span::new(u64::MAX, u64::MAX)));
}

#[test]
fn refuses_a_relro_that_does_not_end_with_a_page() {
    let relro =
        |start, length| move |s: &mut Sketch| s.views[0] = (elf::PT_GNU_RELRO, start, length);
    check_service(relro(0x1000, 0x234), Fault::Relro(0x1000));
    check_service(relro(0x4000, 0x1000), Fault::Relro(0x4000));
    check_service(relro(0x3000, 0x1004), Fault::Relro(0x4004));
    check_service(relro(0x50_0000, 0x1000), Fault::Relro(0x50_0000));
}

#[track_caller]
fn check_boot(change: impl FnOnce(&mut Sketch), expected: Fault) {
    let mut boot = sketch::boot();
    change(&mut boot);
    let seen = compose(&boot.bytes(), &sketch::service().bytes(), &SETTINGS, PAYLOAD);
    assert_eq!(seen.unwrap_err(), ImageError::Boot(expected));
}

#[test]
fn refuses_what_boot_must_not_be() {
    check_boot(|b| b.loads[2].flags = 7, Fault::WritableAndExecutable(0x10_2000));
    check_boot(|b| b.views.push((elf::PT_TLS, 0x10_2000, 8)), Fault::ThreadLocal);
    check_boot(|b| b.entry = 0x10_1000, Fault::Entry(0x10_1000));
    check_boot(|b| b.loads[0].memory_bytes = 0x2000, Fault::Overlap(0x10_1000));
    check_boot(|b| b.loads.push(load(0xf_fff0, READ, vec![0])), Fault::Unaligned(0xf_fff0));
    let far = |b: &mut Sketch| b.loads[2].address = u64::from(u32::MAX) + 1 - 0x4000;
    check_boot(far, Fault::TooLarge((1 << 32) - 0x4000 + 0x3800 - 0x10_0000));
    let all_far = |b: &mut Sketch| {
        b.loads.iter_mut().for_each(|load| load.address += 0xfff0_0000);
        b.sections.iter_mut().for_each(|section| section.2 += 0xfff0_0000);
        b.views[0].1 += 0xfff0_0000;
        b.entry += 0xfff0_0000;
    };
    check_boot(all_far, Fault::Beyond(BOOT_END + 0xfff0_0000));
    check_boot(|b| b.views.clear(), Fault::NoPvhNote);
    check_boot(|b| put(b, 0x10_0008, &[17]), Fault::NoPvhNote);
    check_boot(|b| put(b, 0x10_000c, b"Zen"), Fault::NoPvhNote);
    check_boot(|b| put(b, 0x10_0020, b"Mulla"), Fault::NoEfiNote);
    check_boot(|b| put(b, 0x10_001c, &[2]), Fault::NoEfiNote);
    check_boot(|b| put(b, 0x10_0028, &[0, 0x10]), Fault::EfiEntry(0x10_1000));
    check_boot(|b| b.sections.truncate(2), Fault::NoManifest);
    check_boot(|b| b.sections[2].3 = 8, Fault::ManifestBytes(8));
    check_boot(|b| b.sections[2].1 = elf::SHT_NOBITS, Fault::ManifestPlace(BOOT_MANIFEST));
    check_boot(|b| b.sections[2].2 = 0x10_2000, Fault::ManifestPlace(0x10_2000));
    check_boot(|b| b.sections[2].2 = 0x10_0000, Fault::ManifestPlace(0x10_0000));
    check_boot(|b| b.sections[2].2 = u64::MAX - 8, Fault::ManifestPlace(u64::MAX - 8));
    check_boot(|b| b.loads[1].flags = WRITE, Fault::ManifestPlace(BOOT_MANIFEST));
    check_boot(|b| put(b, BOOT_MANIFEST + 100, &[1]), Fault::ManifestTaken);
}

#[test]
fn refuses_a_note_that_is_not_loaded() {
    let mut boot = sketch::boot().bytes();
    // The fourth program header is the note's, and 16 bytes into it is the address.
    let at = 64 + 3 * 56 + 16;
    assert_eq!(boot[at..at + 8], 0x10_0000u64.to_le_bytes());
    boot[at..at + 8].copy_from_slice(&0x20_0000u64.to_le_bytes());
    let seen = compose(&boot, &sketch::service().bytes(), &SETTINGS, PAYLOAD);
    assert_eq!(seen.unwrap_err(), ImageError::Boot(Fault::NotePlace(0x20_0000)));
}

#[test]
fn a_composed_image_is_no_boot_program() {
    let image = composed().bytes;
    let seen = compose(&image, &sketch::service().bytes(), &SETTINGS, PAYLOAD);
    assert_eq!(seen.unwrap_err(), ImageError::Boot(Fault::ManifestTaken));
}

#[test]
fn refuses_settings_and_payloads_that_boot_would_refuse() {
    let refuse = |settings: Settings, payload: &[u8]| {
        let (boot, service) = (sketch::boot().bytes(), sketch::service().bytes());
        compose(&boot, &service, &settings, payload).unwrap_err()
    };
    let field = |name, value| ImageError::Settings(configuration::Malformed::Field { name, value });
    let heap = Settings { heap_bytes: 4095, ..SETTINGS };
    assert_eq!(refuse(heap, b""), field("heap_bytes", 4095));
    let stack = Settings { stack_bytes: 0, ..SETTINGS };
    assert_eq!(refuse(stack, b""), field("stack_bytes", 0));
    let payload = vec![0; 16 << 20 | 1];
    assert_eq!(refuse(SETTINGS, &payload), ImageError::Payload(payload.len() as u64));
}

#[test]
fn files_that_are_not_elf_or_end_early_are_refused_without_a_panic() {
    let (boot, service) = (sketch::boot().bytes(), sketch::service().bytes());
    for length in (0..service.len()).step_by(7) {
        let _ = compose(&boot, &service[..length], &SETTINGS, PAYLOAD);
        let _ = compose(&boot[..length.min(boot.len())], &service, &SETTINGS, PAYLOAD);
    }
    assert!(matches!(compose(b"", &service, &SETTINGS, b""), Err(ImageError::Boot(_))));
    assert!(matches!(compose(&boot, b"MZ", &SETTINGS, b""), Err(ImageError::Service(_))));
}

#[test]
fn damaged_headers_are_refused_or_composed_but_never_a_panic() {
    let (boot, service) = (sketch::boot().bytes(), sketch::service().bytes());
    let (mut refused, mut composed) = (0, 0);
    let mut count = |result: Result<_, _>| match result {
        Ok(_) => composed += 1,
        Err(_) => refused += 1,
    };
    for value in [0, 1, 0x7f, 0x80, 0xff] {
        let changed = |file: &[u8], at: usize| {
            let mut file = file.to_vec();
            file[at] = value;
            file
        };
        // The file header and the program headers are at the start, the sections at the end.
        for at in (0..0x180).chain(boot.len() - 64 * 6..boot.len()) {
            count(compose(&changed(&boot, at), &service, &SETTINGS, PAYLOAD));
        }
        for at in 0..0x190 {
            count(compose(&boot, &changed(&service, at), &SETTINGS, PAYLOAD));
        }
    }
    assert!(refused > 500 && composed > 500, "{refused} refused, {composed} composed");
}

#[test]
fn a_debug_print_shows_no_byte_of_the_payload() {
    let text = format!("{:?}", composed());
    assert!(!text.contains("112, 97") && text.len() < 2000, "{text}");
}
