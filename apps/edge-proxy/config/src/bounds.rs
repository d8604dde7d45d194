//! Between what and what every number of a configuration lies, by the key that a person writes.

use core::fmt;

use crate::{Attestation, Certificate, Config, Identity, Name, Network, Prefix};

/// The bounds of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The number's name in a configuration file.
    pub key: &'static str,
    /// The smallest that is allowed.
    pub least: u32,
    /// The largest that is allowed.
    pub most: u32,
}

const fn bounds(key: &'static str, least: u32, most: u32) -> Bounds {
    Bounds { key, least, most }
}

const SECOND_MS: u32 = 1_000;
const DAY_MS: u32 = 24 * 60 * 60 * SECOND_MS;

/// How many leading bits name the network: a network of one or two has no room for a gateway.
pub const PREFIX: Bounds = bounds("network.address", 1, 30);
/// How many ports are served.
pub const LISTENERS: Bounds = bounds("listener", 1, 16);
/// A TCP port that is served; the ones above are for connections that the proxy opens (RFC 6335).
pub const PORT: Bounds = bounds("listener.port", 1, 49_151);
/// How many connections come in through one port.
pub const LISTENER_CONNECTIONS: Bounds = bounds("listener.connections", 1, 100_000);
/// How many certificates are in a chain.
pub const CERTIFICATES: Bounds = bounds("tls.certificates", 1, 8);
/// Bytes of one certificate.
pub const CERTIFICATE_BYTES: Bounds = bounds("tls.certificates", 64, 16 << 10);
/// Bytes of all certificates together: they are sent in every handshake.
pub const CHAIN_BYTES: Bounds = bounds("tls.certificates", 64, 32 << 10);
/// Bytes of a private key.
pub const KEY_BYTES: Bounds = bounds("tls.key", 32, 16 << 10);
/// Bytes of the certificate that must have issued a sealed one.
pub const ISSUER_BYTES: Bounds = bounds("tls.issuer", 64, 16 << 10);
/// How many names a server has.
pub const NAMES: Bounds = bounds("tls.names", 1, 16);
/// How many networks may ask for evidence.
pub const ALLOW: Bounds = bounds("attestation.allow", 0, 64);
/// Quotes in a second.
pub const QUOTES_PER_SECOND: Bounds = bounds("attestation.quotes_per_second", 1, 50);
/// The backend's TCP port.
pub const BACKEND_PORT: Bounds = bounds("backend.address", 1, 65_535);
/// How many connections there are at once.
pub const CONNECTIONS: Bounds = bounds("limits.connections", 1, 100_000);
/// How many of them are in their TLS handshake.
pub const HANDSHAKES: Bounds = bounds("limits.handshakes", 1, 100_000);
/// How many of them are in their TCP handshake.
pub const HALF_OPEN: Bounds = bounds("limits.half_open", 1, 100_000);
/// How many connections to the backend there are at once.
pub const BACKEND_CONNECTIONS: Bounds = bounds("limits.backend_connections", 1, 50_000);
/// Milliseconds for a handshake.
pub const HANDSHAKE_MS: Bounds = bounds("deadlines.handshake", 100, 300 * SECOND_MS);
/// Milliseconds without a byte.
pub const IDLE_MS: Bounds = bounds("deadlines.idle", SECOND_MS, DAY_MS);
/// Milliseconds of a whole connection.
pub const LIFETIME_MS: Bounds = bounds("deadlines.lifetime", SECOND_MS, 30 * DAY_MS);
/// Milliseconds to connect to the backend.
pub const BACKEND_CONNECT_MS: Bounds = bounds("deadlines.backend_connect", 100, 300 * SECOND_MS);
/// Bytes from a client: at most what a TCP window says without scaling.
pub const CLIENT_RECEIVE: Bounds = bounds("buffers.client_receive", 2 << 10, 65_535);
/// Bytes to a client.
pub const CLIENT_SEND: Bounds = bounds("buffers.client_send", 2 << 10, 4 << 20);
/// Bytes from the backend, likewise.
pub const BACKEND_RECEIVE: Bounds = bounds("buffers.backend_receive", 2 << 10, 65_535);
/// Bytes to the backend.
pub const BACKEND_SEND: Bounds = bounds("buffers.backend_send", 2 << 10, 4 << 20);
/// Log lines in a second.
pub const LINES_PER_SECOND: Bounds = bounds("log.lines_per_second", 1, 10_000);

