//! Evidence on the wire: a collection of conceptual messages (RFC 9999) in deterministic CBOR.
//!
//! A map from labels to records `[media type, bytes, 4]`, where 4 says "evidence" (bit 2), and one
//! entry `__cmwc_t` that says what kind of collection it is. The bytes inside are what the TPM, the
//! firmware and boot wrote, unchanged, so that any other tool can be fed with them:
//!
//! | label | bytes |
//! |---|---|
//! | `ak` | `TPMT_PUBLIC` of the attestation key |
//! | `ek` | X.509 certificate of the endorsement key, DER; optional |
//! | `aux` | the claims ([`crate::claims`]) |
//! | `log` | the event log, TCG crypto-agile format |
//! | `pcrs` | for each active bank: algorithm and digest size (16 bits each, little-endian), PCR 0 to 15 |
//! | `seal` | the seal record |
//! | `quote` | `TPMS_ATTEST` |
//! | `answer` | what `TPM2_ActivateCredential` gave for an enrolment's challenge; optional |
//! | `leaves` | the leaves the quote is bound to, 32 bytes each, ascending |
//! | `signature` | `TPMT_SIGNATURE` over `quote` |

use alloc::vec::Vec;

use crate::cbor;

/// The most bytes that evidence may have.
pub const MAX_BYTES: usize = 128 << 10;

/// What kind of collection this is (RFC 9999: a URI or an OID).
const COLLECTION: &str = "tag:bulla.invalid,2026:evidence-1";

/// The key of that entry.
const COLLECTION_KEY: &str = "__cmwc_t";

/// The indicator of a record: bit 2, evidence.
const EVIDENCE: u8 = 1 << 2;

/// Every media type begins like this; the label follows.
const MEDIA_TYPE: &str = "application/vnd.bulla.";

/// Evidence, borrowed from wherever its parts lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence<'a> {
    /// `TPMT_PUBLIC` of the attestation key.
    pub ak: &'a [u8],
    /// The endorsement key's certificate.
    pub ek: Option<&'a [u8]>,
    /// The claims.
    pub aux: &'a [u8],
    /// The event log.
    pub log: &'a [u8],
    /// The PCRs' values.
    pub pcrs: &'a [u8],
    /// The seal record.
    pub seal: &'a [u8],
    /// `TPMS_ATTEST`.
    pub quote: &'a [u8],
    /// The answer to an enrolment's challenge.
    pub answer: Option<&'a [u8]>,
    /// The leaves.
    pub leaves: &'a [u8],
    /// `TPMT_SIGNATURE`.
    pub signature: &'a [u8],
}

/// Why bytes are not evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// They are not CBOR of the shape above, or not in its one deterministic form.
    Form,
    /// A part is missing.
    Missing(&'static str),
    /// There are more bytes than evidence may have.
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// A label, a media type or a collection that nobody knows.
    Unknown,
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Form => write!(f, "it is not a collection of records in deterministic CBOR"),
            Self::Missing(label) => write!(f, "its part {label:?} is missing"),
            Self::TooLong { bytes } => {
                write!(f, "it has {bytes} bytes, evidence has at most {MAX_BYTES}")
            }
            Self::Unknown => write!(f, "it has a part, a media type or a kind that nobody knows"),
        }
    }
}

impl core::error::Error for Malformed {}

impl<'a> Evidence<'a> {
    /// Label and bytes of every part, in the order of deterministic CBOR: short labels first.
    fn parts(&self) -> [(&'static str, Option<&'a [u8]>); 10] {
        [
            ("ak", Some(self.ak)),
            ("ek", self.ek),
            ("aux", Some(self.aux)),
            ("log", Some(self.log)),
            ("pcrs", Some(self.pcrs)),
            ("seal", Some(self.seal)),
            ("quote", Some(self.quote)),
            ("answer", self.answer),
            ("leaves", Some(self.leaves)),
            ("signature", Some(self.signature)),
        ]
    }

    fn part_mut(&mut self, label: &str) -> Option<Slot<'_, 'a>> {
        Some(match label {
            "ak" => Slot::Must(&mut self.ak),
            "ek" => Slot::May(&mut self.ek),
            "aux" => Slot::Must(&mut self.aux),
            "log" => Slot::Must(&mut self.log),
            "pcrs" => Slot::Must(&mut self.pcrs),
            "seal" => Slot::Must(&mut self.seal),
            "quote" => Slot::Must(&mut self.quote),
            "answer" => Slot::May(&mut self.answer),
            "leaves" => Slot::Must(&mut self.leaves),
            "signature" => Slot::Must(&mut self.signature),
            _ => return None,
        })
    }

    /// How many bytes [`Evidence::encode`] writes at most.
    pub fn max_encoded_bytes(&self) -> usize {
        // Label, media type, heads and indicator of a record stay below 64 bytes.
        self.parts().iter().map(|(_, part)| 64 + part.map_or(0, <[u8]>::len)).sum::<usize>() + 64
    }

