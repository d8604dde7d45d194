//! Evidence of a sealed machine: how it is made, and how it is judged.
//!
//! Roles and words are those of RFC 9334: the machine is the attester, whoever runs `attest` is the
//! verifier, and reference values come from the image. The half that makes evidence runs in the
//! service; the half that judges it (feature `verify`) runs on the verifier's host. Neither reads a
//! file or opens a connection. Whatever comes from the other side is hostile: every parser here is
//! strict, bounded, and refuses what it does not understand whole.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod binding;
pub mod claims;
pub mod evidence;
pub mod tpm_answer;

#[cfg(feature = "verify")]
pub mod event_log;
#[cfg(feature = "verify")]
pub mod hash;
#[cfg(feature = "verify")]
pub mod measured;
#[cfg(feature = "verify")]
pub mod pcrs;
#[cfg(feature = "verify")]
pub mod policy;
#[cfg(feature = "verify")]
pub mod roca;
#[cfg(feature = "verify")]
pub mod seal_record;
#[cfg(feature = "verify")]
pub mod tpms;
#[cfg(feature = "verify")]
pub mod verdict;
#[cfg(feature = "verify")]
pub mod verify;

mod cbor;
mod cursor;

/// A SHA-256 digest.
pub type Sha256 = [u8; 32];

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Sha256 {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut sha256 = [0; 32];
    // A SHA-256 digest has 32 bytes, so nothing is cut off.
    for (to, from) in sha256.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    sha256
}
