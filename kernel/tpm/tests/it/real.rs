//! The commands against a real software TPM.

use std::fs;

use tpm::{Ak, Algorithm, Digests, Error, Tpm, Transport, quote_command};

use crate::raw;
use crate::swtpm::{Running, Swtpm, tool};

pub(crate) fn started(swtpm: &Swtpm) -> Tpm<Running> {
    let mut tpm = Tpm::new(swtpm.start(true));
    tpm.start_up().unwrap();
    tpm
}

/// `TPM2B_PUBLIC` of a key, as the tools want it.
pub(crate) fn sized(public: &[u8]) -> Vec<u8> {
    [&(public.len() as u16).to_be_bytes()[..], public].concat()
}

#[test]
fn a_tpm_that_nobody_started_is_started() {
    let swtpm = Swtpm::make();
    let mut tpm = Tpm::new(swtpm.start(false));
    assert!(matches!(tpm.banks(), Err(Error::Refused { code: 0x100, .. })));
    tpm.start_up().unwrap();
    assert_eq!(tpm.banks().unwrap()[..], [Algorithm::Sha256]);
    // A second time is no error.
    tpm.start_up().unwrap();
}

#[test]
fn what_is_extended_is_read_back_from_every_active_bank() {
    for active in [&Algorithm::ALL[..], &[Algorithm::Sha384], &[Algorithm::Sha256]] {
        let swtpm = Swtpm::with_banks(active);
        let mut tpm = started(&swtpm);
        let banks = tpm.banks().unwrap();
        assert_eq!(banks[..], *active);
        let digests = Digests::of(&banks, b"service");
        tpm.extend(11, &digests).unwrap();
        for (bank, digest) in active.iter().zip(digests.iter()) {
            let values = tpm.read_pcrs(*bank).unwrap();
            let none = vec![0; bank.digest_bytes()];
            assert_eq!(values[11], bank.digest(&[&none[..], digest.bytes()].concat()));
            assert_eq!(values[12].bytes(), none);
            assert_eq!(values.len(), 16);
        }
    }
}

/// The raw answer to the gate's one command.
fn quote(tpm: &mut Running, ak: &Ak, nonce: &[u8; 32]) -> Vec<u8> {
    let quote = quote_command(ak.handle, nonce);
    assert_eq!(quote.command[quote.qualifying_at..][..32], *nonce);
    let mut room = [0; 4096];
    tpm.transact(&quote.command, &mut room).unwrap().to_vec()
}

#[test]
fn the_key_is_always_the_same_and_its_quote_is_good() {
    let swtpm = Swtpm::make();
    let first = started(&swtpm).create_ak().unwrap();
    let mut running = swtpm.start(true);
    let ak = {
        let mut tpm = Tpm::new(&mut running);
        tpm.create_ak().unwrap()
    };
    assert_eq!(first.public, ak.public);
    let answer = quote(&mut running, &ak, &[0x5a; 32]);
    // Header, parameter size, attestation, signature, the session's five bytes.
    let attest_bytes = usize::from(u16::from_be_bytes([answer[14], answer[15]]));
    let (attest, rest) = answer[16..].split_at(attest_bytes);
    fs::write(swtpm.path("attest"), attest).unwrap();
    fs::write(swtpm.path("signature"), &rest[..rest.len() - 5]).unwrap();
    fs::write(swtpm.path("ak.pub"), sized(&ak.public)).unwrap();
    let pem = tool(swtpm.folder(), &["tpm2_print", "-t", "TPM2B_PUBLIC", "-f", "pem", "ak.pub"]);
    fs::write(swtpm.path("ak.pem"), pem).unwrap();
    let nonce = "5a".repeat(32);
    let mut line = vec!["tpm2_checkquote", "-u", "ak.pem", "-m", "attest", "-s", "signature"];
    line.extend(["-g", "sha256", "-q", &nonce]);
    tool(swtpm.folder(), &line);
}

impl Transport for &mut Running {
    fn transact<'a>(
        &mut self,
        command: &[u8],
        answer: &'a mut [u8],
    ) -> Result<&'a [u8], tpm::TransportError> {
        (**self).transact(command, answer)
    }
}

#[test]
fn the_certificate_is_the_one_its_maker_wrote() {
    let swtpm = Swtpm::make();
    let certificate = started(&swtpm).read_ek_certificate().unwrap().unwrap();
    let names = fs::read_dir(swtpm.path("tpm")).unwrap().map(|entry| entry.unwrap().path());
    let written: Vec<_> =
        names.filter(|path| path.extension().is_some_and(|it| it == "crt")).collect();
    let is_ours = |path: &std::path::PathBuf| fs::read(path).unwrap() == certificate[..];
    assert!(written.iter().any(is_ours), "none of {written:?}");
}

