//! Quotes that real TPMs signed.

use std::time::Duration;

use attest_core::hash::Algorithm;
use attest_core::policy::Hex;
use attest_core::tpms::{Invalid, Public, Quote, Selection};
use attest_core::verdict::Verdict;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert};

use crate::sample::Scene;
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
    let [owner, endorsement] = ["owner", "endorsement"]
        .map(|hierarchy| read(&format!("ovmf-swtpm/2M-crb-full/ak_{hierarchy}_pub.bin")));
    let [owner, endorsement] =
        [&owner, &endorsement].map(|key| Public::parse(unsized_public(key)).unwrap());
    let message = read("ovmf-swtpm/2M-crb-full/quote_msg.bin");
    let signature = read("ovmf-swtpm/2M-crb-full/quote_sig.bin");
    assert_eq!(endorsement.verify(&message, &signature), Ok(()));
    assert_eq!(owner.verify(&message, &signature), Err(Invalid::Signature));
    let quote = Quote::parse(&message).unwrap();
    assert_eq!(quote.extra_data, read("ovmf-swtpm/nonce.bin"));
    // The TPM counts the key's hierarchy into the name it signs with.
    assert_eq!(quote.qualified_signer, endorsement.qualified_name_under_endorsement());
    assert_ne!(quote.qualified_signer, owner.qualified_name_under_endorsement());
}

#[test]
fn what_a_genuine_key_signed_that_no_tpm_made_is_refused() {
    let ak = read("negative/ak_ec.tpmt");
    let public = Public::parse(&ak).unwrap();
    let forged = read("negative/forged-bad-magic.msg");
    let signature = read("negative/forged-bad-magic.restricted-ak.sig");
    // The genuine restricted key did sign it: the magic number alone tells.
    assert_eq!(public.verify(&forged, &signature), Ok(()));
    assert_eq!(Quote::parse(&forged), Err(Invalid::Magic(0x1122_3344)));
    // Signed by a key that would sign anything, and is not this one.
    let other = read("negative/forged-bad-magic.sig");
    assert_eq!(public.verify(&forged, &other), Err(Invalid::Signature));
    let certified = read("negative/nvcertify.msg");
    assert_eq!(Quote::parse(&certified), Err(Invalid::Type(0x8014)));
    // DER, where a TPM's own structure is expected.
    let der = read("negative/nvcertify.sig.plain");
    assert!(public.verify(&certified, &der).is_err());
}

/// The one value in a file that `tpm2_quote -o` wrote: behind the selections, their count, and the
/// count and size of digests.
fn quoted_value(file: &str) -> Vec<u8> {
    read(file)[0x8e..0x8e + 32].to_vec()
}

#[test]
fn a_good_quote_of_another_nonce_or_other_values_is_what_it_is() {
    let ak = read("negative/ak_ec.tpmt");
    let public = Public::parse(&ak).unwrap();
    let nonce = read("negative/nonce.bin");
    for (name, is_fresh) in [("evil-pcr4", true), ("stale-nonce", false)] {
        let message = read(&format!("negative/{name}.msg"));
        let signature = read(&format!("negative/{name}.sig"));
        assert_eq!(public.verify(&message, &signature), Ok(()), "{name}");
        let quote = Quote::parse(&message).unwrap();
        assert_eq!(quote.extra_data == nonce, is_fresh, "{name}");
        assert_eq!(quote.selections, [Selection { bank: Algorithm::Sha256, pcrs: 1 << 4 }]);
        let value = quoted_value(&format!("negative/{name}.pcrs"));
        assert_eq!(quote.pcr_digest, Algorithm::Sha256.digest(&[&value]), "{name}");
    }
}

/// Evidence with this quote in it, judged for the key and the nonce that belong to it.
fn judge(name: &str, signature: &str) -> Verdict {
    let mut scene = Scene::new();
    scene.ak = read("negative/ak_ec.tpmt");
    scene.identity.ak_name = Hex(Public::parse(&scene.ak).unwrap().name());
    scene.connection.nonce = read("negative/nonce.bin").try_into().unwrap();
    scene.signature = Some(read(signature));
    scene.judge_quote(&read(&format!("negative/{name}.msg")))
}

#[test]
fn no_quote_that_was_made_to_fool_a_verifier_passes() {
    for (name, signature, id) in [
        ("forged-bad-magic", "negative/forged-bad-magic.restricted-ak.sig", "quote.form"),
        ("forged-bad-magic", "negative/forged-bad-magic.sig", "quote.signature"),
        ("nvcertify", "negative/nvcertify.sig.plain", "quote.form"),
    ] {
        let verdict = judge(name, signature);
        assert_eq!((verdict.verdict, verdict.class), ("fail", 2), "{name}: {verdict:#?}");
        let is_told = verdict.checks.iter().any(|check| check.id == id && !check.ok);
        assert!(is_told, "{name}: {id} did not fail: {verdict:#?}");
    }
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

#[test]
fn an_rsa_key_whose_factors_can_be_found_is_refused() {
    let mut key = read(&format!("{GCE}/ak_pub.tpmt"));
    let text = String::from_utf8(read("roca/mod03.txt")).unwrap();
    let modulus = Hex::parse(text.trim().strip_prefix("0x").unwrap()).unwrap().0;
    let at = key.len() - modulus.len();
    key[at..].copy_from_slice(&modulus);
    assert_eq!(Public::parse(&key), Err(Invalid::Rsa));
}

/// Whether the chain of the cloud machine's certificate holds so many seconds after 1970.
fn chain_holds(seconds: u64, with_intermediate: bool) -> bool {
    let der = |name: &str| CertificateDer::from(read(name));
    let certificate = der(&format!("{GCE}/ak_cert.der"));
    let root = der("go-tpm-tools/ca-certs/tpm_ek_root_1.cer");
    let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap()];
    let intermediates = [der("go-tpm-tools/ca-certs/tpm_ek_intermediate_2.crt")];
    let intermediates = if with_intermediate { &intermediates[..] } else { &[] };
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let purpose = webpki::KeyUsage::required_if_present(&[0x67, 0x81, 0x05, 0x08, 0x01]);
    EndEntityCert::try_from(&certificate)
        .unwrap()
        .verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, intermediates, at, purpose, None, None)
        .is_ok()
}

#[test]
fn a_cloud_machines_key_is_the_one_its_makers_root_vouches_for() {
    // The machine began on 31 August 2021; its certificate ends on 24 August 2051.
    let (before, during, after) = (1_630_000_000, 1_700_000_000, 2_600_000_000);
    assert!(chain_holds(during, true));
    assert!(!chain_holds(during, false), "without the intermediate");
    assert!(!chain_holds(before, true), "before it began");
    assert!(!chain_holds(after, true), "after it ended");
    // It is about this key: the modulus of the one is in the other.
    let key = read(&format!("{GCE}/ak_pub.tpmt"));
    let modulus = &key[key.len() - 256..];
    let certificate = read(&format!("{GCE}/ak_cert.der"));
    assert!(certificate.windows(256).any(|bytes| bytes == modulus));
}
