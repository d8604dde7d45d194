//! The commands by which boot measures, makes its key, and takes away what could undo that.

use arrayvec::ArrayVec;
use zeroize::Zeroize;

use crate::digest::{Algorithm, Banks, Digest, Digests};
use crate::wire::{ANSWER_BYTES, Answer, Auth, Command};
use crate::{Error, Transport};

const STARTUP: u32 = 0x144;
const SHUTDOWN: u32 = 0x145;
const GET_CAPABILITY: u32 = 0x17a;
const PCR_EXTEND: u32 = 0x182;
const PCR_READ: u32 = 0x17e;
const CREATE_PRIMARY: u32 = 0x131;
const QUOTE: u32 = 0x158;
const HIERARCHY_CHANGE_AUTH: u32 = 0x129;
const HIERARCHY_CONTROL: u32 = 0x121;
const CLEAR_CONTROL: u32 = 0x127;

/// Handles that every TPM has (part 2, section 7.4).
pub(crate) const ENDORSEMENT: u32 = 0x4000_000b;
const OWNER: u32 = 0x4000_0001;
const PLATFORM: u32 = 0x4000_000c;
const LOCKOUT: u32 = 0x4000_000a;

/// Codes (part 2, section 6.6.3).
const INITIALIZE: u32 = 0x100;
const RETRY: u32 = 0x922;
const YIELDED: u32 = 0x908;
const TESTING: u32 = 0x90a;

/// How often a command is sent again when the TPM asks for that.
const RETRIES: u32 = 100;

/// `TPM_CAP_PCRS` and `TPM_CAP_TPM_PROPERTIES`.
const CAPABILITY_PCRS: u32 = 5;
const CAPABILITY_PROPERTIES: u32 = 6;

/// `TPM_PT_PERMANENT`, and the bits of it that matter here (part 2, section 8.6): the lockout's
/// authorization is not the empty one, TPM2_Clear is forbidden.
const PERMANENT: u32 = 0x200;
const HAS_LOCKOUT_AUTH: u32 = 1 << 2;
const IS_CLEAR_FORBIDDEN: u32 = 1 << 8;

/// How many PCRs are read back: 0 to 15.
const PCRS: usize = 16;

/// The most rounds it may take to read them: one a PCR.
const READ_ROUNDS: usize = PCRS;

/// The most bytes of a public area that we keep.
pub const PUBLIC_BYTES: usize = 512;

/// A TPM that answers.
pub struct Tpm<T> {
    transport: T,
    answer: [u8; ANSWER_BYTES],
}

/// The attestation key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ak {
    /// Its handle, until power-off.
    pub handle: u32,
    /// Its `TPMT_PUBLIC`.
    pub public: ArrayVec<u8, PUBLIC_BYTES>,
}

/// What PCR 0 to 15 of one bank hold.
pub type PcrValues = ArrayVec<Digest, PCRS>;

/// `TPMT_PUBLIC` of the attestation key, with an empty point: ECC, named by SHA-256; fixedTPM,
/// fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign; no policy, no symmetric
/// cipher, ECDSA with SHA-256, P-256, no key derivation.
///
/// noDA, because a use of a key without it counts as a wrong password at every power cut, and the
/// fourth locks the TPM.
const AK_TEMPLATE: [u8; 24] = [
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x05, 0x04, 0x72, 0x00, 0x00, 0x00, 0x10, 0x00, 0x18, 0x00, 0x0b,
    0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00,
];

/// Bytes of the template before the unique field, the point.
const AK_HEAD_BYTES: usize = 20;

impl<T: Transport> Tpm<T> {
    /// A TPM behind a transport.
    pub fn new(transport: T) -> Self {
        Self { transport, answer: [0; ANSWER_BYTES] }
    }

