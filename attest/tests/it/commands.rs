//! The command line itself.

use std::fs;

use crate::image::Sketch;
use crate::sample::Scene;
use crate::server::write_references;
use crate::{attest, text};

#[test]
fn what_makes_no_sense_ends_with_1_and_a_hint() {
    for arguments in [
        &[][..],
        &["frob"],
        &["predict"],
        &["predict", "a", "b"],
        &["predict", "--frob", "a"],
        &["verify", "--policy"],
        &["enroll"],
        &["enroll", "begin"],
        &["enroll", "finish", "--state", "x", "-o", "y"],
        &["seal-key"],
        &["policy"],
        &["completions", "cmd.exe"],
        &["\u{1b}[31m"],
        &["predict", "/nowhere/\u{1b}[31m"],
    ] {
        let run = attest(arguments).ends(1);
        assert!(!run.err.contains('\u{1b}'), "{run:?}");
    }
}

#[test]
fn help_and_version_are_answers() {
    attest(&["--help"]).ends(0).says("Exit status: 0");
    attest(&["help", "verify"]).ends(0).says("--ek-roots");
    attest(&["--version"]).ends(0).says("attest ");
}

#[test]
fn the_example_in_the_help_works() {
    let help = attest(&["--help"]).ends(0).out;
    let example = help.lines().find_map(|line| line.strip_prefix("example: attest ")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let image = text(folder.path().join("edge-proxy.efi"));
    fs::write(&image, Sketch::new().efi()).unwrap();
    let arguments: Vec<_> = example.split(' ').collect();
    let arguments: Vec<_> =
        arguments.iter().map(|it| if *it == "edge-proxy.efi" { &image } else { *it }).collect();
    attest(&arguments).ends(0).says("PCRs of the SHA-256 bank");
}

#[test]
fn completions_and_manual_know_every_command() {
    let all = ["verify", "predict", "policy", "enroll", "seal-key", "eventlog", "explain"];
    for shell in ["bash", "zsh", "fish"] {
        let run = attest(&["completions", shell]).ends(0);
        assert!(all.iter().all(|command| run.out.contains(command)), "{shell}");
    }
    let page = attest(&["man"]).ends(0).out;
    assert!(page.contains(".TH"));
    for command in all {
        let heading = format!(".SH \"ATTEST {}\"", command.to_uppercase());
        assert!(page.contains(&heading), "{heading}");
    }
    assert!(page.contains("ek\\-roots") && page.contains("save\\-evidence"));
}

#[test]
fn a_policy_is_shown_only_if_it_is_one() {
    let folder = tempfile::tempdir().unwrap();
    write_references(folder.path(), &Scene::new());
    let policy = text(folder.path().join("policy.json"));
    attest(&["policy", "show", &policy]).ends(0).says("skipped: depends on the machine's shape");
    let json = attest(&["policy", "show", &policy, "--json"]).ends(0).json();
    assert_eq!(json["schema"], "bulla-refvalues/1");
    let good = fs::read_to_string(&policy).unwrap();
    for (from, to) in [
        ("\"skip\": \"depends on the machine's shape\"", "\"skip\": \"\""),
        ("bulla-refvalues/1", "bulla-refvalues/2"),
        ("\"gate_sha256\"", "\"gate_sha1\""),
    ] {
        assert!(good.contains(from), "{good}");
        fs::write(&policy, good.replacen(from, to, 1)).unwrap();
        attest(&["policy", "show", &policy]).ends(1);
    }
}

#[test]
fn an_image_that_is_not_sealed_gets_no_policy() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(folder.path().join(name));
    fs::write(at("x.efi"), Sketch::new().efi()).unwrap();
    fs::write(at("x.elf"), Sketch::new().elf()).unwrap();
    let refused = |image: &str, says: &str| {
        attest(&["policy", "new", &at(image), "-o", &at("p.json")]).ends(1).says(says);
        assert!(!folder.path().join("p.json").exists());
    };
    refused("x.efi", "`seal audit` finds fault");
    refused("x.elf", "nobody measures");
}
