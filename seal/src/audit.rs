//! The audit: every property, in order.

use abi::configuration::Header;
use abi::image::Manifest;
use sha2::{Digest, Sha256};

use crate::file::{File, Unreadable};
use crate::gate::{self, Gate};
use crate::layout::{self, Machine, Row};
use crate::property::{Complaints, Name, Property, not_checked};
use crate::segments::{self, Part};
use crate::service_text::{self, ServiceText};
use crate::{configuration, manifest, relocations};

/// What an audit found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Every property once.
    pub properties: Vec<Property>,
    /// What is loaded.
    pub parts: Vec<Part>,
    /// The gate, if there is one.
    pub gate: Option<Gate>,
    /// The configuration's header, if it can be read.
    pub header: Option<Header>,
    /// The address spaces that boot may build: the usual machine's first.
    pub layouts: Vec<Predicted>,
    /// The service's text, if the manifest says where it is.
    pub service_text: Option<ServiceText>,
}

/// One address space that boot may build.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// What is different about the machine.
    pub name: &'static str,
    /// The machine.
    pub machine: Machine,
    /// The regions, ascending by address.
    pub rows: Vec<Row>,
    /// The SHA-256 of their canonical text.
    pub digest: [u8; 32],
    /// Why boot would refuse it, if it would.
    pub refused: Option<String>,
}

impl Report {
    /// Whether every property was looked at and holds.
    pub fn is_sealed(&self) -> bool {
        let holds = |name| self.properties.iter().any(|it| it.name == name && it.holds);
        self.properties.iter().all(|it| it.holds) && Name::ALL.into_iter().all(holds)
    }

    /// The verdict in words.
    pub fn verdict(&self) -> &'static str {
        if self.is_sealed() { "sealed" } else { "not sealed" }
    }

    /// The address space of the usual machine.
    pub fn layout(&self) -> Option<&Predicted> {
        self.layouts.first()
    }
}

/// Audits an image.
///
/// # Errors
///
/// [`Unreadable`] if the bytes are neither an ELF file nor a UEFI application for this CPU. Everything else is a property that
/// does not hold.
pub fn audit(bytes: &[u8]) -> Result<Report, Unreadable> {
    let file = File::parse(bytes)?;
    let mut properties = vec![segments::check(&file), segments::check_write_xor_execute(&file)];
    let (manifest_holds, manifest) = manifest::check(&file);
    properties.push(manifest_holds);
    let header = match &manifest {
        Some(manifest) => {
            properties.push(relocations::check(&file, manifest));
            let (configuration_holds, header) = configuration::check(&file, manifest);
            properties.push(configuration_holds);
            header
        }
        None => {
            let dependent = [Name::Relocations, Name::Configuration];
            properties.extend(dependent.map(|name| not_checked(name, Name::Manifest)));
            None
        }
    };
    let (gate_properties, gate) = gate::check(&file);
    properties.extend(gate_properties);
    let layouts = predict(manifest.as_ref(), header.as_ref());
    properties.push(match layouts.first() {
        Some(usual) => check_layouts(usual, &layouts),
        None if manifest.is_none() => not_checked(Name::Layout, Name::Manifest),
        None => not_checked(Name::Layout, Name::Configuration),
    });
    Ok(Report {
        sha256: Sha256::digest(bytes).into(),
        properties,
        parts: segments::parts(&file),
        gate,
        header,
        layouts,
        service_text: manifest.map(|manifest| service_text::look(&file, &manifest)),
    })
}

fn predict(manifest: Option<&Manifest>, header: Option<&Header>) -> Vec<Predicted> {
    let (Some(manifest), Some(header)) = (manifest, header) else { return Vec::new() };
    let predicted = |(name, machine): (&'static str, Machine)| {
        let rows = layout::predict(manifest, header, &machine);
        let refused = match rows.as_deref().map(layout::check) {
            Some(Ok(_)) => None,
            Some(Err(violation)) => Some(violation.to_string()),
            None => Some("it is larger than any address space".to_owned()),
        };
        let rows = rows.unwrap_or_default();
        let digest = layout::digest(&rows);
        Predicted { name, machine, rows, digest, refused }
    };
    Machine::variants(header).into_iter().map(predicted).collect()
}

fn check_layouts(usual: &Predicted, layouts: &[Predicted]) -> Property {
    let mut complaints = Complaints::default();
    // Small pages need more tables than boot has for the largest heaps; it says so and stops.
    for layout in layouts.iter().filter(|layout| layout.machine.has_large_pages) {
        if let Some(refused) = &layout.refused {
            complaints.add(format_args!("{}: {refused}", layout.name));
        }
    }
    let facts = format!(
        "{} regions, each with one right, guards round the heap and below every stack, no address \
         twice, at the lowest and the highest base; {} other machines likewise",
        usual.rows.len(),
        layouts.len().saturating_sub(1)
    );
    complaints.about(Name::Layout, facts)
}
