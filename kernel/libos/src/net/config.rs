//! What an image fixes about its network: who it is, how many may connect, how long it waits.

use core::net::Ipv4Addr;
use core::time::Duration;

use super::frame::{EthernetAddress, Identity};

/// How one TCP connection behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes that may have arrived without being read.
    ///
    /// Not more than 65,535 on purpose: smoltcp 0.14 scales the window it offered in its SYN, which
    /// TCP never scales, so with a larger buffer a peer's first segment may lie outside it, and
    /// smoltcp panics.
    pub receive_bytes: u16,
    /// Bytes that may have been written without being acknowledged.
    pub send_bytes: u32,
    /// How long a connection may take to be established.
    pub handshake_timeout: Duration,
    /// How long a peer may be silent, before and after it was asked for a sign of life.
    pub silence_timeout: Duration,
    /// After how much silence a peer is asked for a sign of life; shorter than the timeout.
    pub keep_alive: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            receive_bytes: 16 << 10,
            send_bytes: 64 << 10,
            handshake_timeout: Duration::from_secs(5),
            silence_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(25),
        }
    }
}

/// What a port listens for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// How many connections of this port may be half open.
    pub max_half_open: usize,
    /// How its connections behave.
    pub tuning: Tuning,
}

/// How many connections there may be. Memory for them is taken one by one, as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections that came in, half-open ones included.
    pub accepted: usize,
    /// Connections that we opened.
    pub dialled: usize,
    /// Of all these, finished ones that nobody holds and whose end is still to be acknowledged.
    pub lingering: usize,
}

/// Everything [`Network::new`](super::Network::new) needs to know.
///
/// It holds secrets, so it can be neither copied nor printed.
pub struct Config {
    /// Our hardware address.
    pub mac: [u8; 6],
    /// Our IPv4 address.
    pub address: Ipv4Addr,
    /// How many bits of it name the network.
    pub prefix: u8,
    /// Who forwards to other networks.
    pub gateway: Option<Ipv4Addr>,
    /// Fresh random bytes: keys of the connection table and of the choice of ports, seed of smoltcp.
    pub random: [u8; 32],
    /// How many connections there may be.
    pub limits: Limits,
    /// How connections that we open behave.
    pub dial: Tuning,
    /// Whether there is memory for one more connection. Asked before each one.
    pub has_memory: fn() -> bool,
}

/// What is wrong with a [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The hardware address is a group's or zero.
    Mac([u8; 6]),
    /// The prefix leaves no room for a neighbour.
    Prefix(u8),
    /// The address is no host's address in that network.
    Address(Ipv4Addr),
    /// The gateway is no other host of that network.
    Gateway(Ipv4Addr),
}

impl core::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Mac(mac) => write!(f, "hardware address {mac:02x?} is not one machine's"),
            Self::Prefix(prefix) => write!(f, "network prefix /{prefix} is not within /1 to /30"),
            Self::Address(address) => write!(f, "address {address} is not a host of its network"),
            Self::Gateway(gateway) => write!(f, "gateway {gateway} is not a neighbour"),
        }
    }
}

impl core::error::Error for ConfigError {}

/// Why a port cannot be listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenError {
    /// Zero is no port, and ports from 49,152 up are for connections that we open.
    Port(u16),
    /// Somebody listens there already.
    InUse(u16),
}

impl core::fmt::Display for ListenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port} is not within 1 to 49151"),
            Self::InUse(port) => write!(f, "port {port} is listened on already"),
        }
    }
}

impl core::error::Error for ListenError {}

impl Config {
    /// Who we are, if the configuration makes sense.
    pub(super) fn identity(&self) -> Result<Identity, ConfigError> {
        if !(1..=30).contains(&self.prefix) {
            return Err(ConfigError::Prefix(self.prefix));
        }
        let identity = Identity {
            mac: EthernetAddress(self.mac),
            address: self.address.to_bits(),
            mask: u32::MAX << (32 - u32::from(self.prefix)),
        };
        if identity.mac.is_group() || self.mac == [0; 6] {
            return Err(ConfigError::Mac(self.mac));
        }
        if !identity.is_host(identity.address) {
            return Err(ConfigError::Address(self.address));
        }
        match self.gateway {
            Some(gateway) if !identity.is_neighbour(gateway.to_bits()) => {
                Err(ConfigError::Gateway(gateway))
            }
            _ => Ok(identity),
        }
    }
}
