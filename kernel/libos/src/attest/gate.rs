//! The gate's side of a quote: words in registers, eight bytes at a time.

use alloc::vec::Vec;

use abi::gate::{ANSWER_BYTES, ANSWER_PENDING, ANSWER_READY, QUOTE_BUSY, QUOTE_STARTED};
use zeroize::{Zeroize, Zeroizing};

#[cfg(target_os = "none")]
use super::Quoter;
use super::{Answer, Begin};

/// The two calls of the gate that reach the TPM.
pub(crate) trait Doors {
    /// `quote`, with the qualifying data as four words; returns `rax`.
    fn quote(&mut self, words: [u64; 4]) -> u64;

    /// `tpm_read`; returns `rax` and `rdx`.
    fn tpm_read(&mut self, offset: u64) -> (u64, u64);
}

/// Gets quotes through the gate. There is one in a machine, or none without a TPM.
#[cfg(target_os = "none")]
#[derive(Debug)]
pub struct GateQuoter(crate::arch::TpmDoors);

#[cfg(target_os = "none")]
impl GateQuoter {
    /// The caller sees to it that there is no second one.
    pub(crate) const fn new() -> Self {
        Self(crate::arch::TpmDoors)
    }
}

#[cfg(target_os = "none")]
impl Quoter for GateQuoter {
    fn begin(&mut self, qualifying: &[u8; 32]) -> Begin {
        begin(&mut self.0, qualifying)
    }

    fn poll(&mut self) -> Answer {
        poll(&mut self.0)
    }
}

/// Bytes of a response's header: tag, length, code (TPM 2.0 Library Part 3, section 5.3).
const HEADER_BYTES: usize = 10;

fn begin(doors: &mut impl Doors, qualifying: &[u8; 32]) -> Begin {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(qualifying.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    match doors.quote(words) {
        QUOTE_STARTED => Begin::Started,
        QUOTE_BUSY => Begin::Busy,
        _ => Begin::Absent,
    }
}

fn poll(doors: &mut impl Doors) -> Answer {
    let (first, state) = doors.tpm_read(0);
    match state {
        ANSWER_READY => {}
        ANSWER_PENDING => return Answer::Pending,
        _ => return Answer::Failed,
    }
    let [_, _, a, b, c, d, ..] = first.to_le_bytes();
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(HEADER_BYTES..=ANSWER_BYTES).contains(&length) {
        return Answer::Failed;
    }
    let mut response = Vec::with_capacity(ANSWER_BYTES);
    response.extend_from_slice(&first.to_le_bytes());
    while response.len() < length {
        let (word, state) = doors.tpm_read(response.len() as u64);
        if state != ANSWER_READY {
            return Answer::Failed;
        }
        response.extend_from_slice(&word.to_le_bytes());
    }
    response.truncate(length);
    Answer::Ready(response)
}

/// Takes the sealed secret out of the handoff and erases it there, whether there is one or not.
pub(crate) fn take_secret(words: &mut [u64; 4], is_there: &mut u64) -> Option<Zeroizing<[u8; 32]>> {
    let mut secret = Zeroizing::new([0; 32]);
    for (to, word) in secret.as_chunks_mut::<8>().0.iter_mut().zip(words.iter()) {
        *to = word.to_le_bytes();
    }
    words.zeroize();
    (core::mem::take(is_there) == 1).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gate whose TPM has `answer` after some looks.
    struct Fake {
        asked: Vec<[u64; 4]>,
        reply: u64,
        looks: usize,
        answer: Vec<u8>,
        /// From which offset on the answer is gone again.
        gone_at: u64,
    }

    impl Fake {
        fn with(answer: &[u8]) -> Self {
            let answer = answer.to_vec();
            Self { asked: Vec::new(), reply: QUOTE_STARTED, looks: 0, answer, gone_at: u64::MAX }
        }
    }

    impl Doors for Fake {
        fn quote(&mut self, words: [u64; 4]) -> u64 {
            self.asked.push(words);
            self.reply
        }

        fn tpm_read(&mut self, offset: u64) -> (u64, u64) {
            assert!(offset.is_multiple_of(8));
            if self.looks > 0 {
                self.looks -= 1;
                return (0, ANSWER_PENDING);
            }
            if offset >= self.gone_at {
                return (0, 2);
            }
            let rest = self.answer.iter().skip(offset as usize).copied();
            let mut word = [0; 8];
            word.iter_mut().zip(rest).for_each(|(to, from)| *to = from);
            (u64::from_le_bytes(word), ANSWER_READY)
        }
    }

    /// A response of a length that says so.
    fn response(length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length).map(|at| at as u8 ^ 0x5a).collect();
        bytes[2..6].copy_from_slice(&(length as u32).to_be_bytes());
        bytes
    }

    #[test]
    fn a_secret_is_taken_once_and_leaves_nothing_behind() {
        let mut words = [0x0807_0605_0403_0201, 2, 3, u64::MAX];
        let mut is_there = 1;
        let secret = take_secret(&mut words, &mut is_there).unwrap();
        assert_eq!(secret[..9], [1, 2, 3, 4, 5, 6, 7, 8, 2]);
        assert_eq!((words, is_there), ([0; 4], 0));
        assert!(take_secret(&mut words, &mut is_there).is_none());
        // A word that has no meaning is no secret, and is erased all the same.
        let (mut words, mut is_there) = ([7; 4], 2);
        assert!(take_secret(&mut words, &mut is_there).is_none());
        assert_eq!((words, is_there), ([0; 4], 0));
    }

    #[test]
    fn the_bytes_cross_in_order() {
        let mut gate = Fake::with(&[]);
        let qualifying: [u8; 32] = core::array::from_fn(|at| at as u8);
        assert_eq!(begin(&mut gate, &qualifying), Begin::Started);
        let words = [
            0x0706_0504_0302_0100,
            0x0f0e_0d0c_0b0a_0908,
            0x1716_1514_1312_1110,
            0x1f1e_1d1c_1b1a_1918,
        ];
        assert_eq!(gate.asked, [words]);
        for (reply, expected) in [(1, Begin::Busy), (2, Begin::Absent), (u64::MAX, Begin::Absent)] {
            gate.reply = reply;
            assert_eq!(begin(&mut gate, &qualifying), expected);
        }
    }

    #[test]
    fn an_answer_of_any_length_comes_whole() {
        for length in [10, 11, 15, 16, 17, 238, 511, 512] {
            let mut gate = Fake::with(&response(length));
            gate.looks = 3;
            for _ in 0..3 {
                assert_eq!(poll(&mut gate), Answer::Pending);
            }
            for _ in 0..2 {
                assert_eq!(poll(&mut gate), Answer::Ready(response(length)));
            }
        }
    }

    #[test]
    fn what_is_no_response_is_a_failure() {
        for length in [0, 9, 513, u32::MAX] {
            let mut answer = response(64);
            answer[2..6].copy_from_slice(&length.to_be_bytes());
            assert_eq!(poll(&mut Fake::with(&answer)), Answer::Failed);
        }
        assert_eq!(poll(&mut Fake::with(&[])), Answer::Failed);
        for gone_at in [0, 8, 232] {
            let mut gate = Fake { gone_at, ..Fake::with(&response(238)) };
            assert_eq!(poll(&mut gate), Answer::Failed);
        }
    }
}
