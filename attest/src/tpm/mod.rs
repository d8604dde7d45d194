//! The half of TPM 2.0 that needs no TPM: public areas, key derivation, and wrapping a secret so
//! that only one TPM can open it.
//!
//! What a name means is in TPM 2.0 Library Specification, Part 1 (Architecture); how it is written
//! in Part 2 (Structures). The functions here are the caller's side of `TPM2_Import` and
//! `TPM2_ActivateCredential`.

mod derive;
mod public;
mod sealed;
mod wire;
mod wrap;

pub use public::{AttestationKey, Curve, Hash, Malformed, StorageKey};
pub use sealed::{Policy, SealedObject, seal};
pub(crate) use wire::{Oversized, put_sized};
pub(crate) use wrap::random;
pub use wrap::{Credential, WrapError, make_credential};
