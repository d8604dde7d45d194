//! The seal report: what was read back from memory and from the CPU, one fact a line.

use seal_core::{Access, Kind, Ring};

use crate::arch::clock::Clock;
use crate::arch::console::say;
use crate::arch::controls;
use crate::arch::cpu::Cpu;
use crate::plan::{Plan, Seal};

/// Prints the report. No line holds an address of the service's: its base is a secret.
pub(crate) fn print(cpu: &Cpu, clock: &Clock, plan: &Plan, seal: &Seal) {
    let regions = plan.layout().regions();
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let bytes = |access: Access, ring: Ring| -> u64 {
        let matches = |kind: Kind| (kind.promise().0, kind.promise().1) == (access, ring);
        regions.iter().filter(|region| matches(region.kind)).map(|region| region.length).sum()
    };
    say!(
        "seal: tables read back: {} tables, {} pages of 4 KiB, {} of 2 MiB in {} regions, nothing else",
        seal.tables.tables(),
        seal.tables.small_leaves(),
        seal.tables.large_leaves(),
        seal.tables.regions()
    );
    say!(
        "seal: ring 3: {} KiB executable, {} KiB read-only, {} KiB writable; none is two of these",
        bytes(Access::Execute, Ring::Service) >> 10,
        bytes(Access::Read, Ring::Service) >> 10,
        bytes(Access::ReadWrite, Ring::Service) >> 10
    );
    say!(
        "seal: ring 0: {} bytes of gate, {} vectors, {} of them open to ring 3",
        seal.gate_bytes,
        seal.vectors,
        seal.calls
    );
    let now = controls::read(0);
    say!(
        "seal: cpu: cr0 {:#x} cr4 {:#x} efer {:#x} xcr0 {:#x}: WP NX SMEP SMAP{}",
        now.cr0,
        now.cr4,
        now.efer,
        now.xcr0,
        if cpu.has_umip { " UMIP" } else { ", no UMIP" }
    );
    say!(
        "seal: devices: {} descriptors fixed, {} of {} devices may master the bus, {} interrupt lines open",
        seal.descriptors,
        seal.masters,
        seal.devices,
        seal.lines
    );
    if seal.is_reduced {
        say!("seal: no port resets this machine or powers it off: it halts when it stops");
    }
    say!(
        "seal: clock: tsc {} kHz, wall {} s since 1970 from {:?}; AVX {}, ADX {}; VM generation id {}",
        clock.tsc_hz / 1000,
        clock.wall_unix_s,
        clock.wall_source,
        cpu.has_avx,
        cpu.has_adx,
        regions.iter().any(|region| region.kind == Kind::GenerationId)
    );
    say!("seal: heap {} MiB; boot wipes itself and drops to ring 3", mib(heap_bytes(plan)));
}

fn heap_bytes(plan: &Plan) -> u64 {
    let heap = plan.layout().regions().iter().find(|region| region.kind == Kind::Heap);
    heap.map_or(0, |region| region.length)
}
