//! A TPM that answers whatever the bytes say, to everything that boot asks.

use std::cell::Cell;

use tpm::key_file::KeyFile;
use tpm::{Digests, Tpm, Transport, TransportError};

/// The answers' bytes, one after the other: a length, then the body of an answer that is well
/// formed, or, where the length's highest bit is set, the whole of one that is not.
struct Answers<'a>(Cell<&'a [u8]>);

impl<'a> Answers<'a> {
    fn next(&self) -> Option<Vec<u8>> {
        let ([low, high], rest) = self.0.get().split_first_chunk::<2>()?;
        let length = usize::from(*low) | usize::from(*high & 0x0f) << 8;
        let (body, rest) = rest.split_at_checked(length)?;
        self.0.set(rest);
        if high & 0x80 != 0 {
            return Some(body.to_vec());
        }
        let tag: u16 = if high & 0x40 != 0 { 0x8002 } else { 0x8001 };
        let code: u32 = if high & 0x20 != 0 { 0x922 } else { 0 };
        let mut answer = tag.to_be_bytes().to_vec();
        answer.extend_from_slice(&(10 + body.len() as u32).to_be_bytes());
        answer.extend_from_slice(&code.to_be_bytes());
        answer.extend_from_slice(body);
        Some(answer)
    }
}

impl Transport for Answers<'_> {
    fn transact<'a>(
        &mut self,
        command: &[u8],
        answer: &'a mut [u8],
    ) -> Result<&'a [u8], TransportError> {
        assert!((10..=tpm::COMMAND_BYTES).contains(&command.len()));
        let next = Answers::next(self).ok_or(TransportError::Silent("at the end"))?;
        let room = answer.get_mut(..next.len()).ok_or(TransportError::Length)?;
        room.copy_from_slice(&next);
        Ok(room)
    }
}

/// Everything that boot asks of a TPM, answered by the bytes.
pub fn answers(data: &[u8]) {
    let mut tpm = Tpm::new(Answers(Cell::new(data)));
    let _ = tpm.start_up();
    if let Ok(banks) = tpm.banks() {
        let _ = tpm.extend(11, &Digests::of(&banks, b"service"));
        for bank in banks {
            if let Ok(values) = tpm.read_pcrs(bank) {
                assert!(values.is_full());
                assert!(values.iter().all(|value| value.bytes().len() == bank.digest_bytes()));
            }
        }
    }
    let _ = tpm.read_ek_certificate();
    if let Ok(ak) = tpm.create_ak() {
        assert_eq!(ak.handle >> 24, 0x80);
        let _ = tpm.activate_credential(&ak, b"\0\x01c\0\x01s");
    }
    let file = KeyFile { public: b"p", duplicate: b"d", seed: b"s", selection: b"l" };
    let _ = tpm.unseal(&file);
    let _ = tpm.take_away_hierarchies(&mut [7; 32]);
    let _ = tpm.shutdown_clear();
}

/// A file that lies beside the image.
pub fn key_file(data: &[u8]) {
    if let Some(file) = KeyFile::parse(data) {
        let parts = [file.public, file.duplicate, file.seed, file.selection];
        assert!(parts.iter().map(|part| part.len()).sum::<usize>() < data.len());
    }
}
