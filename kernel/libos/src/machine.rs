//! What a service is given: a sealed machine, once.

use abi::Span;
use abi::configuration::Header;
use abi::gate::Stop;
use abi::handoff::{self, Handoff};
use abi::record::Record;
use zeroize::Zeroizing;

use crate::arch;
use crate::attest::GateQuoter;
use crate::clock::TscClock;
use crate::entropy;
use crate::memory::GenerationId;
use crate::rings::{ReceiveRing, TransmitRing};
use crate::sealed::Sealed;

/// The network card, both ways.
pub struct Nic {
    /// The hardware address.
    pub mac: [u8; 6],
    /// Frames for us.
    pub receive: ReceiveRing,
    /// Frames from us.
    pub transmit: TransmitRing,
}

/// Everything a service has. It gets nothing else, ever.
pub struct Machine {
    /// The proof.
    pub sealed: Sealed,
    /// The clock.
    pub clock: TscClock,
    /// The network card, if the image has one.
    pub nic: Option<Nic>,
    handoff: Handoff,
    section: &'static [u8],
    record: &'static [u8],
    secret: Option<Zeroizing<[u8; 32]>>,
    quoter: Option<GateQuoter>,
    generation: Option<Generation>,
}

/// What the entry stub found at the places that the handoff names.
pub(crate) struct Parts {
    /// The configuration section.
    pub(crate) section: &'static [u8],
    /// The boot record; empty without a TPM.
    pub(crate) record: &'static [u8],
    /// What the TPM unsealed.
    pub(crate) secret: Option<Zeroizing<[u8; 32]>>,
    /// The VM generation id.
    pub(crate) generation: Option<GenerationId>,
}

/// The VM generation id and what it was when we last looked.
struct Generation {
    id: GenerationId,
    seen: [u64; 2],
}

impl Machine {
    pub(crate) fn new(sealed: Sealed, handoff: Handoff, parts: Parts) -> Self {
        let Parts { section, record, secret, generation } = parts;
        let generation = generation.map(|id| Generation { id, seen: id.read() });
        let quoter = (!record.is_empty()).then(GateQuoter::new);
        let (clock, nic) = (TscClock::new(&handoff), nic(&handoff.nic));
        Self { sealed, clock, nic, handoff, section, record, secret, quoter, generation }
    }

    /// The configuration's payload: what the image's author wrote for this service.
    pub fn configuration(&self) -> &'static [u8] {
        let Ok(header) = Header::parse(self.section) else { stop(Stop::BadHandoff) };
        let Span { start, length } = header.payload();
        self.section.get(start as usize..(start + length) as usize).unwrap_or(&[])
    }

    /// What boot measured and what the TPM said, or nothing without a TPM.
    pub fn record(&self) -> Option<Record<'static>> {
        if self.record.is_empty() {
            return None;
        }
        let Ok(record) = Record::parse(self.record) else { stop(Stop::BadHandoff) };
        Some(record)
    }

    /// Takes out, once, what the TPM unsealed for this image on this machine.
    pub fn take_sealed_secret(&mut self) -> Option<Zeroizing<[u8; 32]>> {
        self.secret.take()
    }

    /// Takes out, once, what gets quotes from the TPM; nothing without a TPM.
    pub fn take_quoter(&mut self) -> Option<GateQuoter> {
        self.quoter.take()
    }

    /// The heap's size in bytes.
    pub fn heap_bytes(&self) -> u64 {
        self.handoff.heap.length
    }

    /// Where boot put things: what a probe attacks and a service has no use for.
    pub fn handoff(&self) -> &Handoff {
        &self.handoff
    }

    /// Takes the network card out, once.
    pub fn take_nic(&mut self) -> Option<Nic> {
        self.nic.take()
    }

    /// Whether this machine was cloned or restored since the last call.
    ///
    /// If so the generator has been reseeded, and whoever asks must drop what it shares with the
    /// machine's other copies: keys, sequence numbers, connections.
    pub fn was_cloned(&mut self) -> bool {
        let Some(generation) = &mut self.generation else { return false };
        let now = generation.id.read();
        if now == generation.seen {
            return false;
        }
        generation.seen = now;
        entropy::reseed(&now);
        true
    }

    /// Sleeps until a moment, a device, or nothing at all.
    pub fn idle(&self, until: crate::clock::Instant) {
        arch::idle(self.clock.tsc_at(until));
    }
}

/// Ends the machine with a reason on its console.
pub fn stop(reason: Stop) -> ! {
    arch::stop(reason)
}

fn nic(nic: &handoff::Nic) -> Option<Nic> {
    if nic.present == 0 {
        return None;
    }
    let [m0, m1, m2, m3, m4, m5, ..] = nic.mac.to_le_bytes();
    // The receive ring offers its buffers at once, so it comes last.
    let transmit = TransmitRing::new(&nic.transmit, nic.features)?;
    let receive = ReceiveRing::new(&nic.receive, nic.features)?;
    Some(Nic { mac: [m0, m1, m2, m3, m4, m5], receive, transmit })
}
