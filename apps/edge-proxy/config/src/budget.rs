//! How much heap a configuration can need at most.
//!
//! The image tool makes the heap as large as this says and prints it; the proxy refuses a
//! connection that the limits of the same arithmetic do not cover. So memory does not run out: a
//! connection that would need more than there is never begins.

use crate::{Config, Identity};

const KIB: u64 = 1 << 10;

/// What is there without any connection: TLS settings, the socket sets' frame, the connection
/// table's first pages, the log, and what the executor itself keeps.
pub const BASE_BYTES: u64 = 512 * KIB;

/// A client's encrypted bytes while a record or a handshake message is not complete. One record
/// is at most 16 KiB + 256 bytes + its header (RFC 8446 section 5.2).
pub const CLIENT_INPUT_BYTES: u64 = 20 * KIB;

/// Everything else a client's connection keeps: rustls' state (2 KiB after the handshake, more
/// during it), the socket and its set, the task, its places in the tables.
pub const CLIENT_STATE_BYTES: u64 = 8 * KIB;

/// Plaintext between the two sides, one record's worth in each direction.
pub const PUMP_BYTES: u64 = 2 * 16 * KIB;

/// The longest evidence.
pub const EVIDENCE_BYTES: u64 = 128 * KIB;

/// How many pieces of evidence are kept at once, for however many clients that read them.
pub const EVIDENCE_ANSWERS: u64 = 2;

/// What waits for evidence, and the TPM's answer.
pub const DESK_BYTES: u64 = 24 * KIB;

/// The most bytes of a sealed key file.
pub const KEY_FILE_BYTES: u64 = 8 * KIB;

/// A key and a certificate that are made at the start.
pub const EPHEMERAL_BYTES: u64 = 8 * KIB;

/// Of what is counted, one part in this many comes on top for the allocator: its own bookkeeping
/// and the gaps that it cannot use.
pub const ALLOCATOR_SHARE: u64 = 8;

/// The heap's size is a multiple of this: boot maps it with large leaves where it can, and small
/// ones everywhere else.
pub const GRAIN_BYTES: u64 = 64 * KIB;

/// What a heap is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Without any connection, the identity's own bytes included.
    pub base: u64,
    /// For each client's connection.
    pub connection: u64,
    /// For each of them that has a backend, on top.
    pub backend_connection: u64,
    /// How many connections.
    pub connections: u64,
    /// How many backend connections.
    pub backend_connections: u64,
}

impl Identity {
    /// Twice what it has: as configured or read, and as rustls keeps it.
    fn heap_bytes(&self) -> u64 {
        2 * match self {
            Self::Image { chain, key } => {
                let sizes = chain.iter().map(|certificate| certificate.der().len() as u64);
                sizes.sum::<u64>() + key.pkcs8().len() as u64
            }
            Self::Ephemeral { .. } => EPHEMERAL_BYTES,
            // And once as it is opened.
            Self::Sealed { issuer, .. } => issuer.der().len() as u64 + 2 * KEY_FILE_BYTES,
        }
    }
}

impl Budget {
    /// The budget of a configuration that has passed [`Config::check`].
    pub fn of(config: &Config) -> Self {
        let buffers = &config.buffers;
        let sum = |receive: u32, send: u32| u64::from(receive) + u64::from(send);
        let desk = match config.attestation.allow.len() {
            0 => 0,
            // One more that is being made.
            _ => (EVIDENCE_ANSWERS + 1) * EVIDENCE_BYTES + DESK_BYTES,
        };
        Self {
            base: BASE_BYTES + config.identity.heap_bytes() + desk,
            connection: sum(buffers.client_receive, buffers.client_send)
                + CLIENT_INPUT_BYTES
                + CLIENT_STATE_BYTES,
            backend_connection: sum(buffers.backend_receive, buffers.backend_send) + PUMP_BYTES,
            connections: u64::from(config.limits.connections),
            backend_connections: u64::from(config.limits.backend_connections),
        }
    }

    /// Bytes in use when everything is there that may be, without the allocator's share.
    ///
    /// All parts come from 32-bit numbers, so the sum stays below 2^64 whatever they are.
    pub const fn in_use(&self) -> u64 {
        self.base
            .saturating_add(self.connections.saturating_mul(self.connection))
            .saturating_add(self.backend_connections.saturating_mul(self.backend_connection))
    }

    /// Bytes of the heap: what can be in use, the allocator's share, whole grains.
    pub const fn heap(&self) -> u64 {
        let in_use = self.in_use();
        let bytes = in_use.saturating_add(in_use.div_ceil(ALLOCATOR_SHARE));
        match bytes.checked_next_multiple_of(GRAIN_BYTES) {
            Some(heap) => heap,
            None => u64::MAX,
        }
    }
}
