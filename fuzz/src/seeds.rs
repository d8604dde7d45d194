//! The seeds: for each target some inputs that lead far into what it tests. `examples/seeds.rs`
//! writes them to `corpus/`.

use std::net::{Ipv4Addr, SocketAddrV4};

use abi::Span;
use abi::configuration::{Header, OnStop};
use abi::image::{MAX_SEGMENTS, Manifest, Segment, SegmentAccess};
use edge_config::{
    Attestation, Buffers, Certificate, Config, Deadlines, Identity, Level, Limits, Listener, Log,
    Name, Network, Prefix, PrivateKey,
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
        ("edge_config", "ephemeral", edge_config(ephemeral())),
        ("edge_config", "good", edge_config(in_image())),
        ("edge_config", "sealed", edge_config(sealed())),
        ("firmware_acpi", "one_of_each", acpi()),
        ("firmware_event_log", "ovmf", event_log()),
        ("firmware_memory_map", "six_ranges", memory_map()),
        ("firmware_pvh", "two_ranges", pvh()),
        ("key_file_payload", "changed", vec![2, 3, 0, 1]),
        ("key_file_payload", "content", [&[1][..], &crate::key_file::good_content()].concat()),
        ("key_file_payload", "through_another", vec![3]),
        ("key_file_payload", "raw", b"\0BULLAKY\x01\0\0\0\x04\0\0\0\x1eTPM2".to_vec()),
        ("log_escape", "text", b"GET / HTTP/1.1\r\n\x00\"\\\x7f\xff".to_vec()),
        ("log_escape", "long", (0..=255).collect()),
        ("net_established", "traffic", net::traffic()),
        ("net_frames", "connections", net::connections()),
        ("net_frames", "dialled", net::dialled()),
        ("net_frames", "odd_frames", net::odd_frames()),
        ("proxy_steps", "evidence", evidence()),
        ("proxy_steps", "request", REQUEST.to_vec()),
        ("proxy_steps", "no_backend", NO_BACKEND.to_vec()),
        ("rings", "jump", crate::rings::seeds::jump()),
        ("rings", "lies", crate::rings::seeds::lies()),
        ("rings", "receiving", crate::rings::seeds::receiving()),
        ("rings", "sending", crate::rings::seeds::sending()),
        ("rings", "strangers", crate::rings::seeds::strangers()),
        ("seal_image", "nothing", b"\x7fELF".to_vec()),
        ("tls_client_hello", "offered", vec![3, 0]),
        ("tls_client_hello", "offered_in_pieces", vec![0x23, 30, 0, 60, 0]),
        ("tls_client_hello", "other", vec![1, 0]),
        ("tls_client_hello", "raw", [&[0, 0], &tls::CLIENT_HELLO[5..]].concat()),
        ("tls_incoming", "hello", vec![1, 0]),
        ("tls_incoming", "hello_in_pieces", vec![0x21, 3, 0x30, 0, 1, 0]),
        ("tls_incoming", "http", b"\x00\x00GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("tls_incoming", "raw", raw_hello()),
        ("tls_records", "everything", RECORDS.to_vec()),
    ];
    seeds.extend(attestation());
    seeds.extend(crate::seal::seeds::all());
    seeds
}

