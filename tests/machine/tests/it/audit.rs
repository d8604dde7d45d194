//! The image that is booted everywhere else is one that `seal audit` calls sealed.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use xtask::samples::{self, Proxy};

use crate::support::GUEST;

#[test]
fn the_file_alone_shows_that_the_images_are_sealed() {
    let folder = TempDir::with_prefix("bulla-audit-").unwrap();
    let backend = "127.0.0.1:8080".parse().unwrap();
    let proxy = Proxy { config: "demo", backend, changes: &[] };
    let proxy = proxy.image(&GUEST, folder.path()).unwrap();
    let probe = samples::probe(&GUEST, "control", folder.path()).unwrap();
    for path in [proxy, probe] {
        let direct = audit(&path);
        let efi = audit(&path.with_extension("efi"));
        let digests = |report: &seal::Report| -> Vec<_> {
            report.layouts.iter().map(|layout| (layout.name, layout.digest)).collect()
        };
        assert_eq!(digests(&direct), digests(&efi), "both doors lead to one address space");
        assert_eq!(direct.gate.unwrap().sha256, efi.gate.unwrap().sha256);
    }
}

/// Reads a file and fails unless every property holds.
#[track_caller]
fn audit(path: &Path) -> seal::Report {
    let report = seal::audit(&fs::read(path).unwrap()).unwrap();
    let text = report.to_text(&path.display().to_string());
    assert!(report.is_sealed(), "{text}");
    let properties = text.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(properties, 10, "{text}");
    report
}
