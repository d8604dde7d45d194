//! Key files of every kind, and the certificate that is made at the start.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::format;
use std::string::ToString;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::*;
use crate::tls::{ServerSettings, SettingsError, WallClock};

const AUTHORITY: &[u8] = include_bytes!("../testdata/sealed/ca.der");
const MIDDLE: &[u8] = include_bytes!("../testdata/sealed/middle.der");
const LEAF: &[u8] = include_bytes!("../testdata/sealed/leaf.der");
const DEEP: &[u8] = include_bytes!("../testdata/sealed/deep.der");
const FORGED: &[u8] = include_bytes!("../testdata/sealed/forged.der");
const CLIENT: &[u8] = include_bytes!("../testdata/sealed/client.der");
const STRANGER: &[u8] = include_bytes!("../testdata/sealed/stranger.der");
const EXPIRED: &[u8] = include_bytes!("../testdata/sealed/expired.der");
const KEY: &[u8] = include_bytes!("../testdata/sealed/leaf.pkcs8.der");
const OTHER_KEY: &[u8] = include_bytes!("../testdata/sealed/other.pkcs8.der");

const SECRET: [u8; 32] = [0x5e; 32];
const TPM_PART: &[u8] = b"what only a TPM understands";
const NAMES: [&str; 3] = ["sealed.test", "also.test", "192.0.2.1"];

/// 2027-01-15.
const NOW: u64 = 1_800_000_000;

fn head(major: u8, number: usize) -> Vec<u8> {
    let first = major << 5;
    match number {
        0..24 => vec![first | number as u8],
        24..0x100 => vec![first | 24, number as u8],
        _ => [&[first | 25][..], &(number as u16).to_be_bytes()].concat(),
    }
}

fn bytes(content: &[u8]) -> Vec<u8> {
    [&head(2, content.len())[..], content].concat()
}

fn content(chain: &[&[u8]], key: &[u8]) -> Vec<u8> {
    let chain: Vec<u8> =
        head(4, chain.len()).into_iter().chain(chain.iter().flat_map(|der| bytes(der))).collect();
    [&[0xa2, 0x63][..], b"key", &bytes(key), &[0x65], b"chain", &chain].concat()
}

fn seal(plain: &[u8]) -> Vec<u8> {
    let length = |length: usize| (length as u32).to_be_bytes();
    let mut file = b"BULLAKY\x01".to_vec();
    file.extend_from_slice(&length(TPM_PART.len()));
    file.extend_from_slice(&length(12 + plain.len() + 16));
    file.extend_from_slice(TPM_PART);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &SECRET).unwrap());
    let mut sealed = plain.to_vec();
    let nonce = [7; 12];
    let about = Aad::from(&file[..]);
    let tag =
        key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), about, &mut sealed);
    let tag = tag.unwrap();
    [&file[..], &nonce, &sealed, tag.as_ref()].concat()
}

fn file(chain: &[&[u8]]) -> Vec<u8> {
    seal(&content(chain, KEY))
}

#[track_caller]
fn check_file(file: &[u8], expected: KeyFileError) {
    assert_eq!(open(file, &SECRET).unwrap_err(), expected);
    assert!(!expected.to_string().is_empty());
}

#[track_caller]
fn check_chain(chain: &[&[u8]], names: &[&str], unix_s: u64, expected: Result<(), Distrust>) {
    let checked = open(&file(chain), &SECRET).unwrap().check(AUTHORITY, names, unix_s);
    assert_eq!(checked.as_ref().map(|_| ()).map_err(|error| *error), expected);
    if let Ok(credentials) = checked {
        assert_eq!((credentials.chain(), credentials.key()), (chain.to_vec(), KEY));
        let clock = Arc::new(NoClock);
        ServerSettings::new(&credentials.chain(), credentials.key(), &[], clock).unwrap();
    }
}

#[derive(Debug)]
struct NoClock;

impl WallClock for NoClock {
    fn unix_seconds(&self) -> Option<u64> {
        None
    }
}

#[test]
fn a_chain_of_the_configured_issuer_is_taken() {
    check_chain(&[LEAF], &NAMES, NOW, Ok(()));
    check_chain(&[LEAF], &["also.test"], NOW, Ok(()));
    check_chain(&[LEAF, AUTHORITY], &NAMES, NOW, Ok(()));
    check_chain(&[DEEP, MIDDLE], &NAMES, NOW, Ok(()));
}

