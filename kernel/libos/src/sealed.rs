//! The proof that this code runs where it thinks it does.

/// Proof that this code runs in ring 3 of a machine whose boot handed over and is gone.
///
/// Minted once, by the entry stub, after it has seen CPL 3 and a handoff of its own version. That is
/// all ring 3 can know: whether the tables are as the seal says was read back by boot before the
/// drop, and can be checked from outside.
///
/// ```compile_fail
/// let forged = libos::sealed::Sealed(());
/// ```
#[derive(Debug)]
pub struct Sealed(());

#[cfg(target_os = "none")]
impl Sealed {
    pub(crate) fn mint() -> Self {
        Self(())
    }
}
