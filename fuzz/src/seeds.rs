//! The seeds: for each target some inputs that lead far into what it tests. `examples/seeds.rs`
//! writes them to `corpus/`.

use std::net::{Ipv4Addr, SocketAddrV4};

use abi::Span;
use abi::configuration::{Header, OnStop};
use abi::image::{MAX_SEGMENTS, Manifest, Segment, SegmentAccess};
use edge_config::{
    Buffers, Certificate, Config, Deadlines, Identity, KeyOrigin, Level, Limits, Listener, Log,
    Network, PrivateKey,
};

use crate::net::seeds as net;
use crate::tls;

/// A target, a name, and the input.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// A client's first flight.
pub fn client_hello() -> Vec<u8> {
    tls::record_client_hello()
}

/// Every seed that is the same in each run.
pub fn all() -> Vec<Seed> {
    let mut seeds = vec![
        ("abi_configuration_header", "good", configuration_header()),
        ("abi_manifest", "good", manifest()),
        ("edge_config", "good", edge_config()),
        ("firmware_acpi", "one_of_each", acpi()),
        ("firmware_event_log", "ovmf", event_log()),
        ("firmware_memory_map", "six_ranges", memory_map()),
        ("firmware_pvh", "two_ranges", pvh()),
        ("log_escape", "text", b"GET / HTTP/1.1\r\n\x00\"\\\x7f\xff".to_vec()),
        ("log_escape", "long", (0..=255).collect()),
        ("net_established", "traffic", net::traffic()),
        ("net_frames", "connections", net::connections()),
        ("net_frames", "dialled", net::dialled()),
        ("net_frames", "odd_frames", net::odd_frames()),
        ("proxy_steps", "request", REQUEST.to_vec()),
        ("proxy_steps", "no_backend", NO_BACKEND.to_vec()),
        ("seal_image", "nothing", b"\x7fELF".to_vec()),
        ("tls_incoming", "hello", vec![1, 0]),
        ("tls_incoming", "hello_in_pieces", vec![0x21, 3, 0x30, 0, 1, 0]),
        ("tls_incoming", "http", b"\x00\x00GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("tls_incoming", "raw", raw_hello()),
        ("tls_records", "everything", RECORDS.to_vec()),
    ];
    seeds.extend(crate::seal::seeds::all());
    seeds
}

/// A seed for the audit of images: the image, with zeros for the bytes that decide nothing.
pub fn image(image: &[u8]) -> Vec<u8> {
    crate::seal::seeds::image(image)
}

fn raw_hello() -> Vec<u8> {
    [&[2, 9], tls::CLIENT_HELLO].concat()
}

/// Hello, a request of 9 bytes, time, an answer of 300, both finish, everybody reads.
const REQUEST: &[u8] =
    b"\x00\x80\x00\x01\x09a requestx\x0a\xff\xff\x0b\x2c\x01\x05\x00\x07\xff\xff\
    \x04\x0d\x08\x0a\xff\xff\x07\xff\xff\x0f\x01\x00\x01";

/// No place for the backend, then a long request, then one that stalls, then a reset.
const NO_BACKEND: &[u8] =
    b"\xff\x01\x00\x0e\x04\x01\x03abc\x1f\x0f\x64\x00\x00\x0e\x02\x0f\x64\x00\x00\
    \x0e\x00\x0b\xff\xff\x0a\xff\x0f\x07\xff\xff\x09\x01\x06\x05";

/// Data, a key update that is asked for, an alert, bytes that are no record, sealing, closing.
const RECORDS: &[u8] = b"\x10\x00\x01\x00\x00\x05hello\x06\x64\x00\x01\x00\x3f\x02hi\
    \x01\x02\x00\x05\x18\x00\x00\x01\x01\x06\x01\x00\x07\x01\x03\x00\x02\x01\x00\x05\x06\x17\x03\x03\x00\x01x";

fn configuration_header() -> Vec<u8> {
    let header = Header {
        heap_bytes: 8 << 20,
        stack_bytes: 256 << 10,
        on_stop: OnStop::Reset,
        needs_nic: true,
        build_unix_s: 1_700_000_000,
        payload_bytes: 3,
    };
    [&header.encode()[..], b"abc"].concat()
}

fn manifest() -> Vec<u8> {
    let mut segments = [None; MAX_SEGMENTS];
    let mut address = 0;
    for (slot, access) in segments.iter_mut().zip([
        SegmentAccess::Read,
        SegmentAccess::Execute,
        SegmentAccess::ReadAfterRelocation,
        SegmentAccess::ReadWrite,
    ]) {
        let memory_bytes = if access == SegmentAccess::ReadWrite { 0x5000 } else { 0x1234 };
        let offset = 0x10000 + address;
        *slot = Some(Segment { offset, address, file_bytes: 0x1234, memory_bytes, access });
        address += 0x2000;
    }
    let manifest = Manifest {
        entry: 0x2100,
        relocations: Span::new(0x19000, 64),
        configuration: Span::new(0x1a000, 100),
        segments,
    };
    manifest.encode().to_vec()
}

fn edge_config() -> Vec<u8> {
    let config = Config {
        network: Network {
            address: Ipv4Addr::new(10, 77, 0, 2),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 77, 0, 1)),
            mac: Some([0x52, 0x54, 0, 0x77, 0, 2]),
        },
        listeners: vec![
            Listener { port: 443, connections: 1000 },
            Listener { port: 8443, connections: 1 },
        ],
        identity: Identity {
            chain: vec![Certificate::new(vec![0xc1; 70]), Certificate::new(vec![0xc2; 64])],
            key: PrivateKey::new(vec![0x90; 32]),
            key_origin: KeyOrigin::Image,
        },
        backend: SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 8080),
        limits: Limits {
            connections: 1000,
            handshakes: 100,
            half_open: 100,
            backend_connections: 64,
        },
        deadlines: Deadlines {
            handshake_ms: 10_000,
            idle_ms: 60_000,
            lifetime_ms: 3_600_000,
            backend_connect_ms: 5_000,
        },
        buffers: Buffers {
            client_receive: 4 << 10,
            client_send: 8 << 10,
            backend_receive: 8 << 10,
            backend_send: 4 << 10,
        },
        log: Log { level: Level::Info, lines_per_second: 50 },
    };
    config.encode().expect("a good configuration").to_vec()
}

