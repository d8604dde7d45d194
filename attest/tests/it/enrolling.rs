//! `attest enroll`, with a TPM that answers.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use attest::{EkCertificate, Roots, Untrusted};
use attest_core::policy::{Identity, PlatformTrust, Source};
use rustls_pki_types::UnixTime;

use crate::swtpm::Swtpm;
use crate::wrapping::{activate, make_ak};
use crate::{Run, attest, shell, text, vector};

struct Site {
    tpm: Swtpm,
    roots: PathBuf,
}

impl Site {
    fn new() -> Self {
        let tpm = Swtpm::start();
        let roots = tpm.file("roots");
        let script =
            "mkdir roots; cp ca/issuercert.pem roots/; cp ca/swtpm-localca-rootca-cert.pem roots/";
        shell(tpm.folder.path(), script);
        make_ak(&tpm);
        Self { tpm, roots }
    }

    fn begin(&self, certificate: &str, roots: &str) -> Run {
        let file = |name: &str| text(self.tpm.file(name));
        attest(&[
            "enroll",
            "begin",
            "--ek-certificate",
            &file(certificate),
            "--ak",
            &file("ak.pub"),
            "--roots",
            roots,
            "-o",
            &file("challenge"),
            "--state",
            &file("state.json"),
        ])
    }

    fn finish(&self, answer: &str) -> Run {
        let file = |name: &str| text(self.tpm.file(name));
        attest(&[
            "enroll",
            "finish",
            "--state",
            &file("state.json"),
            "--answer",
            answer,
            "-o",
            &file("identity.json"),
        ])
    }

    fn identity(&self) -> Identity {
        Identity::parse(&fs::read(self.tpm.file("identity.json")).unwrap()).unwrap()
    }
}

#[test]
fn a_machine_whose_tpm_answers_is_enrolled() {
    let site = Site::new();
    for (certificate, parent) in
        [("tpm/ek-secp384r1.crt", "0x81010016"), ("tpm/ek-rsa2048.crt", "0x81010001")]
    {
        site.begin(certificate, &text(&site.roots)).ends(0).says("issued by");
        let challenge = fs::read(site.tpm.file("challenge")).unwrap();
        let answer = activate(&site.tpm, &challenge, parent).unwrap();
        let state = fs::read_to_string(site.tpm.file("state.json")).unwrap();
        let digits = attest_core::policy::Hex(answer.clone()).to_string();
        assert!(!state.contains(&digits), "the state holds the answer");
        // Of another answer nothing comes.
        let mut wrong = answer;
        wrong[0] ^= 1;
        let wrong = attest_core::policy::Hex(wrong).to_string();
        site.finish(&wrong).ends(3).says("the answer is wrong");
        site.finish("").ends(3);
        site.finish("x").ends(1).says("not hexadecimal");
        assert!(!site.tpm.file("identity.json").exists());

        site.finish(&digits).ends(0).says("vtpm-host");
        let identity = site.identity();
        assert_eq!(identity.ak_name.0, fs::read(site.tpm.file("ak.name")).unwrap());
        assert_eq!(identity.source, Source::EkActivated);
        assert_eq!(identity.platform_trust, PlatformTrust::VtpmHost);
        let der = fs::read(site.tpm.file(certificate)).unwrap();
        assert_eq!(identity.ek_sha256.unwrap().0, attest_core::sha256(&der));
        fs::remove_file(site.tpm.file("identity.json")).unwrap();
    }
}

