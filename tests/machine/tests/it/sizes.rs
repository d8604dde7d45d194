//! Many connections, one after the other or at once, cost what was said and nothing more.

use machine::{Backend, body};

use crate::support::{PATIENCE, SMALL, Site, client, is_long, raise_file_limit};

/// Waits until the proxy says that it is idle after `accepted` connections, and how much heap it
/// then uses.
#[track_caller]
fn heap_when_idle(site: &Site, accepted: usize) -> u64 {
    let part = format!("connections=0 accepted={accepted}");
    let line = site.machine.console().wait_for(&part, PATIENCE).unwrap();
    let value = line.split_whitespace().find_map(|word| word.strip_prefix("heap_in_use="));
    value.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no number in {line:?}"))
}

/// Opens connections one after the other, each for one body.
fn connections(site: &Site, count: usize, bytes: usize) {
    let config = client::config(site);
    let expected = body::bytes(bytes);
    let path = format!("/bytes/{bytes}");
    for _ in 0..count {
        let mut stream = client::connect_as(site, &config);
        assert!(client::get(&mut stream, &path) == expected);
        stream.conn.send_close_notify();
        let _ = stream.conn.complete_io(&mut stream.sock);
    }
}

#[test]
fn heap_in_use_after_many_connections_is_heap_in_use_before() {
    // 2,000 connections and 64 MiB, or 20,000 and 1 GiB.
    let (count, bytes) = if is_long() { (20_000, 53_688) } else { (2_000, 33_555) };
    let backend = Backend::start().unwrap();
    let site = Site::start(backend.address());
    // Tables keep the size that they once needed, and connections one after the other overlap by
    // a few while they close. So this one time there are more at once than there will be again.
    let config = client::config(&site);
    let at_once: Vec<_> = (0..32).map(|_| client::connect_as(&site, &config)).collect();
    connections(&site, 64, bytes);
    drop(at_once);
    let before = heap_when_idle(&site, 32 + 64);
    connections(&site, count, bytes);
    assert_eq!(heap_when_idle(&site, 32 + 64 + count), before);
}

#[test]
fn a_thousand_idle_connections_fit_into_64_mib() {
    raise_file_limit();
    let backend = Backend::start().unwrap();
    let site = Site::start_as("thousand", backend.address(), |builder| builder.memory_mib(64));
    let config = client::config(&site);
    let mut idle: Vec<_> = (0..999).map(|_| client::connect_as(&site, &config)).collect();
    // The thousandth asks for something, and so do some of the others.
    site.goes_on();
    for index in [0, 499, 998] {
        let body = client::get(&mut idle[index], &format!("/bytes/{SMALL}"));
        assert_eq!(body, body::bytes(SMALL));
    }
}
