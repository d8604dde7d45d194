//! What a machine says on its serial port, line by line, while it runs.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::process::{check_interrupt, lock};

/// A console longer than this is cut: a guest that prints for ever must not fill our memory.
pub const MAX_CONSOLE_BYTES: usize = 16 << 20;

/// How long a waiting thread sleeps before it looks whether it was interrupted.
const GLANCE: Duration = Duration::from_millis(100);

/// A place in the console's text: what was said before it is old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    is_over: bool,
}

/// The console of one machine. Clones show the same console.
#[derive(Clone, Debug, Default)]
pub struct Console {
    shared: Arc<(Mutex<Text>, Condvar)>,
}

impl Console {
    /// Reads `pipe` to its end in a thread of its own.
    pub fn read(mut pipe: impl Read + Send + 'static) -> Self {
        let console = Self::default();
        let writer = console.clone();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                writer.append(&piece[..count]);
            }
            lock(&writer.shared.0).is_over = true;
            writer.shared.1.notify_all();
        });
        console
    }

    fn append(&self, piece: &[u8]) {
        let mut text = lock(&self.shared.0);
        let room = MAX_CONSOLE_BYTES.saturating_sub(text.bytes.len());
        text.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        self.shared.1.notify_all();
    }

    /// Everything said so far.
    pub fn text(&self) -> String {
        self.since(Mark::default())
    }

    /// Everything said since `mark`.
    pub fn since(&self, mark: Mark) -> String {
        let text = lock(&self.shared.0);
        String::from_utf8_lossy(text.bytes.get(mark.0..).unwrap_or_default()).replace('\r', "")
    }

    /// The end of what was said so far.
    pub fn mark(&self) -> Mark {
        Mark(lock(&self.shared.0).bytes.len())
    }

    /// Waits for a whole line that contains `part`, at any place in the console.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] or [`Error::TimedOut`] if it never comes.
    pub fn wait_for(&self, part: &str, timeout: Duration) -> Result<String, Error> {
        self.wait_since(Mark::default(), part, timeout)
    }

    /// Waits for a whole line after `mark` that contains `part`.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] or [`Error::TimedOut`] if it never comes.
    pub fn wait_since(&self, mark: Mark, part: &str, timeout: Duration) -> Result<String, Error> {
        let end = Instant::now() + timeout;
        let mut text = lock(&self.shared.0);
        loop {
            let new = text.bytes.get(mark.0..).unwrap_or_default();
            if let Some(line) = find_line(new, part, text.is_over) {
                return Ok(line);
            }
            if text.is_over {
                let console = String::from_utf8_lossy(&text.bytes).replace('\r', "");
                return Err(Error::Ended { awaited: part.to_owned(), console });
            }
            check_interrupt()?;
            if Instant::now() >= end {
                let what = format!(
                    "the console line {part:?}; it said:\n{}",
                    String::from_utf8_lossy(&text.bytes)
                );
                return Err(Error::TimedOut { what, timeout });
            }
            let woken = self.shared.1.wait_timeout(text, GLANCE);
            text = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the machine closes its console, that is, until it is gone.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if it goes on.
    pub fn wait_for_end(&self, timeout: Duration) -> Result<String, Error> {
        // No line contains a line break, so this waits for the end alone.
        match self.wait_for("\n", timeout) {
            Err(Error::Ended { console, .. }) => Ok(console),
            Err(error) => Err(error),
            Ok(line) => Ok(line),
        }
    }
}

/// The first line of `bytes` that contains `part`. A line without its end may still grow.
fn find_line(bytes: &[u8], part: &str, is_over: bool) -> Option<String> {
    let whole = if is_over { bytes.len() } else { bytes.iter().rposition(|&b| b == b'\n')? };
    String::from_utf8_lossy(&bytes[..whole])
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .find(|line| line.contains(part))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &str, part: &str, is_over: bool, expected: Option<&str>) {
        assert_eq!(find_line(bytes.as_bytes(), part, is_over).as_deref(), expected);
    }

    #[test]
    fn finds_whole_lines_only() {
        check("one\r\nREADY 443\r\n", "READY", false, Some("READY 443"));
        check("one\nREADY 4", "READY", false, None);
        check("one\nREADY 4", "READY", true, Some("READY 4"));
        check("", "", false, None);
        check("a\nb\n", "\n", true, None);
    }

    #[test]
    fn a_machine_that_ends_is_not_waited_for() {
        let console = Console::read(&b"boot: refused: no SMAP\n"[..]);
        let long = Duration::from_secs(60);
        assert_eq!(console.wait_for("refused", long).unwrap(), "boot: refused: no SMAP");
        assert!(matches!(console.wait_for("READY", long), Err(Error::Ended { .. })));
        assert_eq!(console.wait_for_end(long).unwrap(), "boot: refused: no SMAP\n");
    }

    #[test]
    fn what_was_said_before_a_mark_is_old() {
        let console = Console::read(&b"READY\n"[..]);
        console.wait_for_end(Duration::from_secs(60)).unwrap();
        let mark = console.mark();
        assert_eq!(console.since(mark), "");
        assert!(console.wait_since(mark, "READY", Duration::from_secs(60)).is_err());
    }
}
