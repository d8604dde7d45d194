//! The service's only source of randomness: ChaCha20, seeded by boot, refreshed from the CPU.
//!
//! ring, rustls and the network draw from here. Each refresh mixes new RDRAND words with the
//! generator's own output, so that neither alone has to be trusted; what was drawn before a refresh
//! cannot be computed from the state after it.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use spin::Mutex;
use zeroize::{Zeroize, Zeroizing};

use crate::arch;
use abi::gate::Stop;

/// How many bytes are drawn between two refreshes.
const REFRESH_AFTER_BYTES: usize = 1 << 20;

/// How often the CPU may have no value before we stop (Intel DRNG guide: 10).
const RETRIES: usize = 10;

struct Generator {
    rng: ChaCha20Rng,
    drawn: usize,
}

static GENERATOR: Mutex<Option<Generator>> = Mutex::new(None);

/// Starts the generator and erases the seed.
pub(crate) fn seed(words: &mut [u64; 4]) {
    let mut seed = Zeroizing::new([0; 32]);
    for (to, word) in seed.chunks_exact_mut(8).zip(words.iter()) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    words.zeroize();
    *GENERATOR.lock() = Some(Generator { rng: ChaCha20Rng::from_seed(*seed), drawn: 0 });
}

/// Refreshes the generator with something that must not be shared with a clone of this machine.
pub(crate) fn reseed(unique: &[u64; 2]) {
    if let Some(generator) = GENERATOR.lock().as_mut() {
        generator.refresh(unique);
    }
}

/// Fills a buffer with random bytes.
pub fn fill(buffer: &mut [u8]) {
    let mut generator = GENERATOR.lock();
    // Boot's seed comes with the handoff; without one there is no service.
    let Some(generator) = generator.as_mut() else { arch::stop(Stop::NoEntropy) };
    generator.rng.fill_bytes(buffer);
    generator.drawn = generator.drawn.saturating_add(buffer.len());
    if generator.drawn >= REFRESH_AFTER_BYTES {
        generator.refresh(&[0; 2]);
    }
}

impl Generator {
    fn refresh(&mut self, unique: &[u64; 2]) {
        let mut seed = Zeroizing::new([0; 32]);
        self.rng.fill_bytes(&mut *seed);
        for (index, word) in seed.chunks_exact_mut(8).enumerate() {
            let draw = (0..RETRIES).find_map(|_| arch::rdrand());
            let Some(draw) = draw else { arch::stop(Stop::NoEntropy) };
            let mixed = draw ^ unique.get(index).copied().unwrap_or(0);
            for (byte, fresh) in word.iter_mut().zip(mixed.to_le_bytes()) {
                *byte ^= fresh;
            }
        }
        self.rng = ChaCha20Rng::from_seed(*seed);
        self.drawn = 0;
    }
}

/// ring's door to the generator.
fn custom(buffer: &mut [u8]) -> Result<(), getrandom::Error> {
    fill(buffer);
    Ok(())
}

getrandom::register_custom_getrandom!(custom);
