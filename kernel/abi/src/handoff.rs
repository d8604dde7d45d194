//! What boot leaves for the service: one structure at the top of the service's stack.
//!
//! It lies in memory that the service may write, because it holds the CSPRNG's seed and the sealed
//! secret, and whoever reads a secret must be able to erase it.

use crate::Span;

/// The first field of every handoff; the last byte is the version.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BULLAHO\x02");

/// One virtqueue, as boot set it up. All addresses are the service's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// How many descriptors, a power of two.
    pub descriptors: u64,
    /// The descriptor table (virtio 1.2 section 2.7.5): read-only for the service too.
    pub table: Span,
    /// The available ring (virtio 1.2 section 2.7.6): the service writes, the device reads.
    pub available: Span,
    /// The used ring (virtio 1.2 section 2.7.8): the device writes, the service reads.
    pub used: Span,
    /// The buffers all descriptors lie in; geometry in [`crate::ring`].
    pub buffers: Span,
    /// Where a 16-bit store of the queue's number rings the device's bell, or 0: then
    /// [`crate::gate::NOTIFY`] rings it.
    pub doorbell: u64,
    /// The queue's number.
    pub number: u64,
}

/// The NIC, or all zeros if the image has none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// 1 if there is a NIC, else 0.
    pub present: u64,
    /// The hardware address, first byte lowest.
    pub mac: u64,
    /// The negotiated feature bits (virtio 1.2 sections 5.1.3 and 6).
    pub features: u64,
    /// Frames for us.
    pub receive: Queue,
    /// Frames from us.
    pub transmit: Queue,
}

/// Where the wall clock at boot came from.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSource {
    /// Only the image's build date, because the RTC was absent or ran behind it.
    BuildDate = 0,
    /// The battery-backed clock.
    Rtc = 1,
    /// The hypervisor's clock page.
    Kvmclock = 2,
}

/// Everything the service learns about its machine. It learns nothing else, ever.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handoff {
    /// [`MAGIC`].
    pub magic: u64,
    /// The size of this structure in bytes: a second way to notice another version.
    pub bytes: u64,
    /// The heap: read-write, zero except for the first [`Handoff::unclean`] bytes.
    pub heap: Span,
    /// Bytes at the start of the heap that boot used until its last instruction; not secret, but
    /// the service clears them before anything else.
    pub unclean: u64,
    /// The configuration section, read-only, header included.
    pub configuration: Span,
    /// The service's stack.
    pub stack: Span,
    /// Seed of the CSPRNG. The service erases it once used.
    pub seed: [u64; 4],
    /// Ticks of the time stamp counter in a second.
    pub tsc_hz: u64,
    /// The time stamp counter when the wall clock was read.
    pub wall_tsc: u64,
    /// The wall clock at [`Handoff::wall_tsc`], in seconds since 1970-01-01 UTC.
    pub wall_unix_s: u64,
    /// A [`ClockSource`] as a number.
    pub wall_source: u64,
    /// Sixteen read-only bytes that change when the machine is cloned or restored from a snapshot
    /// (the ACPI VM generation id), or 0 if the platform offers none.
    pub generation_id: u64,
    /// The boot record ([`crate::record`]), read-only; empty if the machine has no TPM.
    pub record: Span,
    /// What the TPM unsealed for this image, first byte lowest. The service erases it once used.
    pub sealed_secret: [u64; 4],
    /// 1 if there is a sealed secret, else 0.
    pub has_sealed_secret: u64,
    /// The network card.
    pub nic: Nic,
}
