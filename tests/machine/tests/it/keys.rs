//! Where a machine's key comes from, and what clients that ask about it are told without a TPM.

use std::io::{Read, Write};
use std::sync::Arc;

use machine::{Backend, body};
use rustls::ClientConfig;

use crate::support::client::pinned;
use crate::support::{BACKEND, PATIENCE, Site, client};

/// Everything about the key in `tests/configs/demo.toml`.
pub(crate) const IN_IMAGE: &str =
    "certificates = \"sealed.test.pem\"\nkey = \"sealed.test.key.pem\"\nkey_origin = \"image\"";

pub(crate) const EPHEMERAL: &str =
    "key_origin = \"ephemeral\"\nnames = [\"sealed.test\", \"10.0.2.15\"]";

const SEALED: &str =
    "key_origin = \"sealed\"\nissuer = \"authority.pem\"\nnames = [\"sealed.test\"]";

/// The fingerprint on the console.
pub(crate) fn fingerprint(site: &Site) -> String {
    let text = site.machine.console().text();
    let lines = text.lines().filter_map(|line| line.split_once("tls key: ephemeral sha256="));
    lines.map(|(_, digits)| digits.trim().to_owned()).next().expect("a fingerprint")
}

#[test]
fn an_ephemeral_key_is_named_on_the_console_and_differs_at_each_start() {
    let backend = Backend::start().unwrap();
    let start = || {
        let changes = [(IN_IMAGE, EPHEMERAL)];
        let site = Site::boot_changed("demo", &changes, backend.address(), |image| image, |it| it);
        site.machine.wait_for("READY", PATIENCE).unwrap();
        site
    };
    let first = start();
    let mut stream = client::connect_as(&first, &pinned(fingerprint(&first)));
    assert_eq!(client::get(&mut stream, "/bytes/1000"), body::bytes(1000));
    let second = start();
    assert_ne!(fingerprint(&first), fingerprint(&second));
}

#[test]
fn a_sealed_key_on_a_machine_without_a_tpm_is_refused_before_ready() {
    let changes = [(IN_IMAGE, SEALED)];
    let address = BACKEND.1.address();
    let site = Site::boot_changed("demo", &changes, address, |image| image, |it| it);
    let reason = "edge-proxy: refused: sealed key: this machine has no TPM";
    site.machine.wait_for(reason, PATIENCE).unwrap();
    assert!(!site.machine.console().text().contains("READY"));
}

#[test]
fn who_asks_a_machine_without_a_tpm_is_told_that_there_is_no_evidence() {
    let backend = Backend::start().unwrap();
    let changes = [("[log]", "[attestation]\nallow = [\"10.0.2.0/24\"]\n\n[log]")];
    let site = Site::boot_changed("demo", &changes, backend.address(), |image| image, |it| it);
    site.machine.wait_for("READY", PATIENCE).unwrap();
    let mut config = ClientConfig::clone(&client::config(&site));
    config.alpn_protocols = vec![b"h2".to_vec(), b"bulla-attest/1".to_vec()];
    let config = Arc::new(config);
    for (request, line) in [
        (&[&[0, 0, 0, 32][..], &[7; 32]].concat()[..], "no evidence: there is no TPM"),
        (&[0, 0, 0, 31], "attestation request: a nonce of 31 bytes, not 32"),
    ] {
        let mark = site.machine.console().mark();
        let mut stream = client::connect_as(&site, &config);
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"bulla-attest/1"[..]));
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let expected: &[u8] = if request.len() == 36 { &[0; 4] } else { &[] };
        assert_eq!(answer, expected);
        // The end is logged when both sides have had theirs.
        drop(stream);
        site.machine.console().wait_since(mark, line, PATIENCE).unwrap();
    }
    site.goes_on();
}
