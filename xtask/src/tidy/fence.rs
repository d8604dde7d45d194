//! The fence round `unsafe`: where it may stand, and how much of it there is.

use std::collections::BTreeMap;

use super::File;
use super::source::code_of;

/// The only places for unsafe code.
const INSIDE: [&str; 6] = [
    "kernel/boot/src/arch",
    "kernel/boot/src/memory",
    "kernel/libos/src/arch",
    "kernel/libos/src/memory",
    "kernel/libos/src/rings",
    "tests/probe/src/",
];

/// How much unsafe code a module has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// `unsafe { .. }`.
    pub(crate) blocks: usize,
    /// `unsafe fn`, `unsafe impl`, `unsafe trait`, `unsafe extern` and unsafe attributes.
    pub(crate) items: usize,
}

/// Unsafe code by module: the file's path without its ending.
pub(crate) fn inventory(files: &[File]) -> BTreeMap<String, Count> {
    let mut inventory = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let mut count = Count::default();
        for next in after_unsafe(&code_of(&file.text)) {
            if next == Some('{') { count.blocks += 1 } else { count.items += 1 }
        }
        if count != Count::default() {
            inventory.insert(file.path.trim_end_matches(".rs").to_owned(), count);
        }
    }
    inventory
}

/// Complains about unsafe code outside the fence.
pub(crate) fn complaints(files: &[File]) -> Vec<String> {
    let is_outside = |file: &&File| {
        file.path.ends_with(".rs") && !INSIDE.iter().any(|p| file.path.starts_with(p))
    };
    let mut complaints = Vec::new();
    for file in files.iter().filter(is_outside) {
        // The program's entry needs a symbol of a known name, which is an unsafe attribute.
        let is_entry = file.path.starts_with("apps/") && file.path.ends_with("/src/main.rs");
        let is_forbidden = |next: &Option<char>| !(is_entry && *next == Some('('));
        let count = after_unsafe(&code_of(&file.text)).filter(is_forbidden).count();
        if count > 0 {
            complaints.push(format!("{}: unsafe outside the fence, {count} times", file.path));
        }
    }
    complaints
}

/// The first character after each word `unsafe`.
fn after_unsafe(code: &str) -> impl Iterator<Item = Option<char>> {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices("unsafe").filter_map(move |(at, word)| {
        let after = &code[at + word.len()..];
        let is_whole = !is_word(code[..at].chars().next_back()) && !is_word(after.chars().next());
        is_whole.then(|| after.chars().find(|c| !c.is_whitespace()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        assert_eq!(complaints(&[file(path, text)]), expected);
    }

    #[test]
    fn unsafe_stays_inside_the_fence() {
        let block = "fn f() { unsafe { g() } }";
        check("kernel/boot/src/arch/cpu.rs", block, &[]);
        check("kernel/libos/src/rings.rs", block, &[]);
        check(
            "seal/core/src/lib.rs",
            block,
            &["seal/core/src/lib.rs: unsafe outside the fence, 1 times"],
        );
        check("seal/core/src/lib.rs", "#![forbid(unsafe_code)] // unsafe\n", &[]);
        let entry = "#[unsafe(no_mangle)] fn _start() {}";
        check("apps/edge-proxy/src/main.rs", entry, &[]);
        check(
            "apps/edge-proxy/src/lib.rs",
            entry,
            &["apps/edge-proxy/src/lib.rs: unsafe outside the fence, 1 times"],
        );
        let expected = "apps/edge-proxy/src/main.rs: unsafe outside the fence, 1 times";
        check("apps/edge-proxy/src/main.rs", block, &[expected]);
    }

    #[test]
    fn blocks_and_items_are_told_apart() {
        let text = "unsafe fn f() { unsafe {\n} } unsafe impl X for Y {} \"unsafe {\"";
        let inventory = inventory(&[file("a/b.rs", text), file("a/c.rs", "fn f() {}")]);
        assert_eq!(inventory.len(), 1);
        assert_eq!(inventory["a/b"], Count { blocks: 1, items: 2 });
    }
}
