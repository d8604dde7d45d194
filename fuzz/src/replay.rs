//! The seeds, what once broke something, and mutations of both.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{TARGETS, Target};

/// How long one target's mutations may take. What is slow gets fewer of them.
const TIME_FOR_MUTATIONS: Duration = Duration::from_millis(200);

/// How many mutations of all inputs a target gets at most.
const MUTATIONS: usize = 3_000;

/// No mutation is longer.
const MAX_BYTES: usize = 64 << 10;

/// All that is committed of inputs.
const MAX_COMMITTED_BYTES: u64 = 200 << 10;

fn folder(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target)
}

/// The files of a folder in the order of their names; none if there is no folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let files = ["corpus", "regressions"].map(|kind| files(&folder(kind, target)));
    files.concat().iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Random numbers that are the same each time (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

/// A few small changes: bits, bytes, runs that are cut out, repeated, or come from another input.
fn mutate(inputs: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = inputs[dice.roll(inputs.len())].clone();
    for _ in 0..1 + dice.roll(6) {
        let at = dice.roll(bytes.len() + 1);
        let end = bytes.len().min(at + 1 + dice.roll(24));
        match (dice.roll(7), bytes.get_mut(at)) {
            (0, Some(byte)) => *byte ^= 1 << dice.roll(8),
            (1, Some(byte)) => *byte = dice.roll(256) as u8,
            (2, Some(byte)) => *byte = [0, 1, 0x7f, 0x80, 0xff][dice.roll(5)],
            (3, _) => drop(bytes.drain(at.min(end)..end)),
            (4, _) => {
                let run = bytes[at.min(end)..end].to_vec();
                drop(bytes.splice(at..at, run));
            }
            (5, _) => bytes.truncate(at),
            _ => {
                let other = &inputs[dice.roll(inputs.len())];
                let from = dice.roll(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

/// Runs a target and says which input it was that broke it.
fn run((name, target): Target, input: &[u8]) {
    let result = std::panic::catch_unwind(|| target(input));
    if result.is_err() {
        let path = std::env::temp_dir().join(format!("{name}.broken"));
        fs::write(&path, input).unwrap();
        panic!("{name} is broken by {} bytes, see {}", input.len(), path.display());
    }
}

#[test]
fn no_committed_input_breaks_its_target() {
    for target in TARGETS {
        for input in inputs(target.0) {
            run(target, &input);
        }
        run(target, &[]);
    }
}

#[test]
fn no_mutation_of_a_committed_input_breaks_its_target() {
    for target in TARGETS {
        let inputs = inputs(target.0);
        let (mut dice, start) = (Dice(0x5eed), Instant::now());
        for count in 0..MUTATIONS {
            if count > 0 && start.elapsed() > TIME_FOR_MUTATIONS {
                break;
            }
            run(target, &mutate(&inputs, &mut dice));
        }
    }
}

#[test]
fn every_target_has_a_program_and_seeds() {
    let manifest = include_str!("../Cargo.toml");
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} in Cargo.toml");
        let program = folder("fuzz_targets", name).with_extension("rs");
        let text = fs::read_to_string(&program).unwrap();
        assert!(text.contains(&format!("fuzz::{name}(data)")), "{name} calls its own function");
        assert!(!files(&folder("corpus", name)).is_empty(), "{name} has no seed");
    }
    let programs = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets"));
    assert_eq!(programs.len(), TARGETS.len());
}

#[test]
fn the_committed_inputs_are_small() {
    let folders = ["corpus", "regressions"]
        .into_iter()
        .flat_map(|kind| TARGETS.map(|(name, _)| folder(kind, name)));
    let sizes = folders.flat_map(|folder| files(&folder)).map(|f| fs::metadata(f).unwrap().len());
    assert!(sizes.sum::<u64>() <= MAX_COMMITTED_BYTES);
}
