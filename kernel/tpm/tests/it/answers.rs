//! No answer makes boot's side panic, run on, or believe what it should not.

use tpm::key_file::KeyFile;
use tpm::{Algorithm, Digests, Error, Tpm, Transport, TransportError};

/// A TPM that gives prepared answers, then none.
struct Script(Vec<Vec<u8>>);

impl Transport for Script {
    fn transact<'a>(&mut self, _: &[u8], answer: &'a mut [u8]) -> Result<&'a [u8], TransportError> {
        let next = self.0.pop().ok_or(TransportError::Silent("for good"))?;
        let room = answer.get_mut(..next.len()).ok_or(TransportError::Length)?;
        room.copy_from_slice(&next);
        Ok(room)
    }
}

fn tpm(answers: &[Vec<u8>]) -> Tpm<Script> {
    Tpm::new(Script(answers.iter().rev().cloned().collect()))
}

fn answer(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let mut answer = tag.to_be_bytes().to_vec();
    answer.extend_from_slice(&(10 + body.len() as u32).to_be_bytes());
    answer.extend_from_slice(&code.to_be_bytes());
    answer.extend_from_slice(body);
    answer
}

fn plain(body: &[u8]) -> Vec<u8> {
    answer(0x8001, 0, body)
}

fn banks(list: &[(u16, [u8; 3])]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0, 5, 0, 0, 0, list.len() as u8];
    for (id, pcrs) in list {
        body.extend_from_slice(&id.to_be_bytes());
        body.push(3);
        body.extend_from_slice(pcrs);
    }
    plain(&body)
}

const ALL: [u8; 3] = [0xff; 3];

#[test]
fn active_banks_are_those_with_a_pcr() {
    let answer = banks(&[(0x04, [0; 3]), (0x0b, ALL), (0x0c, [1, 0, 0]), (0x12, [0; 3])]);
    let found = tpm(&[answer]).banks().unwrap();
    assert_eq!(found[..], [Algorithm::Sha256, Algorithm::Sha384]);
}

#[test]
fn an_active_bank_that_cannot_be_extended_is_refused() {
    let answer = banks(&[(0x0b, ALL), (0x12, ALL)]);
    assert_eq!(tpm(&[answer]).banks(), Err(Error::Bank(0x12)));
}

#[test]
fn banks_that_make_no_sense_are_refused() {
    let twice = banks(&[(0x0b, ALL), (0x0b, ALL)]);
    // More of them than it says here; another capability.
    let mut more = banks(&[(0x0b, ALL)]);
    more[10] = 1;
    let other = plain(&[0, 0, 0, 0, 6, 0, 0, 0, 0]);
    for answer in [twice, more, banks(&[]), plain(&[]), other] {
        assert!(matches!(tpm(&[answer]).banks(), Err(Error::Answer(_))));
    }
}

#[test]
fn a_command_is_sent_again_where_the_tpm_asks_for_that_but_not_for_ever() {
    let retry = |code| answer(0x8001, code, &[]);
    let good = banks(&[(0x0b, ALL)]);
    let answers = [retry(0x922), retry(0x908), retry(0x90a), good];
    assert!(tpm(&answers).banks().is_ok());
    let endless = vec![retry(0x922); 1000];
    let expected = Error::Refused { command: 0x17a, code: 0x922 };
    assert_eq!(tpm(&endless).banks(), Err(expected));
}

#[test]
fn an_answer_must_have_the_size_and_tag_that_it_says() {
    let good = banks(&[(0x0b, ALL)]);
    for length in 0..good.len() {
        assert!(tpm(&[good[..length].to_vec()]).banks().is_err(), "{length} bytes");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(tpm(&[longer]).banks().is_err());
    let mut tag = good;
    tag[1] = 3;
    assert!(tpm(&[tag]).banks().is_err());
}

/// What `TPM2_PCR_Read` says of these PCRs.
fn values(pcrs: u16, count: u32, value: u8) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 9, 0, 0, 0, 1, 0, 0x0b, 3];
    body.extend_from_slice(&pcrs.to_le_bytes());
    body.push(0);
    body.extend_from_slice(&count.to_be_bytes());
    for _ in 0..count {
        body.extend_from_slice(&[0, 32]);
        body.extend_from_slice(&[value; 32]);
    }
    plain(&body)
}

