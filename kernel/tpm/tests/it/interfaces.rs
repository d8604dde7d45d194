//! Both interfaces carry commands and answers whole, and name what a device does wrong.

use tpm::{Either, Interface, Registers, Transport, TransportError};

use crate::model::{Fault, Model};

/// A TPM whose answer is the command with another head.
fn echo(command: &[u8]) -> Vec<u8> {
    let mut answer = command.to_vec();
    answer[..2].copy_from_slice(&[0x80, 1]);
    answer
}

/// A command of `length` bytes.
fn command(length: usize) -> Vec<u8> {
    let mut command: Vec<u8> = (0..length).map(|at| at as u8).collect();
    command[2..6].copy_from_slice(&(length as u32).to_be_bytes());
    command
}

#[test]
fn commands_and_answers_go_through_whole() {
    // A FIFO may take its time to say what its status is.
    for (is_crb, fault) in [(true, Fault::None), (false, Fault::None), (false, Fault::Slow)] {
        let model = Model::new(is_crb, fault, echo);
        let interface = Interface::detect(&model).unwrap();
        let mut transport = Either::new(interface, model).unwrap();
        for length in [10, 11, 12, 13, 100, 1001] {
            let (command, mut room) = (command(length), [0; 4096]);
            let answer = transport.transact(&command, &mut room).unwrap();
            assert_eq!(answer, echo(&command), "{interface:?}, {fault:?}, {length} bytes");
        }
    }
}

#[track_caller]
fn fails(is_crb: bool, fault: Fault, expected: TransportError) {
    let model = Model::new(is_crb, fault, echo);
    let interface = Interface::detect(&model).unwrap();
    let result = Either::new(interface, model).and_then(|mut transport| {
        transport.transact(&command(20), &mut [0; 4096]).map(<[u8]>::to_vec)
    });
    assert_eq!(result, Err(expected), "{interface:?}, {fault:?}");
}

#[test]
fn each_thing_a_device_does_wrong_has_a_name() {
    use TransportError::{Buffer, Device, Length, Place, Silent};
    fails(true, Fault::NoLocality, Silent("when asked for its locality"));
    fails(true, Fault::Silent, Silent("over a command"));
    fails(true, Fault::Status, Device);
    fails(true, Fault::Place, Place);
    fails(true, Fault::Small, Buffer { bytes: 20 });
    fails(true, Fault::Longer(5000), Buffer { bytes: 5020 });
    fails(true, Fault::Longer(0_u32.wrapping_sub(15)), Length);
    fails(false, Fault::NoLocality, Silent("when asked for its locality"));
    fails(false, Fault::Silent, Silent("over a command"));
    fails(false, Fault::Status, Length);
    fails(false, Fault::Place, Silent("while it takes a command"));
    fails(false, Fault::Small, Length);
    fails(false, Fault::More, Length);
    // Inside one burst a byte that is not there cannot be told from one that is.
    fails(false, Fault::Longer(8), Length);
    fails(false, Fault::Longer(5000), Buffer { bytes: 5020 });
    fails(false, Fault::Longer(0_u32.wrapping_sub(15)), Length);
}

#[test]
fn where_there_is_no_tpm_none_is_found() {
    struct Nothing(u32);
    impl Registers for Nothing {
        fn read_u8(&self, _: u64) -> u8 {
            self.0 as u8
        }
        fn read_u32(&self, _: u64) -> u32 {
            self.0
        }
        fn write_u8(&self, _: u64, _: u8) {}
        fn write_u32(&self, _: u64, _: u32) {}
    }
    for (id, expected) in [
        (0, None),
        (u32::MAX, None),
        (0x0002_5811, Some(Interface::Crb)),
        (0x0000_2100, Some(Interface::Tis)),
        (0x0008_2100, Some(Interface::Tis)),
        (0x1234_5677, None),
    ] {
        assert_eq!(Interface::detect(&Nothing(id)), expected, "{id:#x}");
    }
}
