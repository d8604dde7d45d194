//! A TPM whose behaviour is in the nonce, and the evidence that it makes.

use std::net::Ipv4Addr;

use edge_config::{Attestation, Prefix};
use edge_proxy::attest::{Desk, Leaf, Progress, Visitor, Witness};
use libos::attest::Begin;
use libos::log::{self, Level};

/// Bytes of a request: a length and a nonce.
pub(crate) const REQUEST_BYTES: usize = 36;

/// Does what the first leaf's bytes say: whether it begins, how often it is not ready, what comes.
#[derive(Default)]
struct Scripted {
    leaf: Leaf,
    polls: u8,
}

impl Witness for Scripted {
    fn leaf(&self, nonce: &[u8; 32], exporter: &[u8; 32]) -> Leaf {
        assert_eq!(*exporter, super::session::EXPORTER);
        *nonce
    }

    fn begin(&mut self, leaves: &[Leaf]) -> Begin {
        assert_eq!(leaves.len(), 1, "one connection has one request");
        self.leaf = leaves[0];
        self.polls = 0;
        match self.leaf[0] % 8 {
            0 => Begin::Absent,
            1 => Begin::Busy,
            _ => Begin::Started,
        }
    }

    fn poll(&mut self) -> Progress {
        self.polls = self.polls.saturating_add(1);
        match self.leaf[0] % 8 {
            2 => Progress::Failed,
            3 => Progress::Pending,
            _ if self.polls <= self.leaf[1] % 8 => Progress::Pending,
            _ => Progress::Ready(evidence(&self.leaf)),
        }
    }
}

/// The evidence for a nonce.
pub(crate) fn evidence(leaf: &Leaf) -> Vec<u8> {
    let length = usize::from(leaf[2]) * 300;
    (0..length).map(|place| (place / 2) as u8 ^ leaf[3]).collect()
}

/// A desk with that TPM at it, and a client that may ask or not.
pub(crate) fn visitor(is_listed: bool) -> Visitor {
    let allow = Prefix { address: Ipv4Addr::new(10, 77, 0, 0), length: 24 };
    // A line for each quote would be all that is seen of a long run.
    log::configure(Level::Error, 1);
    let config = Attestation { allow: vec![allow], quotes_per_second: 5 };
    let peer = Ipv4Addr::new(10, 77, u8::from(!is_listed), 9);
    Visitor { desk: Desk::new(Box::new(Scripted::default()), config), peer }
}