/// What a configuration says and must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// An address that no machine of this network has.
    Address {
        /// The address's name in a configuration file.
        key: &'static str,
        /// The address.
        address: core::net::Ipv4Addr,
    },
    /// More of something than of what it is part of.
    Exceeds {
        /// The part's name.
        key: &'static str,
        /// How much of it.
        value: u32,
        /// The whole's name.
        whole: &'static str,
        /// How much of that.
        most: u32,
    },
    /// A gateway that is in another network, or the machine itself.
    Gateway(core::net::Ipv4Addr),
    /// A hardware address that is a group's, or nobody's.
    Mac([u8; 6]),
    /// A name that no server has.
    Name {
        /// Which one, counted from 1.
        number: usize,
    },
    /// A network that is not written as its first address.
    Prefix(Prefix),
    /// A number that is too small or too large.
    Range {
        /// What it is and between what it lies.
        bounds: Bounds,
        /// What it is.
        value: u32,
    },
    /// The same port twice.
    Twice(u16),
    /// A backend in another network, and no gateway.
    Unreachable(core::net::Ipv4Addr),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { key, address } => {
                write!(f, "{key}: {address} is not the address of a machine there")
            }
            Self::Exceeds { key, value, whole, most } => {
                write!(f, "{key}: {value} is more than {whole}, which is {most}")
            }
            Self::Gateway(address) => {
                write!(f, "network.gateway: {address} is not a neighbour of network.address")
            }
            Self::Mac(mac) => {
                write!(f, "network.mac: {mac:02x?} is not the address of one network card")
            }
            Self::Name { number } => {
                write!(f, "tls.names: number {number} is no host name and no IPv4 address")
            }
            Self::Prefix(Prefix { address, length }) => {
                write!(
                    f,
                    "attestation.allow: {address}/{length} is not the first address of a network"
                )
            }
            Self::Range { bounds: Bounds { key, least, most }, value } => {
                write!(f, "{key}: {value} is not between {least} and {most}")
            }
            Self::Twice(port) => write!(f, "listener.port: {port} is there twice"),
            Self::Unreachable(address) => {
                write!(
                    f,
                    "backend.address: {address} is in another network and there is no gateway"
                )
            }
        }
    }
}

impl core::error::Error for Invalid {}

impl Bounds {
    /// Refuses a number that is out of bounds.
    ///
    /// # Errors
    ///
    /// [`Invalid::Range`].
    pub const fn check(self, value: u32) -> Result<(), Invalid> {
        if value < self.least || value > self.most {
            return Err(Invalid::Range { bounds: self, value });
        }
        Ok(())
    }

    fn check_count(self, count: usize) -> Result<(), Invalid> {
        self.check(u32::try_from(count).unwrap_or(u32::MAX))
    }
}

impl Config {
    /// Refuses a configuration that the proxy must not run with.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with the first thing that is wrong.
    pub fn check(&self) -> Result<(), Invalid> {
        check_network(&self.network)?;
        // The limits come first: what a listener may take is a part of them.
        self.check_limits()?;
        self.check_listeners()?;
        self.identity.check()?;
        self.attestation.check()?;
        self.check_backend()?;
        self.check_numbers()
    }

    fn check_listeners(&self) -> Result<(), Invalid> {
        LISTENERS.check_count(self.listeners.len())?;
        for (index, listener) in self.listeners.iter().enumerate() {
            PORT.check(u32::from(listener.port))?;
            LISTENER_CONNECTIONS.check(listener.connections)?;
            part_of(LISTENER_CONNECTIONS, listener.connections, &self.limits)?;
            if self.listeners.iter().take(index).any(|other| other.port == listener.port) {
                return Err(Invalid::Twice(listener.port));
            }
        }
        Ok(())
    }

