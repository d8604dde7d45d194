//! The forbidden acts. Each is as small as it can be, so that the fault is the act's and no other.

mod calls;
mod instructions;
mod memory;
mod notify;
mod rings;
mod tpm;

use libos::machine::Machine;

pub(crate) use calls::control;

/// What an act that returns has to say for itself.
pub(crate) enum Effect {
    /// The machine let it happen and nothing came of it: the act looked, and says what it saw.
    None(&'static str),
    /// It should have been stopped.
    Survived,
}

/// An act, with the number that its name may end in.
pub(crate) type Act = fn(&mut Machine, u64) -> Effect;

/// Every act but the control, by family.
const FAMILIES: [&[(&str, Act)]; 6] =
    [memory::ACTS, instructions::ACTS, calls::ACTS, rings::ACTS, notify::ACTS, tpm::ACTS];

/// The act of a name like `write_text` or `int 0x50`, with its number.
pub(crate) fn find(name: &str) -> Option<(Act, u64)> {
    let (name, number) = name.split_once(' ').unwrap_or((name, "0"));
    let digits = number.strip_prefix("0x");
    let number = match digits {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => number.parse().ok()?,
    };
    let acts = FAMILIES.iter().flat_map(|family| family.iter());
    acts.copied().find(|(known, _)| *known == name).map(|(_, act)| (act, number))
}
