//! Other people's clients get other people's bytes through the machine, whoever else misbehaves.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use machine::{Backend, body};

use crate::support::programs::{curl, run, s_client};
use crate::support::{BACKEND, LARGE, NGINX, PATIENCE, SMALL, Site, client, read, wait_until};

const REQUEST: &[u8] = b"GET /1024 HTTP/1.0\r\n\r\n";

#[track_caller]
fn assert_same(seen: &[u8], size: usize) {
    assert_eq!(body::sha256(seen), body::sha256(&body::bytes(size)), "of {} bytes", seen.len());
}

#[test]
fn curl_downloads_are_identical() {
    for size in [SMALL, LARGE] {
        let outcome = curl(&NGINX.0, &[], &format!("/{size}"));
        assert!(outcome.is_success, "{}", outcome.complaints);
        assert_same(&outcome.output, size);
    }
}

#[test]
fn curl_uploads_are_identical() {
    let (site, nginx) = &*NGINX;
    for size in [SMALL, LARGE] {
        let sent = nginx.files().join(size.to_string());
        let outcome = curl(site, &["-T", sent.to_str().unwrap()], &format!("/upload/{size}"));
        assert!(outcome.is_success, "{}", outcome.complaints);
        assert_same(&read(&nginx.files().join(format!("upload/{size}"))), size);
    }
}

#[test]
fn openssl_verifies_the_chain_and_gets_the_same_bytes() {
    let outcome = s_client(&NGINX.0, &["-tls1_3", "-quiet"], REQUEST);
    assert!(outcome.is_success, "{}", outcome.complaints);
    assert_same(outcome.body(), SMALL);
}

#[test]
fn gnutls_verifies_the_chain_and_gets_the_same_bytes() {
    let site = &NGINX.0;
    let port = site.address().port().to_string();
    let log = site.file("gnutls.log");
    let verify = format!("--verify-hostname={}", machine::site::NAME);
    let logfile = format!("--logfile={}", log.display());
    let name = format!("--sni-hostname={}", machine::site::NAME);
    let arguments =
        ["-p", &port, "--x509cafile", site.authority(), &verify, &name, &logfile, "127.0.0.1"];
    let outcome = run("gnutls-cli", &arguments, REQUEST);
    assert!(outcome.is_success, "{}", outcome.complaints);
    assert_same(outcome.body(), SMALL);
}

#[test]
fn wrk_with_64_connections_sees_no_error() {
    let url = format!("https://{}/{SMALL}", NGINX.0.address());
    let outcome = run("wrk", &["-t1", "-c64", "-d5s", "--timeout", "30s", &url], b"");
    let text = outcome.text();
    assert!(outcome.is_success, "{text}{}", outcome.complaints);
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    let requests: u64 = requests.expect("a number of requests").0.parse().unwrap();
    assert!(requests > 64, "{text}");
}

#[test]
fn sixty_four_connections_at_once_each_get_their_bytes() {
    let site = &BACKEND.0;
    let config = client::config(site);
    // All of them are open before any of them asks.
    let open: Vec<_> = (0..64).map(|_| client::connect_as(site, &config)).collect();
    thread::scope(|scope| {
        for (mut stream, size) in open.into_iter().zip(100_000..) {
            scope.spawn(move || {
                assert_same(&client::get(&mut stream, &format!("/bytes/{size}")), size);
            });
        }
    });
}

#[test]
fn a_slow_reader_gets_everything_and_holds_up_nobody() {
    let site = &BACKEND.0;
    let mut slow = client::connect(site);
    client::ask(&mut slow, &format!("/bytes/{LARGE}")).unwrap();
    for _ in 0..10 {
        site.goes_on();
        thread::sleep(Duration::from_millis(100));
    }
    assert_same(&client::answer(&mut slow), LARGE);
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let backend = Backend::start().unwrap();
    let site = Site::start(backend.address());
    for _ in 0..20 {
        let mut rude = client::connect(&site);
        client::ask(&mut rude, &format!("/bytes/{LARGE}")).unwrap();
        rude.sock.read_exact(&mut [0; 1000]).unwrap();
        // Closed with unread bytes: a reset instead of a farewell.
        drop(rude);
    }
    site.goes_on();
    wait_until("no connection to the backend is open", || backend.open() == 0);
}

/// Sends a request and returns what comes until the proxy ends the connection.
#[track_caller]
fn all_of(site: &Site, path: &str) -> Vec<u8> {
    let mut stream = client::connect(site);
    let mut answer = Vec::new();
    let asked = client::ask(&mut stream, path);
    // A reset or a missing farewell is an end too; a timeout is none.
    if let Err(error) = asked.and_then(|()| stream.read_to_end(&mut answer)) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{path}: it never ended");
    }
    answer
}

#[test]
fn a_backend_that_refuses_ends_only_the_connection_that_needed_it() {
    let backend = Backend::start().unwrap();
    let address = backend.address();
    let site = Site::start(address);
    let mut open = client::connect(&site);
    assert_same(&client::get(&mut open, &format!("/bytes/{SMALL}")), SMALL);
    drop(backend);
    let mark = site.machine.console().mark();
    assert_eq!(all_of(&site, "/bytes/1"), b"");
    site.machine.console().wait_since(mark, "backend refused", PATIENCE).unwrap();
    assert_same(&client::get(&mut open, &format!("/bytes/{SMALL}")), SMALL);
    let _backend = Backend::start_at(address).unwrap();
    site.goes_on();
}

#[test]
fn a_backend_that_resets_ends_only_that_connection() {
    let site = &BACKEND.0;
    let mut open = client::connect(site);
    assert_same(&client::get(&mut open, &format!("/bytes/{SMALL}")), SMALL);
    let mark = site.machine.console().mark();
    assert_eq!(all_of(site, "/reset"), b"");
    site.machine.console().wait_since(mark, "backend reset", PATIENCE).unwrap();
    assert_same(&client::get(&mut open, &format!("/bytes/{SMALL}")), SMALL);
    site.goes_on();
}

#[test]
fn a_backend_that_stalls_holds_up_nobody() {
    let site = &BACKEND.0;
    let stalled: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = client::connect(site);
            client::ask(&mut stream, "/stall").unwrap();
            stream
        })
        .collect();
    for _ in 0..10 {
        site.goes_on();
    }
    drop(stalled);
}

#[test]
fn an_answer_that_breaks_off_is_passed_on_as_far_as_it_goes() {
    let answer = all_of(&BACKEND.0, "/short");
    assert!(answer.ends_with(b"\r\n\r\nshort"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_client_that_has_finished_sending_still_gets_its_answer() {
    let mut stream = client::connect(&BACKEND.0);
    let sent = body::bytes(1 << 20);
    stream.write_all(b"DRAIN\n").unwrap();
    stream.write_all(&sent).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, body::sha256(&sent));
}

#[test]
fn a_client_that_sends_one_byte_at_a_time_is_served() {
    let site = &BACKEND.0;
    let mut connection = client::begin(&client::config(site));
    let mut socket = client::Dribble(client::dial(site));
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    client::ask(&mut stream, &format!("/bytes/{SMALL}")).unwrap();
    assert_same(&client::answer(&mut stream), SMALL);
}