#[test]
fn a_tpm_that_no_root_vouches_for_is_not_challenged() {
    let site = Site::new();
    let certificate = "tpm/ek-secp384r1.crt";
    let refused = |run: Run, code: i32, says: &str| {
        run.ends(code).says(says);
        assert!(!site.tpm.file("challenge").exists() && !site.tpm.file("state.json").exists());
    };
    // Roots of other TPMs; the issuer without its root; no folder, and none that holds anything.
    refused(site.begin(certificate, &vector("go-tpm-tools/ca-certs")), 3, "no root vouches");
    let issuer = text(site.tpm.file("ca/issuercert.pem"));
    refused(site.begin(certificate, &issuer), 1, "no root among these");
    refused(site.begin(certificate, &text(site.tpm.file("nowhere"))), 1, "No such file");
    let empty = site.tpm.file("empty");
    fs::create_dir(&empty).unwrap();
    refused(site.begin(certificate, &text(empty)), 1, "no certificates in this folder");
    let root = text(site.roots.join("swtpm-localca-rootca-cert.pem"));
    refused(site.begin(certificate, &root), 3, "no root vouches");

    // A certificate that vouches for itself, one without the purpose, one of a key that signs, a CA.
    let script = "
        openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out k.key 2>/dev/null
        eku=extendedKeyUsage=2.23.133.8.1
        req() { openssl req -x509 -key k.key -days 99 -out $1.pem -subj /CN=$1 $2; }
        req self \"-addext $eku -addext keyUsage=critical,keyAgreement\"
        req root ''
        sign() {
            printf \"$2\" > ext
            openssl req -new -key k.key -subj /CN=$1 -out r.csr
            openssl x509 -req -in r.csr -CA root.pem -CAkey k.key -CAcreateserial -days 99 -extfile ext -out $1.pem 2>/dev/null
        }
        sign good \"$eku\\nkeyUsage=critical,keyAgreement\\n\"
        sign purpose \"keyUsage=critical,keyAgreement\\n\"
        sign signing \"$eku\\nkeyUsage=critical,digitalSignature\\n\"
        sign usageless \"$eku\\n\"
        sign ca \"$eku\\nkeyUsage=critical,keyAgreement\\nbasicConstraints=critical,CA:true\\n\"
        sign critical \"$eku\\nkeyUsage=critical,keyAgreement\\n1.2.3.4=critical,DER:0500\\n\"
        cat good.pem purpose.pem > two.pem";
    shell(site.tpm.folder.path(), script);
    let root = text(site.tpm.file("root.pem"));
    refused(site.begin("self.pem", &root), 3, "vouches for itself");
    refused(site.begin("purpose.pem", &root), 3, "not one of an endorsement key");
    refused(site.begin("signing.pem", &root), 3, "does not decrypt or agree");
    refused(site.begin("usageless.pem", &root), 3, "does not decrypt or agree");
    refused(site.begin("ca.pem", &root), 3, "no root vouches");
    refused(site.begin("critical.pem", &root), 3, "no root vouches");
    refused(site.begin("two.pem", &root), 1, "2 certificates where one");
    refused(site.begin("k.key", &root), 1, "no certificate in it");
    // The good one differs from each by one thing.
    site.begin("good.pem", &root).ends(0);
    // It is good for 99 days.
    shell(site.tpm.folder.path(), "openssl x509 -in good.pem -outform der -out good.der");
    let der = fs::read(site.tpm.file("good.der")).unwrap();
    let good = EkCertificate::parse(der.into()).unwrap();
    let roots = Roots::read(&site.tpm.file("root.pem")).unwrap();
    let now = UnixTime::now().as_secs();
    let day = 24 * 60 * 60;
    for (at, is_good) in [(now - day, false), (now, true), (now + 100 * day, false)] {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let result = good.verify(&roots, at);
        assert_eq!(result.is_ok(), is_good, "{result:?}");
    }
}

#[test]
fn a_key_that_signs_is_no_endorsement_key_whatever_its_certificate_says() {
    // Google's older certificates of attestation keys name the purpose of endorsement keys.
    let der = fs::read(vector("derived/gce-cos-85-nonce9009/ak_cert.der")).unwrap();
    assert_eq!(EkCertificate::parse(der.into()).err(), Some(Untrusted::Usage));
}

#[test]
fn a_key_that_would_sign_anything_is_not_enrolled() {
    let site = Site::new();
    let arguments = ["-C", "e", "-g", "sha256", "-G", "ecc256:ecdsa-sha256:null", "-c", "free.ctx"];
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign";
    site.tpm.run("tpm2_createprimary", &[&arguments[..], &["-a", attributes]].concat());
    site.tpm.run("tpm2_readpublic", &["-c", "free.ctx", "-o", "ak.pub"]);
    site.begin("tpm/ek-secp384r1.crt", &text(&site.roots)).ends(1).says("attributes 0x00040072");
    let file = |name: &str| text(site.tpm.file(name));
    attest(&["enroll", "pin", "--ak", &file("ak.pub"), "-o", &file("identity.json")])
        .ends(1)
        .says("attributes 0x00040072");
}

#[test]
fn a_key_can_be_pinned_by_hand() {
    let site = Site::new();
    let file = |name: &str| text(site.tpm.file(name));
    attest(&["enroll", "pin", "--ak", &file("ak.pub"), "-o", &file("identity.json")]).ends(0);
    let identity = site.identity();
    assert_eq!(identity.ak_name.0, fs::read(site.tpm.file("ak.name")).unwrap());
    assert_eq!((identity.source, identity.ek_sha256), (Source::Pinned, None));
    assert_eq!(identity.platform_trust, PlatformTrust::Unknown);
}

#[test]
fn a_state_that_is_not_one_is_refused() {
    let site = Site::new();
    site.begin("tpm/ek-secp384r1.crt", &text(&site.roots)).ends(0);
    let good = fs::read_to_string(site.tpm.file("state.json")).unwrap();
    let check = |text: String, code: i32| {
        fs::write(site.tpm.file("state.json"), text).unwrap();
        site.finish(&"00".repeat(32)).ends(code);
    };
    check(good.replace("bulla-enrolment/1", "bulla-enrolment/2"), 1);
    check(good.replace("ak_name", "ak_game"), 1);
    check(good.replacen('{', "{\"more\": 1,", 1), 1);
    check(good.replacen("\"schema\"", "\"schema\": \"bulla-enrolment/1\", \"schema\"", 1), 1);
    check(String::new(), 1);
    check("\u{1b}[31m".to_owned(), 1);
    check(good, 3);
}
