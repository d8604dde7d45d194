//! Evidence as a verifier's client gets it: bound to its nonce, its connection and the server's key.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use abi::record::Record;
use attest_core::binding::{Bound, EXPORTER_LABEL, Leaves};
use attest_core::claims::{Claims, KeyOrigin};
use attest_core::evidence::Evidence;
use attest_core::sha256;
use edge_config::{Attestation, Identity, Name, Prefix};
use edge_proxy::attest::{Desk, PROTOCOL, TpmWitness, Visitor};
use edge_proxy::identity::claims;
use libos::attest::{Answer, Begin, Quoter};
use libos::stream::Stream;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection};

#[allow(dead_code, reason = "this file belongs to all tests of the proxy")]
mod world;
use world::client::{CERTIFICATE, KEY, Pinned};
use world::{Place, World};

/// More rounds than an exchange has.
const MAX_ROUNDS: usize = 100;

const RECORD: Record<'static> = Record {
    event_log: &[1; 20_000],
    ak_public: &[2; 90],
    pcr_values: &[3; 1032],
    seal_record: &[4; 120],
    key_file: &[],
    ek_certificate: &[6; 700],
    credential_answer: &[],
};

/// Answers with an attestation of what it was asked to sign.
#[derive(Default)]
struct Echo(Vec<u8>);

impl Quoter for Echo {
    fn begin(&mut self, qualifying: &[u8; 32]) -> Begin {
        let attest =
            [&[0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 1, 7, 0, 32][..], qualifying].concat();
        let length = attest.len() as u16;
        let parameters = [&length.to_be_bytes()[..], &attest, b"signature"].concat();
        let whole = (14 + parameters.len()) as u32;
        let header = [&[0x80, 2][..], &whole.to_be_bytes(), &[0; 4]].concat();
        let parameter_bytes = (parameters.len() as u32).to_be_bytes();
        self.0 = [&header[..], &parameter_bytes, &parameters].concat();
        Begin::Started
    }

    fn poll(&mut self) -> Answer {
        Answer::Ready(self.0.clone())
    }
}

fn client() -> ClientConnection {
    let provider = Arc::new(default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(algorithms)))
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    ClientConnection::new(Arc::new(config), ServerName::try_from("sealed.test").unwrap()).unwrap()
}

/// Passes bytes between the client and the proxy until nothing moves.
fn exchange(client: &mut ClientConnection, world: &mut World) -> Vec<u8> {
    let mut plaintext = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        assert_eq!(world.client.write(&bytes), bytes.len());
        while world.poll() {}
        let received = world.client.take(1 << 20);
        let mut rest = &received[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
            // What is left is that nothing more has come.
            let _ = client.reader().read_to_end(&mut plaintext);
        }
        if bytes.is_empty() && received.is_empty() {
            if world.task.is_none() || world.clock.deadline.get().as_micros() > 20_000 {
                return plaintext;
            }
            world.pass_time();
        }
    }
    panic!("no rest");
}

#[test]
fn a_leaf_is_of_this_nonce_this_connection_this_key_and_these_claims() {
    let identity = Identity::Ephemeral { names: vec![Name::new("sealed.test".to_owned())] };
    let settings = libos::tls::ServerSettings::new(&[CERTIFICATE], KEY, &[], Arc::new(NoClock));
    let settings = settings.unwrap();
    let witness =
        TpmWitness::new(Some((Echo::default(), RECORD)), settings.public_key(), claims(&identity));
    let everybody = Prefix { address: [0, 0, 0, 0].into(), length: 0 };
    let config = Attestation { allow: vec![everybody], quotes_per_second: 50 };
    let visitor =
        Visitor { desk: Desk::new(Box::new(witness), config), peer: [192, 0, 2, 7].into() };
    let mut world = World::of(Place { visitor, ..Place::default() });
    let mut client = client();
    assert!(exchange(&mut client, &mut world).is_empty());

    let nonce = [0x4e; 32];
    client.writer().write_all(&[&[0, 0, 0, 32][..], &nonce].concat()).unwrap();
    let answer = exchange(&mut client, &mut world);
    let (length, bytes) = answer.split_first_chunk().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, bytes.len());
    let evidence = Evidence::decode(bytes).unwrap();
    assert_eq!((evidence.log, evidence.ek), (RECORD.event_log, Some(RECORD.ek_certificate)));
    assert_eq!(Claims::decode(evidence.aux).unwrap().key_origin, KeyOrigin::Ephemeral);

    let certificate = client.peer_certificates().unwrap()[0].clone();
    let key = settings.public_key();
    assert!(certificate.windows(key.len()).any(|window| window == key));
    let exporter = client.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])).unwrap();
    let bound =
        Bound { nonce, exporter, spki_sha256: sha256(key), claims_sha256: sha256(evidence.aux) };
    let leaves = Leaves::parse(evidence.leaves).unwrap();
    assert!(leaves.contains(&bound.leaf()) && leaves.count() == 1);
    assert!(evidence.quote.ends_with(&leaves.qualifying_data()));
}

#[derive(Debug)]
struct NoClock;

impl libos::tls::WallClock for NoClock {
    fn unix_seconds(&self) -> Option<u64> {
        None
    }
}
