//! The acts around the gate's doors to devices: the card's bell and the TPM.

use machine::tpm::Interface;

use super::{Act, READ_NOWHERE, READ_REFUSED, Setup, WRITE_NOWHERE, WRITE_REFUSED, nothing};

/// The card whose bell the gate rings: its registers out of ring 3's reach, its door harmless, and
/// both likewise where the card is on PCI.
pub(super) fn notify() -> Vec<Act> {
    let rung = ["the gate rings no bell here", "the gate rang both bells"];
    let card = [(WRITE_NOWHERE, READ_NOWHERE), (WRITE_REFUSED, READ_REFUSED)];
    let mut acts = Vec::new();
    for ((setup, rung), (write, read)) in
        [Setup::Small, Setup::Microvm].into_iter().zip(rung).zip(card)
    {
        let on = |name: &str, outcome| Act::new(name, outcome).on(setup);
        acts.extend([
            on("notify_queues", nothing(rung)),
            on("notify_extremes", nothing("what is no queue was refused")),
            on("notify_registers", nothing("every register came back, and nothing else")),
            on("notify_for_nothing", nothing("the card was silent")),
            on("write_card", write),
            on("read_card", read),
            on("touch_card_registers", WRITE_NOWHERE),
        ]);
    }
    acts
}

/// The TPM: out of ring 3's reach, its two doors harmless, with a TPM of either kind and without.
pub(super) fn tpm() -> Vec<Act> {
    let memory = [
        ("write_tpm", WRITE_REFUSED, WRITE_NOWHERE),
        ("read_tpm", READ_REFUSED, READ_NOWHERE),
        ("write_tpm_answer", WRITE_REFUSED, WRITE_NOWHERE),
        ("read_tpm_answer", READ_REFUSED, READ_NOWHERE),
        ("touch_tpm_registers", WRITE_NOWHERE, WRITE_NOWHERE),
        ("write_record", WRITE_REFUSED, WRITE_NOWHERE),
    ];
    let kept = "every register came back, and nothing else";
    let calls = [
        ("quote 0x5a", "the TPM answered"),
        ("quote_twice", "each got its answer, and the second had to wait"),
        ("quote_extremes", "the TPM answers as before"),
        ("quote_registers", kept),
        ("tpm_read_anything", "nothing but the answer was read"),
        ("secret_is_taken", "there is no secret"),
    ];
    let mut acts = Vec::new();
    for setup in [Setup::Small, Setup::Tpm(Interface::Crb), Setup::Tpm(Interface::Tis)] {
        let has_tpm = setup.tpm().is_some();
        for (name, with, without) in &memory {
            let outcome = if has_tpm { with } else { without };
            acts.push(Act::new(*name, outcome.clone()).on(setup));
        }
        for (name, seen) in calls {
            let is_same = ["quote_registers", "secret_is_taken"].contains(&name);
            let seen = if has_tpm || is_same { seen } else { "there is no TPM" };
            acts.push(Act::new(name, nothing(seen)).on(setup));
        }
    }
    acts
}
