//! The two register interfaces of the PC Client profile: CRB (section 6.5.3) and TIS, also called
//! FIFO (section 6.5.2). Locality 0, polled, no interrupts.

use crate::wire::answer_bytes;
use crate::{Transport, TransportError};

/// Bytes of one locality's registers.
pub const WINDOW_BYTES: u64 = 0x1000;

/// How often a register is looked at before the TPM counts as silent. A key on a slow chip takes
/// tens of seconds; a look at a register takes a microsecond.
const PATIENCE: u32 = 1 << 26;

/// How often we look where only the interface has to react.
const SHORT_PATIENCE: u32 = 1 << 20;

/// The registers of locality 0, by their offset.
pub trait Registers {
    /// Reads eight bits.
    fn read_u8(&self, offset: u64) -> u8;
    /// Reads 32 bits.
    fn read_u32(&self, offset: u64) -> u32;
    /// Writes eight bits.
    fn write_u8(&self, offset: u64, value: u8);
    /// Writes 32 bits.
    fn write_u32(&self, offset: u64, value: u32);
}

/// Which interface a TPM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Command response buffer.
    Crb,
    /// FIFO.
    Tis,
}

const INTERFACE_ID: u64 = 0x30;

impl Interface {
    /// The interface that the registers say they are; `None` where there is no TPM.
    pub fn detect<R: Registers>(registers: &R) -> Option<Self> {
        match registers.read_u32(INTERFACE_ID) {
            0 | u32::MAX => None,
            id => match id & 0xf {
                1 => Some(Self::Crb),
                // 0 is FIFO by the profile, 15 a FIFO older than the register.
                0 | 15 => Some(Self::Tis),
                _ => None,
            },
        }
    }
}

