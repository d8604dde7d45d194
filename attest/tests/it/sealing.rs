//! `attest seal-key`, and what a TPM makes of its file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::image::Sketch;
use crate::swtpm::Swtpm;
use crate::{Run, attest, shell, text};

/// A key, a chain of two certificates, and others that do not fit.
const IDENTITY: &str = "
    openssl ecparam -name prime256v1 -genkey -noout -out sec1.key
    openssl pkcs8 -topk8 -nocrypt -in sec1.key -out tls.key
    openssl pkcs8 -topk8 -in sec1.key -passout pass:x -out locked.key
    openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out other.key 2>/dev/null
    openssl req -x509 -key other.key -subj /CN=root -days 99 -out root.pem
    openssl req -new -key tls.key -subj /CN=edge -out edge.csr
    openssl x509 -req -in edge.csr -CA root.pem -CAkey other.key -CAcreateserial -days 99 -out edge.pem 2>/dev/null
    cat edge.pem root.pem > chain.pem
    cat root.pem edge.pem > backwards.pem
    cat tls.key other.key > two.key";

struct Site {
    tpm: Swtpm,
}

impl Site {
    fn new() -> Self {
        let tpm = Swtpm::start();
        shell(tpm.folder.path(), IDENTITY);
        fs::write(tpm.file("x.efi"), Sketch::new().efi()).unwrap();
        tpm.run("tpm2_readpublic", &["-c", "0x81010016", "-o", "EK.pub"]);
        Self { tpm }
    }

    fn seal(&self, more: &[&str]) -> Run {
        let file = |name: &str| text(self.tpm.file(name));
        let mut options = vec![
            ("--key", file("tls.key")),
            ("--chain", file("chain.pem")),
            ("--ek", file("EK.pub")),
            ("--image", file("x.efi")),
            ("-o", file("key.sealed")),
        ];
        let (changes, others) = more.as_chunks::<2>();
        assert!(others.is_empty());
        let mut arguments = vec!["seal-key".to_owned()];
        for [name, value] in changes {
            match options.iter_mut().find(|(option, _)| option == name) {
                Some((_, old)) => *old = file(value),
                None => arguments.extend([(*name).to_owned(), (*value).to_owned()]),
            }
        }
        arguments.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        attest(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// The TPM's part and the payload, cut as boot and the service cut them.
fn cut(file: &[u8]) -> (&[u8], &[u8], &[u8]) {
    assert_eq!(&file[..8], b"BULLAKY\x01");
    let long = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let (tpm, payload) = (long(8), long(12));
    assert_eq!(file.len(), 16 + tpm + payload);
    (&file[..16 + tpm], &file[16..16 + tpm], &file[16 + tpm..])
}

/// A `TPM2B`, its size included, and what is behind it.
fn sized(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}

/// What the TPM opens, as boot would ask it.
fn open(tpm: &Swtpm, part: &[u8]) -> Option<Vec<u8>> {
    let (public, rest) = sized(part);
    let (duplicate, rest) = sized(rest);
    let (seed, selection) = sized(rest);
    assert_eq!(selection, [0, 10, 0, 0, 0, 1, 0, 0x0b, 3, 0x94, 8, 0]);
    fs::write(tpm.file("x.pub"), public).unwrap();
    fs::write(tpm.file("x.dup"), duplicate).unwrap();
    fs::write(tpm.file("x.seed"), seed).unwrap();
    let ek = "0x81010016";
    let import = ["-C", ek, "-i", "x.dup", "-s", "x.seed", "-u", "x.pub", "-r", "x.priv"];
    tpm.run("tpm2_import", &import);
    tpm.run("tpm2_load", &["-C", ek, "-u", "x.pub", "-r", "x.priv", "-c", "sealed.ctx"]);
    tpm.run("tpm2_startauthsession", &["-S", "s.ctx", "--policy-session"]);
    tpm.run("tpm2_policypcr", &["-S", "s.ctx", "-l", "sha256:2,4,7,11"]);
    let output = tpm.output("tpm2_unseal", &["-p", "session:s.ctx", "-c", "sealed.ctx"]);
    tpm.output("tpm2_flushcontext", &["-t"]);
    tpm.output("tpm2_flushcontext", &["s.ctx"]);
    output.status.success().then_some(output.stdout)
}

/// Extends what firmware and boot would, up to the configuration.
fn boot(tpm: &Swtpm, sketch: &Sketch) {
    use attest_core::policy::Hex;
    use attest_core::sha256;
    let separator = sha256(&[0; 4]);
    let efi = attest::image::Efi::parse(&sketch.efi()).unwrap().digest;
    // The digests of SecureBoot, PK, KEK, db and dbx without keys, as OVMF measured them
    // (tests/vectors/ovmf-swtpm/2M-crb-full/eventlog_entry.bin).
    let log = fs::read(crate::vector("ovmf-swtpm/2M-crb-full/eventlog_entry.bin")).unwrap();
    let log = attest_core::event_log::EventLog::parse(&log).unwrap();
    let bank = attest_core::hash::Algorithm::Sha256;
    let seven = log.of(7).map(|it| it.digest(bank).unwrap().try_into().unwrap());
    let mut events: Vec<(u32, [u8; 32])> = seven.map(|digest| (7, digest)).collect();
    events.push((2, separator));
    events.push((4, sha256(b"Calling EFI Application from Boot Option")));
    events.extend([(4, separator), (4, efi)]);
    events.extend([(11, sha256(b".linux\0")), (11, sha256(&sketch.service))]);
    events.extend([(11, sha256(b".cmdline\0")), (11, sha256(&sketch.configuration()))]);
    for (pcr, digest) in events {
        tpm.run("tpm2_pcrextend", &[&format!("{pcr}:sha256={}", Hex(digest.to_vec()))]);
    }
}

/// The DER in a PEM file's n-th block.
fn der(path: &Path, index: usize) -> Vec<u8> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    CertificateDer::pem_file_iter(path).unwrap().nth(index).unwrap().unwrap().to_vec()
}

#[test]
fn a_sealed_key_opens_in_its_image_before_the_seal_and_nowhere_else() {
    let site = Site::new();
    let run = site.seal(&[]).ends(0).says("PCR 11");
    let path = site.tpm.file("key.sealed");
    let file = fs::read(&path).unwrap();
    assert!(file.len() <= 8 << 10);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = fs::read_to_string(site.tpm.file("tls.key")).unwrap();
    let line = key.lines().nth(1).unwrap();
    assert!(!run.out.contains(line) && !run.err.contains(line));
    let (authenticated, tpm_part, payload) = cut(&file);
    assert_eq!(open(&site.tpm, tpm_part), None, "before anything was measured");
    boot(&site.tpm, &Sketch::new());
    let secret = open(&site.tpm, tpm_part).unwrap();

    let (nonce, sealed) = payload.split_at(12);
    let opening = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).unwrap());
    let mut sealed = sealed.to_vec();
    let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
    let plain = opening.open_in_place(nonce, Aad::from(authenticated), &mut sealed).unwrap();
    // {"key": h'..', "chain": [h'..', h'..']} with heads of one, two or three bytes.
    assert!(plain.starts_with(b"\xa2\x63key\x58"));
    let pkcs8 = rustls_pki_types::PrivatePkcs8KeyDer::from(&plain[7..7 + usize::from(plain[6])]);
    assert!(rustls::crypto::ring::sign::any_ecdsa_type(&pkcs8.into()).is_ok());
    let rest = &plain[7 + usize::from(plain[6])..];
    let chain = site.tpm.file("chain.pem");
    let mut expected = b"\x65chain\x82".to_vec();
    for certificate in [der(&chain, 0), der(&chain, 1)] {
        expected.extend_from_slice(&[0x59]);
        expected.extend_from_slice(&(certificate.len() as u16).to_be_bytes());
        expected.extend_from_slice(&certificate);
    }
    assert_eq!(rest, expected);

