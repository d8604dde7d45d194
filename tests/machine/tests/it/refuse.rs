//! What is no TLS 1.3 is refused with the alert of RFC 8446 section 6.2, and logged with a reason.

use std::io::{Read, Write};

use machine::body;

use crate::support::programs::s_client;
use crate::support::{PATIENCE, RUDE, client};

/// Alerts, by their numbers in RFC 8446 section 6.
const UNEXPECTED_MESSAGE: u8 = 10;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;

/// The first bytes of an alert record: its type, then the version that records carry.
const ALERT: [u8; 2] = [21, 3];

/// Sends raw bytes and fails unless one of these alerts comes back, then the end, and a line with
/// the reason on the console.
#[track_caller]
fn check(sent: &[u8], alerts: &[u8], reason: &str) {
    let site = &RUDE.0;
    let mark = site.machine.console().mark();
    let mut stream = client::dial(site);
    // The proxy may have had enough before we are through.
    let _ = stream.write_all(sent);
    let port = stream.local_addr().unwrap();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{port} was not hung up on");
    }
    assert!(answer.starts_with(&ALERT) && answer.len() == 7, "not one plain alert: {answer:02x?}");
    assert_eq!(answer[5], 2, "not fatal: {answer:02x?}");
    assert!(alerts.contains(&answer[6]), "alert {} is none of {alerts:?}", answer[6]);
    drop(stream);
    site.machine.console().wait_since(mark, reason, PATIENCE).unwrap();
    site.goes_on();
}

/// A TLS record of handshake bytes.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&[22, 3, 1][..], &length.to_be_bytes(), payload].concat()
}

#[test]
fn garbage_is_refused() {
    // A first byte that is no content type.
    let mut garbage = body::bytes(1000);
    garbage[0] = 0xff;
    check(&garbage, &[UNEXPECTED_MESSAGE, DECODE_ERROR], "not TLS: first byte is 0xff");
}

#[test]
fn a_plain_http_request_is_refused() {
    let request = b"GET / HTTP/1.1\r\nHost: sealed.test\r\n\r\n";
    let reason = "not TLS: HTTP request on the TLS port";
    check(request, &[UNEXPECTED_MESSAGE, DECODE_ERROR], reason);
}

#[test]
fn the_log_shows_what_is_no_tls_as_a_string() {
    let sent = b"\"\r\nREADY a line of our own\r\n";
    let shown = r#"began with "\"\u000d\u000aRE""#;
    check(sent, &[UNEXPECTED_MESSAGE, DECODE_ERROR], shown);
    let console = RUDE.0.machine.console().text();
    assert_eq!(console.lines().filter(|line| line.starts_with("READY")).count(), 1, "{console}");
}

#[test]
fn a_client_hello_of_64_kib_is_refused() {
    // Handshake type 1 and a length of 64 KiB, then zeros, in records of the largest size.
    let hello = [&[1, 1, 0, 0][..], &[0; 1 << 16]].concat();
    let records: Vec<u8> = hello.chunks(1 << 14).flat_map(record).collect();
    check(&records, &[ILLEGAL_PARAMETER, DECODE_ERROR], "handshake message too long");
}

#[test]
fn a_hello_that_is_none_is_refused() {
    check(&record(&[1, 0, 0, 4, 0, 0, 0, 0]), &[DECODE_ERROR], "malformed message");
    // A Finished before anything else.
    check(&record(&[20, 0, 0, 0]), &[UNEXPECTED_MESSAGE], "unexpected message");
}

#[test]
fn tls_1_2_is_refused_by_its_name() {
    let site = &RUDE.0;
    let mark = site.machine.console().mark();
    let outcome = s_client(site, &["-tls1_2"], b"");
    assert!(!outcome.is_success);
    let complaints = &outcome.complaints;
    assert!(complaints.contains("alert protocol version"), "{complaints}");
    site.machine.console().wait_since(mark, "client offers no TLS 1.3", PATIENCE).unwrap();
    site.goes_on();
}

#[test]
fn a_silent_client_holds_up_nobody() {
    let site = &RUDE.0;
    let silent: Vec<_> = (0..16).map(|_| client::dial(site)).collect();
    site.goes_on();
    drop(silent);
    site.goes_on();
}
