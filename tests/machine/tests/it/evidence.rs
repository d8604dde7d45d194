//! What a proxy on a machine with a TPM hands to clients that ask: a real quote, of this connection.

use std::io::{Read, Write};
use std::sync::Arc;
use std::thread;

use attest_core::binding::{Bound, EXPORTER_LABEL, Leaves};
use attest_core::claims::{Claims, KeyOrigin};
use attest_core::evidence::Evidence;
use attest_core::hash::Algorithm;
use attest_core::pcrs::Pcrs;
use attest_core::sha256;
use attest_core::tpms::{Public, Quote};
use machine::tpm::{Interface, State};
use machine::{Backend, body};
use rustls::ClientConfig;

use crate::keys::{EPHEMERAL, IN_IMAGE, fingerprint};
use crate::support::client::pinned;
use crate::support::{PATIENCE, Site, client};

/// The user network's clients are the gateway.
const DESK: (&str, &str) =
    ("[log]", "[attestation]\nallow = [\"10.0.2.2/32\"]\nquotes_per_second = 5\n\n[log]");

fn start(backend: &Backend, tpm: &State, interface: Interface) -> Site {
    let changes = [(IN_IMAGE, EPHEMERAL), DESK];
    let site = Site::boot_changed(
        "demo",
        &changes,
        backend.address(),
        |image| image,
        |builder| builder.tpm_with(interface, tpm.folder()),
    );
    site.machine.wait_for("READY", PATIENCE).unwrap();
    site
}

fn asking(site: &Site) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&pinned(fingerprint(site)));
    config.alpn_protocols = vec![b"bulla-attest/1".to_vec()];
    Arc::new(config)
}

fn ask(stream: &mut client::Stream, nonce: [u8; 32]) -> Vec<u8> {
    stream.write_all(&[&[0, 0, 0, 32][..], &nonce].concat()).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut evidence = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut evidence).unwrap();
    evidence
}

fn unhex(digits: &str) -> [u8; 32] {
    core::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
}

/// The evidence holds together, and is of this nonce, connection and key. Returns its leaves.
#[track_caller]
fn check(site: &Site, stream: &client::Stream, nonce: [u8; 32], bytes: &[u8]) -> Leaves {
    let evidence = Evidence::decode(bytes).unwrap();
    let claims = Claims::decode(evidence.aux).unwrap();
    assert_eq!((&*claims.app, claims.key_origin), ("edge-proxy", KeyOrigin::Ephemeral));
    let exporter = stream.conn.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[]));
    let bound = Bound {
        nonce,
        exporter: exporter.unwrap(),
        spki_sha256: unhex(&fingerprint(site)),
        claims_sha256: sha256(evidence.aux),
    };
    let leaves = Leaves::parse(evidence.leaves).unwrap();
    assert!(leaves.contains(&bound.leaf()));
    let quote = Quote::parse(evidence.quote).unwrap();
    assert_eq!(quote.extra_data, leaves.qualifying_data());
    let key = Public::parse(evidence.ak).unwrap();
    key.verify(evidence.quote, evidence.signature).unwrap();
    assert_eq!(quote.qualified_signer, key.qualified_name_under_endorsement());
    let pcrs = Pcrs::parse(evidence.pcrs).unwrap();
    let digest = pcrs.digest(&quote.selections, Algorithm::Sha256).unwrap();
    assert_eq!(quote.pcr_digest, digest);
    leaves
}

/// One client after the other, each on its own connection, which then carries traffic.
#[track_caller]
fn check_machine(interface: Interface) {
    let (backend, tpm) = (Backend::start().unwrap(), State::new().unwrap());
    let site = start(&backend, &tpm, interface);
    let config = asking(&site);
    let mut others = Vec::new();
    for nonce in [[1; 32], [1; 32], [2; 32]] {
        let mut stream = client::connect_as(&site, &config);
        let evidence = ask(&mut stream, nonce);
        let leaves = check(&site, &stream, nonce, &evidence);
        assert!(!others.contains(&leaves), "no two connections share a leaf");
        others.push(leaves);
        assert_eq!(client::get(&mut stream, "/bytes/3000"), body::bytes(3000));
    }
    site.machine.wait_for("; attested in ", PATIENCE).unwrap();
}

#[test]
fn a_crb_quotes_for_each_connection_that_asks() {
    check_machine(Interface::Crb);
}

#[test]
fn a_tis_quotes_for_each_connection_that_asks() {
    check_machine(Interface::Tis);
}

#[test]
fn many_that_ask_at_once_share_quotes_and_hold_up_nobody() {
    let (backend, tpm) = (Backend::start().unwrap(), State::new().unwrap());
    let site = start(&backend, &tpm, Interface::Crb);
    let (config, plain) = (asking(&site), pinned(fingerprint(&site)));
    let streams: Vec<_> = (0..24).map(|_| client::connect_as(&site, &config)).collect();
    let mut other = client::connect_as(&site, &plain);
    thread::scope(|scope| {
        for (mut stream, number) in streams.into_iter().zip(0_u8..) {
            let site = &site;
            scope.spawn(move || {
                let evidence = ask(&mut stream, [number; 32]);
                check(site, &stream, [number; 32], &evidence);
            });
        }
        for _ in 0..20 {
            assert_eq!(client::get(&mut other, "/bytes/3000"), body::bytes(3000));
        }
    });
    let text = site.machine.console().text();
    let last = text.lines().rfind(|line| line.contains("answered=24")).expect("all were answered");
    let (_, counters) = last.split_once("quotes=").unwrap();
    let quotes: u32 = counters.split(' ').next().unwrap().parse().unwrap();
    assert!(quotes < 24, "{last}");
}
