//! UEFI firmware, as long as it is there: the few things that boot asks of it.
//!
//! Source: UEFI 2.10, sections 4 (tables), 7 (boot services), 9.1 (loaded image), 13 (files); TCG EFI
//! Protocol Specification, family 2.0, revision 00.13. What the firmware answers is not believed
//! further than that its functions do what they are called to do: it runs in ring 0 beside us.

use core::ffi::c_void;
use core::ptr;

use abi::{PAGE_BYTES, Span};
use uefi_raw::protocol::file_system::{
    FileAttribute, FileMode, FileProtocolV1, SimpleFileSystemProtocol,
};
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::protocol::tcg::v2::{Tcg2EventLogFormat, Tcg2Protocol};
use uefi_raw::table::boot::{AllocateType, BootServices, MemoryType};
use uefi_raw::table::configuration::ConfigurationTable;
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Boolean, Guid, Handle, Status, guid};

use crate::memory::Frames;

/// ACPI's root pointer, since ACPI 2.0 (UEFI 2.10, 4.6.1.1).
pub(crate) const ACPI: Guid = guid!("8868e871-e4f1-11d3-bc22-0080c73c8881");

/// The events that are measured after the log was first asked for (TCG EFI protocol, 7).
pub(crate) const FINAL_EVENTS: Guid = guid!("1e2ed096-30e2-4254-bd89-863bbef82325");

/// How many configuration tables are looked at. OVMF has some ten.
const MAX_TABLES: usize = 256;

/// How often the firmware may change its memory map between our question and our leaving.
const MAX_FAREWELLS: usize = 8;

/// The longest path of a file, its end included.
const MAX_PATH: usize = 64;

unsafe extern "C" {
    /// entry.s: leaves everything of the firmware's behind and calls `boot_main`.
    fn efi_leave(taken: u64) -> !;
}

/// Where the entry stub arrives: on the firmware's stack, our pointers being right.
// SAFETY: the name is unique in the image, and entry.s calls it with this very signature.
#[unsafe(no_mangle)]
extern "C" fn efi_main(image: Handle, system: *const SystemTable) -> ! {
    super::console::prepare();
    // SAFETY: the firmware calls our entry point with its system table (UEFI 2.10, 4.1), which stays
    // there until it is dismissed.
    let system = unsafe { &*system };
    // SAFETY: likewise its boot services.
    let boot = unsafe { &*system.boot_services };
    let taken = crate::start_efi(Services { image, system, boot });
    // SAFETY: the firmware is dismissed, and all of ours lies below 4 GiB (`efi::take` made sure).
    unsafe { efi_leave(taken.start()) }
}

/// What the UEFI door hands to boot: the frames that [`crate::efi::take`] filled.
pub(super) fn given(start: u64) -> Frames {
    let span = Span::new(start, crate::efi::BYTES);
    // SAFETY: entry.s passes on the address that `efi_main` gave it: the firmware allocated these
    // pages for us, and nobody else knows them.
    unsafe { Frames::given(span) }
}

/// The firmware, before it is dismissed.
pub(crate) struct Services {
    image: Handle,
    system: &'static SystemTable,
    boot: &'static BootServices,
}

/// A memory map in somebody's buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map {
    /// Its size.
    pub(crate) bytes: usize,
    /// How far apart its descriptors are.
    pub(crate) stride: usize,
}

/// Where the firmware's event log is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    /// Its first byte.
    pub(crate) start: u64,
    /// The first byte of its last entry.
    pub(crate) last: u64,
    /// Whether there was no room for all of it.
    pub(crate) is_truncated: bool,
}

impl Services {
    /// Bytes of the command line that we were started with.
    pub(crate) fn command_line_bytes(&self) -> Option<u32> {
        Some(self.loaded_image()?.load_options_size)
    }

