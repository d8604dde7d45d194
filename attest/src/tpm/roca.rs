//! RSA keys that a broken library made (ROCA, CVE-2017-15361): chips of one maker, among them TPMs.
//!
//! Their primes are `k * M + (65537^a mod M)` for a product `M` of small primes, so the modulus is a
//! power of 65537 to each of those primes. Of other moduli one in some hundred million is. Source:
//! Nemec, Sys, Svenda, Klinec, Matyas, "The Return of Coppersmith's Attack", CCS 2017, section 2.

/// The odd ones among the first 39 primes: all that divide the smallest `M`.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// What generates the powers.
const GENERATOR: u32 = 65_537;

/// Whether a modulus, highest byte first, has the shape.
pub(crate) fn is_shaped(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|prime| is_power(rest(modulus, *prime), *prime))
}

/// What is left of a number divided by a prime below 256.
fn rest(number: &[u8], prime: u32) -> u32 {
    number.iter().fold(0, |rest, byte| modulo((rest << 8) | u32::from(*byte), prime))
}

fn modulo(value: u32, prime: u32) -> u32 {
    value.checked_rem(prime).unwrap_or(0)
}

/// Whether a residue is a power of the generator.
fn is_power(residue: u32, prime: u32) -> bool {
    let generator = modulo(GENERATOR, prime);
    let mut power = 1;
    // A cyclic group of a prime has fewer members than the prime.
    for _ in 0..prime {
        if power == residue {
            return true;
        }
        power = modulo(power.wrapping_mul(generator), prime);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 65537 to a power: it has the shape for every prime.
    fn power(exponent: usize) -> Vec<u8> {
        let mut number = vec![1_u8];
        for _ in 0..exponent {
            // Times 65537: itself, and itself two bytes higher.
            let mut next = [&number[..], &[0, 0]].concat();
            let mut is_carried = false;
            for (to, byte) in next.iter_mut().rev().zip(number.iter().rev()) {
                let (sum, first) = to.overflowing_add(*byte);
                let (sum, second) = sum.overflowing_add(u8::from(is_carried));
                (*to, is_carried) = (sum, first || second);
            }
            assert!(!is_carried, "the two bytes above take it");
            number = next;
        }
        number
    }

    #[test]
    fn moduli_of_the_broken_library_are_known_by_their_shape() {
        for exponent in [1, 2, 17, 100, 127] {
            assert!(is_shaped(&power(exponent)), "65537^{exponent}");
        }
    }

    #[test]
    fn other_moduli_are_not_accused() {
        // An endorsement key of swtpm's, and numbers without any shape.
        let key = include_bytes!("../../../tests/vectors/ovmf-swtpm/2M-crb-full/ekrsa_pub.bin");
        assert!(!is_shaped(&key[key.len() - 256..]));
        let mut changed = power(127);
        for byte in 0..=255 {
            *changed.last_mut().unwrap() ^= byte | 1;
            assert!(!is_shaped(&changed) || changed == power(127), "{byte}");
        }
        assert!(!is_shaped(&[0; 256]), "nothing is no power");
    }
}
