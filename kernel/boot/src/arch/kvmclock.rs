//! KVM's clock: asked once, then told to write nowhere any more.

use core::sync::atomic::{AtomicU32, Ordering};

use firmware::kvmclock::{SYSTEM_TIME_BYTES, WALL_CLOCK_BYTES, unix_seconds};

use super::{controls, cpu, tsc};

/// KVM's name, and the features that its leaf 0x40000001 lists
/// (Linux, `Documentation/virt/kvm/x86/cpuid.rst`).
const NAME: &[u8; 12] = b"KVMKVMKVM\0\0\0";
const CLOCKSOURCE2: u32 = 1 << 3;

/// How often we look again while the host writes.
const TRIES: u32 = 1_000;

/// What the host writes to: no structure may lie on two pages.
#[repr(align(64))]
struct Shared<const N: usize>([AtomicU32; N]);

static WALL_CLOCK: Shared<{ WALL_CLOCK_BYTES / 4 }> = Shared([const { AtomicU32::new(0) }; _]);
static SYSTEM_TIME: Shared<{ SYSTEM_TIME_BYTES / 4 }> = Shared([const { AtomicU32::new(0) }; _]);

impl<const N: usize> Shared<N> {
    /// Boot's memory is mapped one to one.
    fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    fn read<const BYTES: usize>(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        for (to, word) in bytes.chunks_exact_mut(4).zip(&self.0) {
            to.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        bytes
    }
}

/// The wall clock in seconds since 1970-01-01 UTC, where the host is a KVM that offers it.
pub(crate) fn read() -> Option<u64> {
    let is_offered = cpu::hypervisor().as_ref() == Some(NAME)
        && cpu::leaf(0x4000_0001, 0).first().is_some_and(|features| features & CLOCKSOURCE2 != 0);
    if !is_offered {
        return None;
    }
    controls::share_kvm_clock(WALL_CLOCK.address(), SYSTEM_TIME.address());
    let now = (0..TRIES).find_map(|_| {
        let before = SYSTEM_TIME.read();
        let now = unix_seconds(&WALL_CLOCK.read(), &before, tsc());
        // What was read while the host wrote it is read again.
        now.filter(|_| SYSTEM_TIME.read::<SYSTEM_TIME_BYTES>() == before)
    });
    controls::unshare_kvm_clock();
    now
}
