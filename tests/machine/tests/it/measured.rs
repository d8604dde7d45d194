//! What a TPM can say of a machine that booted directly: measured by boot, quoted through the gate.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use machine::outside::Image;
use machine::tpm::{Interface, State};
use machine::{Firmware, Machine, Net};
use tempfile::TempDir;
use xtask::samples;

use crate::support::{GUEST, PATIENCE};

/// PCR values by bank and number.
type Banks = BTreeMap<&'static str, Vec<Vec<u8>>>;

/// TCG algorithm ids (TCG Algorithm Registry, table 3) with openssl's names and digest sizes.
const ALGORITHMS: [(u16, &str, usize); 4] =
    [(4, "sha1", 20), (0xb, "sha256", 32), (0xc, "sha384", 48), (0xd, "sha512", 64)];

/// A probe's machine with a TPM, and what it said.
struct Told {
    image: PathBuf,
    parts: BTreeMap<String, Vec<u8>>,
    console: String,
    folder: TempDir,
}

impl Told {
    /// Boots a probe that tells everything and asks for a quote over 32 bytes `number`.
    #[track_caller]
    fn by(tpm: &State, interface: Interface, firmware: Firmware, number: u8) -> Self {
        let folder = TempDir::with_prefix("bulla-measured-").unwrap();
        let act = format!("quote {number:#x}");
        let image = samples::probe(&GUEST, &act, folder.path()).unwrap();
        let machine = Machine::builder(&image)
            .memory_mib(24)
            .firmware(firmware)
            .net(Net::User { ports: Vec::new() })
            .tpm_with(interface, tpm.folder())
            .start()
            .unwrap();
        machine.wait_for_off(PATIENCE).unwrap();
        let console = machine.console().text();
        assert!(console.contains("no effect: the TPM answered"), "{console}");
        let mut parts: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for line in console.lines().filter_map(|line| line.strip_prefix("TPM ")) {
            let (name, digits) = line.split_once(' ').unwrap();
            parts.entry(name.to_owned()).or_default().extend(bytes(digits));
        }
        Self { image, parts, console, folder }
    }

    fn part(&self, name: &str) -> &[u8] {
        self.parts.get(name).map_or(&[], Vec::as_slice)
    }

    /// The quote's two halves: what was attested, and the signature over it.
    ///
    /// TPM 2.0 Library Part 3, 18.4.2: header, size of the parameters, `TPM2B_ATTEST`,
    /// `TPMT_SIGNATURE`, then the session's answer.
    fn quote(&self) -> (&[u8], &[u8]) {
        let response = self.part("response");
        assert_eq!(response[..2], [0x80, 0x02], "a response with sessions: {}", self.console);
        assert_eq!(number(&response[2..6]), response.len());
        assert_eq!(response[6..10], [0; 4], "the TPM refused");
        let parameters = &response[14..14 + number(&response[10..14])];
        let (attest, signature) = parameters[2..].split_at(number(&parameters[..2]));
        (attest, signature)
    }

    /// The PCR values that boot read, bank by bank.
    fn banks(&self) -> Banks {
        let mut rest = self.part("pcr_values");
        let mut banks = Banks::new();
        while let [a0, a1, s0, s1, digests @ ..] = rest {
            let id = u16::from_le_bytes([*a0, *a1]);
            let (_, name, size) = ALGORITHMS.into_iter().find(|it| it.0 == id).unwrap();
            assert_eq!(usize::from(u16::from_le_bytes([*s0, *s1])), size);
            let (mine, others) = digests.split_at(16 * size);
            banks.insert(name, mine.chunks(size).map(<[u8]>::to_vec).collect());
            rest = others;
        }
        assert!(rest.is_empty());
        banks
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The image's two measured halves, from the file alone.
    fn measured(&self) -> (Vec<u8>, Vec<u8>) {
        measured(&Image::read(&self.image).unwrap())
    }
}

/// Everything between boot and the configuration, and the configuration.
fn measured(image: &Image) -> (Vec<u8>, Vec<u8>) {
    let (_, start) = image.boot();
    let configuration = image.part(".configuration").unwrap();
    let mut service = vec![0; (configuration.start - start) as usize];
    let names = [".text", ".rodata", ".relro", ".data", ".relocations"];
    for part in names.iter().filter_map(|name| image.part(&format!(".service{name}"))) {
        let at = (part.start - start) as usize;
        service[at..at + part.bytes.len()].copy_from_slice(&part.bytes);
    }
    // The manifest's length: header and payload, without what fills up the last page.
    let manifest = image.part(abi::image::SECTION).unwrap();
    let manifest = abi::image::Manifest::parse(manifest.bytes.first_chunk().unwrap()).unwrap();
    let length = manifest.configuration.length as usize;
    (service, configuration.bytes[..length].to_vec())
}

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    machine::body::hex(bytes)
}

