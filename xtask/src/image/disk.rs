//! A disk that UEFI firmware boots: one partition with a FAT file system, and the image on it.
//!
//! The firmware measures the partition table into PCR 5, so its identifiers are the same in every
//! disk: the same files give the same bytes. Nothing is mounted, and no rights are needed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Cursor, Error, Write};

use abi::record::Part;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::{GptConfig, partition_types};
use uuid::{Uuid, uuid};

const SECTOR_BYTES: u64 = 512;

/// The partition begins here, as every tool for disks would have it, and leaves as much at the end,
/// where the copy of the partition table is.
const MARGIN_BYTES: u64 = 1 << 20;

/// The smallest partition: with it the disk has 8 MiB.
const LEAST_PARTITION_BYTES: u64 = 6 << 20;

/// What folders, allocation tables and half-filled clusters may take.
const FAT_BYTES: u64 = 1 << 20;

/// FAT16 counts clusters with 16 bits; a few numbers are taken.
const MOST_CLUSTERS: u64 = 65_000;

/// The longest file beside the image that boot reads.
pub const MAX_FILE_BYTES: usize = Part::KeyFile.max_bytes();

const DISK: Uuid = uuid!("b0117a00-7e5e-4d15-8c00-5ea1ed000001");
const PARTITION: Uuid = uuid!("b0117a00-7e5e-4d15-8c00-5ea1ed000002");
const VOLUME: u32 = 0xb011_7a00;

/// What a disk holds.
#[derive(Clone, Copy, Default)]
pub struct Contents<'a> {
    /// The image for UEFI firmware, signed or not.
    pub efi: &'a [u8],
    /// The sealed key, which only this image on its machine can open.
    pub key_file: Option<&'a [u8]>,
    /// What proves the machine's identity to whoever made it.
    pub challenge: Option<&'a [u8]>,
}

impl fmt::Debug for Contents<'_> {
    /// Leaves the bytes out: a private key may be among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |file: Option<&[u8]>| file.map(<[u8]>::len);
        f.debug_struct("Contents")
            .field("efi", &self.efi.len())
            .field("key_file", &length(self.key_file))
            .field("challenge", &length(self.challenge))
            .finish()
    }
}

/// Makes the disk's bytes.
///
/// # Errors
///
/// [`Error`] if a file beside the image is longer than boot reads.
pub fn disk(contents: &Contents<'_>) -> Result<Vec<u8>, Error> {
    let beside = [("KEY.SEALED", contents.key_file), ("CHALLENGE", contents.challenge)];
    for (name, file) in beside {
        let bytes = file.map_or(0, <[u8]>::len);
        if bytes > MAX_FILE_BYTES {
            let text = format!("{name} has {bytes} bytes, more than {MAX_FILE_BYTES}");
            return Err(Error::other(text));
        }
    }
    let least = (contents.efi.len() as u64 + FAT_BYTES).next_multiple_of(MARGIN_BYTES);
    let partition_bytes = least.max(LEAST_PARTITION_BYTES);
    let mut bytes = vec![0; size(2 * MARGIN_BYTES + partition_bytes)];
    let partition = size(MARGIN_BYTES)..size(MARGIN_BYTES + partition_bytes);
    if let Some(partition) = bytes.get_mut(partition) {
        fill(partition, contents.efi, &beside)?;
    }
    partition_table(&mut bytes, partition_bytes)?;
    Ok(bytes)
}

/// A host counts at least as far as its memory goes.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn fill(partition: &mut [u8], efi: &[u8], beside: &[(&str, Option<&[u8]>)]) -> Result<(), Error> {
    let bytes = partition.len() as u64;
    let mut cluster = SECTOR_BYTES;
    while bytes / cluster > MOST_CLUSTERS {
        cluster *= 2;
    }
    let narrow = |number: u64| u32::try_from(number).map_err(Error::other);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat16)
        .bytes_per_cluster(narrow(cluster)?)
        .total_sectors(narrow(bytes / SECTOR_BYTES)?)
        .volume_id(VOLUME)
        .volume_label(*b"BULLA      ");
    fatfs::format_volume(Cursor::new(&mut *partition), options)?;
    let system = FileSystem::new(Cursor::new(partition), FsOptions::new())?;
    {
        let root = system.root_dir();
        let folder = root.create_dir("EFI")?;
        folder.create_dir("BOOT")?.create_file("BOOTX64.EFI")?.write_all(efi)?;
        if beside.iter().any(|(_, file)| file.is_some()) {
            let ours = folder.create_dir("BULLA")?;
            for (name, file) in beside {
                if let Some(file) = file {
                    ours.create_file(name)?.write_all(file)?;
                }
            }
        }
    }
    system.unmount()
}