/// Looks until `is_so`, but not for ever.
fn wait(
    patience: u32,
    when: &'static str,
    mut is_so: impl FnMut() -> bool,
) -> Result<(), TransportError> {
    for _ in 0..patience {
        if is_so() {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(TransportError::Silent(when))
}

/// The command response buffer interface.
#[derive(Debug)]
pub struct Crb<R> {
    registers: R,
}

const CRB_LOCALITY_CONTROL: u64 = 0x08;
const CRB_LOCALITY_STATUS: u64 = 0x0c;
const CRB_REQUEST: u64 = 0x40;
const CRB_STATUS: u64 = 0x44;
const CRB_START: u64 = 0x4c;
const CRB_COMMAND_BYTES: u64 = 0x58;
const CRB_COMMAND_ADDRESS: u64 = 0x5c;
const CRB_ANSWER_BYTES: u64 = 0x64;
const CRB_ANSWER_ADDRESS: u64 = 0x68;
/// Where the buffer begins.
const CRB_BUFFER: u64 = 0x80;
/// How large it can be inside the window.
const CRB_MAX_BYTES: u64 = WINDOW_BYTES - CRB_BUFFER;

const REQUEST_ACCESS: u32 = 1;
const GRANTED: u32 = 1;
const COMMAND_READY: u32 = 1;
const GO_IDLE: u32 = 2;

impl<R: Registers> Crb<R> {
    /// Takes the interface over.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if locality 0 cannot be had, or its buffers lie somewhere else.
    pub fn new(registers: R) -> Result<Self, TransportError> {
        registers.write_u32(CRB_LOCALITY_CONTROL, REQUEST_ACCESS);
        wait(SHORT_PATIENCE, "when asked for its locality", || {
            registers.read_u32(CRB_LOCALITY_STATUS) & GRANTED != 0
        })?;
        // Both buffers are one, right behind the registers, as every known device has it.
        let addresses = [CRB_COMMAND_ADDRESS, CRB_ANSWER_ADDRESS];
        let is_here = |at| u64::from(registers.read_u32(at)) % WINDOW_BYTES == CRB_BUFFER;
        if !addresses.into_iter().all(is_here) {
            return Err(TransportError::Place);
        }
        Ok(Self { registers })
    }

    fn buffer_bytes(&self, register: u64) -> u64 {
        u64::from(self.registers.read_u32(register)).min(CRB_MAX_BYTES)
    }

    fn write(&self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<4>();
        for (at, word) in (CRB_BUFFER..).step_by(4).zip(words) {
            self.registers.write_u32(at, u32::from_le_bytes(*word));
        }
        let start = CRB_BUFFER + 4 * words.len() as u64;
        for (at, byte) in (start..).zip(rest) {
            self.registers.write_u8(at, *byte);
        }
    }

    fn read(&self, bytes: &mut [u8]) {
        for (at, byte) in (CRB_BUFFER..).zip(bytes) {
            *byte = self.registers.read_u8(at);
        }
    }

    /// Leaves the interface idle.
    fn rest(&self) -> Result<(), TransportError> {
        self.registers.write_u32(CRB_REQUEST, GO_IDLE);
        wait(SHORT_PATIENCE, "when sent to rest", || {
            self.registers.read_u32(CRB_REQUEST) & GO_IDLE == 0
        })
    }
}

impl<R: Registers> Transport for Crb<R> {
    fn transact<'a>(
        &mut self,
        command: &[u8],
        answer: &'a mut [u8],
    ) -> Result<&'a [u8], TransportError> {
        let registers = &self.registers;
        let bytes = command.len() as u64;
        if bytes > self.buffer_bytes(CRB_COMMAND_BYTES) {
            return Err(TransportError::Buffer { bytes: command.len() as u32 });
        }
        registers.write_u32(CRB_REQUEST, COMMAND_READY);
        wait(SHORT_PATIENCE, "when it should take a command", || {
            registers.read_u32(CRB_REQUEST) & COMMAND_READY == 0
        })?;
        self.write(command);
        registers.write_u32(CRB_START, 1);
        wait(PATIENCE, "over a command", || registers.read_u32(CRB_START) & 1 == 0)?;
        if registers.read_u32(CRB_STATUS) & 1 != 0 {
            return Err(TransportError::Device);
        }
        let mut header = [0; 10];
        self.read(&mut header);
        let bytes = answer_bytes(&header).unwrap_or(0);
        let has_room = u64::from(bytes) <= self.buffer_bytes(CRB_ANSWER_BYTES);
        let room = answer.get_mut(..bytes as usize).filter(|_| has_room);
        let room = room.ok_or(TransportError::Buffer { bytes })?;
        if room.len() < header.len() {
            return Err(TransportError::Length);
        }
        self.read(room);
        // The device may have changed it meanwhile: what counts is what was read last.
        if answer_bytes(room) != Some(bytes) {
            return Err(TransportError::Length);
        }
        self.rest()?;
        Ok(room)
    }
}

/// The FIFO interface.
#[derive(Debug)]
pub struct Tis<R> {
    registers: R,
}

const TIS_ACCESS: u64 = 0x00;
const TIS_STATUS: u64 = 0x18;
const TIS_FIFO: u64 = 0x24;

const ACCESS_REQUEST: u8 = 1 << 1;
const ACCESS_ACTIVE: u8 = 1 << 5;
const ACCESS_VALID: u8 = 1 << 7;

const STATUS_EXPECT: u32 = 1 << 3;
const STATUS_DATA: u32 = 1 << 4;
const STATUS_GO: u32 = 1 << 5;
const STATUS_READY: u32 = 1 << 6;
const STATUS_VALID: u32 = 1 << 7;

impl<R: Registers> Tis<R> {
    /// Takes the interface over.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if locality 0 cannot be had.
    pub fn new(registers: R) -> Result<Self, TransportError> {
        registers.write_u8(TIS_ACCESS, ACCESS_REQUEST);
        let granted = ACCESS_ACTIVE | ACCESS_VALID;
        wait(SHORT_PATIENCE, "when asked for its locality", || {
            registers.read_u8(TIS_ACCESS) & granted == granted
        })?;
        Ok(Self { registers })
    }

    fn status(&self) -> u32 {
        self.registers.read_u32(TIS_STATUS)
    }

