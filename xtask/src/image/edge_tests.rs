//! The edge proxy's configuration file: the ones we ship, and what is refused where.

use std::path::Path;

use abi::configuration::OnStop;
use edge_config::budget::Budget;
use edge_config::{Config, Identity, KeyOrigin, Level};

use super::edge::{Edge, parse, read};
use super::{ConfigError, Warning};
use crate::build;

/// 2026-11-25.
const BUILT: u64 = 1_795_564_800;

const GOOD: &str = "\
[network]
address = \"10.0.2.15/24\"
gateway = \"10.0.2.2\"
mac = \"52:54:00:12:34:56\"

[[listener]]
port = 443

[tls]
certificates = \"sealed.test.pem\"
key = \"sealed.test.key.pem\"
key_origin = \"image\"

[backend]
address = \"10.0.2.2:8080\"

[limits]
connections = 100

[deadlines]
handshake = \"10 s\"

[buffers]
client_receive = \"16 KiB\"

[log]
level = \"info\"

[machine]
on_stop = \"power off\"
";

fn parse_here(text: &str) -> Result<Edge, ConfigError> {
    parse(&build::root().join("tests/configs/edge.toml"), text, BUILT)
}

#[test]
fn reads_every_key() {
    let more = GOOD
        .replace("port = 443", "port = 0x1bb\nconnections = 50\n\n[[listener]]\nport = 8_443")
        .replace(
            "connections = 100\n",
            "connections = 100\nhandshakes = 7\nhalf_open = 8\nbackend_connections = 9\n",
        )
        .replace(
            "handshake = \"10 s\"",
            "handshake = \"1 s\"\nidle = \"2 min\"\nlifetime = \"3 h\"\nbackend_connect = \"400 ms\"",
        )
        .replace(
            "client_receive = \"16 KiB\"",
            "client_receive = \"4 KiB\"\nclient_send = \"5 KiB\"\nbackend_receive = \"6 KiB\"\n\
             backend_send = \"1 MiB\"",
        )
        .replace("\"info\"", "\"debug\"\nlines_per_second = 11");
    let Edge { config, on_stop, budget, .. } = parse_here(&more).unwrap();
    assert_eq!(on_stop, OnStop::PowerOff);
    assert_eq!(config.network.mac, Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
    let listeners: Vec<_> = config.listeners.iter().map(|l| (l.port, l.connections)).collect();
    assert_eq!(listeners, [(443, 50), (8443, 100)]);
    let limits = config.limits;
    assert_eq!((limits.handshakes, limits.half_open, limits.backend_connections), (7, 8, 9));
    let deadlines = config.deadlines;
    assert_eq!((deadlines.handshake_ms, deadlines.idle_ms), (1_000, 120_000));
    assert_eq!((deadlines.lifetime_ms, deadlines.backend_connect_ms), (10_800_000, 400));
    let buffers = config.buffers;
    assert_eq!((buffers.client_receive, buffers.client_send), (4096, 5120));
    assert_eq!((buffers.backend_receive, buffers.backend_send), (6144, 1 << 20));
    assert_eq!((config.log.level, config.log.lines_per_second), (Level::Debug, 11));
    assert_eq!(budget, Budget::of(&config));
    assert_eq!(Config::decode(&config.encode().unwrap()), Ok(config));
}

#[test]
fn a_short_file_is_enough() {
    let edge = parse_here(
        "network.address = \"192.0.2.2/24\"\nbackend.address = \"192.0.2.3:80\"\n\
         [[listener]]\nport = 443\n[tls]\ncertificates = \"sealed.test.pem\"\n\
         key = \"sealed.test.key.pem\"\n",
    );
    let edge = edge.unwrap();
    assert_eq!((edge.config.limits.connections, edge.on_stop), (256, OnStop::Reset));
    assert_eq!(edge.warnings, [Warning::KeyInImage]);
}

/// Changes one place of the good file and expects an error there.
#[track_caller]
fn check(from: &str, to: &str, line: usize, key: &str, says: &str) {
    assert!(GOOD.contains(from), "the good file has no {from:?}");
    check_text(&GOOD.replacen(from, to, 1), line, key, says);
}

#[track_caller]
fn check_text(text: &str, line: usize, key: &str, says: &str) {
    let error = parse_here(text).unwrap_err();
    let seen = error.to_string();
    assert_eq!((error.line, &*error.key), (line, key), "{seen}");
    let place = if key.is_empty() { format!(":{line}: ") } else { format!(":{line}: {key}: ") };
    assert!(seen.contains(&format!("edge.toml{place}")), "{seen}");
    let (problem, remedy) = seen.split_once("; remedy: ").unwrap();
    assert!(problem.contains(says), "{seen}");
    assert!(remedy.len() > 8 && !remedy.contains('\n') && !problem.contains('\n'), "{seen}");
}

#[test]
fn what_is_not_toml_is_refused_at_its_line() {
    check("port = 443", "port = ", 7, "port", "not TOML");
    check("port = 443", "port 443", 7, "", "not TOML");
    check("[backend]", "[backend", 14, "", "not TOML");
    check("port = 443", "port = 443\nport = 444", 8, "port", "not TOML");
    check("\"10.0.2.2\"", "10.0.2.2", 3, "gateway", "not TOML");
    check("gateway = \"10.0.2.2\"", "gateway = \"10.0.2.2", 3, "gateway", "not TOML");
}

#[test]
fn unknown_keys_are_refused() {
    check("gateway =", "gatway =", 3, "network.gatway", "nobody knows");
    check("[network]", "[netwrok]", 1, "network", "missing");
    check("[log]", "[logs]", 26, "logs", "nobody knows");
    check("port = 443", "port = 443\nadress = 1", 8, "listener.adress", "nobody knows");
    check("connections = 100", "conections = 100", 18, "limits.conections", "nobody knows");
    check("[network]", "debug = true\n[network]", 1, "debug", "nobody knows");
    check("key_origin", "key_orgin", 12, "tls.key_orgin", "nobody knows");
    check("handshake =", "hand_shake =", 21, "deadlines.hand_shake", "nobody knows");
    check("client_receive", "client_recieve", 24, "buffers.client_recieve", "nobody knows");
    check("on_stop", "on_crash", 30, "machine.on_crash", "nobody knows");
    check(
        "address = \"10.0.2.2:",
        "url = \"1\"\naddress = \"10.0.2.2:",
        15,
        "backend.url",
        "nobody",
    );
}

#[test]
fn missing_keys_are_named_at_their_table() {
    check("address = \"10.0.2.15/24\"\n", "", 1, "network.address", "missing");
    check("port = 443\n", "", 6, "listener.port", "missing");
    check("certificates = \"sealed.test.pem\"\n", "", 9, "tls.certificates", "missing");
    check("key = \"sealed.test.key.pem\"\n", "", 9, "tls.key", "missing");
    check("address = \"10.0.2.2:8080\"\n", "", 14, "backend.address", "missing");
    check("[[listener]]\nport = 443\n", "", 1, "listener", "missing");
    check_text("", 1, "network", "missing");
}

#[test]
fn values_of_another_type_are_refused() {
    check("port = 443", "port = \"443\"", 7, "listener.port", "a whole number belongs here");
    check("port = 443", "port = 443.0", 7, "listener.port", "a number with a point");
    check("port = 443", "port = true", 7, "listener.port", "true or false");
    check("port = 443", "port = [443]", 7, "listener.port", "a list");
    check("port = 443", "port = 2026-01-01", 7, "listener.port", "a date");
    check("[[listener]]", "[listener]", 6, "listener", "a list of tables belongs here");
    check("\"10.0.2.15/24\"", "10", 2, "network.address", "a string belongs here");
    check("\"16 KiB\"", "16384", 24, "buffers.client_receive", "a string belongs here");
    check("\"10 s\"", "10", 21, "deadlines.handshake", "a string belongs here");
    let limits = GOOD.replace("[limits]\nconnections = 100\n", "");
    check_text(&format!("limits = 3\n{limits}"), 1, "limits", "a table belongs here");
    check("key = \"sealed.test.key.pem\"", "key = { file = \"x\" }", 11, "tls.key", "a table");
    check_text(
        &format!("listener = [1]\n{}", GOOD.replace("[[listener]]\nport = 443\n", "")),
        1,
        "listener",
        "a list of tables",
    );
}

#[test]
fn numbers_out_of_bounds_are_refused() {
    let key = "limits.connections";
    check("= 100", "= 0", 18, key, "0 is not between 1 and 100000");
    check("= 100", "= 100001", 18, key, "100001 is not between");
    check("= 100", "= -1", 18, key, "-1 is not between");
    check("= 100", "= 99999999999999999999999", 18, key, "is not between");
    check("= 443", "= 0", 7, "listener.port", "0 is not between 1 and 49151");
    check("= 443", "= 65536", 7, "listener.port", "65536 is not between");
    check("= 100", "= 100\nhandshakes = 0", 19, "limits.handshakes", "0 is not between");
    check("= 100", "= 100\nhandshakes = 101", 19, "limits.handshakes", "101 is more than limits");
    let backend = "limits.backend_connections";
    check("= 100", "= 100\nbackend_connections = 101", 19, backend, "101 is more than");
    check("= 443", "= 443\nconnections = 101", 8, "listener.connections", "101 is more than");
    let size = "buffers.client_receive";
    check("16 KiB", "1 KiB", 24, size, "1 KiB is not between 2 KiB and 65535 B");
    check("16 KiB", "5 MiB", 24, size, "5 MiB is not between");
    check("16 KiB", "5000000 GiB", 24, size, "is not between");
    let deadline = "deadlines.handshake";
    check("\"10 s\"", "\"1 ms\"", 21, deadline, "1 ms is not between 100 ms and 5 min");
    check("\"10 s\"", "\"1 h\"", 21, deadline, "1 h is not between");
}

#[test]
fn values_without_a_meaning_are_refused() {
    let address = "network.address";
    check("10.0.2.15/24", "10.0.2.15", 2, address, "\"10.0.2.15\" is not an IPv4 address");
    check("10.0.2.15/24", "10.0.2/24", 2, address, "is not an IPv4 address");
    check("10.0.2.15/24", "fe80::1/64", 2, address, "is not an IPv4 address");
    check("10.0.2.15/24", "10.0.2.15/0", 2, address, "0 is not between 1 and 30");
    check("10.0.2.15/24", "10.0.2.15/33", 2, address, "33 is not between 1 and 30");
    check("10.0.2.15/24", "10.0.2.0/24", 2, address, "is not the address of a machine");
    check("10.0.2.15/24", "10.0.2.255/24", 2, address, "is not the address of a machine");
    check("\"10.0.2.2\"", "\"10.0.3.2\"", 3, "network.gateway", "is not a neighbour");
    check("\"10.0.2.2\"", "\"10.0.2.15\"", 3, "network.gateway", "is not a neighbour");
    check("\"10.0.2.2\"", "\"router\"", 3, "network.gateway", "is not an IPv4 address");
    check("52:54:00:12:34:56", "52:54:00:12:34", 4, "network.mac", "is not a hardware address");
    check("52:54:00:12:34:56", "52-54-00-12-34-56", 4, "network.mac", "is not a hardware");
    check("52:54:00:12:34:56", "+2:54:00:12:34:56", 4, "network.mac", "is not a hardware");
    check("52:54:00:12:34:56", "53:54:00:12:34:56", 4, "network.mac", "one network card");
    check("10.0.2.2:8080", "10.0.2.2", 15, "backend.address", "with a port");
    check("10.0.2.2:8080", "localhost:80", 15, "backend.address", "with a port");
    check("10.0.2.2:8080", "10.0.2.2:0", 15, "backend.address", "0 is not between");
    check("10.0.2.2:8080", "10.0.2.15:80", 15, "backend.address", "address of a machine");
    let far = GOOD.replace("gateway = \"10.0.2.2\"\n", "").replace("10.0.2.2:8080", "192.0.2.1:80");
    check_text(&far, 14, "backend.address", "there is no gateway");
    check("16 KiB", "16 KB", 24, "buffers.client_receive", "\"16 KB\" is not a size");
    check("10 s", "10 seconds", 21, "deadlines.handshake", "is not a duration");
    check("\"info\"", "\"verbose\"", 27, "log.level", "\"verbose\" is not known");
    check("power off", "shutdown", 30, "machine.on_stop", "is not known");
    check("\"image\"", "\"file\"", 12, "tls.key_origin", "is not known");
    let twice = "port = 443\n[[listener]]\nport = 443";
    check("port = 443", twice, 9, "listener.port", "443 is there twice");
}

#[test]
fn files_that_are_not_there_are_named_with_where_they_were_looked_for() {
    let path = "tests/configs/nothing.pem";
    check("sealed.test.pem", "nothing.pem", 10, "tls.certificates", path);
    check("sealed.test.key.pem", "nothing.pem", 11, "tls.key", path);
    check("sealed.test.key.pem", ".", 11, "tls.key", "cannot be read");
    let missing = Path::new("/nowhere/edge.toml");
    let seen = read(missing, BUILT).unwrap_err().to_string();
    assert!(seen.starts_with("/nowhere/edge.toml:1: /nowhere/edge.toml cannot be read"), "{seen}");
    assert!(seen.contains("; remedy: "), "{seen}");
}

#[test]
fn certificates_and_keys_are_checked_and_named_by_their_key() {
    let (certificates, key) = ("tls.certificates", "tls.key");
    check("\"sealed.test.pem\"", "\"sealed.test.key.pem\"", 10, certificates, "no certificate");
    check("\"sealed.test.pem\"", "\"authority.pem\"", 11, key, "belongs to another certificate");
    check("\"sealed.test.key.pem\"", "\"sealed.test.pem\"", 11, key, "no private key");
    check("\"sealed.test.pem\"", "\"edge.toml\"", 10, certificates, "cannot be read");
}

/// The good file with another `[tls]`.
fn with_tls(lines: &str) -> String {
    let (before, rest) = GOOD.split_once("[tls]\n").unwrap();
    let (_, after) = rest.split_once("[backend]").unwrap();
    format!("{before}[tls]\n{lines}\n[backend]{after}")
}

#[test]
fn a_key_may_be_made_at_the_start_or_come_sealed() {
    let ephemeral =
        with_tls("key_origin = \"ephemeral\"\nnames = [\"sealed.test\", \"192.0.2.1\"]");
    let edge = parse_here(&ephemeral).unwrap();
    assert_eq!(edge.config.identity.key_origin(), KeyOrigin::Ephemeral);
    assert_eq!(edge.warnings, [Warning::NobodyCanTell]);
    let listed = format!("{ephemeral}[attestation]\nallow = [\"10.0.0.0/8\"]\n");
    let with_desk = parse_here(&listed).unwrap();
    assert_eq!(with_desk.warnings, []);
    let more = with_desk.budget.in_use() - edge.budget.in_use();
    assert_eq!(more, 3 * (128 << 10) + (24 << 10), "evidence is part of the budget");
    let sealed =
        with_tls("key_origin = \"sealed\"\nissuer = \"authority.pem\"\nnames = [\"sealed.test\"]");
    let edge = parse_here(&sealed).unwrap();
    assert_eq!(edge.warnings, []);
    assert_eq!(Config::decode(&edge.config.encode().unwrap()), Ok(edge.config.clone()));
    let Identity::Sealed { issuer, names } = edge.config.identity else { panic!("not sealed") };
    assert!(issuer.der().len() > 100);
    assert_eq!(names.iter().map(|name| name.text()).collect::<Vec<_>>(), ["sealed.test"]);
}

#[test]
fn a_key_of_one_origin_has_nothing_of_another() {
    let (key, names) = ("tls.key", "tls.names");
    let check = |lines: &str, line, key, says| check_text(&with_tls(lines), line, key, says);
    let no_meaning = "no meaning with key_origin";
    check("key_origin = \"ephemeral\"", 9, names, "missing");
    check("key_origin = \"sealed\"\nnames = [\"a.test\"]", 9, "tls.issuer", "missing");
    check("key_origin = \"sealed\"\nissuer = \"authority.pem\"", 9, names, "missing");
    check("key_origin = \"ephemeral\"\nnames = []", 11, names, "0 is not between 1 and 16");
    check(
        "key_origin = \"ephemeral\"\nnames = [\n\"a.test\",\n\"*.test\"]",
        13,
        names,
        "not a whole",
    );
    check("key_origin = \"ephemeral\"\nnames = \"a.test\"", 11, names, "a list belongs here");
    check("key_origin = \"ephemeral\"\nnames = [1]", 11, names, "a string belongs here");
    check("key_origin = \"ephemeral\"\nnames = [\"a.test\"]\nkey = \"k\"", 12, key, no_meaning);
    check("key_origin = \"ephemeral\"\nissuer = \"c\"", 11, "tls.issuer", no_meaning);
    check("key_origin = \"sealed\"\ncertificates = \"c\"", 11, "tls.certificates", no_meaning);
    check("names = [\"a.test\"]\nkey = \"k\"", 10, names, no_meaning);
    check("issuer = \"c\"", 10, "tls.issuer", no_meaning);
    let sealed = |issuer: &str| {
        format!("key_origin = \"sealed\"\nnames = [\"a.test\"]\nissuer = \"{issuer}\"")
    };
    check(&sealed("nothing.pem"), 12, "tls.issuer", "cannot be read");
    check(&sealed("sealed.test.pem"), 12, "tls.issuer", "no authority's");
    check(&sealed("sealed.test.key.pem"), 12, "tls.issuer", "no certificate");
}

#[test]
fn who_may_ask_for_evidence_is_checked() {
    let check = |lines: &str, line, key, says: &str| {
        check_text(&format!("{GOOD}[attestation]\n{lines}\n"), line, key, says);
    };
    let (allow, quotes) = ("attestation.allow", "attestation.quotes_per_second");
    for bad in ["10.0.0.1/8", "10.0.0.0", "10.0.0.0/33", "ten/8", "10.0.0.0/8/8", ""] {
        check(&format!("allow = [\"{bad}\"]"), 32, allow, "is not the first address");
    }
    check("allow = \"10.0.0.0/8\"", 32, allow, "a list belongs here");
    check("quotes_per_second = 0", 32, quotes, "0 is not between 1 and 50");
    check("quotes_per_second = 51", 32, quotes, "51 is not between 1 and 50");
    check("alow = []", 32, "attestation.alow", "nobody knows");
    let many = vec!["\"10.0.0.0/8\""; 65].join(", ");
    check(&format!("allow = [{many}]"), 32, allow, "65 is not between 0 and 64");
    let all = format!("{GOOD}[attestation]\nallow = [\"0.0.0.0/0\"]\nquotes_per_second = 50\n");
    let attestation = parse_here(&all).unwrap().config.attestation;
    assert_eq!((attestation.allow.len(), attestation.quotes_per_second), (1, 50));
    let none = parse_here(GOOD).unwrap().config.attestation;
    assert_eq!((none.allow.len(), none.quotes_per_second), (0, 2), "nobody, if it is not said who");
}

#[test]
fn a_heap_that_no_machine_has_is_refused() {
    let text = GOOD.replace("connections = 100", "connections = 100000").replace(
        "client_receive = \"16 KiB\"",
        "client_receive = \"16 KiB\"\nclient_send = \"4 MiB\"",
    );
    check_text(&text, 18, "limits.connections", "together need a heap of");
}

#[test]
fn an_error_about_a_key_shows_nothing_of_it() {
    let text = GOOD.replace("\"sealed.test.pem\"", "\"authority.pem\"");
    let seen = format!("{:?}", parse_here(&text).unwrap_err());
    let pem = std::fs::read_to_string(build::root().join("tests/configs/sealed.test.key.pem"));
    let pem = pem.unwrap();
    let lines = pem.lines().filter(|line| line.len() > 20 && !line.contains(' '));
    assert!(lines.clone().count() >= 2);
    assert!(lines.into_iter().all(|line| !seen.contains(line)), "{seen}");
}

#[test]
fn the_configurations_we_ship_fit_the_machines_they_are_for() {
    const MIB: u64 = 1 << 20;
    let heap = |name: &str, connections: u64| {
        let path = build::root().join("tests/configs").join(name);
        let edge = read(&path, BUILT).unwrap_or_else(|error| panic!("{error}"));
        assert!(edge.budget.connections >= connections, "{name}");
        assert_eq!(edge.warnings, [Warning::KeyInImage], "{name}");
        edge.budget.heap()
    };
    assert!(heap("bench.toml", 1000) <= 230 * MIB);
    assert!(heap("demo.toml", 64) <= 64 * MIB);
    assert!((2 * MIB..=6 * MIB).contains(&heap("small.toml", 16)));
    assert!(heap("thousand.toml", 1000) <= 55 * MIB);
}
