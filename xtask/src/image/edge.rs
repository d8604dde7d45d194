//! The edge proxy's configuration file: one TOML file that says everything.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use abi::configuration::{MAX_HEAP_BYTES, OnStop};
use edge_config::bounds::{self, Bounds, Invalid};
use edge_config::budget::Budget;
use edge_config::{
    Attestation, Buffers, Config, Deadlines, Identity, KeyOrigin, Level, Limits, Listener, Log,
    Name, Network, Prefix,
};
use zeroize::Zeroizing;

use super::document::{ConfigError, Field, Problem, Source, Table};
use super::identity::{self, Warning, Which};

const KIB: u32 = 1 << 10;

/// Handshakes of both kinds at once, where the file does not say.
const DEFAULT_HANDSHAKES: u32 = 256;

/// Quotes in a second, likewise.
const DEFAULT_QUOTES: u32 = 2;

/// A configuration file, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// What the proxy is told.
    pub config: Config,
    /// What happens after a stop.
    pub on_stop: OnStop,
    /// How much heap all of it can need.
    pub budget: Budget,
    /// What is allowed and may still be a mistake.
    pub warnings: Vec<Warning>,
}

/// Reads a configuration file and the files it names.
///
/// # Errors
///
/// [`ConfigError`] with the first thing that is wrong, its line and a remedy.
pub fn read(path: &Path, build_unix_s: u64) -> Result<Edge, ConfigError> {
    let unreadable = |reason: String| ConfigError {
        file: path.to_owned(),
        line: 1,
        key: String::new(),
        problem: Box::new(Problem::Unreadable { path: path.to_owned(), reason }),
    };
    let bytes = fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
    parse(path, &text, build_unix_s)
}

/// Reads the text of a configuration file; `path` is what errors call it and where the files that
/// it names are looked for.
///
/// # Errors
///
/// As for [`read`].
pub fn parse(path: &Path, text: &str, build_unix_s: u64) -> Result<Edge, ConfigError> {
    let source = Source::new(path, text);
    let tree = source.parse()?;
    let mut top = source.top(tree.get_ref());
    let network = read_network(&mut top)?;
    let limits = read_limits(&mut top)?;
    let listeners = read_listeners(&mut top, &limits)?;
    let backend = read_backend(&mut top)?;
    let deadlines = read_deadlines(&mut top)?;
    let buffers = read_buffers(&mut top)?;
    let log = read_log(&mut top)?;
    let on_stop = read_machine(&mut top)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let (identity, mut warnings) = read_tls(&mut top, folder, build_unix_s)?;
    let attestation = read_attestation(&mut top)?;
    top.finish()?;
    if identity.key_origin() == KeyOrigin::Ephemeral && attestation.allow.is_empty() {
        warnings.push(Warning::NobodyCanTell);
    }

    let config = Config {
        network,
        listeners,
        identity,
        backend,
        limits,
        deadlines,
        buffers,
        log,
        attestation,
    };
    config
        .check()
        .map_err(|invalid| source.error_at(key_of(&invalid), Problem::Invalid(invalid)))?;
    let budget = Budget::of(&config);
    if budget.heap() > MAX_HEAP_BYTES {
        let problem = Problem::Heap { bytes: budget.heap() };
        return Err(source.error_at(bounds::CONNECTIONS.key, problem));
    }
    Ok(Edge { config, on_stop, budget, warnings })
}

const fn key_of(invalid: &Invalid) -> &'static str {
    match invalid {
        Invalid::Address { key, .. } | Invalid::Exceeds { key, .. } => key,
        Invalid::Gateway(_) => "network.gateway",
        Invalid::Mac(_) => "network.mac",
        Invalid::Name { .. } => "tls.names",
        Invalid::Prefix(_) => "attestation.allow",
        Invalid::Range { bounds, .. } => bounds.key,
        Invalid::Twice(_) => "listener.port",
        Invalid::Unreachable(_) => "backend.address",
    }
}

fn read_network(top: &mut Table) -> Result<Network, ConfigError> {
    let mut table = top.require("network", "[network]")?.table()?;
    let address = table.require("address", "address = \"192.0.2.2/24\"")?;
    let parse = |text: &str| {
        let (address, prefix) = text.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok()?))
    };
    let expected = "an IPv4 address with the length of its network's prefix";
    let (address, prefix) = address.parsed(expected, "192.0.2.2/24", parse)?;
    let gateway = table.take("gateway").map(|field| read_address(&field)).transpose()?;
    let mac = table
        .take("mac")
        .map(|field| field.parsed("a hardware address", "52:54:00:12:34:56", parse_mac));
    let network = Network { address, prefix, gateway, mac: mac.transpose()? };
    table.finish()?;
    Ok(network)
}

fn read_address(field: &Field) -> Result<Ipv4Addr, ConfigError> {
    field.parsed("an IPv4 address", "192.0.2.1", |text| text.parse().ok())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let digits = parts.next().filter(|part| part.len() == 2)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    }
    parts.next().is_none().then_some(mac)
}

