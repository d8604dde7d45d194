//! The server: reads its configuration, listens, and gives each connection a task.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use abi::gate::Stop;
use edge_config::budget::Budget;
use edge_config::{Config, Deadlines, Level};
use libos::clock::{Instant, TscClock};
use libos::log::{self, Level as LogLevel};
use libos::machine::{Machine, stop};
use libos::net::{self, Accepted, Listener, Tuning};
use libos::runtime::{Runtime, has_memory};
use libos::tls::{ServerSettings, WallClock};

use crate::attest::{Desk, TpmWitness, Visitor};
use crate::counted::{Counted, Places};
use crate::identity::{self, IdentityError, SealedKey};
use crate::{Limits, Outcome, Reason, Route, Workspace, serve};

/// How long a peer may take to acknowledge the end of a connection.
const CLOSING: Duration = Duration::from_secs(5);

/// Finished connections whose end is still to be acknowledged: a quarter of all.
const LINGERING_SHARE: usize = 4;

/// Serves until power-off.
pub fn run(machine: Machine) -> ! {
    match Server::start(machine) {
        Ok(server) => server.run(),
        Err(error) => {
            log::plain(format_args!("edge-proxy: refused: {error}"));
            stop(Stop::BadHandoff)
        }
    }
}

/// Why the proxy cannot begin. The image tool checks all of this, so it means a broken image.
#[derive(Debug)]
enum StartError {
    Configuration(edge_config::DecodeError),
    Heap { needed: u64, actual: u64 },
    Identity(IdentityError),
    Listen(net::ListenError),
    Mac { wanted: [u8; 6], actual: [u8; 6] },
    Runtime(libos::runtime::RuntimeError),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Configuration(error) => write!(f, "configuration: {error}"),
            Self::Heap { needed, actual } => {
                write!(f, "the budget needs a heap of {needed} bytes, the image gives {actual}")
            }
            Self::Identity(error) => error.fmt(f),
            Self::Listen(error) => error.fmt(f),
            Self::Mac { wanted, actual } => {
                write!(
                    f,
                    "the network card is {actual:02x?}, the configuration wants {wanted:02x?}"
                )
            }
            Self::Runtime(error) => error.fmt(f),
        }
    }
}

struct Server {
    runtime: Runtime,
    settings: ServerSettings,
    desk: Desk,
    route: Route,
    handshakes: Places,
    /// Places a port, for as long as a connection lives.
    ports: Vec<(u16, Places)>,
    workspace: Rc<RefCell<Workspace>>,
}

impl Server {
    fn start(mut machine: Machine) -> Result<Self, StartError> {
        let config = Config::decode(machine.configuration()).map_err(StartError::Configuration)?;
        log::configure(level(config.log.level), config.log.lines_per_second);
        let budget = Budget::of(&config);
        if budget.heap() > machine.heap_bytes() {
            let (needed, actual) = (budget.heap(), machine.heap_bytes());
            return Err(StartError::Heap { needed, actual });
        }
        let actual = machine.nic.as_ref().map_or([0; 6], |nic| nic.mac);
        if let Some(wanted) = config.network.mac.filter(|wanted| *wanted != actual) {
            return Err(StartError::Mac { wanted, actual });
        }
        let settings = settings(&config, &mut machine)?;
        let desk = desk(&config, &settings, &mut machine);
        let tasks = config.limits.connections as usize;
        let reserve = (budget.connection + budget.backend_connection) as usize;
        let mut runtime =
            Runtime::new(machine, network(&config), tasks, reserve).map_err(StartError::Runtime)?;
        for listener in &config.listeners {
            let listen = Listener {
                max_half_open: config.limits.half_open as usize,
                tuning: client_tuning(&config),
            };
            runtime.listen(listener.port, listen).map_err(StartError::Listen)?;
        }
        ready(&config, &settings);
        Ok(Self {
            runtime,
            settings,
            desk,
            route: Route { backend: config.backend, limits: limits(&config.deadlines) },
            handshakes: Places::new(config.limits.handshakes),
            ports: config
                .listeners
                .iter()
                .map(|listener| (listener.port, Places::new(listener.connections)))
                .collect(),
            workspace: Rc::new(RefCell::new(Workspace::new())),
        })
    }

    fn run(self) -> ! {
        let Self { runtime, settings, desk, route, handshakes, ports, workspace } = self;
        let executor = runtime.executor().clone();
        let dialer = runtime.dialer();
        runtime.run(move |accepted, now| {
            let Accepted { stream, port, peer } = accepted;
            // Dropping the stream resets it: a connection we have no place for costs one frame.
            let refuse = |reason: core::fmt::Arguments<'_>| {
                log::line(now, LogLevel::Warning, format_args!("{peer}: refused: {reason}"));
            };
            let Some(place) = handshakes.take() else {
                return refuse(format_args!("too many handshakes"));
            };
            let of_port = ports.iter().find(|(number, _)| *number == port);
            let Some(place_of_port) = of_port.and_then(|(_, places)| places.take()) else {
                return refuse(format_args!("port {port} has no place left"));
            };
            let session = match settings.accept() {
                Ok(session) => Counted::new(session, place),
                Err(error) => {
                    log::line(now, LogLevel::Error, format_args!("{peer}: {error}"));
                    return;
                }
            };
            let (clock, dial) = (executor.clock(), dialer.clone());
            let visitor = Visitor { desk: desk.clone(), peer: *peer.ip() };
            let workspace = Rc::clone(&workspace);
            let task = async move {
                let _place = place_of_port;
                let serve = serve(session, stream, dial, route, visitor, &clock, &workspace);
                let outcome = serve.await;
                tell(libos::stream::Timer::now(&clock), peer, &outcome);
            };
            if executor.spawn(task).is_err() {
                refuse(format_args!("too many connections"));
            }
        })
    }
}

