//! The commands against real files, a software TPM and a server of the tests' own.

mod commands;
mod enrolling;
mod files;
mod image;
mod judging;
mod predicting;
#[path = "../../core/tests/it/sample.rs"]
#[allow(dead_code, reason = "attest-core's tests use more of it")]
mod sample;
mod sealing;
mod server;
mod swtpm;
mod wrapping;

use std::path::Path;
use std::process::{Command, Stdio};

/// How a run of the program ended.
#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

/// Runs the program, for at most a minute.
fn attest(arguments: &[&str]) -> Run {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_attest")]).args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

impl Run {
    /// Checks the exit code; and that nothing that ended badly says that it went well.
    #[track_caller]
    fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        if code != 0 {
            for word in ["verified", "pass", "success"] {
                let has = |text: &str| {
                    text.split(|c: char| !c.is_alphabetic()).any(|it| it.eq_ignore_ascii_case(word))
                };
                // What is "not verified" has not gone well.
                let out =
                    self.out.replace("not verified", "").replace("nothing of it is verified", "");
                assert!(!has(&out) && !has(&self.err), "{word}: {self:?}");
            }
        }
        if code == 1 {
            assert!(
                self.err.starts_with("attest: error: ") && self.err.contains("\nhint: "),
                "{self:?}"
            );
            assert!(self.out.is_empty(), "{self:?}");
        }
        self
    }

    #[track_caller]
    fn says(self, words: &str) -> Self {
        assert!(self.out.contains(words) || self.err.contains(words), "{words}: {self:?}");
        self
    }

    #[track_caller]
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A path as text.
fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

/// A file of `tests/vectors`.
fn vector(name: &str) -> String {
    text(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(name))
}

/// Runs a shell script with openssl in it, in a folder.
#[track_caller]
fn shell(folder: &Path, script: &str) {
    let mut command = Command::new("timeout");
    command.args(["60", "sh", "-euc", script]).current_dir(folder).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
