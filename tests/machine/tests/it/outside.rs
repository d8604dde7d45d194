//! The sealed machine while it runs, read from outside and judged without a line of boot's audit.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use machine::outside::{Finding, Image, Leaf, PAGE, Snapshot, Walk, walk};
use machine::qemu::Builder;
use machine::tpm::Interface;
use machine::{Backend, Chipset, Firmware, Machine, Net, body};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use xtask::samples::{PORT, Proxy};

use crate::support::{GUEST, PATIENCE, SMALL, Site, client, probe};

/// Memory of the machines here.
const MEMORY_MIB: u64 = 64;

/// Memory of a machine whose copy is judged hundreds of times.
const LEAST_MEMORY_MIB: u64 = 16;

/// How many requests a machine serves before it is looked at again.
const REQUESTS: usize = 3_000;

/// A proxy, its image's file, and a backend behind it.
struct Running {
    site: Site,
    _backend: Backend,
    image: PathBuf,
    _folder: TempDir,
}

impl Running {
    fn start(firmware: Firmware) -> Self {
        Self::start_on(firmware, |builder| builder)
    }

    fn start_on(firmware: Firmware, shape: impl FnOnce(Builder) -> Builder) -> Self {
        let backend = Backend::start().unwrap();
        let folder = TempDir::with_prefix("bulla-outside-").unwrap();
        let proxy = Proxy { config: "demo", backend: backend.address(), changes: &[] };
        let image = proxy.image(&GUEST, folder.path()).unwrap();
        let builder = Machine::builder(&image)
            .memory_mib(MEMORY_MIB)
            .firmware(firmware)
            .net(Net::User { ports: vec![PORT] });
        let site = Site::on(shape(builder).start().unwrap());
        site.machine.wait_for("READY", PATIENCE).unwrap();
        Self { site, _backend: backend, image, _folder: folder }
    }

    fn machine(&self) -> &Machine {
        &self.site.machine
    }

    /// Requests on a few connections, one after the other.
    fn serve(&self, requests: usize) {
        let config = client::config(&self.site);
        let path = format!("/bytes/{SMALL}");
        let expected = body::bytes(SMALL);
        for _ in 0..4 {
            let mut stream = client::connect_as(&self.site, &config);
            for _ in 0..requests / 4 {
                assert!(client::get(&mut stream, &path) == expected);
            }
        }
    }
}

fn look(machine: &Machine) -> Snapshot {
    let seen = Snapshot::take(machine, MEMORY_MIB).unwrap();
    machine.monitor("cont").unwrap();
    seen
}

fn walk_of(seen: &Snapshot) -> Walk {
    walk(&seen.memory, seen.registers.cr3).0
}

#[track_caller]
fn assert_sealed(seen: &Snapshot, image: &Path, console: &str) {
    let findings = seen.findings(&Image::read(image).unwrap());
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}\n{console}", lines.join("\n"));
    assert_eq!(
        seen.addresses_in(console),
        Vec::<u64>::new(),
        "the console tells where the service is:\n{console}"
    );
}

/// The service's first address.
fn base(seen: &Snapshot) -> u64 {
    let user = walk_of(seen).leaves.into_iter().filter(|leaf| leaf.is_user);
    user.map(|leaf| leaf.virt).min().unwrap()
}

#[test]
fn a_machine_that_has_served_thousands_is_sealed_as_on_its_first_day() {
    let running = Running::start(Firmware::SeaBios);
    let machine = running.machine();
    let before = look(machine);
    assert_sealed(&before, &running.image, &machine.console().text());
    running.serve(REQUESTS);
    let after = look(machine);
    assert_sealed(&after, &running.image, &machine.console().text());
    assert_eq!(before.digest(), after.digest(), "something that must not change has changed");
    assert_eq!(walk_of(&before), walk_of(&after));
    assert_eq!(before.queues.len(), 2);
    running.site.goes_on();
}

