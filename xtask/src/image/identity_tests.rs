//! Certificates and keys of every kind, made by openssl in a folder of their own.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::{fs, str};

use tempfile::TempDir;

use edge_config::Identity;

use super::identity::{Fault, Warning, Which, read, read_issuer};

/// Makes an authority, an intermediate authority, and certificates that they signed.
const SCRIPT: &str = r#"
set -eu
key() { openssl genpkey -quiet -algorithm "$1" ${2:+-pkeyopt "$2"} -out "$3.key" 2>/dev/null; }
issue() { # name signer days extension
  openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
  printf '%s\n' "$4" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days "$3" \
    -extfile "$1.ext" -out "$1.pem" 2>/dev/null
}
sign_self() { openssl req -x509 -key "$1.key" -days 3650 -subj "/CN=$1" -out "$1.pem" ${2:+-addext "$2"}; }
name=subjectAltName=DNS:sealed.test
key EC ec_paramgen_curve:P-256 root
key EC ec_paramgen_curve:P-256 middle
key EC ec_paramgen_curve:P-256 other
key EC ec_paramgen_curve:P-256 p256
key EC ec_paramgen_curve:P-384 p384
key EC ec_paramgen_curve:P-521 p521
key EC ec_paramgen_curve:secp256k1 koblitz
key ED25519 "" ed25519
key ED448 "" ed448
key RSA rsa_keygen_bits:2048 rsa2048
key RSA rsa_keygen_bits:1024 rsa1024
sign_self root
sign_self other
issue middle root 3000 basicConstraints=critical,CA:TRUE
issue p256 middle 2000 "$name"
for leaf in p384 p521 koblitz ed25519 ed448 rsa2048 rsa1024; do issue $leaf root 2000 "$name"; done
cp p256.key nameless.key; issue nameless root 2000 basicConstraints=CA:FALSE
cp p256.key brief.key; issue brief root 10 "$name"
# Another authority of the same name: only the signature tells them apart.
cp other.key false.key; openssl req -x509 -key false.key -days 3650 -subj /CN=middle -out false.pem
openssl ec -in p256.key -out sec1.key 2>/dev/null
openssl rsa -in rsa2048.key -traditional -out pkcs1.key 2>/dev/null
openssl pkcs8 -topk8 -in p256.key -passout pass:secret -out encrypted.key
"#;

fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("sh").args(["-c", SCRIPT]).current_dir(&folder).output().unwrap();
        assert!(output.status.success(), "{}", str::from_utf8(&output.stderr).unwrap());
        folder
    });
    folder.path()
}

/// The files' contents, one after the other.
fn files(names: &str) -> Vec<u8> {
    names.split_whitespace().flat_map(|name| fs::read(folder().join(name)).unwrap()).collect()
}

fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

#[track_caller]
fn check(chain: &str, key: &str, expected: Result<&[Warning], (Which, Fault)>) {
    let seen = read(&files(chain), &files(key), now());
    let seen = seen.map(|(identity, warnings)| {
        let Identity::Image { chain: read, .. } = identity else { panic!("{identity:?}") };
        assert_eq!(read.len(), chain.split_whitespace().count());
        warnings
    });
    assert_eq!(seen, expected.map(<[Warning]>::to_vec));
}

#[track_caller]
fn check_good(chain: &str, key: &str) {
    check(chain, key, Ok(&[Warning::KeyInImage]));
}

#[track_caller]
fn check_chain(chain: &str, fault: Fault) {
    check(chain, "p256.key", Err((Which::Certificates, fault)));
}

#[track_caller]
fn check_key(key: &str, fault: Fault) {
    check("p256.pem", key, Err((Which::Key, fault)));
}

#[test]
fn takes_every_kind_of_key_that_the_proxy_can_use() {
    check_good("p256.pem", "p256.key");
    check_good("p256.pem middle.pem", "p256.key");
    check_good("p256.pem middle.pem root.pem", "p256.key");
    check_good("p384.pem", "p384.key");
    check_good("ed25519.pem root.pem", "ed25519.key");
    check_good("rsa2048.pem root.pem", "rsa2048.key");
}

#[test]
fn refuses_kinds_of_key_that_it_cannot_use() {
    let unsupported = |found: &str| Fault::Unsupported { found: found.to_owned() };
    check_chain("rsa1024.pem", unsupported("an RSA key of 1024 bits"));
    check_chain("p521.pem", unsupported("a key on curve 1.3.132.0.35"));
    check_chain("koblitz.pem", unsupported("a key on curve 1.3.132.0.10"));
    check_chain("ed448.pem", unsupported("a key of algorithm 1.3.101.113"));
}

