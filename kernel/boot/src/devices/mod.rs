//! The devices the configuration names: found, set up for good, and then out of reach.

pub(crate) mod pci;
pub(crate) mod virtio_net;

use crate::image::Image;
use crate::memory::Memory;
use crate::quiet::Machine;
use crate::refusal::Refusal;
use virtio_net::Nic;

/// The network card, if the image needs one.
pub(crate) fn nic(
    machine: &Machine,
    image: &Image,
    memory: &mut Memory,
) -> Result<Option<Nic>, Refusal> {
    if !image.configuration().needs_nic {
        return Ok(None);
    }
    let function = machine.bus.find(virtio_net::is_ours).ok_or(Refusal::NoNic)?;
    virtio_net::set_up(machine, function, memory).map(Some)
}