fn read_limits(top: &mut Table) -> Result<Limits, ConfigError> {
    let mut table = top.table("limits")?;
    let connections = count(&mut table, "connections", bounds::CONNECTIONS, 256)?;
    let some = connections.min(DEFAULT_HANDSHAKES);
    let limits = Limits {
        connections,
        handshakes: count(&mut table, "handshakes", bounds::HANDSHAKES, some)?,
        half_open: count(&mut table, "half_open", bounds::HALF_OPEN, some)?,
        backend_connections: count(
            &mut table,
            "backend_connections",
            bounds::BACKEND_CONNECTIONS,
            connections.min(bounds::BACKEND_CONNECTIONS.most),
        )?,
    };
    table.finish()?;
    Ok(limits)
}

fn read_listeners(top: &mut Table, limits: &Limits) -> Result<Vec<Listener>, ConfigError> {
    const EXAMPLE: &str = "[[listener]]";
    let mut listeners: Vec<Listener> = Vec::new();
    for mut table in top.require("listener", EXAMPLE)?.tables()? {
        let port = table.require("port", "port = 443")?;
        let number = narrow(port.count(bounds::PORT)?);
        if listeners.iter().any(|listener| listener.port == number) {
            return Err(port.error(Problem::Invalid(Invalid::Twice(number))));
        }
        let connections =
            count(&mut table, "connections", bounds::LISTENER_CONNECTIONS, limits.connections)?;
        table.finish()?;
        listeners.push(Listener { port: number, connections });
    }
    Ok(listeners)
}

/// A number whose bounds have made sure that it is a port's.
fn narrow(port: u32) -> u16 {
    u16::try_from(port).unwrap_or(0)
}

fn read_backend(top: &mut Table) -> Result<SocketAddrV4, ConfigError> {
    let mut table = top.require("backend", "[backend]")?.table()?;
    let address = table.require("address", "address = \"192.0.2.10:8080\"")?;
    let backend = address
        .parsed("an IPv4 address with a port", "192.0.2.10:8080", |text| text.parse().ok())?;
    table.finish()?;
    Ok(backend)
}

fn read_deadlines(top: &mut Table) -> Result<Deadlines, ConfigError> {
    let mut table = top.table("deadlines")?;
    let mut read = |key, bounds: Bounds, default| match table.take(key) {
        Some(field) => field.duration_ms(bounds),
        None => Ok(default),
    };
    let deadlines = Deadlines {
        handshake_ms: read("handshake", bounds::HANDSHAKE_MS, 10_000)?,
        idle_ms: read("idle", bounds::IDLE_MS, 60_000)?,
        lifetime_ms: read("lifetime", bounds::LIFETIME_MS, 24 * 3_600_000)?,
        backend_connect_ms: read("backend_connect", bounds::BACKEND_CONNECT_MS, 5_000)?,
    };
    table.finish()?;
    Ok(deadlines)
}

fn read_buffers(top: &mut Table) -> Result<Buffers, ConfigError> {
    let mut table = top.table("buffers")?;
    let mut read = |key, bounds: Bounds, default| match table.take(key) {
        Some(field) => field.size(bounds),
        None => Ok(default),
    };
    let buffers = Buffers {
        client_receive: read("client_receive", bounds::CLIENT_RECEIVE, 16 * KIB)?,
        client_send: read("client_send", bounds::CLIENT_SEND, 64 * KIB)?,
        backend_receive: read("backend_receive", bounds::BACKEND_RECEIVE, 32 * KIB)?,
        backend_send: read("backend_send", bounds::BACKEND_SEND, 16 * KIB)?,
    };
    table.finish()?;
    Ok(buffers)
}

fn read_log(top: &mut Table) -> Result<Log, ConfigError> {
    const LEVELS: [(&str, Level); 4] = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
    ];
    let mut table = top.table("log")?;
    let level = table.take("level").map(|field| field.choice(&LEVELS, "level = \"info\""));
    let log = Log {
        level: level.transpose()?.unwrap_or(Level::Info),
        lines_per_second: count(&mut table, "lines_per_second", bounds::LINES_PER_SECOND, 50)?,
    };
    table.finish()?;
    Ok(log)
}

fn read_machine(top: &mut Table) -> Result<OnStop, ConfigError> {
    const STOPS: [(&str, OnStop); 3] =
        [("reset", OnStop::Reset), ("power off", OnStop::PowerOff), ("halt", OnStop::Halt)];
    let mut table = top.table("machine")?;
    let on_stop = table.take("on_stop").map(|field| field.choice(&STOPS, "on_stop = \"reset\""));
    let on_stop = on_stop.transpose()?.unwrap_or(OnStop::Reset);
    table.finish()?;
    Ok(on_stop)
}

fn count(
    table: &mut Table,
    key: &'static str,
    bounds: Bounds,
    default: u32,
) -> Result<u32, ConfigError> {
    table.take(key).map_or(Ok(default), |field| field.count(bounds))
}

