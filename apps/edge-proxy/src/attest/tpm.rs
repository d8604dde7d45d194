//! Evidence from a TPM's quotes and what boot left for us.

use alloc::vec::Vec;

use abi::record::Record;
use attest_core::binding::{Bound, Leaves};
use attest_core::evidence::Evidence;
use attest_core::tpm_answer::split_quote;
use attest_core::{Sha256, sha256};
use libos::attest::{Answer, Begin, Quoter};

use super::{Leaf, MAX_EVIDENCE_BYTES, Progress, Witness};

/// How a `TPMS_ATTEST` of a quote begins: `TPM_GENERATED_VALUE` and `TPM_ST_ATTEST_QUOTE`.
const QUOTE: [u8; 6] = [0xff, 0x54, 0x43, 0x47, 0x80, 0x18];

/// Codes by which a TPM asks for the same command again: `TPM_RC_RETRY`, `TPM_RC_YIELDED`,
/// `TPM_RC_TESTING` (part 2, section 6.6.3).
const AGAIN: [u32; 3] = [0x922, 0x908, 0x90a];

/// How often one quote is asked for again.
const RETRIES: u32 = 8;

/// The TPM of this machine, or none.
pub struct TpmWitness<Q> {
    tpm: Option<(Q, Record<'static>)>,
    spki_sha256: Sha256,
    claims: Vec<u8>,
    claims_sha256: Sha256,
    /// What the quote that was begun last is over.
    leaves: Option<Leaves>,
    /// How often it may still be asked for again.
    retries: u32,
}

impl<Q: Quoter> TpmWitness<Q> {
    /// A witness to a server with that public key (SubjectPublicKeyInfo in DER), for which these
    /// claims hold.
    pub fn new(tpm: Option<(Q, Record<'static>)>, public_key: &[u8], claims: Vec<u8>) -> Self {
        let (spki_sha256, claims_sha256) = (sha256(public_key), sha256(&claims));
        Self { tpm, spki_sha256, claims, claims_sha256, leaves: None, retries: 0 }
    }

    /// The evidence that a TPM's answer and the boot record make; `None` if they make none.
    fn evidence(&self, answer: &[u8], leaves: &Leaves) -> Option<Vec<u8>> {
        let (_, record) = self.tpm.as_ref()?;
        let split = split_quote(answer)?.ok()?;
        // Never an answer to another question, though the verifier would notice.
        if extra_data(split.attest)? != leaves.qualifying_data() {
            return None;
        }
        let leaves = leaves.to_bytes();
        let present = |part: &'static [u8]| Some(part).filter(|part| !part.is_empty());
        let evidence = Evidence {
            ak: present(record.ak_public)?,
            ek: present(record.ek_certificate),
            aux: &self.claims,
            log: present(record.event_log)?,
            pcrs: present(record.pcr_values)?,
            seal: present(record.seal_record)?,
            quote: split.attest,
            answer: present(record.credential_answer),
            leaves: &leaves,
            signature: split.signature,
        };
        (evidence.max_encoded_bytes() <= MAX_EVIDENCE_BYTES).then(|| evidence.encode())
    }
}

impl<Q: Quoter> Witness for TpmWitness<Q> {
    fn leaf(&self, nonce: &[u8; 32], exporter: &[u8; 32]) -> Leaf {
        let bound = Bound {
            nonce: *nonce,
            exporter: *exporter,
            spki_sha256: self.spki_sha256,
            claims_sha256: self.claims_sha256,
        };
        bound.leaf()
    }

    fn begin(&mut self, leaves: &[Leaf]) -> Begin {
        let Some((quoter, _)) = &mut self.tpm else { return Begin::Absent };
        let Some(leaves) = Leaves::new(leaves.to_vec()) else { return Begin::Busy };
        let begin = quoter.begin(&leaves.qualifying_data());
        match begin {
            Begin::Started => (self.leaves, self.retries) = (Some(leaves), RETRIES),
            // One that was given up on is fetched by looking, and nobody wants it.
            Begin::Busy => drop(quoter.poll()),
            Begin::Absent => {}
        }
        begin
    }