/// OVMF's log up to its first entries, and the final events without the application's.
fn event_log() -> Vec<u8> {
    let log = include_bytes!("../../tests/vectors/ovmf-swtpm/2M-crb-full/eventlog_entry.bin");
    let table = include_bytes!("../../tests/vectors/ovmf-swtpm/2M-crb-full/final_events.bin");
    // The header has 65 bytes and the first entry 52.
    let (log, table) = (&log[..65 + 52], &table[..16 + 70 + 79 + 90]);
    [&[65, 0, 65 + 52, 0, 1], log, table].concat()
}

/// Two descriptors of what is free and touches, one that is not, one far away, two of nothing.
fn memory_map() -> Vec<u8> {
    let mut map = vec![48];
    let ranges =
        [(7, 0x1000, 1), (4, 0x2000, 8), (6, 0xa000, 1), (7, 1 << 32, 4), (0, 0, 0), (1, 0, 0)];
    for (kind, start, pages) in ranges {
        for word in [kind, start, 0_u64, pages, 0xf, 0] {
            map.extend_from_slice(&word.to_le_bytes());
        }
    }
    map
}

fn pvh() -> Vec<u8> {
    let mut info = vec![0; 56];
    info[..4].copy_from_slice(&0x336e_c578_u32.to_le_bytes());
    info[4] = 1;
    info[32..40].copy_from_slice(&0xf_0000_u64.to_le_bytes());
    info[40] = 56;
    info[48] = 2;
    for (start, length, kind) in [(0_u64, 0x9_fc00_u64, 1_u64), (0xf_0000, 0x1_0000, 2)] {
        for word in [start, length, kind] {
            info.extend_from_slice(&word.to_le_bytes());
        }
    }
    info
}

/// An ACPI table without its checksum, which the target puts right.
fn table(signature: &[u8; 4], oem: &[u8; 8], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 36];
    bytes[..4].copy_from_slice(signature);
    bytes[16..24].copy_from_slice(oem);
    bytes.extend_from_slice(body);
    let length = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn acpi() -> Vec<u8> {
    let mut facp = vec![0; 244 - 36];
    let mut put =
        |at: usize, bytes: &[u8]| facp[at - 36..at - 36 + bytes.len()].copy_from_slice(bytes);
    put(40, &0x300_u32.to_le_bytes());
    put(64, &0x604_u32.to_le_bytes());
    put(76, &0x608_u32.to_le_bytes());
    put(108, &[0x32]);
    put(112, &(1_u32 << 10).to_le_bytes());
    put(116, &[1]);
    put(120, &0xcf9_u64.to_le_bytes());
    put(128, &[0x0f]);
    let madt = [
        0, 0, 0, 0xfe, 0, 0, 0, 0, 0, 8, 0, 0, 1, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0,
        0,
    ];
    let mcfg = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0];
    let tables = [
        (0x100, table(b"FACP", b"TEST    ", &facp)),
        (0x200, table(b"APIC", b"TEST    ", &madt)),
        (0x280, table(b"MCFG", b"TEST    ", &mcfg)),
        (0x300, table(b"DSDT", b"TEST    ", b"..\x08_S5_\x12\x06\x04\x0a\x05\x00\x00..")),
        (0x380, table(b"SSDT", b"VMGENID ", b"\x08VGIA\x0c\x00\x02\x00\x00")),
    ];
    let pointers: Vec<u8> =
        [0x100_u64, 0x200, 0x280, 0x380].into_iter().flat_map(u64::to_le_bytes).collect();
    let xsdt = table(b"XSDT", b"TEST    ", &pointers);
    let mut memory = vec![0; 0x400];
    memory[0] = 1;
    memory[16..24].copy_from_slice(b"RSD PTR ");
    memory[31] = 2;
    memory[40..48].copy_from_slice(&0x80_u64.to_le_bytes());
    for (at, table) in tables.into_iter().chain([(0x80, xsdt)]) {
        memory[at..at + table.len()].copy_from_slice(&table);
    }
    memory
}