    /// Takes pages below 4 GiB that nobody else has, and clears them.
    pub(crate) fn allocate(&self, bytes: u64) -> Option<Frames> {
        let mut address = u64::from(u32::MAX);
        let pages = usize::try_from(bytes.div_ceil(PAGE_BYTES)).ok()?;
        // SAFETY: a boot service, called with a place for its answer.
        let status = unsafe {
            (self.boot.allocate_pages)(
                AllocateType::MAX_ADDRESS,
                MemoryType::LOADER_DATA,
                pages,
                &raw mut address,
            )
        };
        if status != Status::SUCCESS {
            return None;
        }
        // SAFETY: the firmware has just given us these pages, mapped one to one and writable.
        let mut frames = unsafe { Frames::given(Span::new(address, bytes)) };
        frames.bytes_mut().fill(0);
        Some(frames)
    }

    /// The address of a configuration table.
    pub(crate) fn table(&self, wanted: &Guid) -> Option<u64> {
        let first: *const ConfigurationTable = self.system.configuration_table;
        if first.is_null() {
            return None;
        }
        let count = self.system.number_of_configuration_table_entries.min(MAX_TABLES);
        // SAFETY: the system table says that there are at least `count` entries, and they stay as
        // they are while we look.
        let tables = unsafe { core::slice::from_raw_parts(first, count) };
        let found = tables.iter().find(|table| table.vendor_guid == *wanted)?;
        Some(found.vendor_table as u64).filter(|address| *address != 0)
    }

    /// Where the log of all that was measured is, if this machine measures.
    pub(crate) fn event_log(&self) -> Option<Log> {
        let mut found = ptr::null_mut();
        // SAFETY: a boot service, called with a place for its answer.
        let status = unsafe {
            (self.boot.locate_protocol)(&Tcg2Protocol::GUID, ptr::null(), &raw mut found)
        };
        if status != Status::SUCCESS || found.is_null() {
            return None;
        }
        let tcg: *mut Tcg2Protocol = found.cast();
        let (mut start, mut last, mut is_truncated) = (0, 0, Boolean::FALSE);
        // SAFETY: the protocol has this GUID, hence this type, and lives as long as the firmware.
        let protocol = unsafe { &*tcg };
        // SAFETY: the protocol's function, called with its protocol and places for its answers.
        let status = unsafe {
            (protocol.get_event_log)(
                tcg,
                Tcg2EventLogFormat::TCG_2,
                &raw mut start,
                &raw mut last,
                &raw mut is_truncated,
            )
        };
        let is_there = status == Status::SUCCESS && start != 0 && last != 0;
        is_there.then_some(Log { start, last, is_truncated: is_truncated != Boolean::FALSE })
    }

    /// Reads a file of the volume that we were loaded from: how many bytes went into the buffer, or
    /// nothing where there is no such file.
    pub(crate) fn read_file(&self, path: &str, buffer: &mut [u8]) -> Option<Result<usize, Status>> {
        let root = self.volume()?;
        let read = root.open(path).map(|file| {
            let count = file.read(buffer);
            file.close();
            count
        });
        root.close();
        read
    }

    /// Leaves the firmware: from here on there is none. The map says who has which memory.
    pub(crate) fn dismiss(self, buffer: &mut [u8]) -> Result<Map, Status> {
        let mut status = Status::ABORTED;
        for _ in 0..MAX_FAREWELLS {
            let (map, key) = self.memory_map(buffer)?;
            // SAFETY: nothing of the firmware's is used afterwards: `self` ends here, and the caller
            // goes on to `efi_leave`.
            status = unsafe { (self.boot.exit_boot_services)(self.image, key) };
            if status == Status::SUCCESS {
                return Ok(map);
            }
            // The map has changed meanwhile; then the next one is the right one.
        }
        Err(status)
    }

    fn memory_map(&self, buffer: &mut [u8]) -> Result<(Map, usize), Status> {
        let (mut bytes, mut key, mut stride, mut version) = (buffer.len(), 0, 0, 0);
        // SAFETY: a boot service, called with a buffer of the size it is told and with places for its
        // answers; the buffer is page aligned.
        let status = unsafe {
            (self.boot.get_memory_map)(
                &raw mut bytes,
                buffer.as_mut_ptr().cast(),
                &raw mut key,
                &raw mut stride,
                &raw mut version,
            )
        };
        if status == Status::SUCCESS { Ok((Map { bytes, stride }, key)) } else { Err(status) }
    }

