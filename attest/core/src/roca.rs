//! RSA keys whose primes were made by a formula, so that whoever knows the formula can factor them.
//!
//! The library in TPMs and cards of one maker chose each prime as `k * M + 65537^a mod M`, where M is
//! the product of the first primes (Nemec et al., "The Return of Coppersmith's Attack", CCS 2017;
//! CVE-2017-15361). A product of two such primes is a power of 65537 modulo every one of the small
//! primes. Of other moduli fewer than one in a hundred million is.

/// The odd small primes that divide M for every size of key from 512 bits on.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// What the powers are of.
const GENERATOR: u32 = 65_537;

/// Whether a modulus, big-endian, has the shape of such a key.
pub fn is_shaped(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|prime| is_power(remainder(modulus, *prime), *prime))
}

fn remainder(modulus: &[u8], prime: u32) -> u32 {
    modulus.iter().fold(0, |sum, byte| (sum << 8 | u32::from(*byte)) % prime)
}

/// Whether a number is a power of the generator modulo a prime.
fn is_power(number: u32, prime: u32) -> bool {
    let mut power = 1;
    (0..prime).any(|_| {
        power = power * (GENERATOR % prime) % prime;
        power == number
    })
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    /// A key that the finders of the flaw publish to test detectors with.
    fn found() -> Vec<u8> {
        let text = include_str!("../../../tests/vectors/roca/mod03.txt").trim();
        crate::policy::Hex::parse(text.strip_prefix("0x").unwrap()).unwrap().0
    }

    #[test]
    fn a_key_that_such_a_library_made_is_known() {
        assert_eq!(found().len(), 256);
        assert!(is_shaped(&found()));
    }

    #[test]
    fn keys_of_another_shape_are_not_taken_for_one() {
        for bit in 0..8 {
            let mut modulus = found();
            modulus[200] ^= 1 << bit;
            assert!(!is_shaped(&modulus), "bit {bit}");
        }
        // Zero is no power of anything, and that is what a multiple of a small prime leaves.
        assert!(!is_shaped(&[3]));
        assert!(!is_shaped(&[]));
        assert!(!is_shaped(&vec![0xff; 256]));
    }

    #[test]
    fn few_moduli_have_that_shape_by_accident() {
        let share = |prime: u32| {
            let powers = (1..prime).filter(|number| is_power(*number, prime)).count();
            powers as f64 / f64::from(prime - 1)
        };
        let by_accident: f64 = PRIMES.iter().map(|prime| share(*prime)).product();
        assert!(by_accident < 1e-8, "{by_accident}");
    }
}