    fn poll(&mut self) -> Progress {
        let (Some((quoter, _)), Some(leaves)) = (&mut self.tpm, &self.leaves) else {
            return Progress::Failed;
        };
        let answer = match quoter.poll() {
            Answer::Pending => return Progress::Pending,
            Answer::Failed => return Progress::Failed,
            Answer::Ready(answer) => answer,
        };
        if let Some(Err(code)) = split_quote(&answer) {
            let is_again = AGAIN.contains(&code) && self.retries > 0;
            self.retries = self.retries.saturating_sub(1);
            return match is_again.then(|| quoter.begin(&leaves.qualifying_data())) {
                Some(Begin::Started) => Progress::Pending,
                _ => Progress::Refused(code),
            };
        }
        self.evidence(&answer, leaves).map_or(Progress::Failed, Progress::Ready)
    }
}

/// What a quote was asked to sign (TPM 2.0 library, part 2, section 10.12.12).
fn extra_data(attest: &[u8]) -> Option<&[u8]> {
    let signer = attest.strip_prefix(&QUOTE)?;
    let (_, rest) = split_sized(signer)?;
    Some(split_sized(rest)?.0)
}

/// Bytes behind a length of two bytes, and what follows them.
fn split_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    const RECORD: Record<'static> = Record {
        event_log: &[1; 3000],
        ak_public: &[2; 90],
        pcr_values: &[3; 516],
        seal_record: &[4; 120],
        key_file: &[5; 10],
        ek_certificate: &[],
        credential_answer: &[],
    };

    /// Answers with what it is told to.
    struct Script {
        begins: Vec<Begin>,
        answers: Vec<Answer>,
        asked: Vec<[u8; 32]>,
    }

    impl Script {
        fn new(begins: &[Begin], answers: &[Answer]) -> Self {
            Self { begins: begins.to_vec(), answers: answers.to_vec(), asked: Vec::new() }
        }
    }

    impl Quoter for &mut Script {
        fn begin(&mut self, qualifying: &[u8; 32]) -> Begin {
            self.asked.push(*qualifying);
            self.begins.remove(0)
        }

