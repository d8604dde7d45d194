//! The options of every command that asks a machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::client::{self, Exchange, Server};
use crate::error::Error;
use crate::input;

/// How to reach a machine, and what to ask of its certificate.
#[derive(Args, Debug)]
pub(crate) struct Peer {
    /// Who must have signed the server's certificate; without it any certificate will do, since the
    /// evidence names its key
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name to ask for, if it is not the host's
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// How many seconds all of it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl Peer {
    /// Asks the machine at an address.
    pub(crate) fn ask(&self, address: &str) -> Result<Exchange, Error> {
        let authorities = self.ca.as_deref().map(input::certificates).transpose()?;
        let server = Server {
            address: address.to_owned(),
            name: self.server_name.clone(),
            authorities: authorities.unwrap_or_default(),
            patience: Duration::from_secs(self.timeout),
        };
        client::ask(&server).map_err(|error| Error::Failed {
            class: error.class(),
            what: format!("{address}: {error}"),
            hint: error.hint(),
        })
    }
}