#[test]
fn a_machine_without_pci_is_sealed_and_stays_so() {
    let running = Running::start_on(Firmware::Qboot, |builder| builder.chipset(Chipset::Microvm));
    let machine = running.machine();
    let before = look(machine);
    assert!(!before.mmio.is_empty() && before.bells.is_empty(), "{:x?}", before.mmio);
    assert_sealed(&before, &running.image, &machine.console().text());
    // No register of any device is ring 3's: its doorbell is rung by the gate.
    assert!(walk_of(&before).leaves.iter().all(|leaf| !leaf.is_user || !leaf.is_uncached));
    running.serve(REQUESTS / 10);
    let after = look(machine);
    assert_sealed(&after, &running.image, &machine.console().text());
    assert_eq!(before.digest(), after.digest(), "something that must not change has changed");
    assert_eq!(walk_of(&before), walk_of(&after));
    assert_eq!(before.queues.len(), 2);
    running.site.goes_on();
}

#[test]
fn two_boots_have_two_places() {
    let bases: Vec<u64> = (0..3)
        .map(|_| {
            let machine =
                probe("control", |b| b.memory_mib(MEMORY_MIB).extra_args(["-no-shutdown"]));
            machine.wait_for("STOP", PATIENCE).unwrap();
            base(&Snapshot::take(&machine, MEMORY_MIB).unwrap())
        })
        .collect();
    // Twenty-eight bits of pages above 16 TiB: three equal ones would be a wonder.
    assert!(bases.iter().all(|base| (base >> 12) >> 28 == 16 && base % PAGE == 0), "{bases:x?}");
    assert_eq!(bases.iter().collect::<HashSet<_>>().len(), 3, "{bases:x?}");
}

#[test]
fn what_is_mapped_is_what_the_image_says() {
    is_mapped_as_predicted(false);
}

#[test]
fn what_is_mapped_with_a_tpm_is_what_the_image_says() {
    is_mapped_as_predicted(true);
}

#[track_caller]
fn is_mapped_as_predicted(has_tpm: bool) {
    let running = Running::start_on(Firmware::Qboot, |builder| {
        if has_tpm { builder.tpm(Interface::Crb) } else { builder }
    });
    let seen = look(running.machine());
    assert_sealed(&seen, &running.image, &running.machine().console().text());
    let manifest = manifest(&running.image);
    let header = header(&running.image);
    let mapped =
        pages(walk_of(&seen).leaves.iter().map(|leaf| (leaf.virt, leaf.bytes, leaf.rights())));
    let base = base(&seen);
    let machine = seal::layout::Machine { has_tpm, ..seal::layout::Machine::usual(&header) };
    let rows = seal::layout::predict(&manifest, &header, &machine).unwrap();
    let predicted = pages(rows.iter().map(|row| {
        let virt = match row.place {
            seal::layout::Place::Service(offset) => base + offset,
            seal::layout::Place::Gate(address) => address,
        };
        (virt, row.length, seal::layout::rights(row.kind))
    }));
    assert_eq!(mapped.len(), predicted.len());
    for (virt, rights) in &predicted {
        assert_eq!(mapped.get(virt), Some(rights), "page {virt:#x}");
    }
}

/// Each small page and its right.
fn pages(regions: impl Iterator<Item = (u64, u64, String)>) -> BTreeMap<u64, String> {
    let each = |(virt, bytes, rights): (u64, u64, String)| {
        (0..bytes / PAGE).map(move |page| (virt + page * PAGE, rights.clone()))
    };
    regions.flat_map(each).collect()
}

fn section(image: &Path, name: &str) -> Vec<u8> {
    Image::read(image).unwrap().part(name).unwrap().bytes.clone()
}

fn manifest(image: &Path) -> abi::image::Manifest {
    let bytes = section(image, abi::image::SECTION);
    abi::image::Manifest::parse(bytes.first_chunk().unwrap()).unwrap()
}

fn header(image: &Path) -> abi::configuration::Header {
    abi::configuration::Header::parse(&section(image, ".configuration")).unwrap()
}

/// The sample's private key as it is in the configuration, the number in it, and the same number
/// with its least byte first, as arithmetic keeps it.
fn secrets() -> [Vec<u8>; 3] {
    let path = xtask::build::root().join("tests/configs/sealed.test.key.pem");
    let key = PrivateKeyDer::from_pem_file(path).unwrap();
    let der = key.secret_der().to_vec();
    // RFC 5915: the number follows `04 20`, an octet string of 32 bytes.
    let at = der.windows(2).position(|pair| pair == [0x04, 0x20]).unwrap() + 2;
    let number = der[at..at + 32].to_vec();
    let reversed = number.iter().rev().copied().collect();
    [der, number, reversed]
}