/// A big-endian number.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

#[track_caller]
fn succeed(command: &mut Command) -> Vec<u8> {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A digest by openssl, which shares no code with boot.
fn digest(algorithm: &str, folder: &Path, bytes: &[u8]) -> Vec<u8> {
    let file = folder.join("hashed");
    fs::write(&file, bytes).unwrap();
    let name = format!("-{algorithm}");
    succeed(Command::new("openssl").args(["dgst", &name, "-binary"]).arg(file))
}

/// A PCR that began as zeros and was extended with the digests of these, in order.
fn replay(algorithm: &str, folder: &Path, extended: &[&[u8]]) -> Vec<u8> {
    let mut value = vec![0; ALGORITHMS.into_iter().find(|it| it.1 == algorithm).unwrap().2];
    for bytes in extended {
        value.extend(digest(algorithm, folder, bytes));
        value = digest(algorithm, folder, &value);
    }
    value
}

/// What PCR 11 and PCR 12 have to be, from the image's file and the seal record.
#[track_caller]
fn assert_predicted(told: &Told, banks: &[&str]) {
    let (service, configuration) = told.measured();
    let folder = told.folder.path();
    let found = told.banks();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), banks);
    for (bank, values) in &found {
        let eleven: [&[u8]; 5] = [b".linux\0", &service, b".cmdline\0", &configuration, b"sealed"];
        assert_eq!(hex(&values[11]), hex(&replay(bank, folder, &eleven)), "{bank}");
        let twelve: [&[u8]; 2] = [&configuration, told.part("seal_record")];
        assert_eq!(hex(&values[12]), hex(&replay(bank, folder, &twelve)), "{bank}");
        for untouched in [8, 9, 10, 13, 14, 15] {
            assert!(values[untouched].iter().all(|byte| *byte == 0), "{bank} PCR {untouched}");
        }
    }
}

/// An event of a log: its PCR, its type, its digests by algorithm, its data.
struct Event {
    pcr: u32,
    kind: u32,
    digests: Vec<(u16, Vec<u8>)>,
    data: Vec<u8>,
}

/// Takes a crypto-agile log apart (TCG PC Client Platform Firmware Profile 1.06, section 10.2).
fn events(log: &[u8]) -> Vec<Event> {
    let word = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap());
    let half = |at: usize| u16::from_le_bytes(log[at..at + 2].try_into().unwrap());
    assert_eq!((word(0), word(4)), (0, 3), "begins with EV_NO_ACTION");
    assert_eq!(log[32..48], *b"Spec ID Event03\0");
    let mut at = 32 + word(28) as usize;
    let mut events = Vec::new();
    while at < log.len() {
        let (pcr, kind, count) = (word(at), word(at + 4), word(at + 8));
        at += 12;
        let mut digests = Vec::new();
        for _ in 0..count {
            let id = half(at);
            let (_, _, size) = ALGORITHMS.into_iter().find(|it| it.0 == id).unwrap();
            digests.push((id, log[at + 2..at + 2 + size].to_vec()));
            at += 2 + size;
        }
        let length = word(at) as usize;
        let data = log[at + 4..at + 4 + length].to_vec();
        at += 4 + length;
        events.push(Event { pcr, kind, digests, data });
    }
    events
}

