//! The life of the machine, from its first instruction to the door that only opens outwards.
//!
//! Boot runs once, in ring 0, for milliseconds. It finds out what machine it is on, quiets it, lays
//! out the address space the service will live in, writes the page tables for it, reads them back,
//! and leaves. Its last instruction loads those tables, and it is not in them.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "the CPU: registers, ports, instructions")]
mod arch;
#[allow(unsafe_code, reason = "memory by its physical address")]
mod memory;

mod describe;
mod devices;
mod efi;
mod image;
mod measure;
mod plan;
mod quiet;
mod refusal;
mod report;

use core::convert::Infallible;

use crate::arch::console::say;
use crate::describe::Door;
use crate::image::Image;
use crate::memory::{Frames, Memory};
use crate::plan::{Found, Plan};
use crate::refusal::Refusal;

/// The whole life of ring 0, one step a line.
fn boot(door: Door) -> Result<Infallible, Refusal> {
    let cpu = &arch::cpu::require()?;
    let firmware = &describe::describe(door)?;
    let image = &Image::find()?;
    let mut memory = Memory::new(&firmware.memory, [image.span(), firmware.taken])?;
    memory.expect(plan::needed_bytes(image));

    let machine = &quiet::quiet(firmware, &memory)?;
    // Before anything of the image is changed.
    let tpm = measure::measure(firmware, image, &mut memory)?;
    let entropy = arch::entropy::draw()?;
    let clock = &arch::clock::calibrate(firmware, machine, image)?;
    let nic = devices::nic(machine, image, &mut memory)?;

    let found = Found { cpu, firmware, image, machine, clock };
    let (mut plan, tables) = Plan::new(&found, nic, tpm, entropy.placement, &mut memory)?;
    image.relocate(plan.base())?;
    plan.write_gate(&found)?;
    plan.write_handoff(&found, &entropy);
    drop(entropy);
    if firmware.leaves_copies {
        memory.wipe_free();
    }

    // From the bridge on, nothing can write the sealed tables any more: what the audit reads is
    // what will be in force.
    let tables = plan.cross_bridge(tables)?;
    let seal = plan.audit(&tables, &found)?;
    plan.tell_tpm(&seal)?;
    report::print(cpu, clock, &plan, &seal);
    plan.leave(&tables)
}

/// Where both doors arrive. A machine that cannot be sealed must not serve, so it halts.
fn start(door: Door) -> ! {
    arch::console::prepare();
    arch::exceptions::prepare();
    let Err(refusal) = boot(door);
    refuse(&refusal)
}

/// Where the UEFI door calls while the firmware is still there. It does not go back to the firmware:
/// that would start whatever comes next in its list, with our failure among its measurements.
fn start_efi(services: arch::efi::Services) -> Frames {
    // The firmware's console may be ours too, and it rarely ends its line.
    say!("");
    efi::take(services).unwrap_or_else(|refusal| refuse(&refusal))
}

fn refuse(refusal: &Refusal) -> ! {
    say!("boot: refused: {refusal}");
    arch::halt()
}