#[test]
fn the_private_key_is_only_where_the_service_may_have_it() {
    let running = Running::start(Firmware::SeaBios);
    running.serve(40);
    let seen = look(running.machine());
    let walk = walk_of(&seen);
    let configuration =
        Image::read(&running.image).unwrap().part(".configuration").cloned().unwrap();
    let copies = copies_of_the_key(&seen, &walk);
    println!("copies of the key: {copies:x?}");
    // In the configuration it is for ever: that is read-only, and measured.
    assert!(copies.iter().any(|phys| (configuration.start..configuration.end()).contains(phys)));
}

/// Where the sample's private key lies in memory, in any form: the service's pages, or it fails.
#[track_caller]
pub(crate) fn copies_of_the_key(seen: &Snapshot, walk: &Walk) -> Vec<u64> {
    let mut copies = Vec::new();
    for secret in secrets() {
        for phys in seen.memory.find(&secret) {
            let mut leaves = walk.mapping(phys, phys + secret.len() as u64);
            let is_service = leaves.next().is_some_and(|leaf| leaf.is_user && !leaf.is_executable);
            assert!(is_service, "a copy of the key lies at {phys:#x}, which is not the service's");
            copies.push(phys);
        }
    }
    copies
}

/// The seed is gone from the handoff, which is found by its first word.
#[test]
fn the_seed_is_erased_once_it_was_used() {
    let machine = probe("control", |b| b.memory_mib(MEMORY_MIB).extra_args(["-no-shutdown"]));
    machine.wait_for("STOP", PATIENCE).unwrap();
    let seen = Snapshot::take(&machine, MEMORY_MIB).unwrap();
    let walk = walk_of(&seen);
    let at = std::mem::offset_of!(abi::handoff::Handoff, seed) as u64;
    let is_handoff = |phys: &u64| {
        let size = seen.memory.number::<8>(phys + 8);
        size == Some(size_of::<abi::handoff::Handoff>() as u64)
            && walk.mapping(*phys, phys + 8).any(|leaf| leaf.is_writable)
    };
    let handoffs = seen.memory.find(&abi::handoff::MAGIC.to_le_bytes());
    let handoffs: Vec<u64> = handoffs.into_iter().filter(is_handoff).collect();
    assert!(!handoffs.is_empty());
    for phys in handoffs {
        assert_eq!(seen.memory.bytes(phys + at, 32), Some(&[0; 32][..]), "at {phys:#x}");
    }
}

/// Bits of an entry that decide: present, writable, user, write-through, uncached, accessed, dirty,
/// large or attribute, global, software's, frame, no-execute.
const BITS: [u32; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 21, 58, 63];

/// Whoever finds nothing must be able to find something: flips bits in a copy of the memory.
#[test]
fn every_change_that_matters_is_found() {
    finds_every_change_on(|builder| builder);
}

#[test]
fn every_change_that_matters_is_found_without_pci() {
    finds_every_change_on(|builder| builder.chipset(Chipset::Microvm));
}

#[test]
fn every_change_that_matters_is_found_with_a_tpm() {
    finds_every_change_on(|builder| builder.tpm(Interface::Crb));
}