/// What real machines and TPMs said.
fn attestation() -> Vec<Seed> {
    let vector = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
        std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let sized = |bytes: Vec<u8>| [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
    let quote = |key: &str, message: &str, signature: &str| {
        [key, message, signature].map(|name| sized(vector(name))).concat()
    };
    let evidence = attest_core::evidence::Evidence {
        ak: b"ak",
        ek: Some(b"ek"),
        aux: b"aux",
        log: b"log",
        pcrs: b"pcrs",
        seal: b"seal",
        quote: b"quote",
        answer: Some(b"answer"),
        leaves: b"leaves",
        signature: b"signature",
    };
    let claims = attest_core::claims::Claims {
        app: "edge-proxy".into(),
        key_origin: attest_core::claims::KeyOrigin::Sealed,
        version: "0".into(),
    };
    let gce = "derived/gce-cos-85-nonce9009";
    vec![
        ("attest_event_log", "ovmf", vector("ovmf-swtpm/2M-crb-full/eventlog_after_extend.bin")),
        ("attest_event_log", "four_banks", vector("tpm2-tools/event.bin")),
        ("attest_event_log", "vendor_data", vector("tpm2-tools/specid-vendordata.bin")),
        ("attest_event_log", "old_form", vector("tpm2-tools/event-uefivar.bin")),
        ("attest_evidence", "evidence", evidence.encode()),
        ("attest_evidence", "claims", claims.encode()),
        ("attest_policy", "policy", POLICY.to_vec()),
        ("attest_policy", "identity", IDENTITY.to_vec()),
        (
            "attest_quote",
            "ecc",
            quote("negative/ak_ec.tpmt", "negative/evil-pcr4.msg", "negative/evil-pcr4.sig"),
        ),
        (
            "attest_quote",
            "rsa",
            quote(
                &format!("{gce}/ak_pub.tpmt"),
                &format!("{gce}/quote-sha256.msg"),
                &format!("{gce}/quote-sha256.sig"),
            ),
        ),
        ("tpm_answers", "banks", TPM_ANSWERS.to_vec()),
        ("tpm_key_file", "good", KEY_FILE.to_vec()),
    ]
}

/// Banks, an extend, and values of eight PCRs.
const TPM_ANSWERS: &[u8] = b"\x0f\x00\x00\x00\x00\x00\x05\x00\x00\x00\x01\x00\x0b\x03\xff\xff\xff\
    \x0f\x00\x00\x00\x00\x00\x05\x00\x00\x00\x01\x00\x0b\x03\xff\xff\xff\
    \x04\x40\x00\x00\x00\x00\x0a\x00\x00\x00\x00\x09\x00\x00\x00\x01\x00\x0b";

const KEY_FILE: &[u8] =
    b"BULLAKY\x01\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x01p\x00\x01d\x00\x01s\x00\x01l!";

const IDENTITY: &[u8] = br#"{"schema":"bulla-identity/1","ak_name":"000b0000000000000000000000000000000000000000000000000000000000000000","ek_sha256":null,"platform_trust":"vtpm-host","source":"pinned"}"#;

const POLICY: &[u8] = br#"{"schema":"bulla-refvalues/1","image":{"name":"x","sha256":"0000000000000000000000000000000000000000000000000000000000000000","authenticode_sha256":"0000000000000000000000000000000000000000000000000000000000000000","service_sha256":"0000000000000000000000000000000000000000000000000000000000000000","configuration_sha256":"0000000000000000000000000000000000000000000000000000000000000000"},"pcrs":{"0":{"skip":"x"},"1":{"skip":"x"},"2":{"expected_any":["0000000000000000000000000000000000000000000000000000000000000000"]},"3":{"skip":"x"},"4":{"from_image":true},"5":{"skip":"x"},"6":{"skip":"x"},"7":{"skip":"x"},"11":{"from_image":true},"12":{"from_image":true}},"seal":{"layout_any":["0000000000000000000000000000000000000000000000000000000000000000"],"gate_sha256":"0000000000000000000000000000000000000000000000000000000000000000"},"require":{"key_origin_any":["sealed"],"platform_trust_any":["tpm"],"safe_clock":true,"min_reset_count":null,"firmware_version_deny":[]}}"#;

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

/// A client that asks for evidence, waits, reads it, and then has a request of five bytes.
fn evidence() -> Vec<u8> {
    let mut events = b"\xf8\xff\x05\x03\x01\x24\x00\x00\x00\x20".to_vec();
    events.extend_from_slice(&[0x07, 2, 200, 0x55]);
    events.extend_from_slice(&[9; 28]);
    events.push(0);
    for _ in 0..6 {
        events.extend_from_slice(b"\x0f\x05\x00\x00\x07\xff\xff");
    }
    events.extend_from_slice(b"\x01\x05hello\x00\x0a\xff\xff\x0b\x2c\x01\x07\xff\xff\x04\x0d\x08\x0a\xff\xff\x07\xff\xff");
    events
}

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

fn in_image() -> Identity {
    Identity::Image {
        chain: vec![Certificate::new(vec![0xc1; 70]), Certificate::new(vec![0xc2; 64])],
        key: PrivateKey::new(vec![0x90; 32]),
    }
}

fn ephemeral() -> Identity {
    Identity::Ephemeral { names: vec![Name::new("sealed.test".to_owned())] }
}

fn sealed() -> Identity {
    let names = ["192.0.2.1", "a.test"].map(|text| Name::new(text.to_owned())).to_vec();
    Identity::Sealed { issuer: Certificate::new(vec![0xca; 64]), names }
}

fn edge_config(identity: Identity) -> Vec<u8> {
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
        identity,
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
        attestation: Attestation {
            allow: vec![Prefix { address: Ipv4Addr::new(10, 77, 0, 0), length: 24 }],
            quotes_per_second: 2,
        },
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