#[test]
fn a_key_that_somebody_else_sealed_is_refused() {
    check_chain(&[FORGED], &NAMES, NOW, Err(Distrust::Issuer));
    check_chain(&[DEEP], &NAMES, NOW, Err(Distrust::Issuer));
    check_chain(&[FORGED, LEAF], &NAMES, NOW, Err(Distrust::Issuer));
    let own = make(&NAMES).unwrap();
    check_chain(&own.chain(), &NAMES, NOW, Err(Distrust::Issuer));
    let other_issuer = open(&file(&[LEAF]), &SECRET).unwrap().check(MIDDLE, &NAMES, NOW);
    assert_eq!(other_issuer.unwrap_err(), Distrust::Issuer);
}

#[test]
fn a_chain_that_is_not_for_this_server_is_refused() {
    check_chain(&[STRANGER], &NAMES, NOW, Err(Distrust::Name(1)));
    check_chain(&[LEAF], &["sealed.test", "unsealed.test"], NOW, Err(Distrust::Name(2)));
    check_chain(&[LEAF], &["192.0.2.2"], NOW, Err(Distrust::Name(1)));
    check_chain(&[LEAF], &["not a name"], NOW, Err(Distrust::Name(1)));
    check_chain(&[CLIENT], &NAMES, NOW, Err(Distrust::Certificate));
    check_chain(&[MIDDLE], &NAMES, NOW, Err(Distrust::Certificate));
    check_chain(&[EXPIRED], &NAMES, NOW, Err(Distrust::Expired));
    check_chain(&[LEAF], &NAMES, 1_700_000_000, Err(Distrust::NotYetValid));
    check_chain(&[b"no certificate"], &NAMES, NOW, Err(Distrust::Certificate));
    check_chain(&[b""], &NAMES, NOW, Err(Distrust::Certificate));
    let no_issuer = open(&file(&[LEAF]), &SECRET).unwrap().check(b"no issuer", &NAMES, NOW);
    assert_eq!(no_issuer.unwrap_err(), Distrust::Anchor);
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let opened = open(&seal(&content(&[LEAF], OTHER_KEY)), &SECRET).unwrap();
    let credentials = opened.check(AUTHORITY, &NAMES, NOW).unwrap();
    let settings =
        ServerSettings::new(&credentials.chain(), credentials.key(), &[], Arc::new(NoClock));
    assert_eq!(settings.err(), Some(SettingsError::KeyMismatch));
}

#[test]
fn a_file_that_was_changed_does_not_open() {
    let good = file(&[LEAF]);
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        let expected = match at {
            0..8 => KeyFileError::Magic,
            8..16 => KeyFileError::Lengths,
            _ => KeyFileError::Sealed,
        };
        check_file(&changed, expected);
    }
    assert_eq!(open(&good, &[0x5f; 32]).unwrap_err(), KeyFileError::Sealed);
}

#[test]
fn a_file_that_was_cut_or_grown_does_not_open() {
    let good = file(&[LEAF]);
    for length in 0..good.len() {
        let expected = if length < 16 { KeyFileError::Size(length) } else { KeyFileError::Lengths };
        check_file(&good[..length], expected);
    }
    check_file(&[&good[..], &[0]].concat(), KeyFileError::Lengths);
    check_file(&[0; KEY_FILE_BYTES + 1], KeyFileError::Size(KEY_FILE_BYTES + 1));
    // Two lengths that make up for each other move the border of what is vouched for.
    let mut moved = good.clone();
    moved[11] += 1;
    moved[15] -= 1;
    check_file(&moved, KeyFileError::Sealed);
    let mut wraps = good.clone();
    wraps[8..16].fill(0xff);
    check_file(&wraps, KeyFileError::Lengths);
    // No room for a nonce and a tag.
    let mut short = good[..16 + TPM_PART.len() + 27].to_vec();
    short[12..16].copy_from_slice(&27u32.to_be_bytes());
    check_file(&short, KeyFileError::Lengths);
}

