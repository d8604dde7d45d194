//! A copy of the checkout, in which one property at a time is broken and boot is built.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use machine::process;

use crate::build::{self, Tree};
use crate::steps::{self, Error, while_doing};

/// A folder with this file in it is cargo's, wherever it lies (bford.info/cachedir).
const CACHE_TAG: &str = "CACHEDIR.TAG";

/// Folders at the top that no build needs: images, and fuzzing with all that it has found.
const UNNEEDED: [&str; 2] = ["fuzz", "out"];

/// The most bytes of sources that are copied; a checkout has a few MiB.
const MAX_BYTES: usize = 256 << 20;

/// There is one folder, so whoever works in it waits for their turn.
static TURN: Mutex<()> = Mutex::new(());

/// A copy of the checkout's sources.
///
/// It lies in one place for good, so that cargo finds what it has built there before; only files
/// whose bytes differ are written, so that it builds again what changed and nothing else.
pub(super) struct Workshop {
    tree: Tree,
    sources: BTreeMap<PathBuf, Vec<u8>>,
    _turn: MutexGuard<'static, ()>,
}

impl Workshop {
    /// Copies the checkout.
    pub(super) fn open() -> Result<Self, Error> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = build::target_dir().join("weakened");
        let tree = Tree { root: folder.join("source"), target: folder.join("guest") };
        let mut sources = BTreeMap::new();
        gather(&build::root(), Path::new(""), &mut sources)?;
        let bytes: usize = sources.values().map(Vec::len).sum();
        if bytes > MAX_BYTES {
            let reason =
                format!("the checkout has {bytes} bytes of sources, more than {MAX_BYTES}");
            return Err(Error::Failed(reason));
        }
        let workshop = Self { tree, sources, _turn: turn };
        workshop.restore()?;
        Ok(workshop)
    }

    /// Builds the service that the edge proxy is, nothing changed, and copies it to `to`.
    pub(super) fn edge_proxy(&self, to: &Path) -> Result<(), Error> {
        self.restore()?;
        steps::run(self.tree.build_services()?.arg("--quiet"))?;
        fs::copy(self.tree.guest().edge_proxy, to).map_err(while_doing(to.display()))?;
        Ok(())
    }

    /// Builds boot with these patches and nothing else changed, and copies it to `to`.
    pub(super) fn boot(&self, patches: &[&Path], to: &Path) -> Result<(), Error> {
        self.restore()?;
        for patch in patches {
            self.apply(patch)?;
        }
        let build = steps::run(self.tree.build_boot()?.arg("--quiet"));
        build.map_err(while_doing(format!("boot with {patches:?}")))?;
        fs::copy(self.tree.guest().boot, to).map_err(while_doing(to.display()))?;
        Ok(())
    }

    /// Puts every file back as the checkout had it, and takes away what is not the checkout's.
    fn restore(&self) -> Result<(), Error> {
        let mut present = BTreeMap::new();
        if self.tree.root.exists() {
            gather(&self.tree.root, Path::new(""), &mut present)?;
        }
        for (path, bytes) in &self.sources {
            if present.remove(path).as_ref() != Some(bytes) {
                let place = self.tree.root.join(path);
                let failed = || while_doing(place.display());
                fs::create_dir_all(place.parent().unwrap_or(&place)).map_err(failed())?;
                fs::write(&place, bytes).map_err(failed())?;
            }
        }
        for stale in present.keys() {
            let place = self.tree.root.join(stale);
            fs::remove_file(&place).map_err(while_doing(place.display()))?;
        }
        Ok(())
    }

    fn apply(&self, patch: &Path) -> Result<(), Error> {
        let mut git = process::tied("git");
        git.args(["apply", "--allow-empty", "-C1"]).arg(patch).current_dir(&self.tree.root);
        // Otherwise git finds the checkout around us and takes no file of ours for its own.
        git.env("GIT_CEILING_DIRECTORIES", build::target_dir().join("weakened"));
        let output = git.output().map_err(while_doing(patch.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Failed(format!("{} does not apply any more: {reason}", patch.display())))
    }
}

/// Reads every source file below `root`: nothing hidden, and no folder of [`is_unneeded`].
fn gather(
    root: &Path,
    below: &Path,
    sources: &mut BTreeMap<PathBuf, Vec<u8>>,
) -> Result<(), Error> {
    let folder = root.join(below);
    let failed = || while_doing(folder.display());
    for entry in fs::read_dir(&folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        let path = below.join(&name);
        let kind = entry.file_type().map_err(failed())?;
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_file() {
            let bytes = fs::read(entry.path()).map_err(while_doing(path.display()))?;
            sources.insert(path, bytes);
        } else if kind.is_dir() && !is_unneeded(&entry.path(), below) {
            gather(root, &path, sources)?;
        }
    }
    Ok(())
}

/// Whether a folder holds no sources of ours: it is cargo's, or no build needs it.
fn is_unneeded(folder: &Path, below: &Path) -> bool {
    let is_top = below.as_os_str().is_empty();
    let is_named = is_top && UNNEEDED.iter().any(|name| folder.ends_with(name));
    folder.ends_with("target") || is_named || folder.join(CACHE_TAG).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_are_gathered_and_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["a", "b/c.rs", "b/out/d", "target/e", ".git/f", "out/g", "fuzz/h"];
        for name in names.into_iter().chain(["cache/i", "cache/CACHEDIR.TAG"]) {
            let place = folder.path().join(name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, name).unwrap();
        }
        let mut sources = BTreeMap::new();
        gather(folder.path(), Path::new(""), &mut sources).unwrap();
        let names: Vec<_> = sources.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(names, ["a", "b/c.rs", "b/out/d"]);
        assert_eq!(sources[Path::new("b/c.rs")], b"b/c.rs");
    }

    #[test]
    fn what_a_patch_changed_is_put_back() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("source");
        let tree = Tree { root: root.clone(), target: folder.path().join("guest") };
        let sources = BTreeMap::from([(PathBuf::from("b/c"), b"one\n".to_vec())]);
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let workshop = Workshop { tree, sources, _turn: turn };
        workshop.restore().unwrap();
        let patch = folder.path().join("p.patch");
        let hunks = "--- a/b/c\n+++ b/b/c\n@@ -1 +1 @@\n-one\n+two\n\
            --- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+new\n";
        fs::write(&patch, format!("Breaks: b.\n\n{hunks}")).unwrap();
        workshop.apply(&patch).unwrap();
        assert_eq!(fs::read(root.join("b/c")).unwrap(), b"two\n");
        assert!(root.join("n").exists());
        let error = workshop.apply(&patch).unwrap_err().to_string();
        assert!(error.contains("p.patch does not apply any more"), "{error}");
        workshop.restore().unwrap();
        assert_eq!(fs::read(root.join("b/c")).unwrap(), b"one\n");
        assert!(!root.join("n").exists());
    }
}