#[track_caller]
fn finds_every_change_on(shape: impl FnOnce(Builder) -> Builder) {
    let folder = TempDir::with_prefix("bulla-outside-").unwrap();
    let file = xtask::samples::probe(&GUEST, "control", folder.path()).unwrap();
    let builder = Machine::builder(&file).memory_mib(LEAST_MEMORY_MIB).firmware(Firmware::Qboot);
    let builder = builder.net(Net::User { ports: Vec::new() }).extra_args(["-no-shutdown"]);
    let machine = shape(builder).start().unwrap();
    machine.wait_for("STOP", PATIENCE).unwrap();
    let mut seen = Snapshot::take(&machine, LEAST_MEMORY_MIB).unwrap();
    let image = Image::read(&file).unwrap();
    assert_eq!(seen.findings(&image), []);
    let walk = walk_of(&seen);
    let mut places = Vec::new();
    for leaf in one_of_each_run(&walk.leaves) {
        // A heap or a stack may be in any frame that nothing else has.
        let is_anywhere = leaf.is_writable && !leaf.is_uncached;
        let bits = BITS.into_iter().filter(|bit| *bit != 21 || !is_anywhere);
        places.extend(bits.map(|bit| (leaf.entry, bit)));
    }
    for table in &walk.tables[1..] {
        let above = entry_of(&seen, &walk, *table);
        places.extend([0, 2, 5, 8, 9, 12, 58].map(|bit| (above, bit)));
    }
    places.extend(contents(&seen, &walk, &image));
    let blind: Vec<_> = places
        .iter()
        .filter(|&&(phys, bit)| {
            seen.memory.flip(phys, bit);
            let findings: Vec<Finding> = seen.findings(&image);
            seen.memory.flip(phys, bit);
            findings.is_empty()
        })
        .collect();
    assert!(places.len() > 300, "{}", places.len());
    assert!(blind.is_empty(), "nobody notices {blind:x?}");
    assert_eq!(seen.findings(&image), []);
}

/// The first page of each run with one right.
fn one_of_each_run(leaves: &[Leaf]) -> Vec<Leaf> {
    let mut firsts: Vec<Leaf> = Vec::new();
    let mut end = 0;
    for leaf in leaves {
        let goes_on =
            leaf.virt == end && firsts.last().is_some_and(|l| l.rights() == leaf.rights());
        if !goes_on {
            firsts.push(*leaf);
        }
        end = leaf.virt + leaf.bytes;
    }
    firsts
}

/// Where a table's own entry is.
fn entry_of(seen: &Snapshot, walk: &Walk, table: u64) -> u64 {
    let entries = walk.tables.iter().flat_map(|table| (0..512).map(move |index| table + 8 * index));
    let names = |place: &u64| {
        let entry = seen.memory.number::<8>(*place).unwrap();
        entry & 1 != 0 && entry & 0x000f_ffff_ffff_f000 == table
    };
    entries.into_iter().find(names).unwrap()
}

/// A bit of everything whose bytes are promised.
fn contents(seen: &Snapshot, walk: &Walk, image: &Image) -> Vec<(u64, u32)> {
    let gate = 0xffff_ffff_ffc0_0000;
    let frame = |virt: u64| walk.at(virt).unwrap().phys;
    let (text, task) = (frame(gate + 0x2000), frame(gate + 0x3000));
    let (idt, gdt) = (frame(gate + 0x5000), frame(gate + 0x6000));
    let start = |name: &str| image.part(name).unwrap().start;
    let (boot, boot_end) = image.boot();
    let mut places = vec![
        (text, 0),
        (text + 0x400, 7),
        (text + 0xfff, 0),
        (start(".service.text") + 0x1234, 3),
        (start(".service.rodata") + 5, 1),
        (start(".configuration") + 80, 1),
        (start(".service.relocations"), 2),
        (boot, 0),
        (boot_end - 1, 7),
        (task + 4, 12),
        (task + 36, 13),
        (task + 60, 0),
        // The map's first byte is 104; without the bit it is 40, which lies in the task state.
        (task + 102, 6),
    ];
    // Limit and base of a segment, type, privilege, present, long; the same of the task state.
    let bits = [0, 16, 39, 41, 44, 45, 47, 53, 63];
    places.extend((0..7).flat_map(|slot| bits.map(|bit| (gdt + 8 * slot, bit))));
    // Which registers the gate rings, and whether it rings at all.
    let data = frame(gate + 0x4000);
    places.extend([0, 9, 32].map(|bit| (data + 72, bit)));
    // A gate's target, segment, stack, type, privilege, present: of an exception, of two doors, of
    // nobody.
    let bits = [12, 16, 32, 40, 45, 46, 47, 63];
    let vectors = [2, 14, 0x30, 0x80, 0x83, 0xf0];
    places.extend(vectors.iter().flat_map(|vector| bits.map(|bit| (idt + 16 * vector, bit))));
    // Address, length, flags and next of a descriptor.
    let bits = [0, 12, 40, 64, 70, 96, 97, 98, 112];
    for queue in &seen.queues {
        places
            .extend([0, 77, 255].iter().flat_map(|n| bits.map(|bit| (queue.table + 16 * n, bit))));
    }
    places
}
