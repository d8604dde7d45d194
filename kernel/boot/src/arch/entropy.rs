//! Randomness: RDRAND, checked, mixed with timing. Without it there is no machine.

use core::arch::asm;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::refusal::Refusal;

/// How many 64-bit draws go into the pool. NIST SP 800-90B wants more input than output; RDRAND
/// may be reseeded as rarely as every 511 draws, so we count each as half of what it claims.
const DRAWS: usize = 32;

/// How often the CPU may say "not now" before we believe it has no entropy (Intel DRNG guide: 10).
const RETRIES: usize = 10;

/// What boot drew: one secret for the service, one number for itself.
pub(crate) struct Entropy {
    /// The seed of the service's generator.
    pub(crate) seed: Zeroizing<[u64; 4]>,
    /// Twenty-eight bits for the service's base.
    pub(crate) placement: u32,
}

/// Draws and checks.
pub(crate) fn draw() -> Result<Entropy, Refusal> {
    let block = fill_block()?;
    // Two outputs from one pool: hash it again under two labels.
    let seed = expand(b"seed", &block);
    let placement = expand(b"base", &block);
    let [p0, p1, p2, p3, ..] = *placement;
    let mut words = Zeroizing::new([0; 4]);
    for (word, bytes) in words.iter_mut().zip(seed.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Ok(Entropy { seed: words, placement: u32::from_le_bytes([p0, p1, p2, p3]) & 0x0fff_ffff })
}

/// A password that nobody will know, from a pool of its own.
pub(crate) fn draw_password() -> Result<Zeroizing<[u8; 32]>, Refusal> {
    let block = fill_block()?;
    Ok(expand(b"password", &block))
}

fn fill_block() -> Result<Zeroizing<[u8; 32]>, Refusal> {
    let mut pool = Sha256::new();
    let mut previous = None;
    for _ in 0..DRAWS {
        let value = Zeroizing::new(rdrand().ok_or(Refusal::NoEntropy("RDRAND gives no value"))?);
        // A stuck generator is the failure that was seen in the field (AMD, 2019: all ones).
        if previous.as_ref() == Some(&value) || *value == 0 || *value == u64::MAX {
            return Err(Refusal::NoEntropy("RDRAND repeats itself"));
        }
        pool.update(value.to_le_bytes());
        pool.update(super::tsc().to_le_bytes());
        previous = Some(value);
    }
    Ok(Zeroizing::new(pool.finalize().into()))
}

fn expand(label: &[u8], block: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(Sha256::new().chain_update(label).chain_update(block).finalize().into())
}

/// One draw, or `None` when the CPU cleared carry each time.
fn rdrand() -> Option<u64> {
    (0..RETRIES).find_map(|_| {
        let value: u64;
        let carry: u8;
        // SAFETY: CPUID was asked for RDRAND (`cpu::require`); it writes two registers and flags.
        unsafe {
            asm!("rdrand {value}", "setc {carry}", value = out(reg) value, carry = out(reg_byte) carry,
                 options(nomem, nostack));
        }
        (carry == 1).then_some(value)
    })
}
