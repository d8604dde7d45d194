//! Each weakening makes exactly the property fail that it breaks.

use abi::Span;
use seal::layout::{self, Place};
use seal_core::Kind;

use crate::check;
use crate::synthetic::{HEADER_BYTES, Load, R, RW, RWX, Synthetic};

#[track_caller]
fn weakened(change: impl FnOnce(&mut Synthetic), expected: &[&str]) -> String {
    let mut image = Synthetic::new();
    change(&mut image);
    let report = check(&image.build(), expected);
    let failed = report.properties.iter().filter(|it| !it.holds);
    failed.map(|it| it.detail.as_str()).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn loads(change: fn(&mut Vec<Load>), expected: &[&str]) {
    weakened(|image| image.change_loads = change, expected);
}

#[test]
fn a_clean_image_is_sealed() {
    let report = check(&Synthetic::new().build(), &[]);
    let gate = report.gate.unwrap();
    assert_eq!(gate.allowed.len(), 11, "{:#?}", gate.allowed);
    assert_eq!((gate.stores.len(), gate.padding_bytes), (1, 3));
    assert_eq!((gate.forbidden.len(), gate.differences.len()), (0, 0));
    assert_eq!(report.header.unwrap().payload_bytes, 12);
}

#[test]
fn segments_are_what_they_say() {
    let segments = ["segments"];
    weakened(|image| image.entry = 0x10_1000, &segments);
    weakened(|image| image.others.push((3, 0x10_0000, 8)), &segments); // PT_INTERP
    weakened(|image| image.others.push((2, 0x10_1000, 8)), &segments); // PT_DYNAMIC
    weakened(|image| image.others.push((7, 0x10_1000, 8)), &segments); // PT_TLS
    weakened(|image| image.others.push((4, 0x20_0000, 8)), &segments); // PT_NOTE elsewhere
    loads(|loads| loads[1].memory_bytes = 0x2001, &segments);
    loads(|loads| loads[2].memory_bytes = 8, &segments);
    loads(|loads| loads[2].memory_bytes = u64::MAX, &["segments", "manifest"]);
    // Behind a segment's end, but in its last page.
    let mut file = Synthetic::new().build();
    file[0x1200] = 1;
    check(&file, &segments);
}

#[test]
fn nothing_is_writable_and_executable() {
    loads(|loads| loads[0].flags = RWX, &["write-xor-execute"]);
    loads(|loads| loads[2].flags = RWX, &["write-xor-execute"]);
    // The manifest says that the service's text is not writable.
    loads(|loads| loads[4].flags = RWX, &["write-xor-execute", "manifest"]);
    // The manifest itself is boot's constant.
    loads(|loads| loads[1].flags = RW, &["manifest"]);
}

#[test]
fn the_manifest_says_what_is_loaded() {
    let part = |image: &mut Synthetic, number: usize, change: fn(&mut abi::image::Segment)| {
        change(image.manifest.segments[number].as_mut().unwrap());
    };
    let manifest = ["manifest"];
    weakened(|image| part(image, 0, |it| it.offset += 0x1000), &manifest);
    weakened(|image| part(image, 1, |it| it.offset = 0x200_0000), &manifest);
    weakened(|image| part(image, 1, |it| it.offset -= 0x1000), &manifest);
    weakened(
        |image| part(image, 0, |it| it.access = abi::image::SegmentAccess::Execute),
        &manifest,
    );
    weakened(|image| part(image, 3, |it| it.offset -= 0x1000), &manifest);
    weakened(
        |image| image.manifest.configuration.start += 0x1000,
        &["manifest", "configuration", "layout"],
    );
    weakened(|image| image.manifest.segments[3] = None, &["manifest", "relocations"]);
    // Not even readable as a manifest: what depends on it is not shown.
    let dependent = ["manifest", "relocations", "configuration", "layout"];
    weakened(|image| image.manifest.entry = 0x3000, &dependent);
    // Bytes behind the configuration would be in the machine too.
    loads(|loads| *loads[8].bytes.last_mut().unwrap() = 1, &manifest);
    // A segment that nobody speaks of.
    let stray = |loads: &mut Vec<Load>| {
        loads.push(Load { address: 0x20_0000, flags: R, bytes: vec![0; 16], memory_bytes: 16 });
    };
    loads(stray, &manifest);
}

#[test]
fn relocations_stay_in_data() {
    let relocations = ["relocations"];
    weakened(|image| image.relocations = vec![0x1000], &relocations); // text
    weakened(|image| image.relocations = vec![0], &relocations); // constants
    weakened(|image| image.relocations = vec![0x4ffc], &relocations); // across the end
    weakened(|image| image.relocations = vec![0x3004], &relocations); // half a word
    weakened(|image| image.relocations = vec![0x5000], &relocations); // zeroed memory
    weakened(|image| image.relocations = vec![0x4ff8, 3], &relocations); // a bitmap runs out
    weakened(|image| image.relocations = vec![0x3008, 0x3000], &relocations);
    weakened(|image| image.relocations = vec![3], &relocations);
    weakened(|image| image.manifest.relocations.length = 20, &relocations);
    // The word that is relocated would point beyond the service.
    loads(|loads| loads[5].bytes[..8].copy_from_slice(&0x7001_u64.to_le_bytes()), &relocations);
    loads(|loads| loads[5].bytes[..8].copy_from_slice(&0x7000_u64.to_le_bytes()), &[]);
}

#[test]
fn the_configuration_is_understood_whole() {
    weakened(|image| image.payload.push(0), &["configuration"]);
    weakened(|image| image.header.payload_bytes -= 1, &["configuration"]);
    let not_read = ["configuration", "layout"];
    weakened(|image| image.header.payload_bytes += 1, &not_read);
    weakened(|image| image.header.heap_bytes += 1, &not_read);
    weakened(|image| image.header.stack_bytes = 0, &not_read);
    let short = ["manifest", "configuration", "layout"];
    weakened(|image| image.manifest.configuration = Span::new(0xa000, 8), &short);
}

#[test]
fn the_tail_falls_into_the_gate() {
    let tail = ["tail-ends-in-mov-cr3"];
    weakened(|image| image.between = vec![0x90], &tail);
    weakened(|image| image.between = vec![0xc3], &tail);
    weakened(|image| image.tail.splice(0..0, [0xc3]).for_each(drop), &tail);
    weakened(|image| image.tail.splice(0..0, [0x0f, 0x22, 0xc0]).for_each(drop), &tail);
    weakened(|image| image.tail.splice(0..0, [0xeb, 0x40]).for_each(drop), &tail);
    weakened(|image| image.tail.splice(0..0, [0xff, 0xe0]).for_each(drop), &tail);
    weakened(|image| image.tail.splice(0..0, [0x06]).for_each(drop), &tail);
    weakened(|image| image.tail.splice(0..0, [0x90; 2100]).for_each(drop), &tail);
    // The gate takes a stack of somebody else's.
    weakened(|image| image.code[4] = 0x9f, &tail);
    let nothing = ["tail-ends-in-mov-cr3", "gate-size", "gate-instructions", "gate-scanners-agree"];
    weakened(|image| image.tail.clear(), &nothing);
    weakened(|image| image.gate_section = ".gate", &nothing);
    // A second gate: which one boot copies, nobody can tell.
    let second = |loads: &mut Vec<Load>| {
        let copy = loads[1].bytes[..0x60].to_vec();
        loads[0].bytes[0x80..0xe0].copy_from_slice(&copy);
    };
    loads(second, &tail);
}

#[test]
fn the_gate_fits_a_page() {
    let bytes = Synthetic::new().gate().len();
    weakened(|image| image.text.resize(image.text.len() + 4096 - bytes, 0), &[]);
    weakened(|image| image.text.resize(image.text.len() + 4097 - bytes, 0), &["gate-size"]);
}

#[test]
fn the_gate_holds_nothing_that_could_undo_the_seal() {
    const FORBIDDEN: [(&str, &[u8]); 34] = [
        ("mov cr, r", &[0x0f, 0x22, 0xc0]),
        ("mov cr, r", &[0x0f, 0x22, 0xe0]),
        ("mov cr, r", &[0x44, 0x0f, 0x22, 0xc0]),
        ("mov cr, r", &[0x66, 0x0f, 0x22, 0xd9]),
        ("mov dr", &[0x0f, 0x23, 0xf8]),
        ("wrmsr", &[0x0f, 0x30]),
        ("wrmsr", &[0x48, 0x0f, 0x30]),
        ("wrmsr", &[0x0f, 0x01, 0xc6]),
        ("xsetbv", &[0x0f, 0x01, 0xd1]),
        ("wrpkru", &[0x0f, 0x01, 0xef]),
        ("xrstor, xrstors", &[0x0f, 0xc7, 0x18]),
        ("lgdt", &[0x0f, 0x01, 0x10]),
        ("lidt", &[0x64, 0x0f, 0x01, 0x18]),
        ("lldt", &[0x0f, 0x00, 0xd0]),
        ("ltr", &[0x0f, 0x00, 0xd8]),
        ("lkgs", &[0xf2, 0x0f, 0x00, 0xf0]),
        ("lmsw", &[0x0f, 0x01, 0xf0]),
        ("clts", &[0x0f, 0x06]),
        ("stac", &[0x0f, 0x01, 0xcb]),
        ("invlpg", &[0x0f, 0x01, 0x38]),
        ("invpcid, invept, invvpid", &[0x66, 0x0f, 0x38, 0x82, 0x03]),
        ("invd, wbinvd", &[0x0f, 0x09]),
        ("swapgs", &[0x0f, 0x01, 0xf8]),
        ("wrfsbase, wrgsbase", &[0xf3, 0x0f, 0xae, 0xd8]),
        ("syscall, sysenter", &[0x0f, 0x05]),
        ("sysret, sysexit, eret", &[0x48, 0x0f, 0x07]),
        ("far call, far jmp", &[0x48, 0xff, 0x18]),
        ("far ret", &[0xcb]),
        ("far ret", &[0xca, 0x08, 0x00]),
        ("iret", &[0x66, 0xcf]),
        ("VMX, SVM, TDX, SGX, SMX, rsm", &[0x0f, 0x01, 0xc1]),
        ("VMX, SVM, TDX, SGX, SMX, rsm", &[0x0f, 0x01, 0xd9]),
        ("newer VEX, EVEX, REX2 forms", &[0xc4, 0xe7, 0x7a, 0xf6, 0xc0]),
        ("newer VEX, EVEX, REX2 forms", &[0xd5, 0x90, 0x22, 0xc0]),
    ];
    for (name, encoding) in FORBIDDEN {
        for before in 0..3 {
            // Not as an instruction: inside the constant of a `movabs`.
            let mut code = vec![0x48, 0xb8];
            let mut constant = vec![0x11; before];
            constant.extend(encoding);
            constant.resize(8, 0x11);
            code.extend(constant);
            let detail = weakened(|image| image.add_code(&code), &["gate-instructions"]);
            assert!(detail.contains(name), "{name}: {detail}");
        }
    }
    // A second mov cr3 moves the boundary that is looked for; nothing of what is left holds.
    let mut image = Synthetic::new();
    image.add_code(&[0x0f, 0x22, 0xd8]);
    let report = seal::audit(&image.build()).unwrap();
    assert!(crate::failing(&report).contains(&"tail-ends-in-mov-cr3"));
}

#[test]
fn what_the_gate_does_has_a_reason() {
    let cases: [(&str, &[u8]); 16] = [
        ("wrmsr at +0x", &[0x0f, 0x30]),
        ("no reason for `sti", &[0xfb, 0x90]),
        ("no reason for `hlt", &[0x90, 0xf4]),
        ("no reason for `cli", &[0xfa, 0x90]),
        ("no reason for `popf", &[0x9d]),
        ("no reason for `int", &[0xcd, 0x80]),
        ("no reason for `int3", &[0xcc]),
        ("no reason for `mov rax, cr3", &[0x0f, 0x20, 0xd8]),
        ("no reason for `in al, dx", &[0xba, 0xf8, 0x0c, 0, 0, 0xec]),
        ("no reason for `out dx, al", &[0x66, 0xba, 0xf8, 0x0c, 0xee]),
        // A word of the gate's data that is no port for a byte to the console.
        ("no reason for `out dx, al", &[0x66, 0x8b, 0x14, 0x25, 0x30, 0x40, 0xc0, 0xff, 0xee]),
        ("no reason for `out 0x65, al", &[0xe6, 0x65]),
        ("no reason for `mov [rdi], rax", &[0x48, 0x89, 0x07]),
        ("no reason for `mov [0xffffffffffc10300], ecx", &[0x89, 0x0c, 0x25, 0, 3, 0xc1, 0xff]),
        ("indirect branch", &[0xff, 0xe0]),
        ("where no instruction begins", &[0xeb, 0x01]),
    ];
    for (expected, code) in cases {
        let detail = weakened(|image| image.add_code(code), &["gate-instructions"]);
        assert!(detail.contains(expected), "{expected}: {detail}");
    }
    let text = |change: fn(&mut Synthetic), expected: &str| {
        let detail = weakened(change, &["gate-instructions"]);
        assert!(detail.contains(expected), "{expected}: {detail}");
    };
    text(|image| image.text[0] = 0x80, "neither code nor text");
    text(|image| *image.text.last_mut().unwrap() = b'!', "neither code nor text");
    text(|image| image.code.truncate(image.code.len() - 2), "runs into the texts");
    text(|image| image.add_code(&[0x06]), "no instruction at");
}

#[test]
fn a_store_at_an_index_needs_the_bound_right_before_it() {
    // mov [rbx + a CRB's buffer], al, with eight bytes instead of one, and with a second register.
    const STORE: [u8; 6] = [0x88, 0x83, 0x80, 0x10, 0xc1, 0xff];
    const WIDE: [u8; 7] = [0x48, 0x89, 0x83, 0x80, 0x10, 0xc1, 0xff];
    const TWO: [u8; 7] = [0x88, 0x84, 0x0b, 0x80, 0x10, 0xc1, 0xff];
    const AND: [u8; 3] = [0x83, 0xe3, 0x7f]; // and ebx, 127
    let good = [AND.as_slice(), &STORE].concat();
    let mut image = Synthetic::new();
    image.add_code(&good);
    assert!(check(&image.build(), &[]).is_sealed());

    let cases: [(&str, &[&[u8]]); 10] = [
        ("no bound", &[&STORE]),
        ("a bound of 255", &[&[0x81, 0xe3, 0xff, 0, 0, 0], &STORE]),
        ("a negative bound", &[&[0x83, 0xe3, 0xff], &STORE]),
        ("a bound of 16 bits", &[&[0x66], &AND, &STORE]),
        ("a bound of 64 bits", &[&[0x48], &AND, &STORE]),
        ("another register's bound", &[&[0x83, 0xe1, 0x7f], &STORE]),
        ("eight bytes at 127", &[&AND, &WIDE]),
        ("a second index", &[&AND, &TWO]),
        ("a step between", &[&AND, &[0xff, 0xc3], &STORE]),
        ("a way past the bound", &[&[0x74, 0x03], &AND, &STORE]),
    ];
    for (case, code) in cases {
        let change = |image: &mut Synthetic| image.add_code(&code.concat());
        let detail = weakened(change, &["gate-instructions"]);
        assert!(detail.starts_with("no reason for `mov [rbx"), "{case}: {detail}");
    }
}

/// The two stores to a card on no bus, and what they may never become.
#[test]
fn a_store_to_a_card_reaches_its_bell_or_its_line_and_nothing_else() {
    const AND: [u8; 6] = [0x81, 0xe1, 0x00, 0x0e, 0, 0]; // and ecx, 0xe00
    const BELL: [u8; 6] = [0x89, 0xb9, 0x50, 0x30, 0xc1, 0xff]; // mov [rcx+bell], edi
    const LINE: [u8; 6] = [0x89, 0x91, 0x64, 0x30, 0xc1, 0xff]; // mov [rcx+line], edx
    for store in [BELL, LINE] {
        let mut image = Synthetic::new();
        image.add_code(&[&AND[..], &store].concat());
        check(&image.build(), &[]);
    }
    const STATUS: [u8; 6] = [0x89, 0x91, 0x70, 0x30, 0xc1, 0xff];
    const WIDE: [u8; 7] = [0x48, 0x89, 0x91, 0x64, 0x30, 0xc1, 0xff];
    let cases: [(&str, &[&[u8]]); 5] = [
        ("no bound", &[&BELL]),
        // An index that is no multiple of 512 makes the bell the status, or a queue's address.
        ("a bound that lets 0x20 through", &[&[0x81, 0xe1, 0x20, 0x0e, 0, 0], &BELL]),
        ("a bound beyond the page", &[&[0x81, 0xe1, 0x00, 0x1e, 0, 0], &BELL]),
        ("the status", &[&AND, &STATUS]),
        ("eight bytes", &[&AND, &WIDE]),
    ];
    for (case, code) in cases {
        let change = |image: &mut Synthetic| image.add_code(&code.concat());
        let detail = weakened(change, &["gate-instructions"]);
        assert!(detail.starts_with("no reason for `mov [rcx"), "{case}: {detail}");
    }
}

#[test]
fn a_store_at_an_address_reaches_one_register() {
    let cases: [(&str, &[u8]); 3] = [
        ("eight bytes of CRB's request", &[0x48, 0x89, 0x04, 0x25, 0x40, 0x10, 0xc1, 0xff]),
        ("a TPM's locality", &[0x88, 0x04, 0x25, 0x08, 0x10, 0xc1, 0xff]),
        ("four bytes of TIS's FIFO", &[0x89, 0x04, 0x25, 0x24, 0x10, 0xc1, 0xff]),
    ];
    for (case, code) in cases {
        let detail = weakened(|image| image.add_code(code), &["gate-instructions"]);
        assert!(detail.starts_with("no reason for `mov ["), "{case}: {detail}");
    }
}

#[test]
fn a_port_is_not_believed_where_another_way_leads_to_it() {
    // Jumps past `mov dx, [the console's port]`, so dx is whatever it was.
    let drop_padding_and_lea = 11 + 3;
    let mut image = Synthetic::new();
    // jmp +14+3+8: over the timer, sti, hlt, cli, iretq, mov rax, cr2 and the load.
    let skipped = 7 + 3 + 2 + 3 + 8;
    image.code.splice(drop_padding_and_lea..drop_padding_and_lea, [0x74, skipped]);
    let report = check(&image.build(), &["gate-instructions"]);
    let detail = &report.properties.iter().find(|it| !it.holds).unwrap().detail;
    assert!(detail.contains("`in al, dx`") && detail.contains("`out dx, al`"), "{detail}");
}

#[test]
fn the_layout_follows_the_rules() {
    let report = check(&Synthetic::new().build(), &[]);
    let rows = &report.layout().unwrap().rows;
    let expected = "\
bulla layout 1
service rodata|+0x0|0x1000|ring 3 r-- write-back
service text|+0x1000|0x2000|ring 3 r-x write-back
service relro|+0x3000|0x1000|ring 3 r-- write-back
service data|+0x4000|0x1000|ring 3 rw- write-back
service bss|+0x5000|0x2000|ring 3 rw- write-back
configuration|+0x8000|0x1000|ring 3 r-- write-back
descriptor table|+0xa000|0x1000|ring 3 r-- write-back
available ring|+0xc000|0x1000|ring 3 rw- write-back
used ring|+0xe000|0x1000|ring 3 r-- write-back
packet buffers|+0x10000|0x80000|ring 3 rw- write-back
doorbell|+0x91000|0x1000|ring 3 rw- uncached
descriptor table|+0x93000|0x1000|ring 3 r-- write-back
available ring|+0x95000|0x1000|ring 3 rw- write-back
used ring|+0x97000|0x1000|ring 3 r-- write-back
packet buffers|+0x99000|0x12000|ring 3 rw- write-back
stack|+0xae000|0x10000|ring 3 rw- write-back
heap|+0xbf000|0x400000|ring 3 rw- write-back
gate text|0xffffffffffc02000|0x1000|ring 0 r-x write-back
TSS|0xffffffffffc03000|0x1000|ring 0 r-- write-back
gate data|0xffffffffffc04000|0x1000|ring 0 r-- write-back
IDT|0xffffffffffc05000|0x1000|ring 0 r-- write-back
GDT|0xffffffffffc06000|0x1000|ring 0 r-- write-back
gate stack|0xffffffffffc08000|0x1000|ring 0 rw- write-back
gate stack|0xffffffffffc0a000|0x1000|ring 0 rw- write-back
gate stack|0xffffffffffc0c000|0x1000|ring 0 rw- write-back
gate stack|0xffffffffffc0e000|0x1000|ring 0 rw- write-back
local APIC|0xffffffffffc10000|0x1000|ring 0 rw- uncached
page tables|0xffffffffffc20000|0x12000|ring 0 r-- write-back
";
    assert_eq!(layout::canonical(rows), expected);
    let mut digests: Vec<_> = report.layouts.iter().map(|it| it.digest).collect();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 10, "each machine has a layout of its own");

    // A card on no bus has no doorbell of the service's, and ring 0 has one page more.
    let by_gate = expected.replace("doorbell|+0x91000|0x1000|ring 3 rw- uncached\n", "");
    let by_gate = by_gate.replace(
        "page tables|",
        "device registers|0xffffffffffc13000|0x1000|ring 0 rw- uncached\npage tables|",
    );
    assert_eq!(canonical_of(&report, "a NIC on no bus"), by_gate);

    // A TPM is three regions more: one that the service reads, two of the gate's.
    let text = |name| canonical_of(&report, name);
    let expected = expected.replace(
        "stack|+0xae000|0x10000|ring 3 rw- write-back\nheap|+0xbf000|",
        "boot record|+0xae000|0x18000|ring 3 r-- write-back\n\
         stack|+0xc7000|0x10000|ring 3 rw- write-back\nheap|+0xd8000|",
    );
    let expected = expected.replace(
        "page tables|",
        "TPM registers|0xffffffffffc11000|0x1000|ring 0 rw- uncached\n\
         TPM answer|0xffffffffffc12000|0x1000|ring 0 rw- write-back\npage tables|",
    );
    assert_eq!(text("with a TPM"), expected);

    // The rules themselves: a heap that touches the stack, and one that overlaps it.
    for distance in [0x1000, 0x2000] {
        let mut rows = rows.clone();
        let heap = rows.iter_mut().find(|row| row.kind == Kind::Heap).unwrap();
        let Place::Service(offset) = &mut heap.place else { panic!("heap of the gate") };
        *offset -= distance;
        assert!(layout::check(&rows).is_err());
    }
    assert!(layout::check(rows).is_ok());
}

fn canonical_of(report: &seal::Report, name: &str) -> String {
    let layout = report.layouts.iter().find(|layout| layout.name == name).unwrap();
    layout::canonical(&layout.rows)
}

#[test]
fn without_a_nic_no_device_memory_is_mapped() {
    let mut image = Synthetic::new();
    image.header.needs_nic = false;
    let report = check(&image.build(), &[]);
    let rows = &report.layout().unwrap().rows;
    assert!(rows.iter().all(|row| !row.kind.is_device_reachable() && row.kind != Kind::Doorbell));
    assert_eq!(report.layouts.len(), 6);
}

#[test]
fn no_byte_of_the_payload_is_shown() {
    let mut image = Synthetic::new();
    image.payload = b"SECRET-KEY-MATERIAL".to_vec();
    image.header.payload_bytes = 19;
    let file = image.build();
    assert!(file.windows(10).any(|bytes| bytes == b"SECRET-KEY"));
    let report = check(&file, &[]);
    assert!(!report.to_text("x").contains("SECRET"));
    assert!(!report.to_json("x").to_string().contains("SECRET"));
    assert_eq!(HEADER_BYTES, 64);
}
