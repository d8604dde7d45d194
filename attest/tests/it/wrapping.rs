//! What is wrapped here opens in a TPM, and only there and then.

use std::fs;

use attest::tpm::{AttestationKey, Policy, StorageKey, make_credential, seal};

use crate::swtpm::Swtpm;

/// The endorsement keys that are tried: how the TPM comes to have each, and how it is used.
#[derive(Clone, Copy, Debug)]
enum Ek {
    /// The one that swtpm_setup makes; an empty password is enough.
    P384,
    /// The one of the low range template; needs a policy session.
    P256,
    /// Likewise.
    Rsa,
}

impl Ek {
    /// Puts its public area into `ek.pub` and returns what names it to the tools.
    fn find(self, tpm: &Swtpm) -> &'static str {
        match self {
            Self::P384 => {
                tpm.run("tpm2_readpublic", &["-c", "0x81010016", "-o", "ek.pub"]);
                "0x81010016"
            }
            Self::P256 => {
                tpm.run("tpm2_createek", &["-G", "ecc", "-c", "ek.ctx", "-u", "ek.pub"]);
                "ek.ctx"
            }
            Self::Rsa => {
                tpm.run("tpm2_readpublic", &["-c", "0x81010001", "-o", "ek.pub"]);
                "0x81010001"
            }
        }
    }

    /// Runs a tool that uses the key.
    fn using(self, tpm: &Swtpm, tool: &str, arguments: &[&str], option: &str) -> bool {
        let mut arguments = arguments.to_vec();
        if !matches!(self, Self::P384) {
            tpm.run("tpm2_startauthsession", &["-S", "ek.session", "--policy-session"]);
            tpm.run("tpm2_policysecret", &["-S", "ek.session", "-c", "e"]);
            arguments.extend([option, "session:ek.session"]);
        }
        let is_done = tpm.output(tool, &arguments).status.success();
        tpm.output("tpm2_flushcontext", &["-t"]);
        if !matches!(self, Self::P384) {
            tpm.output("tpm2_flushcontext", &["ek.session"]);
        }
        is_done
    }
}

/// What each PCR of the policy holds now.
fn values(tpm: &Swtpm, pcrs: &[u32]) -> Vec<(u32, [u8; 32])> {
    let list = pcrs.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    tpm.run("tpm2_pcrread", &[&format!("sha256:{list}"), "-o", "pcrs.bin"]);
    let bytes = fs::read(tpm.file("pcrs.bin")).unwrap();
    pcrs.iter().copied().zip(bytes.chunks_exact(32).map(|it| it.try_into().unwrap())).collect()
}

/// What the TPM unseals, if it does.
fn unseal(tpm: &Swtpm) -> Option<Vec<u8>> {
    tpm.run("tpm2_startauthsession", &["-S", "s.ctx", "--policy-session"]);
    tpm.run("tpm2_policypcr", &["-S", "s.ctx", "-l", "sha256:2,4,7,11"]);
    let output = tpm.output("tpm2_unseal", &["-p", "session:s.ctx", "-c", "sealed.ctx"]);
    tpm.output("tpm2_flushcontext", &["-t"]);
    tpm.output("tpm2_flushcontext", &["s.ctx"]);
    output.status.success().then_some(output.stdout)
}

#[track_caller]
fn check(tpm: &Swtpm, ek: Ek) {
    let secret = [0x5a; 32];
    let parent = ek.find(tpm);
    let key = StorageKey::parse(&fs::read(tpm.file("ek.pub")).unwrap()).unwrap();
    let policy = Policy::new(values(tpm, &[2, 4, 7, 11])).unwrap();
    let object = seal(&key, &policy, &secret).unwrap();
    fs::write(tpm.file("x.pub"), &object.public).unwrap();
    fs::write(tpm.file("x.dup"), &object.duplicate).unwrap();
    fs::write(tpm.file("x.seed"), &object.seed).unwrap();
    let import = ["-C", parent, "-i", "x.dup", "-s", "x.seed", "-u", "x.pub", "-r", "x.priv"];
    assert!(ek.using(tpm, "tpm2_import", &import, "-P"), "{ek:?}");
    let load = ["-C", parent, "-u", "x.pub", "-r", "x.priv", "-c", "sealed.ctx"];
    assert!(ek.using(tpm, "tpm2_load", &load, "-P"), "{ek:?}");
    assert_eq!(unseal(tpm).as_deref(), Some(&secret[..]), "{ek:?}");

    let digest = "sha256=".to_owned() + &"11".repeat(32);
    tpm.run("tpm2_pcrextend", &[&format!("11:{digest}")]);
    assert_eq!(unseal(tpm), None, "{ek:?}");

    let mut changed = object.duplicate.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(tpm.file("x.dup"), changed).unwrap();
    assert!(!ek.using(tpm, "tpm2_import", &import, "-P"), "{ek:?}");
}

