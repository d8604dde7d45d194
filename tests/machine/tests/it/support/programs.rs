//! Other people's clients: curl, openssl, gnutls-cli, wrk.

use std::io::{Read, Write};
use std::process::Stdio;

use machine::process::{self, Process};
use machine::site::NAME;

use super::{PATIENCE, Site};

/// What a program printed and whether it was content.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) output: Vec<u8>,
    pub(crate) complaints: String,
    pub(crate) is_success: bool,
}

impl Outcome {
    /// What comes after the head of an HTTP answer.
    #[track_caller]
    pub(crate) fn body(&self) -> &[u8] {
        let end = self.output.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer in {self:?}"));
        &self.output[end + 4..]
    }

    /// The output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

/// Runs a program that is told `input` and then listened to until it ends.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str], input: &[u8]) -> Outcome {
    let mut command = process::tied(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = Process::start(command, PATIENCE).unwrap();
    let (stdin, stdout, stderr) = {
        let mut child = program.child();
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    };
    // Its input stays open until it ends: some clients take the end of it for a farewell.
    let mut stdin = stdin.unwrap();
    stdin.write_all(input).unwrap();
    let complaints = machine::console::Console::read(stderr.unwrap());
    let mut output = Vec::new();
    stdout.unwrap().read_to_end(&mut output).unwrap();
    let status = program.wait(PATIENCE).unwrap();
    let complaints = complaints.wait_for_end(PATIENCE).unwrap();
    Outcome { output, complaints, is_success: status.success() }
}

/// Runs curl against the site with further arguments, the last of them a path.
#[track_caller]
pub(crate) fn curl(site: &Site, arguments: &[&str], path: &str) -> Outcome {
    let port = site.address().port();
    let resolve = format!("{NAME}:{port}:127.0.0.1");
    let url = format!("https://{NAME}:{port}{path}");
    let mut all = vec!["-sS", "--fail", "-m", "110", "--resolve", &resolve];
    all.extend(["--cacert", site.authority()]);
    all.extend(arguments);
    all.push(&url);
    run("curl", &all, b"")
}

/// Runs `openssl s_client` against the site; its connection carries `input`.
#[track_caller]
pub(crate) fn s_client(site: &Site, arguments: &[&str], input: &[u8]) -> Outcome {
    let address = site.address().to_string();
    let mut all = vec!["s_client", "-connect", &address, "-servername", NAME];
    all.extend(["-verify_hostname", NAME, "-verify_return_error", "-CAfile", site.authority()]);
    all.extend(arguments);
    run("openssl", &all, input)
}
