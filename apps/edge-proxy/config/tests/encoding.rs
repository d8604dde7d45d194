//! The encoding: what comes back, and what is refused.

use std::net::{Ipv4Addr, SocketAddrV4};

use edge_config::bounds::{self, Bounds, Invalid};
use edge_config::{
    Attestation, Buffers, Certificate, Config, Deadlines, DecodeError, Identity, Level, Limits,
    Listener, Log, Name, Network, Prefix, PrivateKey,
};

const KIB: u32 = 1 << 10;

fn good() -> Config {
    Config {
        network: Network {
            address: Ipv4Addr::new(10, 77, 0, 2),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 77, 0, 1)),
            mac: Some([0x52, 0x54, 0, 0x77, 0, 2]),
        },
        listeners: vec![Listener { port: 443, connections: 1000 }],
        identity: Identity::Image { chain: chain(), key: key() },
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
            client_receive: 4 * KIB,
            client_send: 8 * KIB,
            backend_receive: 8 * KIB,
            backend_send: 4 * KIB,
        },
        log: Log { level: Level::Info, lines_per_second: 50 },
        attestation: Attestation {
            allow: vec![Prefix { address: Ipv4Addr::new(10, 77, 0, 0), length: 24 }],
            quotes_per_second: 2,
        },
    }
}

fn chain() -> Vec<Certificate> {
    vec![Certificate::new(vec![0xc1; 500]), Certificate::new(vec![0xc2; 600])]
}

fn key() -> PrivateKey {
    PrivateKey::new((0..138).map(|i| 0x90 + i % 16).collect())
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| Name::new((*text).to_owned())).collect()
}

#[test]
fn reads_back_what_it_wrote() {
    let config = good();
    assert_eq!(Config::decode(&config.encode().unwrap()), Ok(config));
    let mut other = good();
    (other.network.gateway, other.network.mac) = (None, None);
    other.listeners.push(Listener { port: 8443, connections: 1 });
    other.log.level = Level::Debug;
    assert_eq!(Config::decode(&other.encode().unwrap()), Ok(other.clone()));
    let issuer = Certificate::new(vec![0xca; 16 << 10]);
    let names = names(&["sealed.test", "192.0.2.1"]);
    other.attestation = Attestation { allow: vec![], quotes_per_second: 50 };
    for identity in
        [Identity::Ephemeral { names: names.clone() }, Identity::Sealed { issuer, names }]
    {
        other.identity = identity;
        assert_eq!(Config::decode(&other.encode().unwrap()), Ok(other.clone()));
    }
}

#[test]
fn a_network_knows_who_is_in_it() {
    let prefix = |length| Prefix { address: Ipv4Addr::new(10, 77, 0, 0), length };
    assert!(prefix(24).contains(Ipv4Addr::new(10, 77, 0, 255)));
    assert!(!prefix(24).contains(Ipv4Addr::new(10, 77, 1, 0)));
    assert!(prefix(32).contains(Ipv4Addr::new(10, 77, 0, 0)));
    assert!(!prefix(32).contains(Ipv4Addr::new(10, 77, 0, 1)));
    let everybody = Prefix { address: Ipv4Addr::UNSPECIFIED, length: 0 };
    assert!(everybody.is_sound() && everybody.contains(Ipv4Addr::new(203, 0, 113, 9)));
    assert!(prefix(16).is_sound() && !prefix(15).is_sound() && !prefix(33).is_sound());
}

#[test]
fn refuses_every_beginning_of_a_configuration_and_every_continuation() {
    let bytes = good().encode().unwrap();
    for length in 0..bytes.len() {
        let seen = Config::decode(&bytes[..length]).unwrap_err();
        assert_eq!(seen, DecodeError::Truncated { bytes: length });
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Config::decode(&longer), Err(DecodeError::Trailing { bytes: 1 }));
}

#[test]
fn tells_another_kind_of_payload_from_its_own() {
    let mut bytes = good().encode().unwrap().to_vec();
    bytes[7] = 1;
    assert_eq!(Config::decode(&bytes), Err(DecodeError::Magic(*b"EDGECFG\x01")));
    let text = DecodeError::Magic(*b"EDGECFG\x01").to_string();
    assert!(text.contains("another version"), "{text}");
}

/// A generator of numbers that look random and are the same every time (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn random_bytes_are_refused_without_a_panic() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let length = (numbers.next() % 300) as usize;
        let mut bytes = b"EDGECFG\x02".to_vec();
        bytes.extend((0..length).map(|_| numbers.next() as u8));
        assert!(Config::decode(&bytes).is_err());
    }
}

