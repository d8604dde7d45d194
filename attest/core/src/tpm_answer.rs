//! A TPM's answer to `TPM2_Quote` (TPM 2.0 library, part 3, section 18.4), cut in two.

use crate::cursor::Cursor;

/// `TPM_ST_SESSIONS`: the answer to a command that had an authorization.
const SESSIONS: u16 = 0x8002;

/// The two halves of a quote, as the TPM wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitQuote<'a> {
    /// The `TPMS_ATTEST`, which is what is signed.
    pub attest: &'a [u8],
    /// The `TPMT_SIGNATURE`.
    pub signature: &'a [u8],
}

/// Cuts an answer in two, or says the TPM's response code, or `None` where it is no answer at all.
pub fn split_quote(answer: &[u8]) -> Option<Result<SplitQuote<'_>, u32>> {
    let mut header = Cursor::new(answer);
    let (tag, size, code) = (header.u16()?, header.u32()?, header.u32()?);
    if usize::try_from(size).ok()? != answer.len() {
        return None;
    }
    if code != 0 {
        return Some(Err(code));
    }
    if tag != SESSIONS {
        return None;
    }
    let parameter_bytes = usize::try_from(header.u32()?).ok()?;
    let mut parameters = Cursor::new(header.take(parameter_bytes)?);
    let attest = parameters.sized()?;
    let signature = parameters.rest();
    (!signature.is_empty()).then_some(Ok(SplitQuote { attest, signature }))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// An answer with an attestation of three bytes, a signature of two and a session area.
    fn answer() -> Vec<u8> {
        let mut answer = Vec::from([0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 3]);
        answer.extend_from_slice(b"abc");
        answer.extend_from_slice(b"xy");
        answer.extend_from_slice(&[0, 0, 1, 0, 0]);
        let length = answer.len() as u8;
        answer[5] = length;
        answer
    }

    #[test]
    fn cuts_the_attestation_from_the_signature() {
        let expected = SplitQuote { attest: b"abc", signature: b"xy" };
        assert_eq!(split_quote(&answer()), Some(Ok(expected)));
    }

    #[test]
    fn says_the_code_of_a_refusal() {
        let refusal = [0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0x21];
        assert_eq!(split_quote(&refusal), Some(Err(0x921)));
    }

    #[test]
    fn refuses_lengths_that_are_not_there() {
        let good = answer();
        for length in 0..good.len() {
            assert_eq!(split_quote(&good[..length]), None, "{length} bytes");
        }
        for (at, value) in [(5, 99), (13, 99), (15, 99), (13, 5), (1, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(split_quote(&bad), None, "byte {at}");
        }
    }
}
