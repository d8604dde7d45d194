//! The two key derivation functions (Part 1, section 11.4.10).

use ring::{digest, hmac};
use zeroize::{Zeroize, Zeroizing};

use super::public::Hash;

/// How many blocks a derivation may take: no key here is longer than two.
const MAX_BLOCKS: u32 = 8;

/// KDFa: HMAC in counter mode. `label` ends in its NUL byte.
pub(crate) fn kdfa(
    hash: Hash,
    key: &[u8],
    label: &[u8],
    context: &[u8],
    bits: u32,
) -> Zeroizing<Vec<u8>> {
    let key = hmac::Key::new(hash.hmac(), key);
    blocks(bits, |counter, output| {
        let mut mac = hmac::Context::with_key(&key);
        mac.update(&counter.to_be_bytes());
        mac.update(label);
        mac.update(context);
        mac.update(&bits.to_be_bytes());
        output.extend_from_slice(mac.sign().as_ref());
    })
}

/// KDFe: a hash over a shared point's x coordinate and both public x coordinates.
pub(crate) fn kdfe(
    hash: Hash,
    z: &[u8],
    label: &[u8],
    party_u: &[u8],
    party_v: &[u8],
    bits: u32,
) -> Zeroizing<Vec<u8>> {
    blocks(bits, |counter, output| {
        let mut context = digest::Context::new(hash.digest());
        context.update(&counter.to_be_bytes());
        context.update(z);
        context.update(label);
        context.update(party_u);
        context.update(party_v);
        output.extend_from_slice(context.finish().as_ref());
    })
}

/// As many blocks as `bits`, a multiple of eight, take.
fn blocks(bits: u32, mut block: impl FnMut(u32, &mut Vec<u8>)) -> Zeroizing<Vec<u8>> {
    let wanted = usize::try_from(bits.div_ceil(8)).unwrap_or(0);
    // Room for all of it, so that no copy is left behind by a vector that grew.
    let mut output = Zeroizing::new(Vec::with_capacity(wanted.saturating_add(64)));
    for counter in 1..=MAX_BLOCKS {
        if output.len() >= wanted {
            break;
        }
        block(counter, &mut output);
    }
    if let Some(rest) = output.get_mut(wanted..) {
        rest.zeroize();
    }
    output.truncate(wanted);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_as_long_as_it_was_asked_for() {
        for (hash, bits) in [(Hash::Sha256, 128), (Hash::Sha256, 256), (Hash::Sha384, 512)] {
            let bytes = usize::try_from(bits / 8).unwrap();
            assert_eq!(kdfa(hash, b"key", b"STORAGE\0", b"name", bits).len(), bytes);
            assert_eq!(kdfe(hash, b"z", b"DUPLICATE\0", b"u", b"v", bits).len(), bytes);
        }
    }

    #[test]
    fn the_size_is_part_of_what_kdfa_derives_and_not_of_kdfe() {
        let short = kdfa(Hash::Sha256, b"key", b"STORAGE\0", b"", 128);
        let long = kdfa(Hash::Sha256, b"key", b"STORAGE\0", b"", 256);
        assert_ne!(short[..], long[..16]);
        let short = kdfe(Hash::Sha256, b"z", b"STORAGE\0", b"", b"", 128);
        let long = kdfe(Hash::Sha256, b"z", b"STORAGE\0", b"", b"", 256);
        assert_eq!(short[..], long[..16]);
    }
}
