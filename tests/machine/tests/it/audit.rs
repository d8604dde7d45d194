//! The image that is booted everywhere else is one that `seal audit` calls sealed.

use std::fs;

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
        let report = seal::audit(&fs::read(&path).unwrap()).unwrap();
        let text = report.to_text(&path.display().to_string());
        assert!(report.is_sealed(), "{text}");
        let properties = text.lines().filter(|line| line.starts_with("ok ")).count();
        assert_eq!(properties, 10, "{text}");
    }
}
