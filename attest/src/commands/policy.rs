//! `attest policy`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use attest_core::claims::KeyOrigin;
use attest_core::evidence::Evidence;
use attest_core::measured::BANK;
use attest_core::pcrs::Pcrs;
use attest_core::policy::{
    Hex, Image, MUST_SAY, PlatformTrust, Policy, Require, Rule, Rules, SCHEMA, Seal,
};
use clap::{Args, Subcommand, ValueEnum};

use super::predict::Machine;
use super::{evidence_error, json_text, trust_name};
use crate::command::Answer;
use crate::error::Error;
use crate::input::{self, MAX_SMALL_BYTES, Readers};
use crate::predict::{Pcr, Prediction};
use crate::units::{hex, plain};

/// Makes and shows reference values
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    New(Box<New>),
    Show(Show),
}

/// Makes reference values from an image
///
/// What follows from the image is pinned. PCR 0 and 1 depend on firmware and machine: they are pinned to what a boot
/// that you trust showed (--golden), or skipped, which the policy then says.
#[derive(Args, Debug)]
struct New {
    /// NAME.efi
    image: PathBuf,
    #[command(flatten)]
    machine: Machine,
    /// Evidence of a boot that you trust, for PCR 0 and 1
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    /// Where the TLS key may come from; all of them if it is not said
    #[arg(long, value_name = "ORIGIN")]
    key_origin: Vec<Origin>,
    /// Whose word is good enough
    #[arg(long, value_name = "WHOSE", default_values_t = [Trust::VtpmHost, Trust::Tpm])]
    platform_trust: Vec<Trust>,
    /// The lowest reset count of the TPM
    #[arg(long, value_name = "COUNT")]
    min_reset_count: Option<u32>,
    /// What people call the image; its file's name if it is not said
    #[arg(long)]
    name: Option<String>,
    /// Where the policy goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Shows what a policy demands
#[derive(Args, Debug)]
struct Show {
    /// The policy
    policy: PathBuf,
    /// As the JSON object that it is, checked
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Origin {
    Image,
    Ephemeral,
    Sealed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Trust {
    None,
    Unknown,
    VtpmHost,
    Tpm,
}

impl std::fmt::Display for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(trust_name(PlatformTrust::from(*self)))
    }
}

impl From<Trust> for PlatformTrust {
    fn from(trust: Trust) -> Self {
        match trust {
            Trust::None => Self::None,
            Trust::Unknown => Self::Unknown,
            Trust::VtpmHost => Self::VtpmHost,
            Trust::Tpm => Self::Tpm,
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<Answer, Error> {
    match &options.what {
        What::New(new) => create(new),
        What::Show(show) => {
            let policy = read_policy(&show.policy)?;
            let text = if show.json {
                json_text(&serde_json::to_value(&policy).map_err(|it| Error::Output(it.into()))?)
            } else {
                text_of(&policy)
            };
            Ok(text.into())
        }
    }
}

pub(crate) fn read_policy(path: &Path) -> Result<Policy, Error> {
    let bytes = input::read(path, MAX_SMALL_BYTES)?;
    Policy::parse(&bytes).map_err(|error| Error::Format {
        path: path.to_owned(),
        what: error.to_string(),
        hint: "a policy is what `attest policy new` writes",
    })
}

fn create(new: &New) -> Result<Answer, Error> {
    let prediction = new.machine.predict(&new.image)?;
    let unfit =
        |what: &str, hint| Error::Format { path: new.image.clone(), what: what.to_owned(), hint };
    let authenticode = prediction.authenticode.ok_or_else(|| {
        unfit("nobody measures this image before it runs", "name NAME.efi, not NAME.elf")
    })?;
    let gate = prediction.gate.filter(|_| prediction.is_sealed && !prediction.layouts.is_empty());
    let gate = gate.ok_or_else(|| {
        unfit("`seal audit` finds fault with this image", "`seal audit IMAGE` says which")
    })?;
    let golden = new.golden.as_deref().map(golden).transpose()?;
    let origins = if new.key_origin.is_empty() {
        vec![Origin::Image, Origin::Ephemeral, Origin::Sealed]
    } else {
        new.key_origin.clone()
    };
    let name = new.name.clone().unwrap_or_else(|| {
        new.image.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    });
    let policy = Policy {
        schema: SCHEMA.to_owned(),
        image: Image {
            name,
            sha256: Hex(prediction.sha256.to_vec()),
            authenticode_sha256: Hex(authenticode.to_vec()),
            service_sha256: Hex(prediction.service.to_vec()),
            configuration_sha256: Hex(prediction.configuration.to_vec()),
        },
        pcrs: Rules(rules(&prediction, golden.as_ref())),
        seal: Seal {
            layout_any: prediction.layouts.iter().map(|it| Hex(it.digest.to_vec())).collect(),
            gate_sha256: Hex(gate.to_vec()),
        },
        require: Require {
            key_origin_any: origins.iter().map(|it| origin_name(*it).to_owned()).collect(),
            platform_trust_any: new.platform_trust.iter().map(|it| (*it).into()).collect(),
            safe_clock: false,
            min_reset_count: new.min_reset_count,
            firmware_version_deny: Vec::new(),
        },
    };
    let json = format!("{}\n", policy.to_json());
    // The reader has the last word on what a policy is.
    Policy::parse(json.as_bytes()).map_err(|error| Error::Format {
        path: new.output.clone(),
        what: error.to_string(),
        hint: "change the options",
    })?;
    input::write(&new.output, json.as_bytes(), Readers::Everybody)?;
    Ok(text_of(&policy).into())
}

const fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Image => KeyOrigin::Image.as_str(),
        Origin::Ephemeral => KeyOrigin::Ephemeral.as_str(),
        Origin::Sealed => KeyOrigin::Sealed.as_str(),
    }
}

/// The values of a boot that somebody trusts.
fn golden(path: &Path) -> Result<Pcrs, Error> {
    let bytes = input::read(path, MAX_SMALL_BYTES)?;
    let evidence = Evidence::decode(&bytes).map_err(|error| evidence_error(path, &error))?;
    Pcrs::parse(evidence.pcrs).ok_or_else(|| evidence_error(path, &"its PCR values are not whole"))
}

fn rules(prediction: &Prediction, golden: Option<&Pcrs>) -> BTreeMap<u8, Rule> {
    let pinned = |value: &[u8]| Rule::ExpectedAny(vec![Hex(value.to_vec())]);
    let skipped = |reason: &str| Rule::Skip(reason.to_owned());
    let separator = Pcr::ZERO.measure(&[0; 4]).value();
    let rule = |pcr: u8| match (pcr, prediction.once_sealed(u32::from(pcr))) {
        (4 | 11 | 12, _) => Rule::FromImage(true),
        (_, Some(value)) => pinned(&value),
        (0 | 1, None) => match golden.and_then(|it| it.value(BANK, pcr)) {
            Some(value) => pinned(value),
            None if pcr == 0 => skipped("the firmware's build and the machine's shape decide it"),
            None => skipped("the machine's devices and boot options decide it"),
        },
        (5, None) => skipped("the disk was not given, and its partitions decide it"),
        // Nothing is measured there but the separator, unless the machine has its maker's own events.
        (6, None) => pinned(&separator),
        (_, None) => skipped("nobody foretells it"),
    };
    MUST_SAY.into_iter().map(|pcr| (pcr, rule(pcr))).collect()
}

fn text_of(policy: &Policy) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(line.trim_end());
        text.push('\n');
    };
    let image = &policy.image;
    line(format!("image          {}", plain(&image.name)));
    line(format!("sha256         {}", image.sha256));
    line(format!("authenticode   {}", image.authenticode_sha256));
    line(format!("service        {}", image.service_sha256));
    line(format!("configuration  {}", image.configuration_sha256));
    for (pcr, rule) in &policy.pcrs.0 {
        match rule {
            Rule::ExpectedAny(values) => {
                let all: Vec<_> = values.iter().map(|it| hex(&it.0)).collect();
                line(format!("PCR {pcr:2}  {}", all.join(" or ")));
            }
            Rule::FromImage(_) => line(format!("PCR {pcr:2}  as the image makes it")),
            Rule::Skip(reason) => line(format!("PCR {pcr:2}  skipped: {}", plain(reason))),
        }
    }
    line(format!("gate     {}", policy.seal.gate_sha256));
    policy.seal.layout_any.iter().for_each(|layout| line(format!("layout   {layout}")));
    line(format!("TLS key  {}", plain(&policy.require.key_origin_any.join(" or "))));
    let whose = policy.require.platform_trust_any.iter().map(|it| trust_name(*it));
    line(format!("trust    {}", whose.collect::<Vec<_>>().join(" or ")));
    if let Some(count) = policy.require.min_reset_count {
        line(format!("resets   at least {count}"));
    }
    text
}