    /// The status, once the TPM says that its other bits mean something.
    fn valid_status(&self, when: &'static str) -> Result<u32, TransportError> {
        let mut status = 0;
        wait(SHORT_PATIENCE, when, || {
            status = self.status();
            status & STATUS_VALID != 0
        })?;
        Ok(status)
    }

    fn set_status(&self, bits: u32) {
        // The register is written as a byte: the others are the burst count.
        self.registers.write_u8(TIS_STATUS, bits as u8);
    }

    /// How many bytes may be moved now; at least one, after a wait.
    fn burst(&self, when: &'static str) -> Result<usize, TransportError> {
        let mut count = 0;
        wait(SHORT_PATIENCE, when, || {
            count = self.status() >> 8 & 0xffff;
            count > 0
        })?;
        Ok(count as usize)
    }

    fn write(&self, command: &[u8]) -> Result<(), TransportError> {
        let mut rest = command;
        while !rest.is_empty() {
            let burst = self.burst("while it takes a command")?.min(rest.len());
            let (now, later) = rest.split_at(burst);
            now.iter().for_each(|byte| self.registers.write_u8(TIS_FIFO, *byte));
            rest = later;
        }
        // It must not expect more than there was.
        let expects_more = self.valid_status("after a command")? & STATUS_EXPECT != 0;
        if expects_more { Err(TransportError::Length) } else { Ok(()) }
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), TransportError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.valid_status("while it answers")? & STATUS_DATA == 0 {
                return Err(TransportError::Length);
            }
            let burst = self.burst("while it answers")?.min(rest.len());
            let (now, later) = rest.split_at_mut(burst);
            now.iter_mut().for_each(|byte| *byte = self.registers.read_u8(TIS_FIFO));
            rest = later;
        }
        Ok(())
    }
}

impl<R: Registers> Transport for Tis<R> {
    fn transact<'a>(
        &mut self,
        command: &[u8],
        answer: &'a mut [u8],
    ) -> Result<&'a [u8], TransportError> {
        self.set_status(STATUS_READY);
        wait(SHORT_PATIENCE, "when it should take a command", || {
            self.status() & STATUS_READY != 0
        })?;
        self.write(command)?;
        self.set_status(STATUS_GO);
        let done = STATUS_VALID | STATUS_DATA;
        wait(PATIENCE, "over a command", || self.status() & done == done)?;
        let (header, rest) = answer.split_at_mut_checked(10).ok_or(TransportError::Length)?;
        self.read(header)?;
        let bytes = answer_bytes(header).unwrap_or(0);
        let more = (bytes as usize).checked_sub(header.len()).ok_or(TransportError::Length)?;
        self.read(rest.get_mut(..more).ok_or(TransportError::Buffer { bytes })?)?;
        // There must not be more than the header said.
        if self.valid_status("after an answer")? & STATUS_DATA != 0 {
            return Err(TransportError::Length);
        }
        self.set_status(STATUS_READY);
        answer.get(..bytes as usize).ok_or(TransportError::Length)
    }
}

/// Whichever interface the machine has.
#[derive(Debug)]
pub enum Either<R> {
    /// CRB.
    Crb(Crb<R>),
    /// TIS.
    Tis(Tis<R>),
}

impl<R: Registers> Either<R> {
    /// Takes over the interface that the registers say they are.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if it cannot be had.
    pub fn new(interface: Interface, registers: R) -> Result<Self, TransportError> {
        Ok(match interface {
            Interface::Crb => Self::Crb(Crb::new(registers)?),
            Interface::Tis => Self::Tis(Tis::new(registers)?),
        })
    }
}

impl<R: Registers> Transport for Either<R> {
    fn transact<'a>(
        &mut self,
        command: &[u8],
        answer: &'a mut [u8],
    ) -> Result<&'a [u8], TransportError> {
        match self {
            Self::Crb(crb) => crb.transact(command, answer),
            Self::Tis(tis) => tis.transact(command, answer),
        }
    }
}