#[test]
fn changed_bytes_are_refused_or_understood_whole() {
    let good = good().encode().unwrap();
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut bytes = good.to_vec();
        for _ in 0..1 + numbers.next() % 3 {
            let at = (numbers.next() % bytes.len() as u64) as usize;
            bytes[at] = numbers.next() as u8;
        }
        match Config::decode(&bytes) {
            Ok(config) => assert_eq!(config.check(), Ok(())),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn a_claimed_length_costs_no_memory() {
    let mut bytes = b"EDGECFG\x02".to_vec();
    bytes.extend([10, 77, 0, 2, 24, 0, 0]);
    bytes.extend([0xff; 9]);
    bytes.push(1);
    assert!(Config::decode(&bytes).is_err(), "a list of 2^64 - 1 listeners");
}

#[test]
fn no_byte_of_the_key_is_ever_printed() {
    let config = good();
    let printed = [
        format!("{config:?}"),
        format!("{config:#?}"),
        format!("{:?}", config.identity),
        format!("{:?}", key().clone()),
    ];
    for text in printed {
        assert!(text.contains("PrivateKey(..)"), "{text}");
        for byte in [0x90u8, 0x91, 0x9f] {
            let shown = [format!("{byte}"), format!("{byte:x}"), format!("{byte:#x}")];
            assert!(shown.iter().all(|shown| !text.contains(&**shown)), "{text}");
        }
    }
    let mut bad = good();
    bad.identity = Identity::Image { chain: chain(), key: PrivateKey::new(vec![0x99; 20]) };
    assert_eq!(bad.check().unwrap_err().to_string(), "tls.key: 20 is not between 32 and 16384");
}

#[track_caller]
fn check(change: impl FnOnce(&mut Config), expected: Invalid) {
    let mut config = good();
    change(&mut config);
    assert_eq!(config.check(), Err(expected));
    assert_eq!(config.encode().unwrap_err(), expected);
    assert!(expected.to_string().contains(|c: char| c.is_ascii_digit()), "{expected}");
}

fn range(bounds: Bounds, value: u32) -> Invalid {
    Invalid::Range { bounds, value }
}

#[test]
fn refuses_numbers_out_of_bounds() {
    check(|c| c.limits.connections = 0, range(bounds::CONNECTIONS, 0));
    check(|c| c.listeners.clear(), range(bounds::LISTENERS, 0));
    check(|c| c.listeners = vec![c.listeners[0]; 17], range(bounds::LISTENERS, 17));
    check(|c| c.listeners[0].port = 0, range(bounds::PORT, 0));
    check(|c| c.listeners[0].connections = 0, range(bounds::LISTENER_CONNECTIONS, 0));
    check(|c| c.listeners.push(c.listeners[0]), Invalid::Twice(443));
    let image = |chain, key| move |c: &mut Config| c.identity = Identity::Image { chain, key };
    check(image(vec![], key()), range(bounds::CERTIFICATES, 0));
    let short = vec![Certificate::new(vec![0; 63])];
    check(image(short, key()), range(bounds::CERTIFICATE_BYTES, 63));
    check(image(chain(), PrivateKey::new(vec![])), range(bounds::KEY_BYTES, 0));
    check(|c| c.attestation.quotes_per_second = 0, range(bounds::QUOTES_PER_SECOND, 0));
    check(|c| c.attestation.quotes_per_second = 51, range(bounds::QUOTES_PER_SECOND, 51));
    let prefix = Prefix { address: Ipv4Addr::new(10, 77, 0, 0), length: 24 };
    check(|c| c.attestation.allow = vec![prefix; 65], range(bounds::ALLOW, 65));
    check(|c| c.limits.handshakes = 0, range(bounds::HANDSHAKES, 0));
    check(|c| c.limits.half_open = 0, range(bounds::HALF_OPEN, 0));
    check(|c| c.limits.backend_connections = 0, range(bounds::BACKEND_CONNECTIONS, 0));
    check(|c| c.deadlines.handshake_ms = 99, range(bounds::HANDSHAKE_MS, 99));
    check(|c| c.deadlines.idle_ms = 0, range(bounds::IDLE_MS, 0));
    check(|c| c.deadlines.lifetime_ms = u32::MAX, range(bounds::LIFETIME_MS, u32::MAX));
    check(|c| c.deadlines.backend_connect_ms = 0, range(bounds::BACKEND_CONNECT_MS, 0));
    check(|c| c.buffers.client_receive = 0, range(bounds::CLIENT_RECEIVE, 0));
    check(|c| c.buffers.client_send = 2047, range(bounds::CLIENT_SEND, 2047));
    check(|c| c.buffers.backend_receive = u32::MAX, range(bounds::BACKEND_RECEIVE, u32::MAX));
    check(|c| c.buffers.backend_send = 1, range(bounds::BACKEND_SEND, 1));
    check(|c| c.log.lines_per_second = 0, range(bounds::LINES_PER_SECOND, 0));
    check(|c| c.network.prefix = 0, range(bounds::PREFIX, 0));
    check(|c| c.network.prefix = 33, range(bounds::PREFIX, 33));
}

#[test]
fn refuses_names_networks_and_issuers_that_are_none() {
    let ephemeral = |texts: &[&str]| {
        let names = names(texts);
        move |c: &mut Config| c.identity = Identity::Ephemeral { names }
    };
    check(ephemeral(&[]), range(bounds::NAMES, 0));
    check(ephemeral(&["a.test"; 17]), range(bounds::NAMES, 17));
    check(ephemeral(&["a.test", "*.test"]), Invalid::Name { number: 2 });
    let sealed = |issuer: usize, texts: &[&str]| {
        let (issuer, names) = (Certificate::new(vec![0xca; issuer]), names(texts));
        move |c: &mut Config| c.identity = Identity::Sealed { issuer, names }
    };
    check(sealed(63, &["a.test"]), range(bounds::ISSUER_BYTES, 63));
    check(sealed(16_385, &["a.test"]), range(bounds::ISSUER_BYTES, 16_385));
    check(sealed(500, &[]), range(bounds::NAMES, 0));
    check(sealed(500, &["a."]), Invalid::Name { number: 1 });
    for (address, length) in [([10, 77, 0, 1], 24), ([10, 77, 0, 0], 33), ([1, 0, 0, 0], 0)] {
        let prefix = Prefix { address: address.into(), length };
        check(|c| c.attestation.allow.push(prefix), Invalid::Prefix(prefix));
    }
}

#[test]
fn refuses_parts_that_are_more_than_the_whole() {
    let exceeds =
        |key| Invalid::Exceeds { key, value: 1001, whole: "limits.connections", most: 1000 };
    check(|c| c.limits.handshakes = 1001, exceeds("limits.handshakes"));
    check(|c| c.limits.half_open = 1001, exceeds("limits.half_open"));
    check(|c| c.limits.backend_connections = 1001, exceeds("limits.backend_connections"));
    check(|c| c.listeners[0].connections = 1001, exceeds("listener.connections"));
}

#[test]
fn refuses_addresses_that_no_machine_has() {
    let address = |key, a: [u8; 4]| Invalid::Address { key, address: a.into() };
    let set = |a: [u8; 4]| move |c: &mut Config| c.network.address = a.into();
    for a in [[10, 77, 0, 0], [10, 77, 0, 255], [0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        check(set(a), address("network.address", a));
    }
    let gateway = |a: [u8; 4]| move |c: &mut Config| c.network.gateway = Some(a.into());
    for a in [[10, 77, 1, 1], [10, 77, 0, 2], [10, 77, 0, 255], [0; 4]] {
        check(gateway(a), Invalid::Gateway(a.into()));
    }
    let backend = |a: [u8; 4]| move |c: &mut Config| c.backend.set_ip(a.into());
    for a in [[10, 77, 0, 2], [10, 77, 0, 255], [0; 4], [127, 0, 0, 1]] {
        check(backend(a), address("backend.address", a));
    }
    check(|c| c.backend.set_port(0), range(bounds::BACKEND_PORT, 0));
    let far = Ipv4Addr::new(192, 0, 2, 1);
    let no_way = |c: &mut Config| {
        c.backend.set_ip(far);
        c.network.gateway = None;
    };
    check(no_way, Invalid::Unreachable(far));
    check(|c| c.network.mac = Some([1, 0, 0, 0, 0, 1]), Invalid::Mac([1, 0, 0, 0, 0, 1]));
    check(|c| c.network.mac = Some([0; 6]), Invalid::Mac([0; 6]));
}

#[test]
fn networks_of_every_size_know_their_members() {
    let network = |prefix| Network { prefix, ..good().network };
    let other = Ipv4Addr::new(10, 77, 0, 3);
    assert!(network(31).contains(other) && network(31).may_be_host(other));
    assert!(!network(32).contains(other) && network(32).may_be_host(network(32).address));
    assert!(network(1).contains(Ipv4Addr::new(127, 255, 255, 255)));
    assert!(!network(1).contains(Ipv4Addr::new(128, 0, 0, 0)));
    assert!(network(0).contains(Ipv4Addr::new(255, 0, 0, 1)));
}
