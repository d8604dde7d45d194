//! A service that does one forbidden thing, named in its configuration.
//!
//! One program, many acts: the payload of the configuration section is the act's name, with a number
//! where the act has many forms. An act that the machine does not stop says so, and that fails the
//! suite. The control does nothing forbidden and has to reach its end, which shows that it is the act
//! that kills and not the probe.

#![no_std]
#![no_main]

extern crate alloc;

mod acts;

use abi::gate::Stop;
use libos::log::plain;
use libos::machine::{Machine, stop};

use acts::Effect;

/// Where libos begins the service.
// SAFETY: the name is unique in the image, and libos declares it with this signature.
#[unsafe(no_mangle)]
fn service(mut machine: Machine) -> ! {
    let name = core::str::from_utf8(machine.configuration()).unwrap_or("(not text)");
    if name == "control" {
        acts::control(&machine);
        plain(format_args!("PROBE control: end of program"));
        stop(Stop::Done);
    }
    let Some((act, number)) = acts::find(name) else {
        plain(format_args!("PROBE {name}: no such act"));
        stop(Stop::BadHandoff);
    };
    plain(format_args!("PROBE {name}: begin"));
    match act(&mut machine, number) {
        Effect::None(seen) => {
            plain(format_args!("PROBE {name}: no effect: {seen}"));
            stop(Stop::Done);
        }
        Effect::Survived => {
            plain(format_args!("PROBE {name}: SURVIVED"));
            stop(Stop::ProbeSurvived);
        }
    }
}