#[test]
fn content_in_any_other_form_is_refused() {
    let good = content(&[LEAF], KEY);
    let key = bytes(KEY);
    let chain = [&head(4, 1)[..], &bytes(LEAF)].concat();
    let map = |parts: &[&[u8]]| parts.concat();
    let cases = [
        // Cut off, with more behind it, nothing at all.
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        vec![],
        // The other order, a part missing, twice, under another name, a third one.
        map(&[&[0xa2, 0x65], b"chain", &chain, &[0x63], b"key", &key]),
        map(&[&[0xa1, 0x63], b"key", &key]),
        map(&[&[0xa2, 0x63], b"key", &key, &[0x63], b"key", &key]),
        map(&[&[0xa2, 0x63], b"kez", &key, &[0x65], b"chain", &chain]),
        map(&[&[0xa3, 0x63], b"key", &key, &[0x65], b"chain", &chain, &[0x61], b"x", &[0]]),
        // A length in a longer form than it needs, one without end, a text for bytes.
        map(&[&[0xb8, 2, 0x63], b"key", &key, &[0x65], b"chain", &chain]),
        map(&[&[0xa2, 0x78, 3], b"key", &key, &[0x65], b"chain", &chain]),
        map(&[&[0xbf, 0x63], b"key", &key, &[0x65], b"chain", &chain, &[0xff]]),
        map(&[&[0xa2, 0x63], b"key", &[0x61, b'k'], &[0x65], b"chain", &chain]),
        // Chains of none, of too many, of more than there are.
        content(&[], KEY),
        content(&[&b"c"[..]; MAX_CHAIN + 1], KEY),
        map(&[&[0xa2, 0x63], b"key", &key, &[0x65], b"chain", &head(4, 2), &bytes(LEAF)]),
    ];
    for case in &cases {
        check_file(&seal(case), KeyFileError::Content);
    }
}

#[test]
fn nothing_of_a_key_is_ever_printed() {
    let unchecked = open(&file(&[LEAF, AUTHORITY]), &SECRET).unwrap();
    assert_eq!(format!("{unchecked:?}"), "Credentials(2 certificates, ..)");
}

#[test]
fn an_ephemeral_certificate_is_for_its_names_and_signed_by_its_key() {
    let credentials = make(&NAMES).unwrap();
    let der = CertificateDer::from(credentials.chain()[0].to_vec());
    let leaf = EndEntityCert::try_from(&der).unwrap();
    for name in NAMES {
        leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).unwrap();
    }
    let other = ServerName::try_from("other.test").unwrap();
    assert!(leaf.verify_is_valid_for_subject_name(&other).is_err());
    // As its own anchor: this checks the signature, the usage and the dates.
    let anchor = anchor_from_trusted_cert(&der).unwrap();
    let now = UnixTime::since_unix_epoch(core::time::Duration::from_secs(NOW));
    let algorithms = default_provider().signature_verification_algorithms.all;
    let usage = KeyUsage::server_auth();
    leaf.verify_for_usage(algorithms, &[anchor], &[], now, usage, None, None).unwrap();
    let (chain, key) = (credentials.chain(), credentials.key());
    ServerSettings::new(&chain, key, &[], Arc::new(NoClock)).unwrap();
}

#[test]
fn no_two_ephemeral_keys_are_the_same() {
    let (first, second) = (make(&NAMES).unwrap(), make(&NAMES).unwrap());
    assert_ne!(first.key(), second.key());
    assert_ne!(first.chain(), second.chain());
    let settings = ServerSettings::new(&first.chain(), second.key(), &[], Arc::new(NoClock));
    assert_eq!(settings.err(), Some(SettingsError::KeyMismatch));
}

/// What openssl says of a certificate with names of every length, read from its text.
#[test]
fn openssl_reads_an_ephemeral_certificate() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let long = ["a"; 63].concat();
    let names = ["sealed.test", &long, "192.0.2.1", "b.test", &[&long[..], ".test"].concat()];
    let credentials = make(&names).unwrap();
    let mut openssl = Command::new("openssl")
        .args(["x509", "-inform", "der", "-noout", "-text", "-certopt", "no_sigdump"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(credentials.chain()[0]).unwrap();
    let text = std::string::String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap();
    for expected in [
        "Version: 3 (0x2)",
        "Not Before: Jan  1 00:00:00 1970 GMT",
        "Not After : Dec 31 23:59:59 9999 GMT",
        "Subject: CN = ephemeral key",
        "ASN1 OID: prime256v1",
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Server Authentication",
        "DNS:sealed.test, DNS:aaa",
        "IP Address:192.0.2.1, DNS:b.test",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}