    fn check_backend(&self) -> Result<(), Invalid> {
        let address = *self.backend.ip();
        let is_own = address == self.network.address;
        if is_own || !self.network.may_be_host(address) {
            return Err(Invalid::Address { key: BACKEND_PORT.key, address });
        }
        BACKEND_PORT.check(u32::from(self.backend.port()))?;
        if !self.network.contains(address) && self.network.gateway.is_none() {
            return Err(Invalid::Unreachable(address));
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), Invalid> {
        let limits = &self.limits;
        CONNECTIONS.check(limits.connections)?;
        let parts = [
            (HANDSHAKES, limits.handshakes),
            (HALF_OPEN, limits.half_open),
            (BACKEND_CONNECTIONS, limits.backend_connections),
        ];
        for (bounds, value) in parts {
            bounds.check(value)?;
            part_of(bounds, value, limits)?;
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), Invalid> {
        let numbers = [
            (HANDSHAKE_MS, self.deadlines.handshake_ms),
            (IDLE_MS, self.deadlines.idle_ms),
            (LIFETIME_MS, self.deadlines.lifetime_ms),
            (BACKEND_CONNECT_MS, self.deadlines.backend_connect_ms),
            (CLIENT_RECEIVE, self.buffers.client_receive),
            (CLIENT_SEND, self.buffers.client_send),
            (BACKEND_RECEIVE, self.buffers.backend_receive),
            (BACKEND_SEND, self.buffers.backend_send),
            (LINES_PER_SECOND, self.log.lines_per_second),
        ];
        numbers.into_iter().try_for_each(|(bounds, value)| bounds.check(value))
    }
}

impl Identity {
    fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::Image { chain, key } => {
                check_chain(chain)?;
                KEY_BYTES.check_count(key.pkcs8().len())
            }
            Self::Ephemeral { names } => check_names(names),
            Self::Sealed { issuer, names } => {
                ISSUER_BYTES.check_count(issuer.der().len())?;
                check_names(names)
            }
        }
    }
}

fn check_chain(chain: &[Certificate]) -> Result<(), Invalid> {
    CERTIFICATES.check_count(chain.len())?;
    for certificate in chain {
        CERTIFICATE_BYTES.check_count(certificate.der().len())?;
    }
    CHAIN_BYTES.check_count(chain.iter().map(|entry| entry.der().len()).sum())
}

fn check_names(names: &[Name]) -> Result<(), Invalid> {
    NAMES.check_count(names.len())?;
    match names.iter().position(|name| !name.is_sound()) {
        Some(index) => Err(Invalid::Name { number: index + 1 }),
        None => Ok(()),
    }
}

impl Attestation {
    fn check(&self) -> Result<(), Invalid> {
        ALLOW.check_count(self.allow.len())?;
        if let Some(prefix) = self.allow.iter().find(|prefix| !prefix.is_sound()) {
            return Err(Invalid::Prefix(*prefix));
        }
        QUOTES_PER_SECOND.check(self.quotes_per_second)
    }
}

fn check_network(network: &Network) -> Result<(), Invalid> {
    let Network { address, prefix, gateway, mac } = *network;
    PREFIX.check(u32::from(prefix))?;
    if !network.may_be_host(address) {
        return Err(Invalid::Address { key: PREFIX.key, address });
    }
    if let Some(gateway) = gateway {
        let is_neighbour = network.contains(gateway) && network.may_be_host(gateway);
        if !is_neighbour || gateway == address {
            return Err(Invalid::Gateway(gateway));
        }
    }
    match mac {
        // IEEE 802: the lowest bit of the first byte says that it is a group's.
        Some(mac) if mac == [0; 6] || mac[0] & 1 == 1 => Err(Invalid::Mac(mac)),
        _ => Ok(()),
    }
}

fn part_of(bounds: Bounds, value: u32, limits: &crate::Limits) -> Result<(), Invalid> {
    if value <= limits.connections {
        return Ok(());
    }
    let Bounds { key, .. } = bounds;
    Err(Invalid::Exceeds { key, value, whole: CONNECTIONS.key, most: limits.connections })
}
