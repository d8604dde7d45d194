//! The edge proxy's configuration.
//!
//! The image tool fills these types from a TOML file and encodes them behind the header of the
//! configuration section; the proxy decodes them and believes nothing: every bound is checked
//! again. The memory budget is arithmetic over them, the same on both sides.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bounds;
pub mod budget;
mod encoding;
mod key;
mod name;

use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

pub use encoding::DecodeError;
pub use key::{Certificate, KeyOrigin, PrivateKey};
pub use name::Name;

/// Everything the proxy is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Its place in the network.
    pub network: Network,
    /// The ports it serves, at least one.
    pub listeners: Vec<Listener>,
    /// Who it says it is.
    pub identity: Identity,
    /// Where the plaintext goes.
    pub backend: SocketAddrV4,
    /// How much of everything.
    pub limits: Limits,
    /// How long for everything.
    pub deadlines: Deadlines,
    /// Bytes of the sockets' buffers.
    pub buffers: Buffers,
    /// What it says on the console.
    pub log: Log,
    /// Who may ask for evidence.
    pub attestation: Attestation,
}

/// A place in an IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The machine's address.
    pub address: Ipv4Addr,
    /// How many leading bits of it name the network.
    pub prefix: u8,
    /// Who forwards what is for other networks.
    pub gateway: Option<Ipv4Addr>,
    /// The hardware address that the NIC must have, if it matters.
    pub mac: Option<[u8; 6]>,
}

impl Network {
    /// The network's mask, as a number.
    const fn mask(&self) -> u32 {
        mask(self.prefix)
    }

    /// Whether `address` is in the same network.
    pub const fn contains(&self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & self.mask() == 0
    }

    /// Whether `address` may be a machine's: not the network's own, not its broadcast address,
    /// nobody's loopback, multicast or nothing at all.
    pub const fn may_be_host(&self, address: Ipv4Addr) -> bool {
        let is_special = address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_broadcast();
        // RFC 3021: both addresses of a /31 are hosts, and a /32 has only one.
        let host = address.to_bits() & !self.mask();
        let is_edge =
            self.prefix < 31 && self.contains(address) && (host == 0 || host == !self.mask());
        !is_special && !is_edge
    }
}

/// A port that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The TCP port.
    pub port: u16,
    /// How many of [`Limits::connections`] may come in here.
    pub connections: u32,
}

/// Who the proxy says it is, and where it has that from. Each stands alone: where one does not
/// work, none takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// Certificate and key are in the image, where whoever has the image can read them.
    Image {
        /// The certificates, the server's own first, each signed by the next.
        chain: Vec<Certificate>,
        /// The private key of the first certificate.
        key: PrivateKey,
    },
    /// Key and certificate are made at each start; only evidence says whose they are.
    Ephemeral {
        /// What the certificate says the server is called.
        names: Vec<Name>,
    },
    /// Certificates and key are in a file beside the image, sealed to one machine's TPM.
    Sealed {
        /// Who must have issued the certificate.
        issuer: Certificate,
        /// What the certificate must say the server is called.
        names: Vec<Name>,
    },
}

impl Identity {
    /// Where the key comes from.
    pub const fn key_origin(&self) -> KeyOrigin {
        match self {
            Self::Image { .. } => KeyOrigin::Image,
            Self::Ephemeral { .. } => KeyOrigin::Ephemeral,
            Self::Sealed { .. } => KeyOrigin::Sealed,
        }
    }
}

/// Who may ask for evidence, and how much of it there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The networks whose clients may ask; without any, nobody may.
    pub allow: Vec<Prefix>,
    /// How many quotes there are in a second at most. One is for up to sixteen connections.
    pub quotes_per_second: u32,
}

/// A network, for telling who is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// Its first address.
    pub address: Ipv4Addr,
    /// How many leading bits its addresses have in common.
    pub length: u8,
}

impl Prefix {
    /// Whether `address` is in the network.
    pub const fn contains(&self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & mask(self.length) == 0
    }

    /// Whether it is written as its first address, and no longer than an address.
    pub const fn is_sound(&self) -> bool {
        self.length <= 32 && self.address.to_bits() & !mask(self.length) == 0
    }
}

/// The mask of a network with that many bits in common, as a number.
const fn mask(length: u8) -> u32 {
    // A shift by 32 is none in this arithmetic, and /0 is a network of everything.
    match 32u32.checked_sub(length as u32) {
        Some(32) => 0,
        Some(host_bits) => u32::MAX << host_bits,
        None => u32::MAX,
    }
}

/// How much of everything there may be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections from clients, the half-open ones included.
    pub connections: u32,
    /// Connections that have not finished their TLS handshake.
    pub handshakes: u32,
    /// Connections that have not finished their TCP handshake.
    pub half_open: u32,
    /// Connections to the backend.
    pub backend_connections: u32,
}

/// How long everything may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// From the first SYN to the end of the TLS handshake.
    pub handshake_ms: u32,
    /// Without a byte in either direction.
    pub idle_ms: u32,
    /// From the first SYN to the end, whatever happens.
    pub lifetime_ms: u32,
    /// To connect to the backend.
    pub backend_connect_ms: u32,
}

/// Bytes of the sockets' buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffers {
    /// From clients, still encrypted.
    pub client_receive: u32,
    /// To clients, encrypted, kept until acknowledged.
    pub client_send: u32,
    /// From the backend.
    pub backend_receive: u32,
    /// To the backend, kept until acknowledged.
    pub backend_send: u32,
}

/// What is said on the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The least important lines that are printed.
    pub level: Level,
    /// Lines in a second; what is more is counted and the count printed.
    pub lines_per_second: u32,
}

/// How important a line is, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Something of ours does not work.
    Error,
    /// Somebody else's fault that we had to act on.
    Warn,
    /// What an operator wants to read.
    Info,
    /// Every connection.
    Debug,
}
