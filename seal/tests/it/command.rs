//! The program as a user meets it.

use std::path::Path;
use std::process::{Command, Output};

use crate::synthetic::Synthetic;

fn seal(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seal")).args(arguments).output().unwrap()
}

#[track_caller]
fn check(arguments: &[&str], status: i32, stdout: &str, stderr: &str) {
    let output = seal(arguments);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{out}{err}");
    assert!(out.contains(stdout) && out.is_empty() == stdout.is_empty(), "{out}");
    assert!(err.contains(stderr) && err.is_empty() == stderr.is_empty(), "{err}");
}

fn with_image(image: Synthetic, test: impl FnOnce(&str)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge-proxy.elf");
    std::fs::write(&path, image.build()).unwrap();
    test(path.to_str().unwrap());
}

#[test]
fn a_sealed_image_exits_with_0() {
    with_image(Synthetic::new(), |path| {
        check(&["audit", path], 0, "\nverdict: sealed\n", "");
        check(&["audit", "--json", path], 0, "\"verdict\":\"sealed\"}\n", "");
        check(&["explain", path], 0, "B + 0x00000bf000", "");
    });
}

#[test]
fn a_weakened_image_exits_with_1_and_names_the_property() {
    let mut image = Synthetic::new();
    image.add_code(&[0x0f, 0x30]);
    with_image(image, |path| {
        check(&["audit", path], 1, "\nFAIL  gate-instructions", "");
        let named = "{\"name\":\"gate-instructions\",\"holds\":false,";
        check(&["audit", path, "--json"], 1, named, "");
        check(&["explain", path], 0, "\nverdict: not sealed", "");
    });
}

#[test]
fn the_example_of_the_usage_works() {
    let example = seal::command::USAGE.lines().find_map(|line| line.strip_prefix("example: seal "));
    let words: Vec<_> = example.unwrap().split(' ').collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge-proxy.elf"), Synthetic::new().build()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_seal"));
    let output = command.args(words).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success());
}

#[test]
fn no_answer_exits_with_2() {
    let usage = |arguments: &[&str], error: &str| {
        check(arguments, 2, "", &format!("seal: error: {error}\nhint: `seal help`\n"));
    };
    usage(&[], "no command");
    usage(&["audit"], "which image?");
    usage(&["prove", "x"], "no command \"prove\"");
    usage(&["audit", "x", "y"], "unexpected argument \"y\"");
    usage(&["audit", "--yaml", "x"], "invalid option '--yaml'");
    usage(&["explain", "--json", "x"], "explain has no --json");
    check(&["audit", "/nowhere/at/all"], 2, "", "seal: error: /nowhere/at/all: No such file");
    check(&["audit", "/"], 2, "", "seal: error: /: ");
    check(&["help"], 0, "usage: seal COMMAND IMAGE", "");
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    check(&["audit", own.to_str().unwrap()], 2, "", "no 64-bit little-endian ELF file");
}