#[test]
fn a_challenge_is_answered_by_this_tpm_only() {
    let swtpm = Swtpm::make();
    let mut tpm = started(&swtpm);
    let ak = tpm.create_ak().unwrap();
    // The tool needs the public area of the endorsement key in its TSS form.
    let key = read_public(&mut tpm, 0x8101_0016);
    fs::write(swtpm.path("ek.pub"), key).unwrap();
    fs::write(swtpm.path("secret"), b"sixteen byte key").unwrap();
    let name = Algorithm::Sha256.digest(&ak.public);
    let name: String =
        [&[0, 0x0b][..], name.bytes()].concat().iter().map(|it| format!("{it:02x}")).collect();
    let mut line = vec!["tpm2_makecredential", "-T", "none", "-u", "ek.pub", "-s", "secret"];
    line.extend(["-n", &name, "-o", "credential"]);
    tool(swtpm.folder(), &line);
    let file = fs::read(swtpm.path("credential")).unwrap();
    // The tool's own head: a magic number and a version.
    let challenge = &file[8..];
    let answer = tpm.activate_credential(&ak, challenge).unwrap().unwrap();
    assert_eq!(&answer[..], b"sixteen byte key");
    let other = Swtpm::make();
    let mut tpm = started(&other);
    let ak = tpm.create_ak().unwrap();
    assert_eq!(tpm.activate_credential(&ak, challenge), Ok(None));
    assert_eq!(tpm.activate_credential(&ak, &challenge[..20]), Ok(None));
}

/// The `TPM2B_PUBLIC` of a persistent key.
pub(crate) fn read_public(tpm: &mut Tpm<Running>, handle: u32) -> Vec<u8> {
    let body = raw::done(tpm, 0x173, &[handle], false, &[]);
    let bytes = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
    body[..bytes].to_vec()
}

#[test]
fn what_is_taken_away_is_gone() {
    let swtpm = Swtpm::make();
    let mut tpm = started(&swtpm);
    let ak = tpm.create_ak().unwrap();
    let mut random = [7; 32];
    tpm.take_away_hierarchies(&mut random).unwrap();
    assert_eq!(random, [0; 32], "erased");
    // TPM2_Clear by the lockout's and the platform's authorization; a primary key for the owner.
    let mut refusal =
        |code: u32, handle: u32, rest: &[u8]| raw::say(&mut tpm, code, &[handle], true, rest).code;
    assert_eq!(refusal(0x126, 0x4000_000a, &[]), 0x120, "TPM_RC_DISABLED");
    assert_eq!(refusal(0x126, 0x4000_000c, &[]), 0x9a2, "TPM_RC_BAD_AUTH");
    let owner = refusal(0x131, 0x4000_0001, &[0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(owner & 0xbf, 0x85, "TPM_RC_HIERARCHY, not {owner:#x}");
    // A second boot finds it done, and our key still signs.
    tpm.take_away_hierarchies(&mut [8; 32]).unwrap();
    let quote = quote_command(ak.handle, &[1; 32]);
    let mut room = [0; 4096];
    let answer = tpm.transport_mut().transact(&quote.command, &mut room).unwrap();
    assert_eq!(answer[6..10], [0; 4]);
}

/// `TPM_PT_LOCKOUT_COUNTER`.
const LOCKOUT_COUNTER: u32 = 0x20e;

#[test]
fn ten_power_cuts_do_not_lock_the_tpm() {
    let swtpm = Swtpm::make();
    for boot in 0..10 {
        let mut tpm = started(&swtpm);
        let ak = tpm.create_ak().unwrap();
        // A use of the endorsement key by its password, which is what counts against the lockout.
        let challenge = [&[0, 4, 1, 2, 3, 4][..], &[0, 2, 1, 2]].concat();
        let _refused = tpm.activate_credential(&ak, &challenge).unwrap();
        // In boot's order: Shutdown last, then nothing but the gate's quotes.
        let banks = tpm.banks().unwrap();
        tpm.take_away_hierarchies(&mut [7; 32]).unwrap();
        tpm.extend(11, &Digests::of(&banks, b"sealed")).unwrap();
        tpm.shutdown_clear().unwrap();
        let quote = quote_command(ak.handle, &[1; 32]);
        let mut room = [0; 4096];
        let answer = tpm.transport_mut().transact(&quote.command, &mut room).unwrap();
        assert_eq!(answer[6..10], [0; 4], "boot {boot}");
        assert_eq!(raw::property(&mut tpm, LOCKOUT_COUNTER), 0, "boot {boot}");
        // And the power is cut.
    }
}