    fn loaded_image(&self) -> Option<&'static LoadedImageProtocol> {
        let image = self.protocol(self.image, &LoadedImageProtocol::GUID)?;
        // SAFETY: the protocol has this GUID, hence this type, and lives as long as the firmware.
        Some(unsafe { &*image.cast::<LoadedImageProtocol>() })
    }

    /// The volume that we were loaded from.
    fn volume(&self) -> Option<File> {
        let device = self.loaded_image()?.device_handle;
        let system = self.protocol(device, &SimpleFileSystemProtocol::GUID)?;
        let system: *mut SimpleFileSystemProtocol = system.cast();
        let mut root = ptr::null_mut();
        // SAFETY: the protocol has this GUID, hence this type, and lives as long as the firmware.
        let protocol = unsafe { &*system };
        // SAFETY: the protocol's function, called with its protocol and a place for its answer.
        let status = unsafe { (protocol.open_volume)(system, &raw mut root) };
        File::opened(status, root)
    }

    fn protocol(&self, handle: Handle, guid: &Guid) -> Option<*mut c_void> {
        if handle.is_null() {
            return None;
        }
        let mut found = ptr::null_mut();
        // SAFETY: a boot service, called with a handle of the firmware's and a place for its answer.
        let status = unsafe { (self.boot.handle_protocol)(handle, guid, &raw mut found) };
        (status == Status::SUCCESS && !found.is_null()).then_some(found)
    }
}

/// A file or a folder that the firmware has opened and nobody has closed yet.
struct File {
    this: *mut FileProtocolV1,
    functions: &'static FileProtocolV1,
}

impl File {
    fn opened(status: Status, this: *mut FileProtocolV1) -> Option<Self> {
        if status != Status::SUCCESS {
            return None;
        }
        // SAFETY: the firmware says that it has opened this, and its functions live as long as it
        // does; where there is no pointer there is no reference.
        let functions = unsafe { this.as_ref() }?;
        Some(Self { this, functions })
    }

    /// Opens a file in this folder to read; nothing where there is none.
    fn open(&self, path: &str) -> Option<Self> {
        let mut name = [0_u16; MAX_PATH];
        // The last one stays zero: it ends the path.
        for (to, from) in name.iter_mut().take(MAX_PATH - 1).zip(path.encode_utf16()) {
            *to = from;
        }
        let mut file = ptr::null_mut();
        // SAFETY: the folder's function, called with a path that ends in zero and a place for its
        // answer.
        let status = unsafe {
            (self.functions.open)(
                self.this,
                &raw mut file,
                name.as_ptr(),
                FileMode::READ,
                FileAttribute::empty(),
            )
        };
        Self::opened(status, file)
    }

    /// Fills the buffer as far as the file goes. A file that is longer is an error.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, Status> {
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.read_piece(room)? {
                0 => return Ok(filled),
                count => filled += count.min(room.len()),
            }
        }
        match self.read_piece(&mut [0])? {
            0 => Ok(filled),
            _ => Err(Status::BAD_BUFFER_SIZE),
        }
    }

    fn read_piece(&self, buffer: &mut [u8]) -> Result<usize, Status> {
        let mut count = buffer.len();
        // SAFETY: the file's function, called with a buffer of the size it is told.
        let status =
            unsafe { (self.functions.read)(self.this, &raw mut count, buffer.as_mut_ptr().cast()) };
        if status == Status::SUCCESS { Ok(count) } else { Err(status) }
    }

    fn close(self) {
        // SAFETY: the file's function; nobody has the file afterwards. It cannot fail (UEFI 2.10,
        // 13.5).
        let _success = unsafe { (self.functions.close)(self.this) };
    }
}
