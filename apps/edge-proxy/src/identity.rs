//! Whom the proxy says it is: where its key comes from, and nothing in its place.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use attest_core::claims::{Claims, KeyOrigin};
use edge_config::{Identity, Name};
use libos::tls::identity::{Distrust, EphemeralError, KEY_FILE_BYTES, KeyFileError, make, open};
use libos::tls::{ServerSettings, SettingsError, WallClock};

use crate::attest::PROTOCOL;

const _: () = assert!(KEY_FILE_BYTES as u64 <= edge_config::budget::KEY_FILE_BYTES);

/// What a machine has of a sealed key.
#[derive(Clone, Copy)]
pub struct SealedKey<'a> {
    /// The file that boot found beside the image; empty if there was none.
    pub file: &'a [u8],
    /// What the TPM unsealed, if it did.
    pub secret: Option<&'a [u8; 32]>,
}

/// Why the proxy has no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The sealed chain is not the configured one.
    Distrust(Distrust),
    /// A key could not be made.
    Ephemeral(EphemeralError),
    /// The sealed file cannot be used.
    File(KeyFileError),
    /// Nobody knows what time it is, so no chain can be checked.
    NoClock,
    /// There is no sealed file.
    NoFile,
    /// The TPM did not unseal the file's secret.
    NoSecret,
    /// The machine has no TPM.
    NoTpm,
    /// The chain and the key cannot be used.
    Settings(SettingsError),
}

/// The settings for an identity; `sealed` is `None` on a machine without a TPM.
///
/// # Errors
///
/// [`IdentityError`] if the configured way to a key leads to none. There is no second way.
pub fn settings(
    identity: &Identity,
    sealed: Option<SealedKey<'_>>,
    clock: Arc<dyn WallClock>,
) -> Result<ServerSettings, IdentityError> {
    let settings = match identity {
        Identity::Image { chain, key } => {
            let chain: Vec<&[u8]> = chain.iter().map(|certificate| certificate.der()).collect();
            ServerSettings::new(&chain, key.pkcs8(), &[], clock)
        }
        Identity::Ephemeral { names } => {
            let made = make(&texts(names)).map_err(IdentityError::Ephemeral)?;
            ServerSettings::new(&made.chain(), made.key(), &[], clock)
        }
        Identity::Sealed { issuer, names } => {
            let SealedKey { file, secret } = sealed.ok_or(IdentityError::NoTpm)?;
            if file.is_empty() {
                return Err(IdentityError::NoFile);
            }
            let secret = secret.ok_or(IdentityError::NoSecret)?;
            let now = clock.unix_seconds().ok_or(IdentityError::NoClock)?;
            let opened = open(file, secret).map_err(IdentityError::File)?;
            let checked = opened.check(issuer.der(), &texts(names), now);
            let checked = checked.map_err(IdentityError::Distrust)?;
            ServerSettings::new(&checked.chain(), checked.key(), &[], clock)
        }
    };
    settings
        .and_then(|settings| settings.with_attestation(PROTOCOL))
        .map_err(IdentityError::Settings)
}

fn texts(names: &[Name]) -> Vec<&str> {
    names.iter().map(Name::text).collect()
}

/// What the proxy says of itself in evidence.
pub fn claims(identity: &Identity) -> Vec<u8> {
    let claims = Claims {
        app: env!("CARGO_PKG_NAME").to_string(),
        key_origin: match identity.key_origin() {
            edge_config::KeyOrigin::Ephemeral => KeyOrigin::Ephemeral,
            edge_config::KeyOrigin::Image => KeyOrigin::Image,
            edge_config::KeyOrigin::Sealed => KeyOrigin::Sealed,
        },
        version: env!("CARGO_PKG_VERSION").to_string(),
    };
    claims.encode()
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Distrust(reason) => write!(f, "sealed key: {reason}"),
            Self::Ephemeral(error) => write!(f, "ephemeral key: {error}"),
            Self::File(error) => write!(f, "sealed key: {error}"),
            Self::NoClock => f.write_str("sealed key: there is no clock to check dates by"),
            Self::NoFile => f.write_str("sealed key: there is no key file beside the image"),
            Self::NoSecret => f.write_str("sealed key: the TPM did not unseal it"),
            Self::NoTpm => f.write_str("sealed key: this machine has no TPM"),
            Self::Settings(error) => write!(f, "certificate: {error}"),
        }
    }
}

impl core::error::Error for IdentityError {}
