//! The service's memory: one heap of a fixed size, and read-only pages that boot mapped.
//!
//! Why this is sound, said once: every address comes from the handoff, which boot wrote after it had
//! laid out and audited the address space. The spans do not overlap, and each is used by one owner.

use abi::Span;
use abi::handoff::Handoff;
use talc::TalcLock;
use talc::source::Manual;
use zeroize::Zeroizing;

use crate::arch::is_known;
use crate::attest::gate;
use crate::entropy;

/// One arena, claimed once. talc: O(1), no thread-local state, counts what it hands out.
#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);

/// How much of the heap is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapUse {
    /// Bytes that are allocated.
    pub in_use_bytes: usize,
    /// Bytes that are free, in pieces.
    pub free_bytes: usize,
    /// How many allocations there are.
    pub allocations: usize,
}

/// Asks the allocator.
pub fn heap_use() -> HeapUse {
    let heap = HEAP.lock();
    let counters = heap.counters();
    HeapUse {
        in_use_bytes: counters.allocated_bytes,
        free_bytes: counters.available_bytes,
        allocations: counters.allocation_count,
    }
}

/// Starts the generator with the seed, takes the sealed secret out, erases both where boot left them,
/// and copies the rest.
///
/// # Safety
///
/// `place` must be readable and writable for a `Handoff`, and nobody else may use it.
pub(crate) unsafe fn take_handoff(
    place: *mut Handoff,
) -> Option<(Handoff, Option<Zeroizing<[u8; 32]>>)> {
    if place.is_null() || !place.is_aligned() {
        return None;
    }
    // SAFETY: the caller's promise; every bit pattern is a valid `Handoff`.
    let place = unsafe { &mut *place };
    if !is_known(place) {
        return None;
    }
    // Before the copy, so that the copy has no secret in it.
    entropy::seed(&mut place.seed);
    let secret = gate::take_secret(&mut place.sealed_secret, &mut place.has_sealed_secret);
    Some((*place, secret))
}

/// Clears what boot used last and gives the heap to the allocator; whether it could be used.
///
/// # Safety
///
/// `heap` must be mapped read-write, unused, and claimed once.
pub(crate) unsafe fn claim_heap(heap: Span, unclean: u64) -> bool {
    let start = heap.start as *mut u8;
    let unclean = unclean.min(heap.length) as usize;
    // SAFETY: the caller's promise; the unclean part lies at the start of the heap.
    unsafe { start.write_bytes(0, unclean) };
    let mut allocator = HEAP.lock();
    // SAFETY: the caller's promise.
    unsafe { allocator.claim(start, heap.length as usize) }.is_some()
}

/// Bytes of a span that boot mapped read-only for as long as the machine lives.
///
/// # Safety
///
/// Nobody may write them.
pub(crate) unsafe fn read_only(span: Span) -> &'static [u8] {
    if span.start == 0 || span.length == 0 {
        return &[];
    }
    // SAFETY: the caller's promise, and the mapping never goes away.
    unsafe { core::slice::from_raw_parts(span.start as *const u8, span.length as usize) }
}

/// The VM generation id, sixteen bytes that the hypervisor changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GenerationId {
    address: u64,
}

impl GenerationId {
    /// The id at an address, or `None` at 0.
    ///
    /// # Safety
    ///
    /// Sixteen bytes there must be mapped for as long as the machine lives.
    pub(crate) unsafe fn new(address: u64) -> Option<Self> {
        (address != 0 && address.is_multiple_of(8)).then_some(Self { address })
    }

    /// Reads it now.
    pub(crate) fn read(&self) -> [u64; 2] {
        [0, 8].map(|offset| {
            let word = (self.address + offset) as *const u64;
            // SAFETY: mapped, by the promise given to `new`; the hypervisor may change it at any
            // time, so every read is volatile.
            unsafe { word.read_volatile() }
        })
    }
}