#[test]
fn pcrs_are_read_in_as_many_rounds_as_the_tpm_likes() {
    let read = |answers: &[Vec<u8>]| tpm(answers).read_pcrs(Algorithm::Sha256);
    let two = read(&[values(0x00ff, 8, 1), values(0xff00, 8, 2)]).unwrap();
    assert_eq!((two[0].bytes(), two[15].bytes()), (&[1; 32][..], &[2; 32][..]));
    let each: Vec<_> = (0..16).map(|pcr| values(1 << pcr, 1, pcr as u8)).collect();
    assert_eq!(read(&each).unwrap()[9].bytes(), [9; 32]);
    // Others than those that were asked for, a gap, a count that is not theirs, none at all.
    for bad in [values(0xff00, 8, 1), values(0x00fe, 7, 1), values(0x00ff, 7, 1), values(0, 0, 1)] {
        assert!(read(&[bad.clone(), bad]).is_err());
    }
}

#[test]
fn a_key_other_than_the_one_asked_for_is_refused() {
    let public = |attributes: [u8; 4]| {
        let mut public = vec![0, 0x23, 0, 0x0b];
        public.extend_from_slice(&attributes);
        public.extend_from_slice(&[0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10]);
        for _ in 0..2 {
            public.extend_from_slice(&[0, 32]);
            public.extend_from_slice(&[5; 32]);
        }
        public
    };
    let made = |handle: u32, public: &[u8]| {
        let mut body = handle.to_be_bytes().to_vec();
        body.extend_from_slice(&(2 + public.len() as u32).to_be_bytes());
        body.extend_from_slice(&(public.len() as u16).to_be_bytes());
        body.extend_from_slice(public);
        tpm(&[answer(0x8002, 0, &body)]).create_ak()
    };
    let good = public([0, 5, 4, 0x72]);
    let ak = made(0x8000_0000, &good).unwrap();
    assert_eq!((ak.handle, &ak.public[..]), (0x8000_0000, &good[..]));
    // Not restricted; a persistent handle; a point cut off; something behind it.
    assert!(made(0x8000_0000, &public([0, 4, 4, 0x72])).is_err());
    assert!(made(0x8100_0000, &good).is_err());
    assert!(made(0x8000_0000, &good[..good.len() - 34]).is_err());
    assert!(made(0x8000_0000, &[&good[..], &[0]].concat()).is_err());
}

#[test]
fn attributes_that_are_not_those_asked_for_are_refused() {
    let take = |body: &[u8]| tpm(&[plain(body)]).take_away_hierarchies(&mut [7; 32]);
    let good = [0_u8, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0];
    // With the attributes it goes on, and finds nobody to hear the next command.
    let silent = Err(Error::Transport(TransportError::Silent("for good")));
    assert_eq!(take(&good), silent);
    for length in 0..good.len() {
        assert!(matches!(take(&good[..length]), Err(Error::Answer(_))), "{length} bytes");
    }
    for at in 1..13 {
        let mut changed = good;
        changed[at] ^= 0x10;
        assert!(matches!(take(&changed), Err(Error::Answer(_))), "byte {at}");
    }
}

#[test]
fn random_answers_are_survived() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..3000 {
        let mut answers = Vec::new();
        for _ in 0..60 {
            let length = next() % 300;
            let body: Vec<u8> = (0..length).map(|_| (next() >> (next() % 57)) as u8).collect();
            let code = if next() % 8 == 0 { next() as u32 & 0xfff } else { 0 };
            answers.push(answer(0x8001 + (next() % 2) as u16, code, &body));
        }
        let mut tpm = tpm(&answers);
        let _ = tpm.start_up();
        let _ = tpm.banks().map(|banks| Digests::of(&banks, b"x"));
        let _ = tpm.read_pcrs(Algorithm::Sha256);
        let _ = tpm.read_ek_certificate();
        if let Ok(ak) = tpm.create_ak() {
            let _ = tpm.activate_credential(&ak, &[0, 1, 7, 0, 1, 7]);
        }
        let file = KeyFile { public: b"p", duplicate: b"d", seed: b"s", selection: b"l" };
        let _ = tpm.unseal(&file);
        let _ = tpm.take_away_hierarchies(&mut [7; 32]);
        let _ = tpm.shutdown_clear();
    }
}
