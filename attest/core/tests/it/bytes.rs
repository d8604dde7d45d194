//! No bytes make any parser of this crate panic, and none is read as something it is not.

use attest_core::binding::Leaves;
use attest_core::claims::Claims;
use attest_core::evidence::Evidence;
use attest_core::pcrs::Pcrs;
use attest_core::policy::{Identity, Policy};
use attest_core::seal_record::SealRecord;
use attest_core::tpm_answer::split_quote;
use attest_core::tpms::{Public, Quote};

use crate::sample::{self, Scene};

/// How many changed copies of each good input are tried.
const TRIES: usize = 5_000;

/// xorshift64: any sequence will do, as long as it is the same each time.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize
    }

    /// A copy with a few bytes changed, cut short now and then.
    fn changed(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..1 + self.next() % 4 {
            let at = self.next() % bytes.len();
            bytes[at] = self.next() as u8;
        }
        if self.next().is_multiple_of(4) {
            bytes.truncate(self.next() % (good.len() + 1));
        }
        bytes
    }
}

/// Gives `read` changed copies of what is good; of these it must read, and write again, at most what
/// they are.
fn check<T>(good: &[u8], read: impl Fn(&[u8]) -> Option<T>, write: impl Fn(&T) -> Option<Vec<u8>>) {
    let value = read(good).expect("the good one is read");
    assert!(write(&value).is_none_or(|bytes| bytes == good));
    let mut sequence = Sequence(1);
    for _ in 0..TRIES {
        let bytes = sequence.changed(good);
        if let Some(written) = read(&bytes).as_ref().and_then(&write) {
            assert_eq!(written, bytes);
        }
    }
}

#[test]
fn whatever_comes_is_read_whole_or_refused() {
    let scene = Scene::new();
    let quote = scene.attest.bytes();
    let evidence = Evidence {
        ak: &scene.ak,
        ek: Some(b"certificate"),
        aux: &scene.aux,
        log: &scene.log,
        pcrs: &scene.pcrs,
        seal: &scene.seal,
        quote: &quote,
        answer: None,
        leaves: &scene.leaves,
        signature: &scene.key.sign(&quote),
    }
    .encode();
    // Parsers of one form each: what they read, they write as it was.
    check(&evidence, |it| Evidence::decode(it).ok().map(|it| it.encode()), |it| Some(it.clone()));
    check(&scene.aux, Claims::decode, |it| Some(it.encode()));
    check(&scene.pcrs, Pcrs::parse, |it| Some(it.to_bytes()));
    check(&scene.leaves, Leaves::parse, |it| Some(it.to_bytes()));
    // Those that only read.
    check(&quote, |it| Quote::parse(it).ok().map(drop), |()| None);
    check(&sample::record(), SealRecord::parse, |_| None);
    check(&scene.ak, |it| Public::parse(it).ok().map(|it| it.name()), |_| None);
    let (policy, identity) = (scene.policy.to_json(), scene.identity.to_json());
    check(policy.as_bytes(), |it| Policy::parse(it).ok(), |_| None);
    check(identity.as_bytes(), |it| Identity::parse(it).ok(), |_| None);
}

#[test]
fn a_signature_of_any_form_is_judged() {
    let scene = Scene::new();
    let quote = scene.attest.bytes();
    let key = Public::parse(&scene.ak).unwrap();
    let good = scene.key.sign(&quote);
    let verified = |bytes: &[u8]| key.verify(&quote, bytes).ok().map(|()| bytes.to_vec());
    check(&good, verified, |it| (*it != good).then(Vec::new));
}

#[test]
fn an_answer_is_cut_in_two_or_refused() {
    // A quote's answer: a header, the size of the parameters, both halves, an empty session's area.
    let scene = Scene::new();
    let quote = scene.attest.bytes();
    let signature = scene.key.sign(&quote);
    let parameters = [&(quote.len() as u16).to_be_bytes()[..], &quote, &signature].concat();
    let size = (14 + parameters.len() + 5) as u32;
    let mut answer = vec![0x80, 2];
    answer.extend_from_slice(&size.to_be_bytes());
    answer.extend_from_slice(&[0; 4]);
    answer.extend_from_slice(&(parameters.len() as u32).to_be_bytes());
    answer.extend_from_slice(&parameters);
    answer.extend_from_slice(&[0, 0, 1, 0, 0]);
    let parts = split_quote(&answer).unwrap().unwrap();
    assert_eq!((parts.attest, parts.signature), (&quote[..], &signature[..]));
    check(&answer, |it| split_quote(it).map(drop), |()| None);
}
