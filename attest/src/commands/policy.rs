//! `attest policy`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use attest_core::claims::KeyOrigin;
use attest_core::evidence::Evidence;
use attest_core::measured::{BANK, SEPARATOR};
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
    let golden = new.golden.as_deref().map(golden).transpose()?;
    let policy = policy_of(new, &prediction, golden.as_ref())?;
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

fn policy_of(new: &New, prediction: &Prediction, golden: Option<&Pcrs>) -> Result<Policy, Error> {
    let unfit =
        |what: &str, hint| Error::Format { path: new.image.clone(), what: what.to_owned(), hint };
    let authenticode = prediction.authenticode.ok_or_else(|| {
        unfit("nobody measures this image before it runs", "name NAME.efi, not NAME.elf")
    })?;
    let gate = prediction.gate.filter(|_| prediction.is_sealed && !prediction.layouts.is_empty());
    let gate = gate.ok_or_else(|| {
        unfit("`seal audit` finds fault with this image", "`seal audit IMAGE` says which")
    })?;
    let name = new.name.clone().unwrap_or_else(|| {
        new.image.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    });
    let hex = |digest: &[u8; 32]| Hex(digest.to_vec());
    Ok(Policy {
        schema: SCHEMA.to_owned(),
        image: Image {
            name,
            sha256: hex(&prediction.sha256),
            authenticode_sha256: hex(&authenticode),
            service_sha256: hex(&prediction.service),
            configuration_sha256: hex(&prediction.configuration),
        },
        pcrs: Rules(rules(prediction, golden)),
        seal: Seal {
            layout_any: prediction.layouts.iter().map(|it| hex(&it.digest)).collect(),
            gate_sha256: hex(&gate),
        },
        require: require(new),
    })
}

fn require(new: &New) -> Require {
    let all = [Origin::Image, Origin::Ephemeral, Origin::Sealed];
    let origins = if new.key_origin.is_empty() { &all[..] } else { &new.key_origin };
    Require {
        key_origin_any: origins.iter().map(|it| origin_name(*it).to_owned()).collect(),
        platform_trust_any: new.platform_trust.iter().map(|it| (*it).into()).collect(),
        safe_clock: false,
        min_reset_count: new.min_reset_count,
        firmware_version_deny: Vec::new(),
    }
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
    let separator = Pcr::ZERO.measure(&SEPARATOR).value();
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::image::Kind;
    use crate::predict::{Foretold, Layout, When};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        new: New,
    }

    fn new(options: &[&str]) -> New {
        let line = [&["policy", "dir/edge.efi", "-o", "p"], options].concat();
        Line::try_parse_from(line).unwrap().new
    }

    fn prediction() -> Prediction {
        let foretold = |pcr, when, byte| Foretold { pcr, when, value: [byte; 32], of: "" };
        Prediction {
            sha256: [1; 32],
            kind: Kind::Efi,
            authenticode: Some([2; 32]),
            signatures: 0,
            service: [3; 32],
            configuration: [4; 32],
            gate: Some([5; 32]),
            layouts: vec![Layout { machine: "usual", digest: [6; 32] }],
            is_sealed: true,
            pcrs: vec![
                foretold(2, When::Always, 22),
                foretold(3, When::Always, 23),
                foretold(4, When::Always, 24),
                foretold(7, When::Always, 27),
                foretold(11, When::Booting, 28),
                foretold(11, When::Sealed, 29),
            ],
        }
    }

    #[test]
    fn a_policy_pins_what_is_foretold_and_says_what_it_skips() {
        let policy = policy_of(&new(&[]), &prediction(), None).unwrap();
        assert_eq!(Policy::parse(policy.to_json().as_bytes()).as_ref(), Ok(&policy));
        assert_eq!(policy.image.name, "edge");
        let pinned = |byte| Rule::ExpectedAny(vec![Hex(vec![byte; 32])]);
        let rules = &policy.pcrs.0;
        assert_eq!((&rules[&2], &rules[&7]), (&pinned(22), &pinned(27)));
        assert_eq!((&rules[&4], &rules[&11]), (&Rule::FromImage(true), &Rule::FromImage(true)));
        assert!(
            [0, 1, 5].iter().all(|pcr| matches!(&rules[pcr], Rule::Skip(why) if !why.is_empty()))
        );
        assert!(matches!(rules[&6], Rule::ExpectedAny(_)));
    }

    #[test]
    fn what_a_trusted_boot_showed_is_pinned_too() {
        let values = (0..16).map(|pcr| vec![100 + pcr; 32]).collect();
        let algorithm = BANK;
        let golden = Pcrs::new(vec![attest_core::pcrs::Bank { algorithm, values }]);
        let policy = policy_of(&new(&[]), &prediction(), Some(&golden)).unwrap();
        let pinned = |byte| Rule::ExpectedAny(vec![Hex(vec![byte; 32])]);
        assert_eq!(policy.pcrs.0[&0], pinned(100));
        assert_eq!(policy.pcrs.0[&1], pinned(101));
        assert_eq!(policy.pcrs.0[&2], pinned(22));
    }

    #[test]
    fn what_is_demanded_is_what_was_asked_for() {
        let options =
            ["--key-origin", "sealed", "--platform-trust", "tpm", "--min-reset-count", "7"];
        let require = require(&new(&options));
        assert_eq!(require.key_origin_any, ["sealed"]);
        assert_eq!(require.platform_trust_any, [PlatformTrust::Tpm]);
        assert_eq!(require.min_reset_count, Some(7));
        let require = super::require(&new(&[]));
        assert_eq!(require.key_origin_any, ["image", "ephemeral", "sealed"]);
        assert_eq!(require.platform_trust_any, [PlatformTrust::VtpmHost, PlatformTrust::Tpm]);
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Prediction)) {
        let mut prediction = prediction();
        change(&mut prediction);
        assert!(policy_of(&new(&[]), &prediction, None).is_err());
    }

    #[test]
    fn there_is_no_policy_for_an_image_that_nobody_measures_or_that_is_not_sealed() {
        refused(|it| it.authenticode = None);
        refused(|it| it.gate = None);
        refused(|it| it.layouts.clear());
        refused(|it| it.is_sealed = false);
    }
}
