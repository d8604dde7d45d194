//! What only this TPM can do: its certificate, challenges for it, keys sealed to it.

use arrayvec::ArrayVec;
use zeroize::{Zeroize, Zeroizing};

use crate::commands::{Ak, ENDORSEMENT};
use crate::key_file::KeyFile;
use crate::wire::{Answer, Auth, Command};
use crate::{Algorithm, Error, Tpm, Transport};

const NV_READ_PUBLIC: u32 = 0x169;
const NV_READ: u32 = 0x14e;
const READ_PUBLIC: u32 = 0x173;
const ACTIVATE_CREDENTIAL: u32 = 0x147;
const START_AUTH_SESSION: u32 = 0x176;
const POLICY_SECRET: u32 = 0x151;
const POLICY_PCR: u32 = 0x17f;
const IMPORT: u32 = 0x156;
const LOAD: u32 = 0x157;
const UNSEAL: u32 = 0x15e;
const FLUSH_CONTEXT: u32 = 0x165;

/// `TPM_RH_NULL`.
const NOBODY: u32 = 0x4000_0007;
/// `TPM_ALG_NULL`.
const NULL: u16 = 0x0010;
/// `TPM_SE_POLICY`.
const POLICY: u8 = 1;

/// Where certificates of endorsement keys are, the strongest first (TCG EK Credential Profile 2.5,
/// section 2.2.1.4): P-384, P-256, RSA 2048.
const CERTIFICATES: [u32; 3] = [0x01c0_0016, 0x01c0_000a, 0x01c0_0002];

/// Where the keys themselves are kept, in the same order (section 2.2.1.5 and the tools' habit).
const KEYS: [u32; 3] = [0x8101_0016, 0x8101_000a, 0x8101_0001];

/// The attribute by which a key may be used with its password, which is empty.
const USER_WITH_AUTH: u32 = 1 << 6;

/// The longest certificate.
pub const CERTIFICATE_BYTES: usize = 4096;

/// How much of one is read at a time: below what every TPM allows.
const PIECE_BYTES: usize = 512;

/// The longest answer to a challenge.
pub const CREDENTIAL_BYTES: usize = 64;

/// A certificate.
pub type Certificate = ArrayVec<u8, CERTIFICATE_BYTES>;

/// What was sealed: 32 bytes.
pub type Secret = Zeroizing<[u8; 32]>;