fn partition_table(disk: &mut [u8], partition_bytes: u64) -> Result<(), Error> {
    let sectors = u32::try_from(disk.len() as u64 / SECTOR_BYTES).unwrap_or(u32::MAX);
    let mut device = Cursor::new(disk);
    let protective = ProtectiveMBR::with_lb_size(sectors.saturating_sub(1));
    protective.overwrite_lba0(&mut device).map_err(Error::other)?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(device, Some(DISK)).map_err(Error::other)?;
    let first = MARGIN_BYTES / SECTOR_BYTES;
    let esp = Partition {
        part_type_guid: partition_types::EFI,
        part_guid: PARTITION,
        first_lba: first,
        last_lba: first + partition_bytes / SECTOR_BYTES - 1,
        flags: 0,
        name: "bulla".to_owned(),
    };
    table.update_partitions(BTreeMap::from([(1, esp)])).map_err(Error::other)?;
    table.write().map(drop).map_err(Error::other)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn read(disk: &[u8], path: &str) -> Option<Vec<u8>> {
        let table = GptConfig::new().open_from_device(Cursor::new(disk.to_vec())).unwrap();
        let partition = &table.partitions()[&1];
        assert_eq!(partition.part_type_guid, partition_types::EFI);
        let at = |lba: u64| usize::try_from(lba * SECTOR_BYTES).unwrap();
        let bytes = &disk[at(partition.first_lba)..at(partition.last_lba + 1)];
        let system = FileSystem::new(Cursor::new(bytes.to_vec()), FsOptions::new()).unwrap();
        assert_eq!(system.fat_type(), FatType::Fat16);
        let mut content = Vec::new();
        system.root_dir().open_file(path).ok()?.read_to_end(&mut content).unwrap();
        Some(content)
    }

    #[test]
    fn a_disk_holds_what_it_was_given() {
        let efi: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let contents =
            Contents { efi: &efi, key_file: Some(b"sealed"), challenge: Some(b"challenge") };
        let disk = disk(&contents).unwrap();
        assert_eq!(disk.len(), 8 << 20);
        assert!(read(&disk, "EFI/BOOT/BOOTX64.EFI").unwrap() == efi);
        assert_eq!(read(&disk, "EFI/BULLA/KEY.SEALED").unwrap(), b"sealed");
        assert_eq!(read(&disk, "EFI/BULLA/CHALLENGE").unwrap(), b"challenge");
    }

    #[test]
    fn a_disk_without_more_than_the_image_has_no_more() {
        let disk = disk(&Contents { efi: b"MZ", ..Contents::default() }).unwrap();
        assert_eq!(read(&disk, "EFI/BOOT/BOOTX64.EFI").unwrap(), b"MZ");
        assert_eq!(read(&disk, "EFI/BULLA/KEY.SEALED"), None);
    }

    #[test]
    fn a_disk_grows_with_its_image() {
        for mib in [5, 6, 40] {
            let efi = vec![0x5a; mib << 20];
            let disk = disk(&Contents { efi: &efi, ..Contents::default() }).unwrap();
            assert!(read(&disk, "EFI/BOOT/BOOTX64.EFI").unwrap() == efi);
            assert!(disk.len() <= efi.len() + (4 << 20));
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let contents = Contents { efi: b"MZ", key_file: Some(b"k"), challenge: None };
        assert!(disk(&contents).unwrap() == disk(&contents).unwrap());
    }

    #[test]
    fn a_file_that_boot_would_refuse_is_refused() {
        let long = [0; MAX_FILE_BYTES + 1];
        let contents = Contents { efi: b"MZ", key_file: Some(&long), challenge: None };
        let error = disk(&contents).unwrap_err().to_string();
        assert_eq!(error, "KEY.SEALED has 8193 bytes, more than 8192");
        let most = Contents { challenge: Some(&long[1..]), ..Contents::default() };
        assert!(disk(&most).is_ok());
    }
}