fn read_tls(
    top: &mut Table,
    folder: &Path,
    build_unix_s: u64,
) -> Result<(Identity, Vec<Warning>), ConfigError> {
    const ORIGINS: [(&str, KeyOrigin); 3] = [
        (KeyOrigin::Image.word(), KeyOrigin::Image),
        (KeyOrigin::Ephemeral.word(), KeyOrigin::Ephemeral),
        (KeyOrigin::Sealed.word(), KeyOrigin::Sealed),
    ];
    let mut table = top.require("tls", "[tls]")?.table()?;
    let origin =
        table.take("key_origin").map(|field| field.choice(&ORIGINS, "key_origin = \"image\""));
    let origin = origin.transpose()?.unwrap_or(KeyOrigin::Image);
    let foreign: &[&'static str] = match origin {
        KeyOrigin::Image => &["issuer", "names"],
        KeyOrigin::Ephemeral => &["certificates", "key", "issuer"],
        KeyOrigin::Sealed => &["certificates", "key"],
    };
    // One line has to go; the first of them is as good as any.
    if let Some(field) = foreign.iter().find_map(|key| table.take(key)) {
        return Err(field.error(Problem::Origin(origin)));
    }
    let read = match origin {
        KeyOrigin::Image => read_image_identity(&mut table, folder, build_unix_s)?,
        KeyOrigin::Ephemeral => {
            (Identity::Ephemeral { names: read_names(&mut table)? }, Vec::new())
        }
        KeyOrigin::Sealed => read_sealed_identity(&mut table, folder, build_unix_s)?,
    };
    table.finish()?;
    Ok(read)
}

fn read_image_identity(
    table: &mut Table,
    folder: &Path,
    build_unix_s: u64,
) -> Result<(Identity, Vec<Warning>), ConfigError> {
    const CERTIFICATES: &str = "certificates = \"server.pem\"";
    const KEY: &str = "key = \"server.key.pem\"";
    let certificates = table.require("certificates", CERTIFICATES)?;
    let key = table.require("key", KEY)?;
    let certificates_pem = read_named(&certificates, folder, CERTIFICATES)?;
    let key_pem = read_named(&key, folder, KEY)?;
    identity::read(&certificates_pem, &key_pem, build_unix_s).map_err(|(which, fault)| {
        let field = match which {
            Which::Certificates => &certificates,
            Which::Key => &key,
        };
        field.error(Problem::Identity(fault))
    })
}

fn read_sealed_identity(
    table: &mut Table,
    folder: &Path,
    build_unix_s: u64,
) -> Result<(Identity, Vec<Warning>), ConfigError> {
    const ISSUER: &str = "issuer = \"ca.pem\"";
    let field = table.require("issuer", ISSUER)?;
    let pem = read_named(&field, folder, ISSUER)?;
    let (issuer, warnings) = identity::read_issuer(&pem, build_unix_s)
        .map_err(|fault| field.error(Problem::Identity(fault)))?;
    Ok((Identity::Sealed { issuer, names: read_names(table)? }, warnings))
}

fn read_names(table: &mut Table) -> Result<Vec<Name>, ConfigError> {
    const EXAMPLE: &str = "names = [\"edge.example\"]";
    let parse = |text: &str| Some(Name::new(text.to_owned())).filter(Name::is_sound);
    let expected = "a whole host name or an IPv4 address";
    let items = table.require("names", EXAMPLE)?.items(EXAMPLE)?;
    items.iter().map(|item| item.parsed(expected, "edge.example", parse)).collect()
}

fn read_attestation(top: &mut Table) -> Result<Attestation, ConfigError> {
    const EXAMPLE: &str = "allow = [\"10.0.0.0/8\"]";
    let mut table = top.table("attestation")?;
    let parse = |text: &str| {
        let (address, length) = text.split_once('/')?;
        let prefix = Prefix { address: address.parse().ok()?, length: length.parse().ok()? };
        prefix.is_sound().then_some(prefix)
    };
    let expected = "the first address of a network with the length of its prefix";
    let items = table.take("allow").map(|field| field.items(EXAMPLE)).transpose()?;
    let items = items.unwrap_or_default();
    let allow = items.iter().map(|item| item.parsed(expected, "10.0.0.0/8", parse));
    let attestation = Attestation {
        allow: allow.collect::<Result<_, _>>()?,
        quotes_per_second: count(
            &mut table,
            "quotes_per_second",
            bounds::QUOTES_PER_SECOND,
            DEFAULT_QUOTES,
        )?,
    };
    table.finish()?;
    Ok(attestation)
}

/// Reads a file that the configuration names, beside the configuration.
fn read_named(
    field: &Field,
    folder: &Path,
    example: &'static str,
) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let path = folder.join(field.text(example)?);
    let bytes = fs::read(&path);
    bytes
        .map(Zeroizing::new)
        .map_err(|error| field.error(Problem::Unreadable { path, reason: error.to_string() }))
}