    /// The evidence as one item of deterministic CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let parts = self.parts();
        let count = parts.iter().filter(|(_, part)| part.is_some()).count() as u64;
        cbor::encode(self.max_encoded_bytes(), |encoder| {
            encoder.map(count + 1)?;
            for (label, part) in parts {
                if label.len() > COLLECTION_KEY.len() {
                    encoder.str(COLLECTION_KEY)?.str(COLLECTION)?;
                }
                let Some(bytes) = part else { continue };
                encoder.str(label)?.array(3)?;
                media_type(encoder, label)?;
                encoder.bytes(bytes)?.u8(EVIDENCE)?;
            }
            Ok(())
        })
    }

    /// Reads evidence.
    ///
    /// # Errors
    ///
    /// [`Malformed`] unless the bytes are exactly what [`Evidence::encode`] writes for some evidence.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_BYTES {
            return Err(Malformed::TooLong { bytes: bytes.len() });
        }
        let mut decoder = minicbor::Decoder::new(bytes);
        let count = decoder.map().ok().flatten().ok_or(Malformed::Form)?;
        let mut evidence = Self::default();
        // More entries than there are labels is more than anybody knows.
        if count > evidence.parts().len() as u64 + 1 {
            return Err(Malformed::Unknown);
        }
        for _ in 0..count {
            let label = decoder.str().map_err(|_| Malformed::Form)?;
            if label == COLLECTION_KEY {
                let kind = decoder.str().map_err(|_| Malformed::Form)?;
                if kind != COLLECTION {
                    return Err(Malformed::Unknown);
                }
                continue;
            }
            let part = record(&mut decoder, label)?;
            match evidence.part_mut(label).ok_or(Malformed::Unknown)? {
                Slot::Must(slot) => *slot = part,
                Slot::May(slot) => *slot = Some(part),
            }
        }
        let absent = evidence.parts().into_iter().find(|(_, part)| *part == Some(&[][..]));
        if let Some((label, _)) = absent {
            return Err(Malformed::Missing(label));
        }
        // One comparison for duplicate keys, their order, lengths that are longer than they need
        // be, items of indefinite length and bytes behind the end.
        if evidence.encode() != bytes {
            return Err(Malformed::Form);
        }
        Ok(evidence)
    }
}

/// A part that has to be there, or one that may.
enum Slot<'s, 'a> {
    Must(&'s mut &'a [u8]),
    May(&'s mut Option<&'a [u8]>),
}

fn media_type(
    encoder: &mut minicbor::Encoder<cbor::Bytes>,
    label: &str,
) -> Result<(), minicbor::encode::Error<core::convert::Infallible>> {
    let mut name = alloc::string::String::with_capacity(MEDIA_TYPE.len() + label.len());
    name.push_str(MEDIA_TYPE);
    name.push_str(label);
    encoder.str(&name)?;
    Ok(())
}

fn record<'a>(decoder: &mut minicbor::Decoder<'a>, label: &str) -> Result<&'a [u8], Malformed> {
    let malformed = |_| Malformed::Form;
    if decoder.array().map_err(malformed)? != Some(3) {
        return Err(Malformed::Form);
    }
    let media_type = decoder.str().map_err(malformed)?;
    let bytes = decoder.bytes().map_err(malformed)?;
    let indicator = decoder.u8().map_err(malformed)?;
    if media_type.strip_prefix(MEDIA_TYPE) != Some(label) || indicator != EVIDENCE {
        return Err(Malformed::Unknown);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    fn evidence() -> Evidence<'static> {
        Evidence {
            ak: b"ak",
            ek: Some(b"certificate"),
            aux: b"claims",
            log: &[7; 300],
            pcrs: b"values",
            seal: b"record",
            quote: b"attest",
            answer: Some(b"secret"),
            leaves: &[1; 32],
            signature: b"signature",
        }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        for evidence in [
            evidence(),
            Evidence { ek: None, ..evidence() },
            Evidence { answer: None, ..evidence() },
        ] {
            let bytes = evidence.encode();
            assert!(bytes.len() <= evidence.max_encoded_bytes());
            assert_eq!(Evidence::decode(&bytes), Ok(evidence));
        }
    }

    #[test]
    fn every_byte_of_the_form_counts() {
        let bytes = evidence().encode();
        for length in 0..bytes.len() {
            assert!(Evidence::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Evidence::decode(&longer), Err(Malformed::Form));
        // No change is overlooked: it is refused, or it changes what is read.
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_ne!(Evidence::decode(&changed).ok(), Some(evidence()), "byte {at}");
        }
    }

    #[track_caller]
    fn refused(bytes: &[u8], expected: Malformed) {
        assert_eq!(Evidence::decode(bytes), Err(expected));
    }

    #[test]
    fn refuses_what_is_not_its_one_form() {
        let bytes = evidence().encode();
        let mut indefinite = bytes.clone();
        indefinite[0] = 0xbf;
        indefinite.push(0xff);
        refused(&indefinite, Malformed::Form);
        // The map's length in two bytes.
        let mut wide = bytes.clone();
        wide.splice(0..1, [0xb8, bytes[0] & 0x1f]);
        refused(&wide, Malformed::Form);
        refused(&vec![0; MAX_BYTES + 1], Malformed::TooLong { bytes: MAX_BYTES + 1 });
        refused(&Evidence { quote: b"", ..evidence() }.encode(), Malformed::Missing("quote"));
        // A map of 1,000,000 entries that are not there.
        refused(&[0xba, 0, 0x0f, 0x42, 0x40], Malformed::Unknown);
    }

    #[test]
    fn refuses_duplicate_and_unknown_labels() {
        let one = cbor::encode(64, |encoder| {
            encoder.map(2)?;
            for _ in 0..2 {
                encoder.str("ak")?.array(3)?.str("application/vnd.bulla.ak")?;
                encoder.bytes(b"x")?.u8(4)?;
            }
            Ok(())
        });
        assert!(Evidence::decode(&one).is_err());
        let unknown = cbor::encode(64, |encoder| {
            encoder.map(1)?.str("zz")?.array(3)?.str("application/vnd.bulla.zz")?;
            encoder.bytes(b"x")?.u8(4)?;
            Ok(())
        });
        refused(&unknown, Malformed::Unknown);
        let mut other = evidence().encode();
        let at = other.windows(4).position(|four| four == b"2026").unwrap();
        other[at] = b'3';
        refused(&other, Malformed::Unknown);
    }
}
