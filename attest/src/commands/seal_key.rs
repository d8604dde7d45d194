//! `attest seal-key`.

use std::path::{Path, PathBuf};

use clap::Args;
use seal::json::Value;
use zeroize::Zeroizing;

use super::predict::Machine;
use crate::command::Answer;
use crate::endorsement;
use crate::error::Error;
use crate::identity::{self, Unfit};
use crate::image::Kind;
use crate::input::{self, MAX_SMALL_BYTES, Readers};
use crate::predict::Prediction;
use crate::sealed_file::{self, NotSealed};
use crate::tpm::{Policy, StorageKey};
use crate::units::{hex, plain};

/// Which PCRs a key is sealed to if nobody says otherwise: no option ROM, this image, these Secure
/// Boot keys, and its configuration before boot is over.
const PCRS: [u32; 4] = [2, 4, 7, 11];

/// Seals a server's key to one TPM and one image, offline
///
/// Only that TPM opens the file, and only while it boots that image. The file may lie anywhere:
/// firmware reads it from \EFI\BULLA\KEY.SEALED on the disk that the image is on.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The private key: PEM, PKCS #8
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The chain of certificates: PEM, the server's first
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// The TPM's endorsement key: its certificate, TPM2B_PUBLIC or TPMT_PUBLIC
    #[arg(long, value_name = "FILE")]
    ek: PathBuf,
    /// The image that may have the key: NAME.efi
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    #[command(flatten)]
    machine: Machine,
    /// The PCRs that must be as foretold
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = PCRS)]
    pcrs: Vec<u32>,
    /// The sealed file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<Answer, Error> {
    let (chain, key) = read_identity(&options.key, &options.chain)?;
    let ek = endorsement::read_key(&options.ek)?;
    let prediction = options.machine.predict(&options.image)?;
    let values = values(&prediction, &options.pcrs)?;
    let policy = Policy::new(values.clone())
        .ok_or_else(|| Error::Usage("--pcrs: each PCR once, and at least one".to_owned()))?;
    let file =
        sealed_file::make(&ek, &policy, &chain, &key).map_err(|error| unsealed(options, error))?;
    input::write(&options.output, &file, Readers::Owner)?;
    let text = if options.json {
        format!("{}\n", json(options, &ek, &policy, &values, file.len()))
    } else {
        text(options, &ek, &values, file.len())
    };
    Ok(text.into())
}

/// A chain of certificates, and their key.
type Identity = (Vec<Vec<u8>>, Zeroizing<Vec<u8>>);

fn read_identity(key: &Path, chain: &Path) -> Result<Identity, Error> {
    let unfit = |path: &Path, error: Unfit| Error::Format {
        path: path.to_owned(),
        what: error.to_string(),
        hint: error.hint(),
    };
    let pem = Zeroizing::new(input::read(chain, MAX_SMALL_BYTES)?);
    let certificates = identity::chain(&pem).map_err(|error| unfit(chain, error))?;
    let pem = Zeroizing::new(input::read(key, MAX_SMALL_BYTES)?);
    let key = identity::key(&pem, &certificates).map_err(|error| unfit(key, error))?;
    Ok((certificates, key))
}

fn values(prediction: &Prediction, pcrs: &[u32]) -> Result<Vec<(u32, [u8; 32])>, Error> {
    if prediction.kind == Kind::Direct {
        let what = "a key can be sealed to NAME.efi only: nobody measures NAME.elf";
        return Err(Error::Usage(what.to_owned()));
    }
    let value = |pcr: &u32| match prediction.while_booting(*pcr) {
        Some(value) => Ok((*pcr, value)),
        None if *pcr == 5 => Err(Error::Usage("PCR 5 needs --disk".to_owned())),
        None => Err(Error::Usage(format!("PCR {pcr} cannot be foretold from an image"))),
    };
    pcrs.iter().map(value).collect()
}

fn unsealed(options: &Options, error: NotSealed) -> Error {
    let hint = match error {
        NotSealed::TooLarge { .. } => "leave the root out of the chain",
        NotSealed::Wrap(_) => {
            "check the endorsement key: `tpm2_readpublic -c 0x81010016 -o EK.pub`"
        }
    };
    Error::Format { path: options.output.clone(), what: error.to_string(), hint }
}

fn text(options: &Options, ek: &StorageKey, values: &[(u32, [u8; 32])], bytes: usize) -> String {
    let path = |path: &Path| plain(&path.to_string_lossy());
    let mut text = format!(
        "sealed   {}, {bytes} bytes\nfor TPM  {}, {}\nimage    {}\n",
        path(&options.output),
        path(&options.ek),
        ek.describe(),
        path(&options.image)
    );
    for (pcr, value) in values {
        text.push_str(&format!("  PCR {pcr:2}  {}\n", hex(value)));
    }
    text
}

fn json(
    options: &Options,
    ek: &StorageKey,
    policy: &Policy,
    values: &[(u32, [u8; 32])],
    bytes: usize,
) -> Value {
    let pcr = |(pcr, value): &(u32, [u8; 32])| {
        Value::Object(vec![
            ("pcr", Value::Number(u64::from(*pcr))),
            ("sha256", Value::Text(hex(value))),
        ])
    };
    Value::Object(vec![
        ("schema", Value::text("bulla-seal-key/1")),
        ("output", Value::text(options.output.to_string_lossy())),
        ("bytes", Value::Number(crate::units::wide(bytes))),
        ("ek", Value::Text(ek.describe())),
        ("policy_sha256", Value::Text(hex(&policy.digest()))),
        ("pcrs", Value::list(values, pcr)),
    ])
}
