//! What a machine says of itself beyond what its TPM measured: who made its key, who it is.
//!
//! The claims are bound into the quote, so nobody on the way can change them; they are as true as
//! the measured service that made them.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::cbor;

/// The longest text in a claim, in bytes.
pub const MAX_TEXT_BYTES: usize = 64;

/// Where the TLS key came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// It lies readable in the image.
    Image,
    /// The service made it at this boot.
    Ephemeral,
    /// The TPM opened it for this image, before the seal.
    Sealed,
}

impl KeyOrigin {
    /// Its name in claims, configurations and policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Ephemeral => "ephemeral",
            Self::Sealed => "sealed",
        }
    }

    /// The origin of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Image, Self::Ephemeral, Self::Sealed].into_iter().find(|it| it.as_str() == name)
    }
}

/// The claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The application's name.
    pub app: String,
    /// Where the TLS key came from.
    pub key_origin: KeyOrigin,
    /// The application's version.
    pub version: String,
}

impl Claims {
    /// The claims in deterministic CBOR: a map of three texts.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(64, |encoder| {
            encoder.map(3)?.str("app")?.str(&self.app)?;
            encoder.str("version")?.str(&self.version)?;
            encoder.str("key_origin")?.str(self.key_origin.as_str())?;
            Ok(())
        })
    }

    /// Reads claims, or `None` unless the bytes are exactly how [`Claims::encode`] writes some.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut decoder = minicbor::Decoder::new(bytes);
        (decoder.map().ok()? == Some(3)).then_some(())?;
        let mut text = |name: &str| {
            (decoder.str().ok()? == name).then_some(())?;
            let text = decoder.str().ok()?;
            (text.len() <= MAX_TEXT_BYTES).then(|| text.to_string())
        };
        let (app, version, origin) = (text("app")?, text("version")?, text("key_origin")?);
        let claims = Self { app, key_origin: KeyOrigin::parse(&origin)?, version };
        (claims.encode() == bytes).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims { app: "edge-proxy".into(), key_origin: KeyOrigin::Sealed, version: "0.1.0".into() }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        for key_origin in [KeyOrigin::Image, KeyOrigin::Ephemeral, KeyOrigin::Sealed] {
            let claims = Claims { key_origin, ..claims() };
            assert_eq!(Claims::decode(&claims.encode()), Some(claims));
        }
    }

    #[test]
    fn refuses_every_other_way_to_say_it() {
        let good = claims().encode();
        for length in 0..good.len() {
            assert_eq!(Claims::decode(&good[..length]), None, "{length} bytes");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(Claims::decode(&longer), None);
        // A map of indefinite length (bf ... ff) with the same content.
        let mut indefinite = good.clone();
        indefinite[0] = 0xbf;
        indefinite.push(0xff);
        assert_eq!(Claims::decode(&indefinite), None);
        // The first key's length in two bytes instead of one.
        let mut wide = good.clone();
        wide.splice(1..2, [0x78, 3]);
        assert_eq!(Claims::decode(&wide), None);
        let long = Claims { app: "x".repeat(MAX_TEXT_BYTES + 1), ..claims() };
        assert_eq!(Claims::decode(&long.encode()), None);
    }
}
