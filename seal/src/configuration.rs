//! The configuration section's header: all that boot reads of it. The rest is the service's, and
//! may hold a private key, so it is never looked at.

use abi::Span;
use abi::configuration::{HEADER_BYTES, Header, OnStop};
use abi::image::Manifest;

use crate::file::File;
use crate::property::{Complaints, Name, Property};
use crate::units::{date, size, wide};

/// Reads and checks the header. It is there even if the property does not hold, as long as it is
/// one at all.
pub(crate) fn check(file: &File<'_>, manifest: &Manifest) -> (Property, Option<Header>) {
    let mut complaints = Complaints::default();
    let place = manifest.configuration;
    let section = file.origin().and_then(|origin| {
        let start = origin.checked_add(place.start)?;
        file.at(Span::new(start, place.length))
    });
    let header = match section.map(Header::parse) {
        Some(Ok(header)) => Some(header),
        Some(Err(malformed)) => {
            complaints.add(malformed);
            None
        }
        None => {
            complaints.add("section is not in the file");
            None
        }
    };
    let Some(header) = header else {
        return (complaints.about(Name::Configuration, String::new()), None);
    };
    let needed = wide(HEADER_BYTES).saturating_add(header.payload_bytes);
    complaints.unless(needed == place.length, || {
        format!("header and payload have {needed} bytes, but the section has {}", place.length)
    });
    let nic = if header.needs_nic { "a NIC" } else { "no NIC" };
    let facts = format!(
        "heap {}, stack {}, {nic}, then {}; built {}; payload {} bytes (not shown)",
        size(header.heap_bytes),
        size(header.stack_bytes),
        on_stop(header.on_stop),
        date(header.build_unix_s),
        header.payload_bytes
    );
    (complaints.about(Name::Configuration, facts), Some(header))
}

/// What the machine does after a stop, in words.
pub(crate) const fn on_stop(on_stop: OnStop) -> &'static str {
    match on_stop {
        OnStop::Reset => "reset",
        OnStop::PowerOff => "power off",
        OnStop::Halt => "halt",
    }
}
