//! What a region is for, and hence what may be done with it.

use core::fmt;

/// What the CPU may do with a page.
///
/// There is no variant for writable *and* executable: W^X cannot be written down wrong.
///
/// ```
/// use seal_core::Access;
/// let access = Access::ReadWrite;
/// ```
///
/// ```compile_fail,E0599
/// use seal_core::Access;
/// let access = Access::ReadWriteExecute;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and execute.
    Execute,
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
}

/// Which ring a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Ring 3: a user page, which SMEP and SMAP keep ring 0 out of.
    Service,
    /// Ring 0: a supervisor page.
    Gate,
}

/// How the CPU caches a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Ordinary memory.
    WriteBack,
    /// Device registers: cache disable and write-through are set, which the default page attribute
    /// table calls uncacheable (Intel SDM 3A table 12-11).
    Uncached,
}

/// What a region is for.
///
/// The right follows from the kind and from nothing else, so no layout can give a page table write
/// access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The service's code.
    ServiceText,
    /// The service's constants.
    ServiceRodata,
    /// What boot relocated and nobody writes after.
    ServiceRelro,
    /// The service's initialised variables.
    ServiceData,
    /// The service's zeroed variables.
    ServiceBss,
    /// The image's configuration section.
    Configuration,
    /// The service's heap.
    Heap,
    /// The service's stack.
    Stack,
    /// Frames from and to the network: all that a device may write besides its used ring.
    PacketBuffers,
    /// A virtqueue's descriptors: all that a device may ever be pointed at.
    DescriptorTable,
    /// The ring by which the service offers descriptors.
    AvailableRing,
    /// The ring by which the device hands descriptors back.
    UsedRing,
    /// The one register page of a device that the service may write.
    Doorbell,
    /// The hypervisor's clock page.
    Kvmclock,
    /// The page that changes when the machine is cloned or restored.
    GenerationId,
    /// What boot measured, for the service to hand to a verifier.
    BootRecord,
    /// The gate's code.
    GateText,
    /// The gate's constants.
    GateData,
    /// The interrupt descriptor table.
    Idt,
    /// The global descriptor table.
    Gdt,
    /// The task state segment.
    Tss,
    /// A stack of the gate.
    GateStack,
    /// What the gate remembers of a crash.
    CrashRecord,
    /// The local APIC's registers.
    LocalApic,
    /// The TPM's registers.
    TpmRegisters,
    /// The registers of a device whose doorbell shares its page with configuration.
    DeviceRegisters,
    /// The TPM's last answer, which the gate hands out eight bytes at a time.
    TpmAnswer,
    /// The page tables themselves.
    PageTables,
}

impl Kind {
    /// Every kind, in the order of the sealed address space's table.
    pub const ALL: [Self; 28] = [
        Self::ServiceText,
        Self::ServiceRodata,
        Self::ServiceRelro,
        Self::ServiceData,
        Self::ServiceBss,
        Self::Configuration,
        Self::Heap,
        Self::Stack,
        Self::PacketBuffers,
        Self::DescriptorTable,
        Self::AvailableRing,
        Self::UsedRing,
        Self::Doorbell,
        Self::Kvmclock,
        Self::GenerationId,
        Self::BootRecord,
        Self::GateText,
        Self::GateData,
        Self::Idt,
        Self::Gdt,
        Self::Tss,
        Self::GateStack,
        Self::CrashRecord,
        Self::LocalApic,
        Self::TpmRegisters,
        Self::DeviceRegisters,
        Self::TpmAnswer,
        Self::PageTables,
    ];

    /// The right of every page of this kind.
    pub const fn promise(self) -> (Access, Ring, Cache) {
        use Access::{Execute, Read, ReadWrite};
        use Cache::{Uncached, WriteBack};
        use Ring::{Gate, Service};
        match self {
            Self::ServiceText => (Execute, Service, WriteBack),
            Self::ServiceRodata
            | Self::ServiceRelro
            | Self::Configuration
            | Self::DescriptorTable
            | Self::UsedRing
            | Self::Kvmclock
            | Self::GenerationId
            | Self::BootRecord => (Read, Service, WriteBack),
            Self::ServiceData
            | Self::ServiceBss
            | Self::Heap
            | Self::Stack
            | Self::PacketBuffers
            | Self::AvailableRing => (ReadWrite, Service, WriteBack),
            Self::Doorbell => (ReadWrite, Service, Uncached),
            Self::GateText => (Execute, Gate, WriteBack),
            Self::GateData | Self::Idt | Self::Gdt | Self::Tss | Self::PageTables => {
                (Read, Gate, WriteBack)
            }
            Self::GateStack | Self::CrashRecord | Self::TpmAnswer => (ReadWrite, Gate, WriteBack),
            Self::LocalApic | Self::TpmRegisters | Self::DeviceRegisters => {
                (ReadWrite, Gate, Uncached)
            }
        }
    }

    /// Whether a device is given the address of this memory: to read it, to write it or both.
    pub const fn is_device_reachable(self) -> bool {
        matches!(
            self,
            Self::PacketBuffers | Self::DescriptorTable | Self::AvailableRing | Self::UsedRing
        )
    }

    /// Whether the page below has to be unmapped, so that running off the start faults.
    pub const fn has_guard_below(self) -> bool {
        matches!(self, Self::Stack | Self::GateStack | Self::Heap)
    }

    /// Whether the page above has to be unmapped, so that running off the end faults.
    pub const fn has_guard_above(self) -> bool {
        matches!(self, Self::Heap)
    }

    /// The kind in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceText => "service text",
            Self::ServiceRodata => "service rodata",
            Self::ServiceRelro => "service relro",
            Self::ServiceData => "service data",
            Self::ServiceBss => "service bss",
            Self::Configuration => "configuration",
            Self::Heap => "heap",
            Self::Stack => "stack",
            Self::PacketBuffers => "packet buffers",
            Self::DescriptorTable => "descriptor table",
            Self::AvailableRing => "available ring",
            Self::UsedRing => "used ring",
            Self::Doorbell => "doorbell",
            Self::Kvmclock => "kvmclock",
            Self::GenerationId => "generation id",
            Self::BootRecord => "boot record",
            Self::GateText => "gate text",
            Self::GateData => "gate data",
            Self::Idt => "IDT",
            Self::Gdt => "GDT",
            Self::Tss => "TSS",
            Self::GateStack => "gate stack",
            Self::CrashRecord => "crash record",
            Self::LocalApic => "local APIC",
            Self::TpmRegisters => "TPM registers",
            Self::DeviceRegisters => "device registers",
            Self::TpmAnswer => "TPM answer",
            Self::PageTables => "page tables",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