/// One line for a connection that is over. Those that went as they should are for the curious,
/// unless there was evidence.
fn tell(now: Instant, peer: core::net::SocketAddrV4, outcome: &Outcome) {
    let level = match outcome.reason {
        Reason::Completed | Reason::NoRequest | Reason::ClientReset
            if outcome.attested.is_some() =>
        {
            LogLevel::Info
        }
        Reason::Completed | Reason::NoRequest | Reason::ClientReset => LogLevel::Debug,
        Reason::Tls(_) | Reason::LeftInHandshake | Reason::HandshakeDeadline => LogLevel::Info,
        Reason::IdleDeadline | Reason::LifetimeDeadline => LogLevel::Info,
        _ => LogLevel::Warning,
    };
    log::line(now, level, format_args!("{peer}: {outcome}"));
}

/// Says that the proxy serves, and how much.
fn ready(config: &Config, settings: &ServerSettings) {
    // For whoever wants to pin it; an ephemeral one is known from nowhere else before evidence is.
    log::plain(format_args!(
        "tls key: {} sha256={}",
        config.identity.key_origin().word(),
        Hex(&attest_core::sha256(settings.public_key()))
    ));
    let limits = &config.limits;
    let port = config.listeners.first().map_or(0, |listener| listener.port);
    log::plain(format_args!(
        "READY tls {}:{port} -> {} connections {} backend {}",
        config.network.address, config.backend, limits.connections, limits.backend_connections
    ));
}

fn level(level: Level) -> LogLevel {
    match level {
        Level::Error => LogLevel::Error,
        Level::Warn => LogLevel::Warning,
        Level::Info => LogLevel::Info,
        Level::Debug => LogLevel::Debug,
    }
}

/// The settings for the configured identity. What boot unsealed is erased, whether it is used or
/// not.
fn settings(config: &Config, machine: &mut Machine) -> Result<ServerSettings, StartError> {
    let secret = machine.take_sealed_secret();
    let sealed = machine
        .record()
        .map(|record| SealedKey { file: record.key_file, secret: secret.as_deref() });
    identity::settings(&config.identity, sealed, Arc::new(Wall(machine.clock)))
        .map_err(StartError::Identity)
}

fn desk(config: &Config, settings: &ServerSettings, machine: &mut Machine) -> Desk {
    let tpm = machine.take_quoter().zip(machine.record());
    let claims = identity::claims(&config.identity);
    let witness = TpmWitness::new(tpm, settings.public_key(), claims);
    Desk::new(Box::new(witness), config.attestation.clone())
}

fn network(config: &Config) -> net::Config {
    let connections = config.limits.connections as usize;
    net::Config {
        // The card says who it is.
        mac: [0; 6],
        address: config.network.address,
        prefix: config.network.prefix,
        gateway: config.network.gateway,
        random: [0; 32],
        limits: net::Limits {
            accepted: connections,
            dialled: config.limits.backend_connections as usize,
            lingering: connections.div_ceil(LINGERING_SHARE),
        },
        dial: Tuning {
            receive_bytes: u16::try_from(config.buffers.backend_receive).unwrap_or(u16::MAX),
            send_bytes: config.buffers.backend_send,
            handshake_timeout: millis(config.deadlines.backend_connect_ms),
            ..Tuning::default()
        },
        has_memory,
    }
}

fn client_tuning(config: &Config) -> Tuning {
    Tuning {
        receive_bytes: u16::try_from(config.buffers.client_receive).unwrap_or(u16::MAX),
        send_bytes: config.buffers.client_send,
        ..Tuning::default()
    }
}

fn limits(deadlines: &Deadlines) -> Limits {
    Limits {
        handshake: millis(deadlines.handshake_ms),
        connect: millis(deadlines.backend_connect_ms),
        idle: millis(deadlines.idle_ms),
        lifetime: millis(deadlines.lifetime_ms),
        closing: CLOSING,
    }
}

fn millis(millis: u32) -> Duration {
    Duration::from_millis(millis.into())
}

/// Bytes as digits.
struct Hex<'a>(&'a [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The machine's clock as TLS wants it.
#[derive(Debug)]
struct Wall(TscClock);

impl WallClock for Wall {
    fn unix_seconds(&self) -> Option<u64> {
        Some(self.0.unix_s(self.0.now()))
    }
}