    /// Sends a command and gives the body of the answer.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<Answer<'_>, Error> {
        let code = command.code();
        let length = self.send(command)?;
        let bytes = self.answer.get(..length).unwrap_or(&[]);
        Answer::open(bytes)?.map_err(|refusal| Error::Refused { command: code, code: refusal })
    }

    /// Sends a command, again where the TPM asks for that; the length of the answer.
    fn send(&mut self, command: &mut Command) -> Result<usize, Error> {
        let mut left = RETRIES;
        loop {
            let answer = self.transport.transact(command.finish()?, &mut self.answer)?;
            let is_again = matches!(Answer::open(answer)?, Err(RETRY | YIELDED | TESTING));
            if !is_again || left == 0 {
                return Ok(answer.len());
            }
            left -= 1;
        }
    }

    /// The transport, for whoever has a command of its own.
    pub fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// The last answer's bytes, to be erased.
    pub(crate) fn answer_mut(&mut self) -> &mut [u8] {
        &mut self.answer
    }

    /// Starts the TPM, where firmware has not.
    ///
    /// # Errors
    ///
    /// [`Error`] if it does not start.
    pub fn start_up(&mut self) -> Result<(), Error> {
        match self.banks() {
            Err(Error::Refused { code: INITIALIZE, .. }) => {}
            answered => return answered.map(drop),
        }
        // TPM_SU_CLEAR: nothing is resumed.
        self.run(Command::plain(STARTUP).u16(0)).map(drop)
    }

    /// The banks that are active.
    ///
    /// # Errors
    ///
    /// [`Error::Bank`] for one that boot cannot extend.
    pub fn banks(&mut self) -> Result<Banks, Error> {
        let mut answer =
            self.run(Command::plain(GET_CAPABILITY).u32(CAPABILITY_PCRS).u32(0).u32(1))?;
        let short = Error::Answer("its banks are not whole");
        let mut head = || Some((answer.u8()?, answer.u32()?, answer.u32()?));
        let (has_more, capability, count) = head().ok_or(short)?;
        if has_more != 0 || capability != CAPABILITY_PCRS || count > 16 {
            return Err(short);
        }
        let mut banks = Banks::new();
        for _ in 0..count {
            let id = answer.u16().ok_or(short)?;
            let bytes = answer.u8().and_then(|bytes| answer.take(bytes.into())).ok_or(short)?;
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let bank = Algorithm::parse(id).ok_or(Error::Bank(id))?;
            if banks.contains(&bank) || banks.try_push(bank).is_err() {
                return Err(Error::Answer("a bank comes twice"));
            }
        }
        if banks.is_empty() { Err(Error::Answer("no bank is active")) } else { Ok(banks) }
    }

    /// Extends one PCR in every bank at once.
    ///
    /// # Errors
    ///
    /// [`Error`] if the TPM refuses.
    pub fn extend(&mut self, pcr: u32, digests: &Digests) -> Result<(), Error> {
        let mut command = Command::authorized(PCR_EXTEND, &[pcr], &[Auth::Empty]);
        command.u32(digests.iter().len() as u32);
        for digest in digests.iter() {
            command.u16(digest.algorithm as u16).raw(digest.bytes());
        }
        self.run(&mut command).map(drop)
    }

    /// What PCR 0 to 15 of one bank hold.
    ///
    /// # Errors
    ///
    /// [`Error`] if the TPM does not give them all.
    pub fn read_pcrs(&mut self, bank: Algorithm) -> Result<PcrValues, Error> {
        let mut values = PcrValues::new();
        for _ in 0..READ_ROUNDS {
            // It answers as many of those asked for as it likes; so ask for what is missing.
            let missing = 0xffff_u16.checked_shl(values.len() as u32).unwrap_or(0);
            if missing == 0 {
                return Ok(values);
            }
            let [low, high] = missing.to_le_bytes();
            let mut command = Command::plain(PCR_READ);
            command.u32(1).u16(bank as u16).u8(3).raw(&[low, high, 0]);
            let mut answer = self.run(&mut command)?;
            read_values(&mut answer, bank, missing, &mut values)
                .ok_or(Error::Answer("its PCRs are not those that were asked for"))?;
        }
        if values.is_full() { Ok(values) } else { Err(Error::Answer("it reads a PCR at a time")) }
    }

    /// Makes the attestation key, always the same one for the same TPM.
    ///
    /// # Errors
    ///
    /// [`Error`] if the TPM refuses, or makes another kind of key.
    pub fn create_ak(&mut self) -> Result<Ak, Error> {
        let mut command = Command::authorized(CREATE_PRIMARY, &[ENDORSEMENT], &[Auth::Empty]);
        // No password and no data, then the template, no outside data, no PCRs.
        command.sized(&[0; 4]).sized(&AK_TEMPLATE).u16(0).u32(0);
        let mut answer = self.run(&mut command)?;
        let short = Error::Answer("its key is not whole");
        let handle = answer.u32().ok_or(short)?;
        let public = answer.parameters().and_then(|mut it| it.sized()).ok_or(short)?;
        if handle >> 24 != 0x80 || !is_ak(public) {
            return Err(Error::Answer("its key is not the one that was asked for"));
        }
        Ok(Ak { handle, public: ArrayVec::try_from(public).map_err(|_| short)? })
    }

    /// Takes away what could undo the measurements or the key on this or a later boot: the platform
    /// hierarchy's authorization becomes `random`, which is erased, nobody can clear the TPM, and
    /// the owner's hierarchy is off until the next reset. What has a password of somebody else's
    /// stays with them: no password is guessed.
    ///
    /// # Errors
    ///
    /// [`Error`] if the TPM refuses for another reason than that firmware was first.
    pub fn take_away_hierarchies(&mut self, random: &mut [u8; 32]) -> Result<(), Error> {
        self.forbid_clear()?;
        // An owner with a password cannot be asked, but the platform may say the same.
        for by in [OWNER, PLATFORM] {
            let mut control = Command::authorized(HIERARCHY_CONTROL, &[by], &[Auth::Empty]);
            if unless_taken(self.run(control.u32(OWNER).u8(0)))?.is_some() {
                break;
            }
        }
        let mut change = Command::authorized(HIERARCHY_CHANGE_AUTH, &[PLATFORM], &[Auth::Empty]);
        change.sized(random);
        random.zeroize();
        unless_taken(self.run(&mut change))?;
        Ok(())
    }

    /// Forbids TPM2_Clear, by the platform's or the lockout's authorization, whichever is empty.
    fn forbid_clear(&mut self) -> Result<(), Error> {
        let permanent = self.permanent()?;
        if permanent & IS_CLEAR_FORBIDDEN != 0 {
            return Ok(());
        }
        let forbid = |handle| {
            let mut command = Command::authorized(CLEAR_CONTROL, &[handle], &[Auth::Empty]);
            command.u8(1);
            command
        };
        let is_done = unless_taken(self.run(&mut forbid(PLATFORM)))?.is_some();
        // A wrong guess shuts the lockout's authorization for a while, also for who has it, and at
        // the next boot the TPM would refuse even to hear one. So nobody guesses.
        if is_done || permanent & HAS_LOCKOUT_AUTH != 0 {
            return Ok(());
        }
        unless_taken(self.run(&mut forbid(LOCKOUT)))?;
        Ok(())
    }

    /// The TPM's permanent attributes (`TPMA_PERMANENT`).
    fn permanent(&mut self) -> Result<u32, Error> {
        let mut command = Command::plain(GET_CAPABILITY);
        let mut answer = self.run(command.u32(CAPABILITY_PROPERTIES).u32(PERMANENT).u32(1))?;
        let value = (|| {
            let _has_more = answer.u8()?;
            let head = [answer.u32()?, answer.u32()?, answer.u32()?];
            (head == [CAPABILITY_PROPERTIES, 1, PERMANENT]).then_some(())?;
            answer.u32()
        })();
        value.ok_or(Error::Answer("its attributes are not whole"))
    }

    /// Tells the TPM that power may go at any time from now on.
    ///
    /// # Errors
    ///
    /// [`Error`] if the TPM refuses.
    pub fn shutdown_clear(&mut self) -> Result<(), Error> {
        self.run(Command::plain(SHUTDOWN).u16(0)).map(drop)
    }
}

