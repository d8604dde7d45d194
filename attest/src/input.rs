//! Files: read with a bound, written so that nobody sees half of one.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::error::Error;
use crate::units::wide;

/// The largest image that is read. A service has at most 64 MiB and a payload 16.
pub(crate) const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// The largest variable store: OVMF's have 128 and 528 KiB.
pub(crate) const MAX_VARIABLES_BYTES: u64 = 4 << 20;

/// The largest of the small files: keys, certificates, policies, identities.
pub(crate) const MAX_SMALL_BYTES: u64 = 1 << 20;

/// The most files of certificates in a folder.
const MAX_ROOT_FILES: usize = 1024;

/// The most certificates in a file.
const MAX_CERTIFICATES: usize = 256;

/// Reads a file of bounded size, whatever it says its size is.
///
/// # Errors
///
/// [`Error::File`] if it cannot be read, [`Error::Format`] if it is larger.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let failed = |error| Error::File(path.to_owned(), error);
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if wide(bytes.len()) > limit {
        let what = format!("more than {limit} bytes");
        return Err(Error::Format { path: path.to_owned(), what, hint: "is it the right file?" });
    }
    Ok(bytes)
}

/// Reads the beginning of a file that may be large, such as a disk.
pub(crate) fn read_beginning(path: &Path, bytes: u64) -> Result<Vec<u8>, Error> {
    let failed = |error| Error::File(path.to_owned(), error);
    let file = fs::File::open(path).map_err(failed)?;
    let mut beginning = Vec::new();
    file.take(bytes).read_to_end(&mut beginning).map_err(failed)?;
    Ok(beginning)
}

/// Who may read a file that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Whoever the umask lets.
    Everybody,
    /// Its owner.
    Owner,
}

/// Writes a file whole or not at all: it is written under another name first. A program that is
/// killed in between leaves the old file as it was.
pub(crate) fn write(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), Error> {
    let failed = |error| Error::File(path.to_owned(), error);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let mode = if readers == Readers::Owner { 0o600 } else { 0o666 };
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&temporary)?;
        if readers == Readers::Owner {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // Whether or not there is one to remove, the error that counts is the first.
        let _gone = fs::remove_file(&temporary);
        failed(error)
    })
}

/// The certificates in a file: PEM, or one in DER.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path, MAX_SMALL_BYTES)?;
    let what = |what: String| Error::Format {
        path: path.to_owned(),
        what,
        hint: "name a PEM file with -----BEGIN CERTIFICATE-----, or one certificate in DER",
    };
    // A certificate in DER is a SEQUENCE (X.690, 8.9): no PEM file begins with this byte.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateDer::from(bytes)]);
    }
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        // The error's own text may hold a line of the file, and the file may be a key.
        found.push(certificate.map_err(|_| what("not well-formed PEM".to_owned()))?);
        if found.len() > MAX_CERTIFICATES {
            return Err(what(format!("more than {MAX_CERTIFICATES} certificates")));
        }
    }
    if found.is_empty() { Err(what("no certificate in it".to_owned())) } else { Ok(found) }
}

/// The certificates in a folder's files, or in one file.
pub(crate) fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    if !path.is_dir() {
        return certificates(path);
    }
    let failed = |error| Error::File(path.to_owned(), error);
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let ending = file.extension().and_then(|it| it.to_str()).unwrap_or_default();
        if ["pem", "crt", "cer", "der"].contains(&ending) {
            files.push(file);
        }
        if files.len() > MAX_ROOT_FILES {
            let what = format!("more than {MAX_ROOT_FILES} files of certificates");
            let hint = "name a folder that holds the roots and nothing else";
            return Err(Error::Format { path: path.to_owned(), what, hint });
        }
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        found.extend(certificates(&file)?);
    }
    if found.is_empty() {
        let hint = "a root is a file NAME.pem, NAME.crt, NAME.cer or NAME.der";
        let what = "no certificates in this folder".to_owned();
        return Err(Error::Format { path: path.to_owned(), what, hint });
    }
    Ok(found)
}
