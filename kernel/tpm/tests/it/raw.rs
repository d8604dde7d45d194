//! Commands that boot never sends, for whoever had the TPM before it.

use tpm::{Tpm, Transport};

/// An answer: the TPM's code, and what follows its header.
pub(crate) struct Said {
    pub(crate) code: u32,
    pub(crate) body: Vec<u8>,
}

/// Sends a command with an empty password for its first handle, if it takes one.
pub(crate) fn say<T: Transport>(
    tpm: &mut Tpm<T>,
    code: u32,
    handles: &[u32],
    has_password: bool,
    rest: &[u8],
) -> Said {
    let mut command = vec![0x80, if has_password { 2 } else { 1 }, 0, 0, 0, 0];
    command.extend_from_slice(&code.to_be_bytes());
    for handle in handles {
        command.extend_from_slice(&handle.to_be_bytes());
    }
    if has_password {
        command.extend_from_slice(&[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
    }
    command.extend_from_slice(rest);
    let length = (command.len() as u32).to_be_bytes();
    command[2..6].copy_from_slice(&length);
    let mut room = [0; 4096];
    let answer = tpm.transport_mut().transact(&command, &mut room).unwrap();
    let code = u32::from_be_bytes(answer[6..10].try_into().unwrap());
    Said { code, body: answer[10..].to_vec() }
}

/// The same, for a command that has to succeed; what follows the answer's header.
#[track_caller]
pub(crate) fn done<T: Transport>(
    tpm: &mut Tpm<T>,
    code: u32,
    handles: &[u32],
    has_password: bool,
    rest: &[u8],
) -> Vec<u8> {
    let said = say(tpm, code, handles, has_password, rest);
    assert_eq!(said.code, 0, "{:#x}", said.code);
    said.body
}

/// One of the TPM's properties (`TPM_PT`).
pub(crate) fn property<T: Transport>(tpm: &mut Tpm<T>, which: u32) -> u32 {
    let rest = [6_u32, which, 1].map(u32::to_be_bytes);
    let body = done(tpm, 0x17a, &[], false, rest.as_flattened());
    assert_eq!(body[9..13], which.to_be_bytes());
    u32::from_be_bytes(body[13..17].try_into().unwrap())
}
