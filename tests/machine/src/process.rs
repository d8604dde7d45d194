//! Child processes that always end: with their handle, at their deadline, or with their parent.
//!
//! QEMU ignores SIGTERM when its guest hangs, so the only signal used is SIGKILL, sent to one
//! process by its number. Whatever happens to us, the kernel does the same to our children:
//! `setpriv --pdeathsig` (util-linux) asks for that without a line of unsafe code.

use std::env;
use std::ffi::OsStr;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// How often a waiting thread looks again.
pub const POLL: Duration = Duration::from_millis(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends every wait of this crate with [`Error::Interrupted`], now and from now on.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Returns an error once [`interrupt`] was called.
///
/// # Errors
///
/// [`Error::Interrupted`].
pub fn check_interrupt() -> Result<(), Error> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// A command whose process the kernel kills when ours ends.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    // Debian keeps nginx and ip out of an ordinary user's path, who may run them all the same.
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    command.env("PATH", path);
    command
}

type Birth = (Command, mpsc::Sender<std::io::Result<Child>>);

/// The kernel's "parent" is the *thread* that forked, and tests run in threads that end. So every
/// child is forked by one thread that lives as long as the process.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Birth>>> = LazyLock::new(|| {
    let (sender, births) = mpsc::channel::<Birth>();
    thread::spawn(move || {
        for (mut command, answer) in births {
            // Whoever asked may have gone; then the child must go too, and nobody else knows it.
            if let Err(mpsc::SendError(Ok(mut orphan))) = answer.send(command.spawn()) {
                let _ = orphan.kill();
                let _ = orphan.wait();
            }
        }
    });
    Mutex::new(sender)
});

/// A running child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Arc<Mutex<Child>>,
    /// Dropped with the process, which ends the watchdog.
    _watched: mpsc::Sender<()>,
}

impl Process {
    /// Starts a command made by [`tied`]; after `deadline` it is killed.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if there is no such program, or no process to be had.
    pub fn start(command: Command, deadline: Duration) -> Result<Self, Error> {
        let name = command.get_args().nth(3).unwrap_or_default().to_string_lossy().into_owned();
        let start = |source| Error::Start { program: name.clone(), source };
        let (answer, born) = mpsc::channel();
        lock(&SPAWNER).send((command, answer)).map_err(|_| start(lost()))?;
        let child = born.recv().map_err(|_| start(lost()))?.map_err(start)?;
        let child = Arc::new(Mutex::new(child));
        let (watched, ended) = mpsc::channel::<()>();
        let victim = Arc::clone(&child);
        thread::spawn(move || {
            if ended.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = lock(&victim).kill();
            }
        });
        Ok(Self { name, child, _watched: watched })
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// The child itself, to take its pipes.
    pub fn child(&self) -> MutexGuard<'_, Child> {
        lock(&self.child)
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if it does not; it then still runs. [`Error::Interrupted`].
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus, Error> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            check_interrupt()?;
            if Instant::now() >= end {
                return Err(Error::TimedOut { what: format!("the end of {}", self.name), timeout });
            }
            thread::sleep(POLL);
        }
    }

    /// Kills it and waits until the kernel has buried it.
    pub fn kill(&self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Locks even what another thread left behind in a panic: a failed test must still clean up.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost() -> std::io::Error {
    std::io::Error::other("the thread that starts processes is gone")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sleeper(deadline: Duration) -> Process {
        let mut command = tied("sleep");
        command.arg("30");
        Process::start(command, deadline).unwrap()
    }

    #[track_caller]
    fn assert_gone(id: u32) {
        assert!(!Path::new(&format!("/proc/{id}")).exists(), "process {id} is still there");
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let process = sleeper(30 * SECOND);
        let id = process.id();
        drop(process);
        assert_gone(id);
    }

    #[test]
    fn a_deadline_ends_a_process_that_does_not() {
        let process = sleeper(Duration::from_millis(50));
        assert!(!process.wait(10 * SECOND).unwrap().success());
    }

    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it() {
        let process = thread::spawn(|| sleeper(30 * SECOND)).join().unwrap();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(process.ended(), None);
    }

    #[test]
    fn a_program_that_does_not_exist_fails() {
        let process = Process::start(tied("/no/such/program"), SECOND).unwrap();
        assert!(!process.wait(10 * SECOND).unwrap().success());
        assert!(matches!(
            process.wait(SECOND),
            Ok(status) if status.code() == Some(127)
        ));
    }
}
