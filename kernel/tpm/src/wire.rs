//! Commands put together, answers taken apart (TPM 2.0 library, part 1, section 18). Big-endian.

use arrayvec::ArrayVec;
use zeroize::Zeroize;

use crate::Error;

/// The longest command: an import under an RSA key stays below it.
pub const COMMAND_BYTES: usize = 2048;

/// The longest answer: a certificate in pieces stays below it.
pub const ANSWER_BYTES: usize = 4096;

const HEADER_BYTES: usize = 10;

/// `TPM_ST_NO_SESSIONS` and `TPM_ST_SESSIONS`.
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;

/// `TPM_RS_PW`: an authorization by password.
const PASSWORD: u32 = 0x4000_0009;

/// Who authorizes the use of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// A password, which is empty.
    Empty,
    /// A policy session, kept open: whoever opened it flushes it.
    Policy(u32),
}

/// A command on its way to the TPM.
pub(crate) struct Command {
    code: u32,
    bytes: ArrayVec<u8, COMMAND_BYTES>,
    is_full: bool,
}

impl Drop for Command {
    fn drop(&mut self) {
        // Some commands carry new secrets.
        self.bytes.as_mut_slice().zeroize();
    }
}

impl Command {
    /// A command without authorization.
    pub(crate) fn plain(code: u32) -> Self {
        Self::begin(code, NO_SESSIONS)
    }

    /// A command with handles and an authorization for each of the first ones.
    pub(crate) fn authorized(code: u32, handles: &[u32], auths: &[Auth]) -> Self {
        let mut command = Self::begin(code, SESSIONS);
        for handle in handles {
            command.u32(*handle);
        }
        let area = command.bytes.len();
        command.u32(0);
        for auth in auths {
            let (session, attributes) = match auth {
                Auth::Empty => (PASSWORD, 0),
                Auth::Policy(session) => (*session, 1),
            };
            // Session, no nonce, attributes (bit 0: goes on), no proof.
            command.u32(session).u16(0).u8(attributes).u16(0);
        }
        let bytes = (command.bytes.len() - area - 4) as u32;
        command.patch(area, &bytes.to_be_bytes());
        command
    }

    fn begin(code: u32, tag: u16) -> Self {
        let mut command = Self { code, bytes: ArrayVec::new(), is_full: false };
        command.u16(tag).u32(0).u32(code);
        command
    }

    /// What is asked.
    pub(crate) fn code(&self) -> u32 {
        self.code
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        if self.bytes.try_extend_from_slice(bytes).is_err() {
            self.is_full = true;
        }
        self
    }

    /// Bytes with their count before them.
    pub(crate) fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        match u16::try_from(bytes.len()) {
            Ok(count) => self.u16(count).raw(bytes),
            Err(_) => {
                self.is_full = true;
                self
            }
        }
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    /// The command as the TPM takes it.
    pub(crate) fn finish(&mut self) -> Result<&[u8], Error> {
        if self.is_full {
            return Err(Error::Answer("what it gave is too long to be given back"));
        }
        let size = (self.bytes.len() as u32).to_be_bytes();
        self.patch(2, &size);
        Ok(&self.bytes)
    }
}

/// What has not been read of an answer yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    /// Bytes that are a structure by themselves.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The body of an answer, or the TPM's code for its refusal.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Result<Self, u32>, Error> {
        let mut header = Self(bytes);
        let short = Error::Answer("it has no header");
        let (tag, size, code) = header.header().ok_or(short)?;
        if usize::try_from(size) != Ok(bytes.len()) {
            return Err(Error::Answer("its size is not the size that it says"));
        }
        if code != 0 {
            return Ok(Err(code));
        }
        if tag != NO_SESSIONS && tag != SESSIONS {
            return Err(Error::Answer("it has an unknown tag"));
        }
        Ok(Ok(header))
    }

    fn header(&mut self) -> Option<(u16, u32, u32)> {
        Some((self.u16()?, self.u32()?, self.u32()?))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A `TPM2B`.
    pub(crate) fn sized(&mut self) -> Option<&'a [u8]> {
        let count = self.u16()?;
        self.take(count.into())
    }

    /// The parameters of an answer with sessions, whose size stands before them.
    pub(crate) fn parameters(&mut self) -> Option<Self> {
        let count = self.u32()?;
        self.take(usize::try_from(count).ok()?).map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The size that an answer's header says, once ten bytes of it are there.
pub(crate) fn answer_bytes(header: &[u8]) -> Option<u32> {
    let mut answer = Answer(header.get(..HEADER_BYTES)?);
    answer.header().map(|(_, size, _)| size)
}