#[track_caller]
fn assert_log_replays(told: &Told) {
    let events = events(told.part("event_log"));
    let seal_record = told.part("seal_record");
    let said: Vec<(u32, &[u8])> = events.iter().map(|it| (it.pcr, it.data.as_slice())).collect();
    let expected: [(u32, &[u8]); 7] = [
        (11, b".linux\0"),
        (11, b"linux"),
        (11, b".cmdline\0"),
        (11, b"cmdline"),
        (12, b"cmdline"),
        (12, seal_record),
        (11, b"sealed"),
    ];
    assert_eq!(said, expected);
    assert!(events.iter().all(|event| event.kind == 0x0d), "EV_IPL");
    for (bank, values) in told.banks() {
        let (id, _, size) = ALGORITHMS.into_iter().find(|it| it.1 == bank).unwrap();
        for pcr in [11, 12] {
            let mut value = vec![0; size];
            for event in events.iter().filter(|event| event.pcr == pcr) {
                let (_, mine) = event.digests.iter().find(|it| it.0 == id).unwrap();
                value.extend(mine);
                value = digest(bank, told.folder.path(), &value);
            }
            assert_eq!(hex(&value), hex(&values[pcr as usize]), "{bank} PCR {pcr}");
        }
    }
    let log = told.write("log", told.part("event_log"));
    let text = succeed(Command::new("tpm2_eventlog").arg(log));
    // It prints what an event says as it is.
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains(&format!("  11 : 0x{}", hex(&told.banks()["sha256"][11]))), "{text}");
}

/// Lets tpm2-tools judge the quote over 32 bytes; whether they accept it.
fn is_good_quote(told: &Told, nonce: &[u8; 32]) -> bool {
    let public = told.part("ak_public");
    let sized = [&(public.len() as u16).to_be_bytes()[..], public].concat();
    let public = told.write("ak.pub", &sized);
    let pem =
        succeed(Command::new("tpm2_print").args(["-t", "TPM2B_PUBLIC", "-f", "pem"]).arg(public));
    let key = told.write("ak.pem", &pem);
    let (attest, signature) = told.quote();
    let mut check = Command::new("tpm2_checkquote");
    check.arg("-u").arg(key).arg("-m").arg(told.write("attest", attest));
    check.arg("-s").arg(told.write("signature", signature));
    run(check.args(["-g", "sha256", "-q", &hex(nonce)])).status.success()
}

#[track_caller]
fn assert_quoted(told: &Told, number: u8) {
    assert!(is_good_quote(told, &[number; 32]), "{}", told.console);
    assert!(!is_good_quote(told, &[number ^ 1; 32]), "any nonce will do");
    let (attest, _) = told.quote();
    // TPMS_ATTEST ends with the digest of the quoted PCRs, ascending (Part 2, 10.12.8).
    let all = told.banks()["sha256"].concat();
    let expected = digest("sha256", told.folder.path(), &all);
    assert_eq!(attest[attest.len() - 32..], expected, "other PCRs than boot recorded");
}

/// What boot sealed is what the file says, hash by hash.
#[track_caller]
fn assert_sealed_as_predicted(told: &Told) {
    let report = seal::audit(&fs::read(&told.image).unwrap()).unwrap();
    let record = seal_core::SealRecord::parse(told.part("seal_record")).unwrap();
    let predicted = report.layouts.iter().find(|layout| layout.name == "with a TPM").unwrap();
    assert_eq!(hex(&record.layout_digest), hex(&predicted.digest));
    assert_eq!(hex(&record.gate_sha256), hex(&report.gate.unwrap().sha256));
    // As SECURITY.md says: write protection, paging, SMEP, SMAP and UMIP, no SYSCALL.
    assert_eq!((record.cr0 >> 16 & 1, record.cr0 >> 31), (1, 1));
    assert_eq!((record.cr4 >> 20 & 1, record.cr4 >> 21 & 1, record.cr4 >> 11 & 1), (1, 1, 1));
    assert_eq!(record.efer, 0xd00);
}

fn check(interface: Interface, firmware: Firmware, number: u8) {
    let tpm = State::new().unwrap();
    let told = Told::by(&tpm, interface, firmware, number);
    assert_quoted(&told, number);
    assert_predicted(&told, &["sha256"]);
    assert_log_replays(&told);
    assert_sealed_as_predicted(&told);
    assert_eq!(
        told.part("ek_certificate"),
        fs::read(tpm.folder().join("ek-secp384r1.crt")).unwrap()
    );
    assert!(told.part("key_file").is_empty() && told.part("credential_answer").is_empty());
}