#[test]
fn refuses_a_chain_that_is_out_of_order_or_broken() {
    check_chain("p256.pem root.pem", Fault::Chain { number: 1 });
    check_chain("p256.pem root.pem middle.pem", Fault::Chain { number: 1 });
    check_chain("p256.pem middle.pem other.pem", Fault::Chain { number: 2 });
    check_chain("middle.pem p256.pem", Fault::Chain { number: 1 });
    check_chain("p256.pem false.pem", Fault::Chain { number: 1 });
    check_chain("p256.key", Fault::NoCertificate);
}

#[test]
fn refuses_what_has_expired_and_warns_of_what_soon_will() {
    let later = now() + 2001 * 86_400;
    let (which, fault) = read(&files("p256.pem"), &files("p256.key"), later).unwrap_err();
    assert_eq!(which, Which::Certificates);
    assert!(matches!(fault, Fault::Expired { number: 1, unix_s } if unix_s < later), "{fault:?}");
    let (_, warnings) = read(&files("brief.pem"), &files("p256.key"), now()).unwrap();
    // Whether the tenth day is a whole one depends on how long openssl took.
    assert!(
        matches!(warnings[1], Warning::ExpiresSoon { number: 1, days: 9..=10 }),
        "{warnings:?}"
    );
    check("nameless.pem", "p256.key", Ok(&[Warning::KeyInImage, Warning::NoName]));
    let (_, warnings) = read(&files("p256.pem"), &files("p256.key"), 1_000_000_000).unwrap();
    assert!(matches!(warnings[1], Warning::NotYetValid { number: 1, .. }), "{warnings:?}");
}

#[test]
fn refuses_keys_that_do_not_belong_or_cannot_be_read() {
    check_key("other.key", Fault::KeyMismatch);
    check_key("p384.key", Fault::KeyMismatch);
    check_key("rsa2048.key", Fault::KeyMismatch);
    check_key("p521.key", Fault::KeyUnusable);
    check_key("sec1.key", Fault::KeyFormat);
    check_key("pkcs1.key", Fault::KeyFormat);
    check_key("encrypted.key", Fault::KeyEncrypted);
    check_key("p256.key other.key", Fault::Keys(2));
    check_key("p256.pem", Fault::NoKey);
}

#[track_caller]
fn check_issuer(files_named: &str, expected: Result<&[Warning], Fault>) {
    let seen = read_issuer(&files(files_named), now()).map(|(_, warnings)| warnings);
    assert_eq!(seen, expected.map(<[Warning]>::to_vec));
}

#[test]
fn an_issuer_is_one_certificate_of_an_authority() {
    check_issuer("root.pem", Ok(&[]));
    check_issuer("middle.pem", Ok(&[]));
    check_issuer("p256.pem", Err(Fault::NotAuthority));
    check_issuer("nameless.pem", Err(Fault::NotAuthority));
    check_issuer("middle.pem root.pem", Err(Fault::Certificates(2)));
    check_issuer("p256.key", Err(Fault::NoCertificate));
    let later = now() + 3001 * 86_400;
    let expired = read_issuer(&files("middle.pem"), later);
    assert!(matches!(expired, Err(Fault::Expired { number: 1, .. })), "{expired:?}");
}

#[test]
fn damaged_files_are_refused_without_a_panic() {
    let (chain, key) = (files("p256.pem middle.pem"), files("p256.key"));
    let mut refused = 0;
    for at in (0..chain.len()).step_by(3) {
        let mut damaged = chain.clone();
        damaged[at] ^= 4;
        refused += usize::from(read(&damaged, &key, now()).is_err());
    }
    for at in 0..key.len() {
        let mut damaged = key.clone();
        damaged[at] ^= 4;
        refused += usize::from(read(&chain, &damaged, now()).is_err());
        refused += usize::from(read(&chain, &key[..at], now()).is_err());
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn every_fault_has_words_and_a_remedy() {
    for fault in [Fault::Pem, Fault::NoKey, Fault::KeyFormat, Fault::Malformed { number: 1 }] {
        let problem = super::Problem::Identity(fault);
        assert!(problem.to_string().len() > 20);
    }
}
