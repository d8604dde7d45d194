//! What a quote is bound to: the verifier's nonce, the connection, the server's key, the claims.
//!
//! A quote answers at most [`MAX_LEAVES`] verifiers at once. Each has a leaf, which only it can
//! compute: it holds its own nonce and its own connection's exporter. The quote's qualifying data is
//! the hash of all leaves, so a leaf that is among them was there before the quote was made.

use alloc::vec::Vec;

use crate::{Sha256, cbor, sha256};

/// What the protocol calls itself, on the wire (ALPN) and in every leaf.
pub const PROTOCOL: &str = "bulla-attest/1";

/// The first item of what is hashed into the qualifying data.
const BATCH: &str = "bulla-attest/1 batch";

/// How many verifiers one quote answers at most.
pub const MAX_LEAVES: usize = 16;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;

/// The exporter's label (RFC 9266); its context is empty and it has 32 bytes.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// What one verifier's leaf is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Random bytes of the verifier's: the quote is younger than they are.
    pub nonce: [u8; NONCE_BYTES],
    /// `tls-exporter` of the connection (RFC 9266): no other connection has it.
    pub exporter: [u8; 32],
    /// SHA-256 of the server's SubjectPublicKeyInfo, in DER.
    pub spki_sha256: Sha256,
    /// SHA-256 of the claims' bytes.
    pub claims_sha256: Sha256,
}

impl Bound {
    /// The leaf: SHA-256 of the deterministic CBOR of all of it.
    pub fn leaf(&self) -> Sha256 {
        let bytes = cbor::encode(192, |encoder| {
            encoder.array(5)?.str(PROTOCOL)?.bytes(&self.nonce)?.bytes(&self.exporter)?;
            encoder.bytes(&self.spki_sha256)?.bytes(&self.claims_sha256)?;
            Ok(())
        });
        sha256(&bytes)
    }
}

/// Between one and [`MAX_LEAVES`] leaves, ascending, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaves(Vec<Sha256>);

impl Leaves {
    /// Puts leaves in order, or `None` if there are none, too many, or one of them twice.
    pub fn new(mut leaves: Vec<Sha256>) -> Option<Self> {
        leaves.sort_unstable();
        Self::in_order(leaves)
    }

    /// The same, of leaves that have to be in order already.
    fn in_order(leaves: Vec<Sha256>) -> Option<Self> {
        let is_counted = (1..=MAX_LEAVES).contains(&leaves.len());
        let is_ascending = leaves.windows(2).all(|pair| matches!(pair, [low, high] if low < high));
        (is_counted && is_ascending).then_some(Self(leaves))
    }

    /// Leaves one behind the other, as evidence has them; `None` if that is not what the bytes are.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (leaves, rest) = bytes.as_chunks::<32>();
        rest.is_empty().then(|| Self::in_order(leaves.to_vec()))?
    }

    /// One behind the other.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.concat()
    }

    /// Whether a leaf is among them.
    pub fn contains(&self, leaf: &Sha256) -> bool {
        self.0.contains(leaf)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What the quote says it was asked to sign.
    pub fn qualifying_data(&self) -> Sha256 {
        let bytes = cbor::encode(32 + 34 * self.0.len(), |encoder| {
            encoder.array(2)?.str(BATCH)?.array(self.0.len() as u64)?;
            for leaf in &self.0 {
                encoder.bytes(leaf)?;
            }
            Ok(())
        });
        sha256(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    const BOUND: Bound =
        Bound { nonce: [1; 32], exporter: [2; 32], spki_sha256: [3; 32], claims_sha256: [4; 32] };

    #[test]
    fn a_leaf_is_the_hash_of_what_the_protocol_says() {
        // 85 = array of five; 6e = text of 14; 58 20 = 32 bytes (RFC 8949 section 3).
        let mut bytes = vec![0x85, 0x6e];
        bytes.extend_from_slice(b"bulla-attest/1");
        for value in 1..=4 {
            bytes.extend_from_slice(&[0x58, 0x20]);
            bytes.extend_from_slice(&[value; 32]);
        }
        assert_eq!(BOUND.leaf(), sha256(&bytes));
    }

    #[test]
    fn each_part_of_a_leaf_counts() {
        let others = [
            Bound { nonce: [9; 32], ..BOUND },
            Bound { exporter: [9; 32], ..BOUND },
            Bound { spki_sha256: [9; 32], ..BOUND },
            Bound { claims_sha256: [9; 32], ..BOUND },
        ];
        for other in others {
            assert_ne!(other.leaf(), BOUND.leaf(), "{other:?}");
        }
    }

    #[test]
    fn leaves_are_in_order_once_each_and_not_too_many() {
        let leaf = |value: u8| [value; 32];
        let leaves = Leaves::new(vec![leaf(7), leaf(3)]).unwrap();
        assert_eq!(leaves.to_bytes(), [leaf(3), leaf(7)].concat());
        assert_eq!(Leaves::parse(&leaves.to_bytes()), Some(leaves));
        assert_eq!(Leaves::new(vec![]), None);
        assert_eq!(Leaves::new(vec![leaf(1), leaf(1)]), None);
        assert_eq!(Leaves::new((0..17).map(leaf).collect()), None);
        assert!(Leaves::new((0..16).map(leaf).collect()).is_some());
        assert_eq!(Leaves::parse(&[leaf(7), leaf(3)].concat()), None);
        assert_eq!(Leaves::parse(&[0; 33]), None);
        assert_eq!(Leaves::parse(&[]), None);
    }

    #[test]
    fn the_qualifying_data_covers_every_leaf() {
        let some = Leaves::new(vec![[1; 32], [2; 32]]).unwrap().qualifying_data();
        assert_ne!(some, Leaves::new(vec![[1; 32], [3; 32]]).unwrap().qualifying_data());
        assert_ne!(some, Leaves::new(vec![[1; 32]]).unwrap().qualifying_data());
        // 82 = array of two; 74 = text of 20; 81 = array of one.
        let mut bytes = vec![0x82, 0x74];
        bytes.extend_from_slice(b"bulla-attest/1 batch");
        bytes.extend_from_slice(&[0x81, 0x58, 0x20]);
        bytes.extend_from_slice(&[1; 32]);
        assert_eq!(Leaves::new(vec![[1; 32]]).unwrap().qualifying_data(), sha256(&bytes));
    }
}
