//! How much memory a machine needs for an image, to be compared with QEMU's `-m`.

use abi::image::Segment;
use abi::memory::Memory;

use super::compose::Composed;
use super::units;

/// What an image needs: the very sum that boot compares with the machine.
pub fn memory(image: &Composed) -> Memory {
    let zeroed: u64 = image.manifest.segments.iter().flatten().map(Segment::zeroed_bytes).sum();
    Memory::of(image.loaded.length + zeroed, image.header.heap_bytes, image.header.stack_bytes)
}

/// The sum and its parts in MiB, as one line.
pub fn describe(memory: &Memory) -> String {
    let parts = [
        ("heap", memory.heap),
        ("stack", memory.stack),
        ("packet buffers", memory.packets),
        ("image", memory.image),
        ("page tables", memory.tables),
        ("firmware", memory.firmware),
    ];
    let parts = parts.map(|(name, bytes)| format!("{name} {}", units::mib(bytes)));
    format!("{} MiB needed: {}", memory.mib(), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Settings, compose, sketch};
    use abi::configuration::OnStop;

    #[test]
    fn counts_the_image_and_its_zeroed_data() {
        let settings = Settings {
            heap_bytes: 40 << 20,
            stack_bytes: 256 << 10,
            on_stop: OnStop::Reset,
            needs_nic: true,
            build_unix_s: 0,
        };
        let (boot, service) = (sketch::boot().bytes(), sketch::service().bytes());
        let memory = memory(&compose(&boot, &service, &settings, b"").unwrap());
        // Boot takes 6 pages, the service's parts 1 + 1 + 1 + 2, table and configuration 1 each;
        // the service's data has 0x50 pages, of which 2 are in the file.
        assert_eq!(memory.image, (6 + 5 + 2 + 0x50 - 2) * 4096);
        let text = describe(&memory);
        assert!(text.starts_with("43 MiB needed: heap 40.00, stack 0.25, packet"), "{text}");
    }
}
