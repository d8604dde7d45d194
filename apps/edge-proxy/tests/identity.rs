//! Where the key comes from: the configured way, or none at all.

use std::sync::Arc;

use attest_core::claims::{Claims, KeyOrigin};
use edge_config::{Certificate, Identity, Name, PrivateKey};
use edge_proxy::identity::{IdentityError, SealedKey, claims, settings};
use libos::tls::identity::{Distrust, KeyFileError};
use libos::tls::{SettingsError, WallClock};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("../../../kernel/libos/src/tls/testdata/sealed/", $name))
    };
}

const AUTHORITY: &[u8] = data!("ca.der");
const LEAF: &[u8] = data!("leaf.der");
const FORGED: &[u8] = data!("forged.der");
const KEY: &[u8] = data!("leaf.pkcs8.der");
const OTHER_KEY: &[u8] = data!("other.pkcs8.der");
const SECRET: [u8; 32] = [0x5e; 32];

#[derive(Debug)]
struct Clock(Option<u64>);

impl WallClock for Clock {
    fn unix_seconds(&self) -> Option<u64> {
        self.0
    }
}

const NOW: Clock = Clock(Some(1_800_000_000));

fn names() -> Vec<Name> {
    vec![Name::new("sealed.test".to_owned()), Name::new("192.0.2.1".to_owned())]
}

fn sealed_identity() -> Identity {
    Identity::Sealed { issuer: Certificate::new(AUTHORITY.to_vec()), names: names() }
}

/// A key file with one certificate, both shorter than 64 KiB and longer than 255 and 127 bytes.
fn file(certificate: &[u8], key: &[u8]) -> Vec<u8> {
    let certificate_length = (certificate.len() as u16).to_be_bytes();
    let content = [
        &[0xa2, 0x63][..],
        b"key",
        &[0x58, key.len() as u8],
        key,
        &[0x65],
        b"chain",
        &[0x81, 0x59],
        &certificate_length,
        certificate,
    ];
    let mut sealed = content.concat();
    let about = [&b"BULLAKY\x01\0\0\0\0"[..], &(sealed.len() as u32 + 28).to_be_bytes()].concat();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &SECRET).unwrap());
    let nonce = Nonce::assume_unique_for_key([3; 12]);
    key.seal_in_place_append_tag(nonce, Aad::from(&about), &mut sealed).unwrap();
    [&about[..], &[3; 12], &sealed].concat()
}

#[track_caller]
fn check(sealed: Option<SealedKey<'_>>, clock: Clock, expected: IdentityError) {
    let seen = settings(&sealed_identity(), sealed, Arc::new(clock));
    assert_eq!(seen.err(), Some(expected));
    let text = expected.to_string();
    assert!(text.starts_with("sealed key: ") || text.starts_with("certificate: "), "{text}");
}

#[test]
fn a_sealed_key_that_holds_is_taken() {
    let file = file(LEAF, KEY);
    let sealed = Some(SealedKey { file: &file, secret: Some(&SECRET) });
    let settings = settings(&sealed_identity(), sealed, Arc::new(NOW)).unwrap();
    let has_key = LEAF.windows(settings.public_key().len()).any(|w| w == settings.public_key());
    assert!(has_key, "the public key is the certificate's");
    assert!(settings.accept().is_ok());
}

#[test]
fn without_a_sealed_key_that_holds_there_is_no_service() {
    let (good, forged) = (file(LEAF, KEY), file(FORGED, KEY));
    let (other_key, no_key) = (file(LEAF, OTHER_KEY), file(LEAF, &[0x30; 100]));
    let sealed = |file, secret| Some(SealedKey { file, secret });
    check(None, NOW, IdentityError::NoTpm);
    check(sealed(&[], Some(&SECRET)), NOW, IdentityError::NoFile);
    check(sealed(&good, None), NOW, IdentityError::NoSecret);
    check(sealed(&good, Some(&SECRET)), Clock(None), IdentityError::NoClock);
    let other = IdentityError::File(KeyFileError::Sealed);
    check(sealed(&good, Some(&[0; 32])), NOW, other);
    check(sealed(&good[..40], Some(&SECRET)), NOW, IdentityError::File(KeyFileError::Lengths));
    let issuer = IdentityError::Distrust(Distrust::Issuer);
    check(sealed(&forged, Some(&SECRET)), NOW, issuer);
    let late = Clock(Some(5_000_000_000));
    check(sealed(&good, Some(&SECRET)), late, IdentityError::Distrust(Distrust::Expired));
    let mismatch = IdentityError::Settings(SettingsError::KeyMismatch);
    check(sealed(&other_key, Some(&SECRET)), NOW, mismatch);
    let unusable = IdentityError::Settings(SettingsError::Key);
    check(sealed(&no_key, Some(&SECRET)), NOW, unusable);
}

#[test]
fn an_ephemeral_key_is_another_one_at_each_start() {
    let identity = Identity::Ephemeral { names: names() };
    let start = || settings(&identity, None, Arc::new(Clock(None))).unwrap();
    let (first, second) = (start(), start());
    assert_ne!(first.public_key(), second.public_key());
    assert_eq!(first.public_key().len(), second.public_key().len());
}

#[test]
fn a_key_in_the_image_does_without_everything_else() {
    let identity = |key: &[u8]| Identity::Image {
        chain: vec![Certificate::new(LEAF.to_vec())],
        key: PrivateKey::new(key.to_vec()),
    };
    assert!(settings(&identity(KEY), None, Arc::new(Clock(None))).is_ok());
    // A sealed key beside it is not a second way.
    let file = file(LEAF, KEY);
    let sealed = Some(SealedKey { file: &file, secret: Some(&SECRET) });
    let seen = settings(&identity(OTHER_KEY), sealed, Arc::new(NOW)).err();
    assert_eq!(seen, Some(IdentityError::Settings(SettingsError::KeyMismatch)));
}

#[test]
fn the_claims_say_where_the_key_comes_from() {
    let image = Identity::Image { chain: vec![], key: PrivateKey::new(vec![]) };
    let origins = [
        (image, KeyOrigin::Image),
        (Identity::Ephemeral { names: names() }, KeyOrigin::Ephemeral),
        (sealed_identity(), KeyOrigin::Sealed),
    ];
    for (identity, key_origin) in origins {
        let claims = Claims::decode(&claims(&identity)).unwrap();
        assert_eq!((claims.app.as_str(), claims.key_origin), ("edge-proxy", key_origin));
        assert_eq!(claims.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(identity.key_origin().word(), key_origin.as_str());
    }
}
