//! Quotes that real TPMs signed.

use attest_core::hash::Algorithm;
use attest_core::policy::Hex;
use attest_core::tpms::{Invalid, Public, Quote};

use crate::vectors::{algorithm, json, read, values};

const GCE: &str = "derived/gce-cos-85-nonce9009";

/// `TPM2B_PUBLIC`s of our own captures begin with their size.
fn unsized_public(bytes: &[u8]) -> &[u8] {
    &bytes[2..]
}

#[test]
fn a_cloud_machines_quotes_are_good_in_every_way() {
    let ak = read(&format!("{GCE}/ak_pub.tpmt"));
    let public = Public::parse(&ak).unwrap();
    for bank in ["sha256", "sha384"] {
        let message = read(&format!("{GCE}/quote-{bank}.msg"));
        let signature = read(&format!("{GCE}/quote-{bank}.sig"));
        assert_eq!(public.verify(&message, &signature), Ok(()), "{bank}");
        let quote = Quote::parse(&message).unwrap();
        assert_eq!(quote.extra_data, read(&format!("{GCE}/nonce.bin")));
        let held = values(&json(&format!("{GCE}/pcrs-{bank}.json")));
        let selected = quote.selections[0];
        assert_eq!((quote.selections.len(), selected.bank), (1, algorithm(bank)));
        let parts: Vec<&[u8]> = selected.indices().map(|pcr| &held[&pcr][..]).collect();
        // By the scheme's function, whatever the bank.
        assert_eq!(Algorithm::Sha256.digest(&parts), quote.pcr_digest, "{bank}");
        let mut other = message.clone();
        other[40] ^= 1;
        assert_eq!(public.verify(&other, &signature), Err(Invalid::Signature));
    }
}

#[test]
fn a_signature_by_sha_1_is_refused() {
    let ak = read("derived/windows-gcp/ak_pub.tpmt");
    match Public::parse(&ak) {
        Err(Invalid::Algorithm(4)) => {}
        other => panic!("{other:?}"),
    }
    let quote = read("derived/windows-gcp/quote-sha1.msg");
    assert_eq!(Quote::parse(&quote).unwrap().extra_data, b"");
}

#[test]
fn our_own_machines_quote_is_good() {
    let ak = read("ovmf-swtpm/2M-crb-full/ak_owner_pub.bin");
    let endorsement = read("ovmf-swtpm/2M-crb-full/ak_endorsement_pub.bin");
    let message = read("ovmf-swtpm/2M-crb-full/quote_msg.bin");
    let signature = read("ovmf-swtpm/2M-crb-full/quote_sig.bin");
    let keys = [&ak, &endorsement].map(|key| Public::parse(unsized_public(key)).unwrap());
    let signer = keys.iter().find(|key| key.verify(&message, &signature).is_ok()).unwrap();
    let quote = Quote::parse(&message).unwrap();
    assert_eq!(quote.extra_data, read("ovmf-swtpm/nonce.bin"));
    assert_eq!(signer.name().len(), 34);
    let under = Public::parse(unsized_public(&endorsement)).unwrap();
    if under.verify(&message, &signature).is_ok() {
        let name = under.qualified_name_under_endorsement();
        assert_eq!(Hex(quote.qualified_signer.to_vec()), Hex(name));
    }
}

#[test]
fn what_a_genuine_key_signed_that_no_tpm_made_is_refused() {
    let ak = read("negative/ak_ec.tpmt");
    let public = Public::parse(&ak).unwrap();
    let forged = read("negative/forged-bad-magic.msg");
    // The genuine restricted key did sign it, or would have: the magic number is what tells.
    let _signed = public.verify(&forged, &read("negative/forged-bad-magic.restricted-ak.sig"));
    assert!(matches!(Quote::parse(&forged), Err(Invalid::Magic(_))));
    assert!(matches!(Quote::parse(&read("negative/nvcertify.msg")), Err(Invalid::Type(_))));
}

#[test]
fn a_good_quote_of_another_nonce_or_other_values_is_what_it_is() {
    let ak = read("negative/ak_ec.tpmt");
    let public = Public::parse(&ak).unwrap();
    let nonce = read("negative/nonce.bin");
    let evil = read("negative/evil-pcr4.msg");
    assert_eq!(public.verify(&evil, &read("negative/evil-pcr4.sig")), Ok(()));
    assert_eq!(Quote::parse(&evil).unwrap().extra_data, nonce);
    let stale = read("negative/stale-nonce.msg");
    assert_eq!(public.verify(&stale, &read("negative/stale-nonce.sig")), Ok(()));
    assert_ne!(Quote::parse(&stale).unwrap().extra_data, nonce);
}

#[test]
fn rsa_keys_that_are_weak_or_crooked_are_refused() {
    let good = read(&format!("{GCE}/ak_pub.tpmt"));
    let modulus = good.len() - 256;
    assert!(Public::parse(&good).is_ok());
    // Key size, exponent, an even modulus, a modulus with a zero at its front.
    let changes: [(usize, &[u8]); 5] = [
        (modulus - 8, &[4, 0]),
        (modulus - 6, &[0, 0, 0, 2]),
        (modulus - 6, &[0, 0, 0, 1]),
        (good.len() - 1, &[0]),
        (modulus, &[0]),
    ];
    for (at, bytes) in changes {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(Public::parse(&bad), Err(Invalid::Rsa), "at {at}");
    }
}
