//! The value that names one connection and that only its two ends can know (RFC 9266).
//!
//! The library has an exporter only with std. Without, it still hands the secret behind it to a
//! key log: ours takes that one secret, of that one connection, for as long as it takes to derive
//! the value from it.

use alloc::vec::Vec;
use core::fmt;

use rustls::crypto::tls13::{HkdfExpander, OkmBlock};
use rustls::{KeyLog, Tls13CipherSuite};
use spin::Mutex;
use zeroize::{Zeroize, Zeroizing};

/// Bytes of the value.
pub const EXPORTER_BYTES: usize = 32;

/// What the library calls the secret.
const SECRET: &str = "EXPORTER_SECRET";

/// The value's name; its context is empty (RFC 9266 section 3).
const LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Where the library leaves the secret of one connection.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<Zeroizing<Vec<u8>>>>);

impl Slot {
    /// Takes the secret out, if there is one.
    pub(super) fn take(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.0.lock().take()
    }
}

impl KeyLog for Slot {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if self.will_log(label) && secret.len() <= OkmBlock::MAX_LEN {
            *self.0.lock() = Some(Zeroizing::new(secret.to_vec()));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == SECRET
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot(..)")
    }
}

/// The value of a connection with that exporter secret (RFC 8446 section 7.5).
pub(super) fn channel_binding(suite: &Tls13CipherSuite, secret: &[u8]) -> Option<[u8; 32]> {
    let of_nothing = suite.common.hash_provider.hash(&[]);
    let expander = suite.hkdf_provider.expander_for_okm(&OkmBlock::new(secret));
    let mut derived = Zeroizing::new([0; OkmBlock::MAX_LEN]);
    let derived = derived.get_mut(..expander.hash_len())?;
    expand_label(&*expander, LABEL, of_nothing.as_ref(), derived)?;
    let expander = suite.hkdf_provider.expander_for_okm(&OkmBlock::new(derived));
    let mut value = [0; EXPORTER_BYTES];
    if expand_label(&*expander, b"exporter", of_nothing.as_ref(), &mut value).is_none() {
        value.zeroize();
        return None;
    }
    Some(value)
}

/// HKDF-Expand-Label (RFC 8446 section 7.1).
fn expand_label(
    expander: &dyn HkdfExpander,
    label: &[u8],
    context: &[u8],
    output: &mut [u8],
) -> Option<()> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(output.len()).ok()?.to_be_bytes();
    let label_length = [u8::try_from(PREFIX.len() + label.len()).ok()?];
    let context_length = [u8::try_from(context.len()).ok()?];
    let info = [&length[..], &label_length, PREFIX, label, &context_length, context];
    expander.expand_slice(&info, output).ok()
}
