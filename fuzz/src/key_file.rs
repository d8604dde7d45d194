//! Sealed key files: any bytes as a file, and any content in one that opens.

use libos::tls::identity::{Credentials, open};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::input::Input;

const AUTHORITY: &[u8] = include_bytes!("../../kernel/libos/src/tls/testdata/sealed/ca.der");
const MIDDLE: &[u8] = include_bytes!("../../kernel/libos/src/tls/testdata/sealed/middle.der");
const LEAF: &[u8] = include_bytes!("../../kernel/libos/src/tls/testdata/sealed/leaf.der");
const DEEP: &[u8] = include_bytes!("../../kernel/libos/src/tls/testdata/sealed/deep.der");
const KEY: &[u8] = include_bytes!("../../kernel/libos/src/tls/testdata/sealed/leaf.pkcs8.der");

const SECRET: [u8; 32] = [0x5e; 32];
const NAMES: [&str; 2] = ["sealed.test", "192.0.2.1"];
const NOW: u64 = 1_800_000_000;

/// A file that is nothing but the data; or one that opens, whose content is the data, or a good one
/// in which the data changes bytes.
pub fn payload(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.u8();
    if mode.is_multiple_of(4) {
        assert!(open(input.rest(), &SECRET).is_err(), "nobody has sealed it");
        return;
    }
    let mut content = match mode % 4 {
        1 => input.rest().to_vec(),
        2 => encode(&[LEAF], KEY),
        _ => encode(&[DEEP, MIDDLE], KEY),
    };
    while mode % 4 > 1 && !input.is_empty() {
        let at = usize::from(input.u16()) % content.len();
        content[at] ^= input.u8();
    }
    let Ok(opened) = open(&seal(&content), &SECRET) else { return };
    if let Ok(credentials) = opened.check(AUTHORITY, &NAMES, NOW) {
        check(&credentials, &content);
    }
}

/// What is believed is what the authority issued, and there is one way to write it.
fn check(credentials: &Credentials, content: &[u8]) {
    let chain = credentials.chain();
    assert!([LEAF, DEEP].contains(&chain[0]), "no other certificate was issued");
    assert_eq!(encode(&chain, credentials.key()), content);
}

/// A head of CBOR in its shortest form.
fn head(major: u8, number: usize) -> Vec<u8> {
    match number {
        0..24 => vec![major << 5 | number as u8],
        24..0x100 => vec![major << 5 | 24, number as u8],
        _ => [&[major << 5 | 25][..], &(number as u16).to_be_bytes()].concat(),
    }
}

fn bytes(content: &[u8]) -> Vec<u8> {
    [&head(2, content.len())[..], content].concat()
}

fn encode(chain: &[&[u8]], key: &[u8]) -> Vec<u8> {
    let certificates: Vec<u8> = chain.iter().flat_map(|der| bytes(der)).collect();
    let parts: [&[u8]; 7] =
        [b"\xa2\x63", b"key", &bytes(key), b"\x65", b"chain", &head(4, chain.len()), &certificates];
    parts.concat()
}

fn seal(content: &[u8]) -> Vec<u8> {
    let mut file = b"BULLAKY\x01\0\0\0\x04".to_vec();
    file.extend_from_slice(&(content.len() as u32 + 28).to_be_bytes());
    file.extend_from_slice(b"TPM2");
    let key = UnboundKey::new(&AES_256_GCM, &SECRET).expect("a key of the right size");
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let mut sealed = content.to_vec();
    LessSafeKey::new(key)
        .seal_in_place_append_tag(nonce, Aad::from(&file[..]), &mut sealed)
        .expect("a content that is not long");
    [&file[..], &[0; 12], &sealed].concat()
}

/// A content that opens, for the seeds.
pub(crate) fn good_content() -> Vec<u8> {
    encode(&[LEAF], KEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_gets_as_far_as_credentials() {
        for content in [encode(&[LEAF], KEY), encode(&[DEEP, MIDDLE], KEY)] {
            let credentials = open(&seal(&content), &SECRET).unwrap();
            check(&credentials.check(AUTHORITY, &NAMES, NOW).unwrap(), &content);
        }
    }
}