    site.tpm.run(
        "tpm2_pcrextend",
        &[&format!(
            "11:sha256={}",
            attest_core::policy::Hex(attest_core::sha256(b"sealed").to_vec())
        )],
    );
    assert_eq!(open(&site.tpm, tpm_part), None, "after the seal");
}

#[test]
fn a_key_sealed_for_one_image_stays_shut_in_another() {
    let site = Site::new();
    site.seal(&[]).ends(0);
    let file = fs::read(site.tpm.file("key.sealed")).unwrap();
    let mut other = Sketch::new();
    other.payload[0] ^= 1;
    boot(&site.tpm, &other);
    assert_eq!(open(&site.tpm, cut(&file).1), None);
}

#[test]
fn a_certificate_is_as_good_as_the_public_area() {
    let site = Site::new();
    site.seal(&["--ek", "tpm/ek-secp384r1.crt"]).ends(0).says("ECC P-384");
    let file = fs::read(site.tpm.file("key.sealed")).unwrap();
    boot(&site.tpm, &Sketch::new());
    assert!(open(&site.tpm, cut(&file).1).is_some());
    site.seal(&["--ek", "tpm/ek-rsa2048.crt"]).ends(0).says("RSA 2048");
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_no_file() {
    let site = Site::new();
    let refused_as = |code: i32, changes: &[&str], says: &str| {
        site.seal(changes).ends(code).says(says);
        assert!(!site.tpm.file("key.sealed").exists());
    };
    let refused = |changes: &[&str], says: &str| refused_as(1, changes, says);
    refused(&["--key", "other.key"], "belongs to another certificate");
    refused(&["--key", "sec1.key"], "not in unencrypted PKCS #8");
    refused(&["--key", "locked.key"], "not in unencrypted PKCS #8");
    refused(&["--key", "two.key"], "2 private keys");
    refused(&["--key", "chain.pem"], "0 private keys");
    refused(&["--chain", "tls.key"], "0 certificates");
    refused(&["--chain", "backwards.pem"], "certificate 1 is not signed by the one after it");
    refused(&["--ek", "tls.key"], "no certificate in it");
    refused_as(3, &["--ek", "edge.pem"], "not one of an endorsement key");
    refused(&["--ek", "x.efi"], "public area");
    refused(&["--image", "tls.key"], "neither an ELF nor a PE file");
    refused(&["--pcrs", "0"], "cannot be foretold");
    refused(&["--pcrs", "5"], "needs --disk");
    refused(&["--pcrs", "4,4"], "each PCR once");
    fs::write(site.tpm.file("x.elf"), Sketch::new().elf()).unwrap();
    refused(&["--image", "x.elf"], "nobody measures NAME.elf");
    let large = "for n in 1 2 3 4 5 6 7; do cat root.pem; done >> chain.pem
                 for n in 1 2 3 4 5 6 7 8; do cat chain.pem; done > long.pem";
    shell(site.tpm.folder.path(), large);
    refused(&["--chain", "long.pem"], "certificates where 1 to 8");
}
