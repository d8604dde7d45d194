//! The devices the configuration names: found, set up for good, and then out of reach.

pub(crate) mod pci;
pub(crate) mod virtio_mmio;
pub(crate) mod virtio_net;
pub(crate) mod virtio_pci;

use crate::image::Image;
use crate::memory::Memory;
use crate::quiet::Machine;
use crate::refusal::Refusal;
use virtio_net::Nic;

/// The network card, if the image needs one: on PCI, or where there is none, on no bus.
pub(crate) fn nic(
    machine: &Machine,
    image: &Image,
    memory: &mut Memory,
) -> Result<Option<Nic>, Refusal> {
    if !image.configuration().needs_nic {
        return Ok(None);
    }
    if let Some(function) = virtio_pci::find(machine) {
        return virtio_pci::set_up(machine, function, memory).map(Some);
    }
    let mmio = virtio_mmio::find(machine).ok_or(Refusal::NoNic)?;
    virtio_mmio::set_up(machine, mmio, memory).map(Some)
}