#[test]
fn a_quote_through_a_crb_names_exactly_this_image() {
    check(Interface::Crb, Firmware::Qboot, 0x11);
}

#[test]
fn a_quote_through_a_tis_names_exactly_this_image() {
    check(Interface::Tis, Firmware::Qboot, 0x22);
}

#[test]
fn firmware_that_has_used_the_tpm_changes_nothing_of_ours() {
    for interface in Interface::ALL {
        check(interface, Firmware::SeaBios, 0x33);
    }
}

#[test]
fn every_active_bank_is_extended() {
    let tpm = State::with_banks("sha1,sha256,sha384,sha512").unwrap();
    let told = Told::by(&tpm, Interface::Crb, Firmware::Qboot, 7);
    assert_predicted(&told, &["sha1", "sha256", "sha384", "sha512"]);
    assert_log_replays(&told);
    assert_quoted(&told, 7);
}

/// A key that counted failures would be locked out after three boots, and one that was not made from
/// the endorsement seed alone would be another each time.
#[test]
fn five_boots_have_one_attestation_key() {
    let tpm = State::new().unwrap();
    let mut keys = Vec::new();
    for number in 0..5 {
        let told = Told::by(&tpm, Interface::Tis, Firmware::Qboot, number);
        assert_quoted(&told, number);
        keys.push(told.part("ak_public").to_vec());
    }
    keys.dedup();
    assert_eq!(keys.len(), 1);
}

/// Of what boot takes away, this is what the TPM still knows when the power is gone.
#[test]
fn after_a_boot_nobody_can_clear_the_tpm() {
    const DISABLE_CLEAR: u32 = 1 << 8;
    let tpm = State::new().unwrap();
    assert_eq!(tpm.permanent_attributes().unwrap() & DISABLE_CLEAR, 0);
    Told::by(&tpm, Interface::Crb, Firmware::Qboot, 1);
    assert_eq!(tpm.permanent_attributes().unwrap() & DISABLE_CLEAR, DISABLE_CLEAR);
}

#[test]
fn systemd_measure_predicts_pcr_11() {
    let tpm = State::new().unwrap();
    let told = Told::by(&tpm, Interface::Crb, Firmware::Qboot, 1);
    let (service, configuration) = told.measured();
    let (linux, cmdline) = (told.write("linux", &service), told.write("cmdline", &configuration));
    let mut measure = Command::new("/usr/lib/systemd/systemd-measure");
    measure.args(["calculate", "--bank=sha256", "--phase=sealed"]);
    measure.arg(format!("--linux={}", linux.display()));
    measure.arg(format!("--cmdline={}", cmdline.display()));
    let text = String::from_utf8(succeed(&mut measure)).unwrap();
    let predicted = text.lines().find_map(|line| line.strip_prefix("11:sha256=")).unwrap();
    assert_eq!(hex(&told.banks()["sha256"][11]), predicted);
}

#[test]
fn one_bit_of_the_configuration_changes_pcr_11_and_12_and_nothing_else() {
    let values = |number| {
        let tpm = State::new().unwrap();
        Told::by(&tpm, Interface::Crb, Firmware::Qboot, number).banks()["sha256"].clone()
    };
    // The number is text in the probe's configuration: 0x10 and 0x11 differ in one bit.
    let (one, other) = (values(0x10), values(0x11));
    for pcr in 0..16 {
        assert_eq!(one[pcr] != other[pcr], [11, 12].contains(&pcr), "PCR {pcr}");
    }
}

#[test]
fn a_tpm_that_is_named_and_dead_is_refused() {
    for interface in Interface::ALL {
        let folder = TempDir::with_prefix("bulla-measured-").unwrap();
        let image = samples::probe(&GUEST, "control", folder.path()).unwrap();
        let mut machine = Machine::builder(&image)
            .firmware(Firmware::Qboot)
            .net(Net::User { ports: Vec::new() })
            .tpm(interface)
            .extra_args(["-S"])
            .start()
            .unwrap();
        machine.monitor("info status").unwrap();
        machine.unplug_tpm();
        machine.monitor("cont").unwrap();
        let line = machine.wait_for("boot: refused: ", PATIENCE).unwrap();
        assert!(line.contains("TPM"), "{line}");
        assert!(!machine.console().text().contains("PROBE"));
    }
}