#[test]
fn a_secret_opens_in_its_tpm_and_with_its_pcrs_only() {
    let tpm = Swtpm::start();
    for ek in [Ek::P384, Ek::P256, Ek::Rsa] {
        check(&tpm, ek);
    }
    // Sealed to one TPM, it is noise to another.
    let key = StorageKey::parse(&fs::read(tpm.file("ek.pub")).unwrap()).unwrap();
    let object = seal(&key, &Policy::new(values(&tpm, &[4])).unwrap(), &[1; 32]).unwrap();
    let other = Swtpm::start();
    let parent = Ek::Rsa.find(&other);
    fs::write(other.file("x.pub"), &object.public).unwrap();
    fs::write(other.file("x.dup"), &object.duplicate).unwrap();
    fs::write(other.file("x.seed"), &object.seed).unwrap();
    let import = ["-C", parent, "-i", "x.dup", "-s", "x.seed", "-u", "x.pub", "-r", "x.priv"];
    assert!(!Ek::Rsa.using(&other, "tpm2_import", &import, "-P"));
}

/// Makes an attestation key with its public area in `ak.pub` and its context in `ak.ctx`.
pub(crate) fn make_ak(tpm: &Swtpm) -> Vec<u8> {
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";
    let arguments = ["-C", "e", "-g", "sha256", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes];
    tpm.run("tpm2_createprimary", &[&arguments[..], &["-c", "ak.ctx"]].concat());
    tpm.run("tpm2_readpublic", &["-c", "ak.ctx", "-o", "ak.pub", "-n", "ak.name"]);
    fs::read(tpm.file("ak.pub")).unwrap()
}

/// Lets the TPM answer `challenge.bin`: what boot does with it.
pub(crate) fn activate(tpm: &Swtpm, challenge: &[u8], parent: &str) -> Option<Vec<u8>> {
    // tpm2-tools put a header in front of the two structures.
    let file = [&[0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1][..], challenge].concat();
    fs::write(tpm.file("challenge.tools"), file).unwrap();
    let arguments = ["-c", "ak.ctx", "-C", parent, "-i", "challenge.tools", "-o", "answer.bin"];
    let ek = if parent == "0x81010016" { Ek::P384 } else { Ek::Rsa };
    let is_done = ek.using(tpm, "tpm2_activatecredential", &arguments, "-P");
    is_done.then(|| fs::read(tpm.file("answer.bin")).unwrap())
}

#[test]
fn a_credential_is_answered_by_the_tpm_that_has_both_keys() {
    let tpm = Swtpm::start();
    let ak = make_ak(&tpm);
    let name = AttestationKey::parse(&ak).unwrap().name;
    assert_eq!(name, fs::read(tpm.file("ak.name")).unwrap());
    for ek in [Ek::P384, Ek::P256, Ek::Rsa] {
        let parent = ek.find(&tpm);
        let key = StorageKey::parse(&fs::read(tpm.file("ek.pub")).unwrap()).unwrap();
        let made = make_credential(&key, &name).unwrap();
        let answer = activate(&tpm, &made.challenge, parent);
        assert_eq!(answer.as_deref(), Some(&made.answer[..]), "{ek:?}");
        // For another attestation key it is not answered.
        let mut other = name.clone();
        *other.last_mut().unwrap() ^= 1;
        let made = make_credential(&key, &other).unwrap();
        assert_eq!(activate(&tpm, &made.challenge, parent), None, "{ek:?}");
    }
}
