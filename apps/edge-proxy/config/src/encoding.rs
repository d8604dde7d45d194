//! A configuration as bytes: what kind of bytes they are, then postcard.

use alloc::vec::Vec;
use core::fmt;

use zeroize::Zeroizing;

use crate::bounds::Invalid;
use crate::{Attestation, Config, Identity};

/// The first eight bytes; the last one is the version.
const MAGIC: [u8; 8] = *b"EDGECFG\x02";

/// Why bytes are not a configuration of the edge proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// They are another kind of bytes, or another version of these.
    Magic([u8; 8]),
    /// They do not decode.
    Malformed(postcard::Error),
    /// They go on after the end.
    Trailing {
        /// How many bytes.
        bytes: usize,
    },
    /// They end before the end.
    Truncated {
        /// How many bytes there are.
        bytes: usize,
    },
    /// They say something that must not be.
    Value(Invalid),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(seen) => {
                write!(f, "configuration begins with {seen:02x?}, not {MAGIC:02x?}:")?;
                write!(f, " the image was composed for another service or by another version")
            }
            Self::Malformed(error) => write!(f, "configuration does not decode: {error}"),
            Self::Trailing { bytes } => {
                write!(f, "configuration goes on for {bytes} bytes after its end")
            }
            Self::Truncated { bytes } => write!(f, "configuration ends after {bytes} bytes"),
            Self::Value(invalid) => write!(f, "configuration: {invalid}"),
        }
    }
}

impl core::error::Error for DecodeError {}

impl Identity {
    /// At least as many bytes as it has when it is encoded.
    fn bytes(&self) -> usize {
        let of_names = |names: &[crate::Name]| {
            names.iter().map(|name| name.text().len() + 8).sum::<usize>() + 8
        };
        8 + match self {
            Self::Image { chain, key } => {
                let sizes = chain.iter().map(|certificate| certificate.der().len() + 8);
                sizes.sum::<usize>() + key.pkcs8().len() + 16
            }
            Self::Ephemeral { names } => of_names(names),
            Self::Sealed { issuer, names } => issuer.der().len() + 8 + of_names(names),
        }
    }
}

impl Attestation {
    /// Likewise.
    fn bytes(&self) -> usize {
        16 + 8 * self.allow.len()
    }
}

impl Config {
    /// The configuration as the payload of an image's configuration section.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if the proxy would refuse it.
    ///
    /// # Panics
    ///
    /// Never: these types encode into memory, and that cannot fail.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Invalid> {
        self.check()?;
        // Enough for everything, so that the buffer never moves and leaves a copy of the key.
        let mut bytes = Vec::with_capacity(1024 + self.identity.bytes() + self.attestation.bytes());
        bytes.extend_from_slice(&MAGIC);
        let bytes = postcard::to_extend(self, bytes).expect("encoding into memory cannot fail");
        Ok(Zeroizing::new(bytes))
    }

    /// Reads the payload of an image's configuration section.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] with the first thing that is wrong. What is returned has passed
    /// [`Config::check`].
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let truncated = DecodeError::Truncated { bytes: payload.len() };
        let (magic, body) = payload.split_first_chunk::<8>().ok_or(truncated.clone())?;
        if *magic != MAGIC {
            return Err(DecodeError::Magic(*magic));
        }
        let (config, rest) =
            postcard::take_from_bytes::<Self>(body).map_err(|error| match error {
                postcard::Error::DeserializeUnexpectedEnd => truncated,
                other => DecodeError::Malformed(other),
            })?;
        if !rest.is_empty() {
            return Err(DecodeError::Trailing { bytes: rest.len() });
        }
        config.check().map_err(DecodeError::Value)?;
        Ok(config)
    }
}
