//! What becomes of an act, as the machine's console tells it.

use std::fmt;

use abi::gate::Stop;

/// How an act ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The CPU raised an exception, and the gate ended the machine.
    Fault {
        /// Which (Intel SDM 3A, table 6-1).
        vector: u8,
        /// Its error code, or 0 where it has none.
        error: u64,
    },
    /// The act came back and found that nothing had come of it.
    Nothing(String),
    /// The gate ended the machine because it was asked to.
    Stop(u8),
    /// Something else happened, in words.
    Strange(String),
    /// The act was not stopped.
    Survived,
}

impl Outcome {
    /// Reads the console of a machine that ran the act of this name.
    pub fn read(name: &str, console: &str) -> Self {
        let strange = |what: &str| Self::Strange(format!("{what}: {}", console.trim()));
        if !console.contains("seal:") {
            return strange("the machine was not sealed");
        }
        if name == "control" {
            return control(console).unwrap_or_else(|| strange("did not reach its end"));
        }
        let said = |what: &str| format!("PROBE {name}: {what}");
        if !console.contains(&said("begin")) {
            return strange("the act was not tried");
        }
        if console.contains("SURVIVED") {
            return Self::Survived;
        }
        let record = |kind| console.lines().find(|line| line.starts_with(kind));
        if let Some(record) = record("CRASH ") {
            return fault(record).unwrap_or_else(|| strange("the record is another"));
        }
        let reason = record("STOP ").and_then(|record| number(record, "reason"));
        let Some(reason) = reason else { return strange("there is no record") };
        let nothing = said("no effect: ");
        // An act that logs by itself may have begun the line.
        match console.lines().find_map(|line| line.split_once(&nothing)) {
            Some((_, seen)) if reason == Stop::Done as u64 => Self::Nothing(seen.to_owned()),
            Some(_) => strange("it stopped for another reason"),
            None => u8::try_from(reason).map_or_else(|_| strange("the reason is long"), Self::Stop),
        }
    }
}

fn control(console: &str) -> Option<Outcome> {
    let has_ended = console.contains("PROBE control: end of program");
    let stop = console.lines().find(|line| line.starts_with("STOP "))?;
    let is_done = number(stop, "reason") == Some(Stop::Done as u64);
    let is_whole = has_ended && is_done && !console.contains("CRASH");
    is_whole.then(|| Outcome::Nothing("the end of its program".to_owned()))
}

fn fault(record: &str) -> Option<Outcome> {
    let vector = u8::try_from(number(record, "vector")?).ok()?;
    Some(Outcome::Fault { vector, error: number(record, "error")? })
}

/// A hexadecimal field of a record.
fn number(record: &str, name: &str) -> Option<u64> {
    let field =
        |word: &'_ str| u64::from_str_radix(word.strip_prefix(name)?.strip_prefix('=')?, 16).ok();
    record.split_whitespace().find_map(field)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault { vector, error } => match mnemonic(*vector) {
                Some((name, true)) => write!(f, "{name} {error:#x}"),
                Some((name, false)) => write!(f, "{name}"),
                None => write!(f, "exception {vector}, error {error:#x}"),
            },
            Self::Nothing(seen) => write!(f, "no effect: {seen}"),
            Self::Stop(reason) => write!(f, "stop {reason:#04x}"),
            Self::Strange(what) => write!(f, "{what}"),
            Self::Survived => write!(f, "SURVIVED"),
        }
    }
}

/// An exception's name, and whether it has an error code (Intel SDM 3A, table 6-1).
fn mnemonic(vector: u8) -> Option<(&'static str, bool)> {
    Some(match vector {
        0 => ("#DE", false),
        1 => ("#DB", false),
        3 => ("#BP", false),
        6 => ("#UD", false),
        11 => ("#NP", true),
        12 => ("#SS", true),
        13 => ("#GP", true),
        14 => ("#PF", true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "seal: heap\nPROBE act: begin\n";

    #[track_caller]
    fn check(rest: &str, expected: &str) {
        let seen = Outcome::read("act", &format!("{BEGIN}{rest}")).to_string();
        assert!(seen.starts_with(expected), "{seen}");
    }

    #[test]
    fn reads_what_the_console_says() {
        let crash = "\nCRASH vector=0e error=0000000000000007 rip=service+0 cr2=service+10\n";
        check(crash, "#PF 0x7");
        check("\nCRASH vector=06 error=0000000000000000 rip=service+0 cr2=0\n", "#UD");
        check("\nCRASH vector=08 error=0000000000000000 rip=0 cr2=0\n", "exception 8, error 0x0");
        check("PROBE act: no effect: none\n\nSTOP reason=00 rip=service+0\n", "no effect: none");
        check("..PROBE act: no effect: dots\n\nSTOP reason=00 rip=0\n", "no effect: dots");
        check("\nSTOP reason=ff rip=service+0\n", "stop 0xff");
    }

    #[test]
    fn anything_else_is_told_from_a_refusal() {
        check("PROBE act: SURVIVED\n\nSTOP reason=06 rip=service+0\n", "SURVIVED");
        check("", "there is no record");
        check("\nCRASH vector=zz error=0 rip=0 cr2=0\n", "the record is another");
        check("PROBE act: no effect: none\n\nSTOP reason=01 rip=0\n", "it stopped for another");
        assert!(matches!(Outcome::read("act", "PROBE act: begin"), Outcome::Strange(_)));
        assert!(matches!(Outcome::read("act", "seal:"), Outcome::Strange(_)));
    }

    #[test]
    fn the_control_has_to_reach_its_end() {
        let good = "seal:\nPROBE control: end of program\n\nSTOP reason=00 rip=service+0\n";
        let read = |text: &str| Outcome::read("control", text);
        assert_eq!(read(good), Outcome::Nothing("the end of its program".to_owned()));
        for bad in ["end of program", "STOP", "seal:"] {
            assert!(matches!(read(&good.replace(bad, "")), Outcome::Strange(_)), "{bad}");
        }
        assert!(matches!(read(&good.replace("=00", "=01")), Outcome::Strange(_)));
    }
}