/// `None` where an authorization is no longer the empty one, or its hierarchy is off already:
/// somebody took it away before us.
fn unless_taken(result: Result<Answer<'_>, Error>) -> Result<Option<()>, Error> {
    const BAD_AUTH: u32 = 0x9a2;
    const AUTH_FAIL: u32 = 0x98e;
    const HIERARCHY: u32 = 0x085;
    /// Format 1 codes carry which handle, session or parameter they are about in these bits.
    const FORMAT_1: u32 = 0x0bf;
    match result {
        Ok(_) => Ok(Some(())),
        Err(Error::Refused { code: BAD_AUTH | AUTH_FAIL, .. }) => Ok(None),
        Err(Error::Refused { code, .. }) if code & FORMAT_1 == HIERARCHY => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads one answer to `TPM2_PCR_Read`; the values have to be the next ones, in order.
fn read_values(
    answer: &mut Answer<'_>,
    bank: Algorithm,
    missing: u16,
    values: &mut PcrValues,
) -> Option<()> {
    let _counter = answer.u32()?;
    (answer.u32()? == 1 && answer.u16()? == bank as u16).then_some(())?;
    let bytes = answer.u8()?;
    let selected = answer.take(bytes.into())?;
    let (low, high) = (selected.first().copied()?, selected.get(1).copied().unwrap_or(0));
    let selected = u16::from_le_bytes([low, high]);
    let count = answer.u32()?;
    // The lowest of those that are missing, without a gap: else they would be others' values.
    let expected = missing & !missing.checked_shl(count).unwrap_or(0);
    (count > 0 && selected == expected && selected.count_ones() == count).then_some(())?;
    for _ in 0..count {
        values.try_push(Digest::new(bank, answer.sized()?)?).ok()?;
    }
    Some(())
}

/// Whether a `TPMT_PUBLIC` is what [`AK_TEMPLATE`] asks for, with a point in it.
fn is_ak(public: &[u8]) -> bool {
    let Some(unique) = public.strip_prefix(AK_TEMPLATE.get(..AK_HEAD_BYTES).unwrap_or(&[])) else {
        return false;
    };
    let mut unique = Answer::new(unique);
    let is_coordinate =
        |coordinate: Option<&[u8]>| coordinate.is_some_and(|it| (1..=32).contains(&it.len()));
    is_coordinate(unique.sized()) && is_coordinate(unique.sized()) && unique.is_empty()
}

/// The one command of the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The whole command, with the qualifying data in their place.
    pub command: ArrayVec<u8, 128>,
    /// Where the 32 bytes of qualifying data begin.
    pub qualifying_at: usize,
}

/// `TPM2_Quote` by `handle` over PCR 0 to 15 of the SHA-256 bank.
pub fn quote_command(handle: u32, qualifying: &[u8; 32]) -> Quote {
    let mut command = Command::authorized(QUOTE, &[handle], &[Auth::Empty]);
    // The key's own scheme (TPM_ALG_NULL), then one selection.
    command.sized(qualifying).u16(0x0010);
    command.u32(1).u16(Algorithm::Sha256 as u16).u8(3).raw(&[0xff, 0xff, 0]);
    let bytes = command.finish().unwrap_or(&[]);
    // Header, handle, authorization area with its size, the size of the qualifying data.
    let qualifying_at = 10 + 4 + 4 + 9 + 2;
    Quote { command: bytes.iter().copied().collect(), qualifying_at }
}
