//! `attest predict`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::command::Answer;
use crate::error::Error;
use crate::input;
use crate::predict::{MAX_DISK_BYTES, NoStore, Prediction, SecureBoot, Variables};

/// Tells from the image file alone what firmware and boot will measure
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// NAME.efi, or NAME.elf for what boot itself measures
    image: PathBuf,
    #[command(flatten)]
    machine: Machine,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// What else is measured than the image.
#[derive(Args, Debug)]
pub(crate) struct Machine {
    /// The disk that the image is on, for PCR 5
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// `off`, or the firmware's variables (a copy of OVMF_VARS.fd), for PCR 7
    #[arg(long, value_name = "off|VARS", default_value = "off")]
    secure_boot: PathBuf,
}

impl Machine {
    /// Foretells an image on this machine.
    pub(crate) fn predict(&self, image: &Path) -> Result<Prediction, Error> {
        let file = input::read(image, input::MAX_IMAGE_BYTES)?;
        let disk = self.disk.as_deref().map(|it| input::read_beginning(it, MAX_DISK_BYTES));
        let disk = disk.transpose()?;
        let secure_boot = self.secure_boot()?;
        Prediction::of(&file, disk.as_deref(), &secure_boot).map_err(|error| Error::Format {
            path: image.to_owned(),
            what: error.to_string(),
            hint: "an image is what `cargo xtask image` writes, signed or not",
        })
    }

    fn secure_boot(&self) -> Result<SecureBoot, Error> {
        if self.secure_boot.as_os_str() == "off" {
            return Ok(SecureBoot::Off);
        }
        let store = input::read(&self.secure_boot, input::MAX_VARIABLES_BYTES)?;
        let variables = Variables::parse(&store).map_err(|error: NoStore| Error::Format {
            path: self.secure_boot.clone(),
            what: error.to_string(),
            hint: "name the file that the machine's firmware has as its second flash",
        })?;
        Ok(SecureBoot::Variables(Box::new(variables)))
    }
}

pub(crate) fn run(options: &Options) -> Result<Answer, Error> {
    let prediction = options.machine.predict(&options.image)?;
    let image = options.image.to_string_lossy();
    let text = if options.json {
        format!("{}\n", prediction.to_json(&image))
    } else {
        prediction.to_text(&image)
    };
    Ok(text.into())
}
