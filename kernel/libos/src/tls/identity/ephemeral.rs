//! A key that lives as long as the machine runs, and the certificate that goes with it.
//!
//! Nobody has signed for it. A client that believes it has seen evidence that names this key, or
//! has been told its fingerprint.

use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use zeroize::Zeroizing;

use super::Credentials;
use super::der::{self, bits, identifier, sequence, value};

/// Object identifiers, encoded (RFC 5480, RFC 5758 and RFC 5280).
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

/// What stands where an authority would say who it is.
const ISSUER: &[u8] = b"ephemeral key";

/// The certificate is as old as nobody asks and never expires: the key ends with the machine
/// (RFC 5280 section 4.1.2.5).
const NOT_BEFORE: &[u8] = b"700101000000Z";
const NOT_AFTER: &[u8] = b"99991231235959Z";

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EphemeralError;

impl fmt::Display for EphemeralError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no key could be made")
    }
}

impl core::error::Error for EphemeralError {}

/// Makes a P-256 key and a certificate by itself for a server of these names, each a host name or
/// an IPv4 address.
///
/// # Errors
///
/// [`EphemeralError`] if there is no randomness.
pub fn make(names: &[&str]) -> Result<Credentials, EphemeralError> {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| EphemeralError)?;
    let key = Zeroizing::new(document.as_ref().to_vec());
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, &key, &random).map_err(|_| EphemeralError)?;
    let mut serial = [0; 16];
    random.fill(&mut serial).map_err(|_| EphemeralError)?;
    // Positive, and of its full length (RFC 5280 section 4.1.2.2).
    serial[0] = serial[0] & 0x3f | 0x40;

    let body = body(&serial, pair.public_key().as_ref(), names);
    let signature = pair.sign(&random, &body).map_err(|_| EphemeralError)?;
    let algorithm = sequence(&[&identifier(ECDSA_SHA256)]);
    let certificate = sequence(&[&body, &algorithm, &bits(signature.as_ref())]);
    Ok(Credentials { chain: [certificate].to_vec(), key })
}

/// What is signed (RFC 5280 section 4.1.1.1).
fn body(serial: &[u8], point: &[u8], names: &[&str]) -> Vec<u8> {
    let version = value(0xa0, &[&value(der::INTEGER, &[&[2]])]);
    let serial = value(der::INTEGER, &[serial]);
    let algorithm = sequence(&[&identifier(ECDSA_SHA256)]);
    let common_name = sequence(&[&identifier(COMMON_NAME), &value(der::UTF8_STRING, &[ISSUER])]);
    let name = sequence(&[&value(der::SET, &[&common_name])]);
    let validity = sequence(&[
        &value(der::UTC_TIME, &[NOT_BEFORE]),
        &value(der::GENERALIZED_TIME, &[NOT_AFTER]),
    ]);
    let key_kind = sequence(&[&identifier(EC_PUBLIC_KEY), &identifier(P256)]);
    let key = sequence(&[&key_kind, &bits(point)]);
    let extensions = sequence(&[
        &extension(BASIC_CONSTRAINTS, true, &sequence(&[])),
        // One bit: digitalSignature.
        &extension(KEY_USAGE, true, &value(der::BIT_STRING, &[&[7, 0x80]])),
        &extension(EXTENDED_KEY_USAGE, false, &sequence(&[&identifier(SERVER_AUTH)])),
        &extension(SUBJECT_NAMES, false, &subject_names(names)),
    ]);
    let extensions = value(0xa3, &[&extensions]);
    sequence(&[&version, &serial, &algorithm, &name, &validity, &name, &key, &extensions])
}

fn extension(kind: &[u8], is_critical: bool, content: &[u8]) -> Vec<u8> {
    let critical = value(der::BOOLEAN, &[&[0xff]]);
    let critical = if is_critical { &critical[..] } else { &[] };
    sequence(&[&identifier(kind), critical, &value(der::OCTET_STRING, &[content])])
}

fn subject_names(names: &[&str]) -> Vec<u8> {
    let names: Vec<Vec<u8>> = names
        .iter()
        .map(|name| match name.parse::<Ipv4Addr>() {
            Ok(address) => value(0x87, &[&address.octets()]),
            Err(_) => value(0x82, &[name.as_bytes()]),
        })
        .collect();
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    sequence(&names)
}
