//! The service's first instructions: see where we are, take the handoff, become a program.

use core::arch::global_asm;

use abi::gate::Stop;
use abi::handoff::{Handoff, MAGIC};

use crate::machine::{Machine, Parts};
use crate::memory;
use crate::sealed::Sealed;

global_asm!(
    ".section .text.service_start, \"ax\"",
    ".global service_start",
    // rdi = the handoff's address, which is also the stack's first; nothing else is set.
    "service_start:",
    "and rsp, -16",
    "call service_entry",
    "ud2",
);

unsafe extern "Rust" {
    /// The application, in its `main.rs`.
    safe fn service(machine: Machine) -> !;
}

/// Where the stub calls.
///
/// # Safety
///
/// Called once, by the stub, with the address that boot left in `rdi`.
// SAFETY: the name is unique in the image.
#[unsafe(no_mangle)]
unsafe extern "C" fn service_entry(handoff: *mut Handoff) -> ! {
    // All that ring 3 can know of the seal: that it is ring 3, and that whoever started it speaks
    // our handoff. The rest was read back by boot before the drop, and can be checked from outside.
    if super::privilege() != 3 {
        super::log(b"service: refused: not in ring 3\r\n");
        super::stop(Stop::BadHandoff);
    }
    // SAFETY: boot left a handoff there, at the top of our own stack, above everything we push; any
    // bit pattern is a valid `Handoff`.
    let Some((handoff, secret)) = (unsafe { memory::take_handoff(handoff) }) else {
        super::log(b"service: refused: the handoff is not one of this version\r\n");
        super::stop(Stop::BadHandoff);
    };
    // SAFETY: the heap is ours alone from now on, and this happens once.
    if !unsafe { memory::claim_heap(handoff.heap, handoff.unclean) } {
        super::log(b"service: refused: the heap is too small to be one\r\n");
        super::stop(Stop::BadHandoff);
    }
    // SAFETY: boot mapped the section read-only, for good.
    let section = unsafe { memory::read_only(handoff.configuration) };
    // SAFETY: boot mapped the record read-only, for good, if there is one.
    let record = unsafe { memory::read_only(handoff.record) };
    // SAFETY: boot mapped the id's page read-only, for good, if it names one.
    let generation = unsafe { memory::GenerationId::new(handoff.generation_id) };
    let parts = Parts { section, record, secret, generation };
    service(Machine::new(Sealed::mint(), handoff, parts))
}

/// Whether the structure is one that this service was built for.
pub(crate) fn is_known(handoff: &Handoff) -> bool {
    handoff.magic == MAGIC && handoff.bytes == size_of::<Handoff>() as u64
}
