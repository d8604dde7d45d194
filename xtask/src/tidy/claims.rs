//! SECURITY.md: every claim names a test that exists, and its unsafe inventory is the true one.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::File;
use super::fence::Count;
use super::source::code_of;
use crate::steps::{Error, while_doing};

const DOCUMENT: &str = "SECURITY.md";
const BEGIN: &str = "<!-- unsafe inventory -->";
const END: &str = "<!-- end of unsafe inventory -->";

/// Complains about claims without a test and about a stale inventory.
pub(crate) fn complaints(
    root: &Path,
    files: &[File],
    inventory: &BTreeMap<String, Count>,
) -> Vec<String> {
    let Ok(document) = fs::read_to_string(root.join(DOCUMENT)) else {
        return vec![format!("{DOCUMENT} is missing")];
    };
    let mut complaints = of_claims(&document, &functions(files));
    if replaced(&document, inventory).as_deref() != Some(document.as_str()) {
        complaints.push(format!(
            "{DOCUMENT}: the unsafe inventory is stale, or its markers are missing; \
             `cargo xtask tidy --write`"
        ));
    }
    complaints
}

/// Writes the inventory between its markers.
pub(crate) fn write_inventory(
    root: &Path,
    inventory: &BTreeMap<String, Count>,
) -> Result<(), Error> {
    let path = root.join(DOCUMENT);
    let document = fs::read_to_string(&path).map_err(while_doing(DOCUMENT))?;
    let document = replaced(&document, inventory)
        .ok_or_else(|| Error::Failed(format!("{DOCUMENT} has no {BEGIN} and {END}")))?;
    fs::write(&path, document).map_err(while_doing(DOCUMENT))
}

fn replaced(document: &str, inventory: &BTreeMap<String, Count>) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}{END}{after}", table(inventory)))
}

fn table(inventory: &BTreeMap<String, Count>) -> String {
    let mut table = String::from("| module | blocks | items |\n|---|---|---|\n");
    let mut all = Count::default();
    for (module, Count { blocks, items }) in inventory {
        all.blocks += blocks;
        all.items += items;
        let _ = writeln!(table, "| `{module}` | {blocks} | {items} |");
    }
    let _ = writeln!(table, "| all | {} | {} |", all.blocks, all.items);
    table
}

/// The names of all functions, tests among them.
fn functions(files: &[File]) -> HashSet<String> {
    let mut names = HashSet::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let code = code_of(&file.text);
        let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_').peekable();
        while let Some(word) = words.next() {
            if word == "fn"
                && let Some(name) = words.peek()
            {
                names.insert((*name).to_owned());
            }
        }
    }
    names
}

/// A claims table begins with a row whose first cell is `id` and whose last one is `test`.
fn of_claims(document: &str, functions: &HashSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut is_inside = false;
    let mut claims = 0;
    for line in document.lines() {
        let Some(cells) = cells(line) else {
            is_inside = false;
            continue;
        };
        if cells.first() == Some(&"id") && cells.last() == Some(&"test") {
            is_inside = true;
        } else if is_inside && !cells.iter().all(|cell| cell.trim_matches([':', '-']).is_empty()) {
            claims += 1;
            complaints.extend(of_claim(&cells, functions));
        }
    }
    if claims == 0 {
        complaints.push(format!("{DOCUMENT}: no claim in a table from `id` to `test`"));
    }
    complaints
}

fn of_claim(cells: &[&str], functions: &HashSet<String>) -> Vec<String> {
    let id = cells.first().unwrap_or(&"");
    let tests: Vec<&str> = cells.last().unwrap_or(&"").split('`').skip(1).step_by(2).collect();
    if tests.is_empty() {
        return vec![format!("{DOCUMENT}: claim {id} names no test")];
    }
    let name = |test: &&str| test.rsplit("::").next().unwrap_or(test).to_owned();
    let is_missing = |test: &&&str| !functions.contains(&name(test));
    tests
        .iter()
        .filter(is_missing)
        .map(|test| format!("{DOCUMENT}: claim {id} names `{test}`, and there is no such test"))
        .collect()
}

fn cells(line: &str) -> Option<Vec<&str>> {
    let line = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(line.split('|').map(str::trim).collect())
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[track_caller]
    fn check(row: &str, expected: &[&str]) {
        let functions =
            functions(&[file("a.rs", "#[test]\nfn text_is_read_only() {}\n// fn no()")]);
        let document =
            format!("| id | claim | by | test |\n|---|---|---|---|\n{row}\n\n| x | y |\n");
        assert_eq!(of_claims(&document, &functions), expected);
    }

    #[test]
    fn each_claim_needs_a_test_that_exists() {
        check("| S1 | a | b | `text_is_read_only` |", &[]);
        check("| S1 | a | b | `seal::text_is_read_only`, and more |", &[]);
        check("| S1 | a | b | by hand |", &["SECURITY.md: claim S1 names no test"]);
        let expected = "SECURITY.md: claim S1 names `no`, and there is no such test";
        check("| S1 | a | b | `text_is_read_only`, `no` |", &[expected]);
        check("", &["SECURITY.md: no claim in a table from `id` to `test`"]);
    }

    #[test]
    fn the_inventory_is_replaced_between_its_markers() {
        let inventory = BTreeMap::from([("a/b".to_owned(), Count { blocks: 2, items: 1 })]);
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let expected = format!(
            "before\n{BEGIN}\n| module | blocks | items |\n|---|---|---|\n| `a/b` | 2 | 1 |\n\
             | all | 2 | 1 |\n{END}\nafter\n"
        );
        let new = replaced(&document, &inventory).unwrap();
        assert_eq!(new, expected);
        assert_eq!(replaced(&new, &inventory).unwrap(), new);
        assert_eq!(replaced("no markers", &inventory), None);
    }
}
