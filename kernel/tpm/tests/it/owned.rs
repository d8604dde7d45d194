//! TPMs that somebody owns, or that firmware left in a state of its own.

use tpm::{Error, Tpm, Transport};

use crate::raw;
use crate::real::{sized, started};
use crate::swtpm::{Running, Swtpm};

const OWNER: u32 = 0x4000_0001;
const LOCKOUT: u32 = 0x4000_000a;
const PLATFORM: u32 = 0x4000_000c;

const CLEAR: u32 = 0x126;
const CREATE_PRIMARY: u32 = 0x131;

/// Sets a hierarchy's password.
fn set_password(tpm: &mut Tpm<Running>, hierarchy: u32) {
    raw::done(tpm, 0x129, &[hierarchy], true, &sized(b"somebody's"));
}

/// `TPM_PT_STARTUP_CLEAR`: whether the owner's hierarchy is on.
fn has_owner(tpm: &mut Tpm<Running>) -> bool {
    raw::property(tpm, 0x201) & 2 != 0
}

#[test]
fn a_lockout_password_is_never_guessed() {
    let swtpm = Swtpm::make();
    let mut tpm = started(&swtpm);
    set_password(&mut tpm, LOCKOUT);
    drop(tpm);
    for boot in 0..3 {
        let mut tpm = started(&swtpm);
        // As firmware leaves it: so only the lockout's password could forbid TPM2_Clear.
        set_password(&mut tpm, PLATFORM);
        tpm.take_away_hierarchies(&mut [7; 32]).unwrap_or_else(|it| panic!("boot {boot}: {it}"));
        tpm.shutdown_clear().unwrap();
        // Its owner still gets in, here to reset the counter: no wrong guess has shut it.
        let mut command = vec![0x80, 2, 0, 0, 0, 0, 0, 0, 1, 0x39];
        command.extend_from_slice(&LOCKOUT.to_be_bytes());
        command.extend_from_slice(&[0, 0, 0, 19, 0x40, 0, 0, 9, 0, 0, 0, 0, 10]);
        command.extend_from_slice(b"somebody's");
        command[5] = command.len() as u8;
        let mut room = [0; 4096];
        let answer = tpm.transport_mut().transact(&command, &mut room).unwrap();
        assert_eq!(answer[6..10], [0; 4], "boot {boot}");
    }
}

#[test]
fn an_owners_password_does_not_keep_the_owners_hierarchy() {
    let swtpm = Swtpm::make();
    let mut tpm = started(&swtpm);
    set_password(&mut tpm, OWNER);
    assert!(has_owner(&mut tpm));
    tpm.take_away_hierarchies(&mut [7; 32]).unwrap();
    assert!(!has_owner(&mut tpm));
    let said = raw::say(&mut tpm, CREATE_PRIMARY, &[OWNER], true, &[0; 14]);
    assert_eq!(said.code & 0xbf, 0x85, "TPM_RC_HIERARCHY, not {:#x}", said.code);
}

#[test]
fn what_firmware_took_away_already_is_no_error() {
    // A platform hierarchy with firmware's password, one that is off, and TPM2_Clear forbidden.
    let off: fn(&mut Tpm<Running>) = |tpm| {
        let rest = [&PLATFORM.to_be_bytes()[..], &[0]].concat();
        raw::done(tpm, 0x121, &[PLATFORM], true, &rest);
    };
    let forbidden: fn(&mut Tpm<Running>) = |tpm| {
        raw::done(tpm, 0x127, &[PLATFORM], true, &[1]);
        set_password(tpm, PLATFORM);
    };
    let password: fn(&mut Tpm<Running>) = |tpm| set_password(tpm, PLATFORM);
    for firmware in [password, off, forbidden] {
        let swtpm = Swtpm::make();
        let mut tpm = started(&swtpm);
        firmware(&mut tpm);
        tpm.take_away_hierarchies(&mut [7; 32]).unwrap();
        assert!(!has_owner(&mut tpm));
        assert_eq!(raw::say(&mut tpm, CLEAR, &[LOCKOUT], true, &[]).code, 0x120, "disabled");
        assert_ne!(raw::say(&mut tpm, CLEAR, &[PLATFORM], true, &[]).code, 0);
    }
}

#[test]
fn an_endorsement_password_is_named_as_what_it_is() {
    let swtpm = Swtpm::make();
    let mut tpm = started(&swtpm);
    set_password(&mut tpm, 0x4000_000b);
    let refused = Error::Refused { command: CREATE_PRIMARY, code: 0x9a2 };
    assert_eq!(tpm.create_ak(), Err(refused));
}

/// Defines an index of eight bytes that nobody has written: reading it is refused.
fn define(tpm: &mut Tpm<Running>, index: u32) {
    let mut public = index.to_be_bytes().to_vec();
    // Named by SHA-256; owner and index may write and read; no lockout; no policy.
    public.extend_from_slice(&[0, 0x0b, 0x02, 0x06, 0x00, 0x06, 0, 0, 0, 8]);
    raw::done(tpm, 0x12a, &[OWNER], true, &[&[0, 0][..], &sized(&public)].concat());
}

#[test]
fn a_certificate_that_cannot_be_read_is_passed_over() {
    let swtpm = Swtpm::make();
    let mut tpm = started(&swtpm);
    let best = tpm.read_ek_certificate().unwrap().unwrap();
    // The second best place, with nothing in it, is not even looked at.
    define(&mut tpm, 0x01c0_000a);
    assert_eq!(tpm.read_ek_certificate().unwrap().unwrap(), best);
    let bare = Swtpm::without_certificates();
    let mut tpm = started(&bare);
    assert_eq!(tpm.read_ek_certificate(), Ok(None));
    define(&mut tpm, 0x01c0_000a);
    assert_eq!(tpm.read_ek_certificate(), Ok(None));
}