        fn poll(&mut self) -> Answer {
            self.answers.remove(0)
        }
    }

    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    /// A response to `TPM2_Quote` whose attestation is about `extra`.
    fn response(extra: &[u8]) -> Vec<u8> {
        let attest = [&QUOTE[..], &sized(&[7; 34]), &sized(extra), &[0; 30]].concat();
        let parameters = [&sized(&attest)[..], b"signature"].concat();
        let mut response = vec![0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        response.extend_from_slice(&(parameters.len() as u32).to_be_bytes());
        response.extend_from_slice(&parameters);
        response.extend_from_slice(&[0, 0, 1, 0, 0]);
        let length = response.len() as u32;
        response[2..6].copy_from_slice(&length.to_be_bytes());
        response
    }

    fn qualifying(leaves: &[Leaf]) -> [u8; 32] {
        Leaves::new(leaves.to_vec()).unwrap().qualifying_data()
    }

    #[track_caller]
    fn check(record: Record<'static>, answer: Answer, expected: &Progress) {
        let mut script = Script::new(&[Begin::Started], &[answer]);
        let mut witness = TpmWitness::new(Some((&mut script, record)), b"spki", b"aux".to_vec());
        assert_eq!(witness.begin(&[[1; 32], [2; 32]]), Begin::Started);
        assert_eq!(witness.poll(), *expected);
        assert_eq!(script.asked, [qualifying(&[[1; 32], [2; 32]])]);
    }

    #[test]
    fn a_quote_over_the_leaves_makes_evidence() {
        let about = response(&qualifying(&[[1; 32], [2; 32]]));
        let mut script = Script::new(&[Begin::Started], &[Answer::Pending, Answer::Ready(about)]);
        let record = Record { ek_certificate: b"certificate", ..RECORD };
        let mut witness = TpmWitness::new(Some((&mut script, record)), b"spki", b"aux".to_vec());
        witness.begin(&[[1; 32], [2; 32]]);
        assert_eq!(witness.poll(), Progress::Pending);
        let Progress::Ready(bytes) = witness.poll() else { panic!("no evidence") };
        let evidence = Evidence::decode(&bytes).unwrap();
        assert_eq!((evidence.ek, evidence.answer), (Some(&b"certificate"[..]), None));
        assert_eq!((evidence.aux, evidence.signature), (&b"aux"[..], &b"signature"[..]));
        assert_eq!((evidence.log, evidence.seal), (RECORD.event_log, RECORD.seal_record));
        assert_eq!(evidence.leaves, [[1; 32], [2; 32]].concat());
    }

    #[test]
    fn anything_else_makes_none() {
        let good = || response(&qualifying(&[[1; 32], [2; 32]]));
        let failed = &Progress::Failed;
        check(RECORD, Answer::Failed, failed);
        check(RECORD, Answer::Pending, &Progress::Pending);
        check(RECORD, refusal(0x21), &Progress::Refused(0x921));
        check(RECORD, Answer::Ready(good()[..40].to_vec()), failed);
        check(RECORD, Answer::Ready(vec![]), failed);
        // To another question, to none, by something that is no quote.
        check(RECORD, Answer::Ready(response(&qualifying(&[[1; 32]]))), failed);
        check(RECORD, Answer::Ready(response(&[])), failed);
        let mut certify = good();
        certify[21] = 0x17;
        check(RECORD, Answer::Ready(certify), failed);
        check(Record { ak_public: &[], ..RECORD }, Answer::Ready(good()), failed);
        check(Record { event_log: &[], ..RECORD }, Answer::Ready(good()), failed);
        check(Record { event_log: &[0; 130_000], ..RECORD }, Answer::Ready(good()), failed);
    }

    /// `TPM_RC` 0x900 and this much.
    fn refusal(code: u8) -> Answer {
        Answer::Ready(vec![0x80, 1, 0, 0, 0, 10, 0, 0, 9, code])
    }

    #[test]
    fn a_quote_is_asked_for_again_where_the_tpm_wants_that_but_not_for_ever() {
        let leaves = [[1; 32], [2; 32]];
        let good = Answer::Ready(response(&qualifying(&leaves)));
        let begins = vec![Begin::Started; 20];
        let mut script = Script::new(&begins, &[refusal(0x22), refusal(0x08), refusal(0x0a), good]);
        let mut witness = TpmWitness::new(Some((&mut script, RECORD)), b"spki", b"aux".to_vec());
        witness.begin(&leaves);
        for _ in 0..3 {
            assert_eq!(witness.poll(), Progress::Pending);
        }
        assert!(matches!(witness.poll(), Progress::Ready(_)));
        assert_eq!(script.asked, [qualifying(&leaves); 4]);
        let endless = vec![refusal(0x22); 20];
        let mut script = Script::new(&begins, &endless);
        let mut witness = TpmWitness::new(Some((&mut script, RECORD)), b"spki", b"aux".to_vec());
        witness.begin(&leaves);
        let polls = (0..20).take_while(|_| witness.poll() == Progress::Pending).count();
        assert_eq!(polls, RETRIES as usize);
    }

    #[test]
    fn a_quote_that_was_given_up_on_is_fetched_and_forgotten() {
        let stale = response(&qualifying(&[[1; 32]]));
        let fresh = response(&qualifying(&[[2; 32]]));
        let mut script = Script::new(
            &[Begin::Started, Begin::Busy, Begin::Busy, Begin::Started],
            &[Answer::Pending, Answer::Ready(stale), Answer::Ready(fresh)],
        );
        let mut witness = TpmWitness::new(Some((&mut script, RECORD)), b"spki", b"aux".to_vec());
        let begun: Vec<Begin> = [1, 2, 2, 2].map(|leaf| witness.begin(&[[leaf; 32]])).to_vec();
        assert_eq!(begun, [Begin::Started, Begin::Busy, Begin::Busy, Begin::Started]);
        assert!(matches!(witness.poll(), Progress::Ready(_)));
    }

    #[test]
    fn a_machine_without_a_tpm_has_no_witness() {
        let mut witness = TpmWitness::new(None::<(&mut Script, _)>, b"spki", b"aux".to_vec());
        assert_eq!(witness.begin(&[[1; 32]]), Begin::Absent);
        assert_eq!(witness.poll(), Progress::Failed);
        let bound = Bound {
            nonce: [1; 32],
            exporter: [2; 32],
            spki_sha256: sha256(b"spki"),
            claims_sha256: sha256(b"aux"),
        };
        assert_eq!(witness.leaf(&[1; 32], &[2; 32]), bound.leaf());
    }
}
