//! Register models: a CRB and a FIFO in front of a function that answers commands.

use std::cell::RefCell;

use tpm::Registers;

/// What a device does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// The answer's header says so many bytes more than there are.
    Longer(u32),
    /// It is silent once a command has begun.
    Silent,
    /// It grants no locality.
    NoLocality,
    /// CRB: an error in its status. FIFO: it expects more than the command has.
    Status,
    /// CRB: its buffers lie elsewhere. FIFO: its burst count is always zero.
    Place,
    /// CRB: its buffer holds eight bytes. FIFO: it has no data although the answer is not over.
    Small,
    /// FIFO: it has more data although the answer is over.
    More,
    /// FIFO: every other time its status means nothing yet, which is allowed.
    Slow,
}

struct State {
    command: Vec<u8>,
    answer: Vec<u8>,
    read: usize,
    is_ready: bool,
    is_done: bool,
    looks: u32,
}

/// Both interfaces; which one, the first register says.
pub(crate) struct Model<F> {
    is_crb: bool,
    fault: Fault,
    state: RefCell<State>,
    tpm: RefCell<F>,
}

impl<F: FnMut(&[u8]) -> Vec<u8>> Model<F> {
    pub(crate) fn new(is_crb: bool, fault: Fault, tpm: F) -> Self {
        let state = State {
            command: vec![0; 4096],
            answer: Vec::new(),
            read: 0,
            is_ready: false,
            is_done: false,
            looks: 0,
        };
        Self { is_crb, fault, state: RefCell::new(state), tpm: RefCell::new(tpm) }
    }

    fn answer(&self, command: &[u8]) -> Vec<u8> {
        let mut answer = (self.tpm.borrow_mut())(command);
        if let Fault::Longer(more) = self.fault {
            let bytes = (answer.len() as u32).wrapping_add(more).to_be_bytes();
            answer[2..6].copy_from_slice(&bytes);
        }
        answer
    }

    fn crb_read(&self, offset: u64) -> u32 {
        let state = self.state.borrow();
        match offset {
            0x0c => u32::from(self.fault != Fault::NoLocality),
            0x44 => u32::from(self.fault == Fault::Status),
            0x4c => u32::from(self.fault == Fault::Silent),
            0x58 | 0x64 => {
                if self.fault == Fault::Small {
                    8
                } else {
                    0xf80
                }
            }
            0x5c | 0x68 => {
                if self.fault == Fault::Place {
                    0xfed4_2000
                } else {
                    0xfed4_0080
                }
            }
            0x80.. => {
                let byte = |at: u64| {
                    let index = at as usize - 0x80;
                    u32::from(state.answer.get(index).copied().unwrap_or(0))
                };
                byte(offset) | byte(offset + 1) << 8
            }
            _ => 0,
        }
    }

    fn crb_write(&self, offset: u64, bytes: &[u8]) {
        if offset >= 0x80 {
            let start = offset as usize - 0x80;
            self.state.borrow_mut().command[start..start + bytes.len()].copy_from_slice(bytes);
        } else if offset == 0x4c {
            let command = self.state.borrow().command.clone();
            let length = u32::from_be_bytes(command[2..6].try_into().unwrap()) as usize;
            self.state.borrow_mut().answer = self.answer(&command[..length]);
        }
    }

    fn tis_status(&self) -> u32 {
        let mut state = self.state.borrow_mut();
        state.looks += 1;
        if self.fault == Fault::Slow && !state.looks.is_multiple_of(2) {
            // No valid bit; the others are the contrary of what they should be.
            let is_over = state.read >= state.answer.len();
            return u32::from(is_over) << 4 | 1 << 3;
        }
        let burst = if self.fault == Fault::Place { 0 } else { 7 };
        let has_data = state.is_done
            && (state.read < state.answer.len() || self.fault == Fault::More)
            && !(self.fault == Fault::Small && state.read >= 10);
        let is_silent = self.fault == Fault::Silent && state.is_done;
        let expects = self.fault == Fault::Status;
        burst << 8
            | u32::from(!is_silent) << 7
            | u32::from(state.is_ready) << 6
            | u32::from(has_data && !is_silent) << 4
            | u32::from(expects) << 3
    }
}

impl<F: FnMut(&[u8]) -> Vec<u8>> Registers for Model<F> {
    fn read_u8(&self, offset: u64) -> u8 {
        match (self.is_crb, offset) {
            (true, _) => self.crb_read(offset) as u8,
            (false, 0) => {
                if self.fault == Fault::NoLocality {
                    0x80
                } else {
                    0xa0
                }
            }
            (false, 0x24) => {
                let mut state = self.state.borrow_mut();
                state.read += 1;
                state.answer.get(state.read - 1).copied().unwrap_or(0xee)
            }
            (false, _) => 0,
        }
    }

    fn read_u32(&self, offset: u64) -> u32 {
        match (self.is_crb, offset) {
            (true, 0x30) => 0x0002_5811,
            (false, 0x30) => 0x0000_2100,
            (true, _) => self.crb_read(offset),
            (false, 0x18) => self.tis_status(),
            (false, _) => 0,
        }
    }

    fn write_u8(&self, offset: u64, value: u8) {
        if self.is_crb {
            return self.crb_write(offset, &[value]);
        }
        let mut state = self.state.borrow_mut();
        match (offset, value) {
            (0x24, byte) => state.command.push(byte),
            (0x18, 0x40) => {
                state.command.clear();
                (state.is_ready, state.is_done, state.read) = (true, false, 0);
            }
            (0x18, 0x20) => {
                let command = state.command.clone();
                drop(state);
                let answer = self.answer(&command);
                let mut state = self.state.borrow_mut();
                (state.answer, state.is_done, state.is_ready) = (answer, true, false);
            }
            _ => {}
        }
    }

    fn write_u32(&self, offset: u64, value: u32) {
        if self.is_crb {
            self.crb_write(offset, &value.to_le_bytes());
        }
    }
}
