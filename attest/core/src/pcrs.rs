//! PCR values as evidence brings them: worth nothing until a quote's digest covers them.

use alloc::vec::Vec;

use crate::cursor::Cursor;
use crate::hash::Algorithm;
use crate::tpms::Selection;

/// How many PCRs of each bank evidence has: 0 to 15.
pub const COUNT: usize = 16;

/// The most banks a TPM may have active.
const MAX_BANKS: usize = 8;

/// The values of PCR 0 to 15 in one bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bank {
    /// The bank.
    pub algorithm: Algorithm,
    /// The values.
    pub values: Vec<Vec<u8>>,
}

/// The values of all active banks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcrs(Vec<Bank>);

impl Pcrs {
    /// Reads values as boot writes them, or `None` if they are not whole, or a bank is there twice.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let mut banks: Vec<Bank> = Vec::new();
        while !cursor.is_empty() {
            let algorithm = Algorithm::parse(cursor.u16_le()?)?;
            let size = usize::from(cursor.u16_le()?);
            let is_new = banks.iter().all(|bank| bank.algorithm != algorithm);
            if size != algorithm.digest_bytes() || !is_new || banks.len() == MAX_BANKS {
                return None;
            }
            let values = (0..COUNT).map(|_| Some(cursor.take(size)?.to_vec()));
            banks.push(Bank { algorithm, values: values.collect::<Option<_>>()? });
        }
        (!banks.is_empty()).then_some(Self(banks))
    }

    /// The same, of banks.
    pub fn new(banks: Vec<Bank>) -> Self {
        Self(banks)
    }

    /// As evidence brings them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for bank in &self.0 {
            bytes.extend_from_slice(&(bank.algorithm as u16).to_le_bytes());
            bytes.extend_from_slice(&(bank.algorithm.digest_bytes() as u16).to_le_bytes());
            bank.values.iter().for_each(|value| bytes.extend_from_slice(value));
        }
        bytes
    }

    /// The banks.
    pub fn banks(&self) -> &[Bank] {
        &self.0
    }

    /// One value.
    pub fn value(&self, bank: Algorithm, index: u8) -> Option<&[u8]> {
        let bank = self.0.iter().find(|it| it.algorithm == bank)?;
        bank.values.get(usize::from(index)).map(Vec::as_slice)
    }

    /// The digest of the selected values in the selection's order; nothing if one is not there.
    pub fn digest(&self, selections: &[Selection], by: Algorithm) -> Option<Vec<u8>> {
        let mut parts = Vec::new();
        for selection in selections {
            for index in selection.indices() {
                parts.push(self.value(selection.bank, index)?);
            }
        }
        Some(by.digest(&parts))
    }
}