impl<T: Transport> Tpm<T> {
    /// The certificate of the strongest endorsement key that has one we may read.
    ///
    /// # Errors
    ///
    /// [`Error`] if the TPM does not behave; a TPM without certificates is no error.
    pub fn read_ek_certificate(&mut self) -> Result<Option<Certificate>, Error> {
        for index in CERTIFICATES {
            let certificate = self.nv_bytes(index).and_then(|size| self.nv_read(index, size));
            match certificate {
                Ok(certificate) => return Ok(Some(certificate)),
                // It is not there, was never written, or is not for everybody.
                Err(Error::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn nv_bytes(&mut self, index: u32) -> Result<usize, Error> {
        let mut answer = self.run(Command::plain(NV_READ_PUBLIC).u32(index))?;
        let size = (|| {
            let mut public = Answer::new(answer.sized()?);
            (public.u32()? == index).then_some(())?;
            let (_, _, _) = (public.u16()?, public.u32()?, public.sized()?);
            Some(usize::from(public.u16()?))
        })();
        let size = size.filter(|size| (1..=CERTIFICATE_BYTES).contains(size));
        size.ok_or(Error::Answer("a certificate's index has no sensible size"))
    }

    fn nv_read(&mut self, index: u32, size: usize) -> Result<Certificate, Error> {
        let mut certificate = Certificate::new();
        while certificate.len() < size {
            let piece = PIECE_BYTES.min(size - certificate.len());
            // The index authorizes its own reading, with no password.
            let mut command = Command::authorized(NV_READ, &[index, index], &[Auth::Empty]);
            command.u16(piece as u16).u16(certificate.len() as u16);
            let mut answer = self.run(&mut command)?;
            let bytes = answer.parameters().and_then(|mut it| it.sized());
            let bytes = bytes.filter(|bytes| bytes.len() == piece);
            let bytes = bytes.ok_or(Error::Answer("a certificate's piece is not whole"))?;
            let full = Error::Answer("a certificate is longer than its size");
            certificate.try_extend_from_slice(bytes).map_err(|_| full)?;
        }
        Ok(certificate)
    }

    /// Answers an enrolment's challenge: a `TPM2B_ID_OBJECT` and a `TPM2B_ENCRYPTED_SECRET`, made
    /// for one endorsement key and one attestation key. `None` if it is for another TPM.
    ///
    /// # Errors
    ///
    /// [`Error`] if the TPM does not behave.
    pub fn activate_credential(
        &mut self,
        ak: &Ak,
        challenge: &[u8],
    ) -> Result<Option<ArrayVec<u8, CREDENTIAL_BYTES>>, Error> {
        let mut challenge = Answer::new(challenge);
        let (Some(credential), Some(seed), true) =
            (challenge.sized(), challenge.sized(), challenge.is_empty())
        else {
            return Ok(None);
        };
        self.with_each_key(|tpm, key, auth| {
            let handles = [ak.handle, key];
            let mut command =
                Command::authorized(ACTIVATE_CREDENTIAL, &handles, &[Auth::Empty, auth]);
            let mut answer = tpm.run(command.sized(credential).sized(seed))?;
            let secret = answer.parameters().and_then(|mut it| it.sized());
            let secret = secret.and_then(|secret| ArrayVec::try_from(secret).ok());
            secret.ok_or(Error::Answer("a credential is not whole"))
        })
    }

    /// Opens a sealed key's secret; `None` if it was sealed to another TPM or for another state.
    ///
    /// # Errors
    ///
    /// [`Error`] if the TPM does not behave.
    pub fn unseal(&mut self, file: &KeyFile<'_>) -> Result<Option<Secret>, Error> {
        let Some(object) = self.import(file)? else { return Ok(None) };
        let opened = self.open(object, file);
        self.flush(object)?;
        match opened {
            Ok(secret) => Ok(Some(secret)),
            // The policy is not met: another image, or after the seal.
            Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Imports and loads the sealed object under whichever endorsement key it is for.
    fn import(&mut self, file: &KeyFile<'_>) -> Result<Option<u32>, Error> {
        // What comes back is wrapped for this TPM, and a little longer than what went in.
        const PRIVATE_BYTES: usize = 512;
        let imported = self.with_each_key(|tpm, key, auth| {
            let mut command = Command::authorized(IMPORT, &[key], &[auth]);
            command.sized(&[]).sized(file.public).sized(file.duplicate).sized(file.seed);
            let mut answer = tpm.run(command.u16(NULL))?;
            let private = answer.parameters().and_then(|mut it| it.sized());
            let private = private.and_then(|it| ArrayVec::<u8, PRIVATE_BYTES>::try_from(it).ok());
            Ok((key, private.ok_or(Error::Answer("an imported key is not whole"))?))
        })?;
        let Some((key, private)) = imported else { return Ok(None) };
        let loaded = self.with_key(key, |tpm, auth| {
            let mut command = Command::authorized(LOAD, &[key], &[auth]);
            let mut answer = tpm.run(command.sized(&private).sized(file.public))?;
            answer.u32().ok_or(Error::Answer("a loaded key has no handle"))
        });
        match loaded {
            Ok(handle) => Ok(Some(handle)),
            Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&mut self, object: u32, file: &KeyFile<'_>) -> Result<Secret, Error> {
        self.with_policy(|tpm, session| {
            // No digest: whatever the PCRs hold now is what counts.
            let mut policy = Command::plain(POLICY_PCR);
            tpm.run(policy.u32(session).u16(0).raw(file.selection)).map(drop)?;
            let mut unseal = Command::authorized(UNSEAL, &[object], &[Auth::Policy(session)]);
            let mut answer = tpm.run(&mut unseal)?;
            let secret = answer.parameters().and_then(|mut it| it.sized());
            let secret = secret.and_then(|secret| <[u8; 32]>::try_from(secret).ok());
            let secret = secret.map(Secret::new);
            tpm.forget_answer();
            secret.ok_or(Error::Answer("what was sealed is not 32 bytes"))
        })
    }

    /// Tries each endorsement key in turn; the first that does it counts.
    fn with_each_key<R>(
        &mut self,
        mut act: impl FnMut(&mut Self, u32, Auth) -> Result<R, Error>,
    ) -> Result<Option<R>, Error> {
        for key in KEYS {
            match self.with_key(key, |tpm, auth| act(tpm, key, auth)) {
                Ok(result) => return Ok(Some(result)),
                Err(Error::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Uses one endorsement key, by its password or by the policy that all of them have.
    fn with_key<R>(
        &mut self,
        key: u32,
        mut act: impl FnMut(&mut Self, Auth) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut answer = self.run(Command::plain(READ_PUBLIC).u32(key))?;
        let attributes = answer.sized().and_then(|public| {
            let mut public = Answer::new(public);
            let (_, _) = (public.u16()?, public.u16()?);
            public.u32()
        });
        let attributes = attributes.ok_or(Error::Answer("a public key is not whole"))?;
        if attributes & USER_WITH_AUTH != 0 {
            return act(self, Auth::Empty);
        }
        self.with_policy(|tpm, session| {
            let mut secret =
                Command::authorized(POLICY_SECRET, &[ENDORSEMENT, session], &[Auth::Empty]);
            // No nonce, no parameters, no reference, no expiry.
            tpm.run(secret.u16(0).u16(0).u16(0).u32(0)).map(drop)?;
            act(tpm, Auth::Policy(session))
        })
    }

    /// Opens a policy session and flushes it again, whatever happens inside.
    fn with_policy<R>(
        &mut self,
        act: impl FnOnce(&mut Self, u32) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut command = Command::plain(START_AUTH_SESSION);
        // No salt and no bound entity; the nonce is for sessions that prove something, this does not.
        command.u32(NOBODY).u32(NOBODY).sized(&[0; 16]).u16(0).u8(POLICY).u16(NULL);
        let mut answer = self.run(command.u16(Algorithm::Sha256 as u16))?;
        let session = answer.u32().ok_or(Error::Answer("a session has no handle"))?;
        let result = act(self, session);
        let flushed = self.flush(session);
        let result = result?;
        flushed?;
        Ok(result)
    }

    fn flush(&mut self, handle: u32) -> Result<(), Error> {
        self.run(Command::plain(FLUSH_CONTEXT).u32(handle)).map(drop)
    }

    fn forget_answer(&mut self) {
        self.answer_mut().zeroize();
    }
}
