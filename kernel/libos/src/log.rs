//! The console: one line an event, few lines a second, and nothing a peer sent goes out raw.

use core::fmt::{self, Write};
use core::time::Duration;

use spin::Mutex;

use crate::clock::Instant;

/// The longest line in bytes; the rest is cut off.
pub const MAX_LINE_BYTES: usize = 256;

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed that is ours to mend.
    Error,
    /// Something was refused.
    Warning,
    /// Something happened.
    Info,
    /// Something happened as it always does.
    Debug,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// The budget of lines, refilled each second.
struct Budget {
    level: Level,
    lines_a_second: u32,
    left: u32,
    since: Instant,
    dropped: u64,
}

static BUDGET: Mutex<Budget> = Mutex::new(Budget {
    level: Level::Info,
    lines_a_second: 50,
    left: 50,
    since: Instant::from_micros(0),
    dropped: 0,
});

/// Sets the least important level that is written, and how many lines a second are.
pub fn configure(level: Level, lines_a_second: u32) {
    let mut budget = BUDGET.lock();
    budget.level = level;
    budget.lines_a_second = lines_a_second;
    budget.left = lines_a_second;
}

/// Writes one line, unless this second's budget is spent; then the line is counted.
pub fn line(now: Instant, level: Level, message: fmt::Arguments<'_>) {
    let mut budget = BUDGET.lock();
    if level > budget.level {
        return;
    }
    if now.since(budget.since) >= Duration::from_secs(1) {
        budget.since = now;
        budget.left = budget.lines_a_second;
        let dropped = core::mem::take(&mut budget.dropped);
        if dropped > 0 {
            emit(now, Level::Warning, format_args!("{dropped} lines dropped"));
        }
    }
    if budget.left == 0 {
        budget.dropped = budget.dropped.saturating_add(1);
        return;
    }
    budget.left -= 1;
    drop(budget);
    emit(now, level, message);
}

/// Writes a line as it is, with no budget: for what happens once.
pub fn plain(message: fmt::Arguments<'_>) {
    let mut text = Text::new();
    // Text never fails: it cuts.
    let _cut = text.write_fmt(message);
    text.send();
}

fn emit(now: Instant, level: Level, message: fmt::Arguments<'_>) {
    let micros = now.as_micros();
    let (seconds, millis) = (micros / 1_000_000, micros / 1000 % 1000);
    plain(format_args!("{seconds}.{millis:03} {} {message}", level.word()));
}

/// A line in the making.
struct Text {
    bytes: [u8; MAX_LINE_BYTES],
    used: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; MAX_LINE_BYTES], used: 0 }
    }

    fn send(mut self) {
        let end = self.used.min(MAX_LINE_BYTES - 2);
        if let Some([cr, lf]) = self.bytes.get_mut(end..end + 2) {
            *cr = b'\r';
            *lf = b'\n';
        }
        output(self.bytes.get(..end + 2).unwrap_or(&[]));
    }
}

#[cfg(target_os = "none")]
fn output(bytes: &[u8]) {
    crate::arch::log(bytes);
}

/// On the host the console is standard error.
#[cfg(not(target_os = "none"))]
fn output(bytes: &[u8]) {
    extern crate std;
    use std::io::Write as _;
    let _ignored = std::io::stderr().write_all(bytes);
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(slot) =
                self.bytes.get_mut(self.used).filter(|_| self.used < MAX_LINE_BYTES - 2)
            {
                *slot = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

/// Bytes that a peer chose, written as a JSON string (RFC 8259 section 7), cut at 64 bytes.
pub struct Escaped<'a>(pub &'a [u8]);

/// How many bytes of a peer's we show.
const MAX_ESCAPED_BYTES: usize = 64;

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for byte in self.0.iter().take(MAX_ESCAPED_BYTES) {
            match byte {
                b'"' => f.write_str("\\\"")?,
                b'\\' => f.write_str("\\\\")?,
                0x20..=0x7e => f.write_char(char::from(*byte))?,
                // Not text as far as we are concerned: each byte by its number, as U+00xx.
                other => write!(f, "\\u{other:04x}")?,
            }
        }
        f.write_str(if self.0.len() > MAX_ESCAPED_BYTES { "...\"" } else { "\"" })
    }
}

#[cfg(test)]
mod tests {
    use super::Escaped;
    use std::format;
    use std::vec;

    #[test]
    fn nothing_a_peer_sends_leaves_its_string() {
        assert_eq!(format!("{}", Escaped(b"GET /")), "\"GET /\"");
        assert_eq!(format!("{}", Escaped(b"a\"b\\c")), r#""a\"b\\c""#);
        assert_eq!(format!("{}", Escaped(b"\r\n\x1b[2J\xff")), r#""\u000d\u000a\u001b[2J\u00ff""#);
        let long = format!("{}", Escaped(&vec![b'x'; 1000]));
        assert_eq!(long.len(), 64 + 5);
        assert!(long.ends_with("...\""));
    }
}
