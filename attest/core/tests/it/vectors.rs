//! Files of `tests/vectors`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use attest_core::hash::Algorithm;
use attest_core::policy::Hex;

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name)
}

#[track_caller]
pub(crate) fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[track_caller]
pub(crate) fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&read(name)).unwrap()
}

/// `{"0": "hex", ..}`.
pub(crate) fn values(value: &serde_json::Value) -> BTreeMap<u8, Vec<u8>> {
    let pairs = value.as_object().unwrap().iter();
    pairs
        .map(|(pcr, hex)| (pcr.parse().unwrap(), Hex::parse(hex.as_str().unwrap()).unwrap().0))
        .collect()
}

pub(crate) fn algorithm(name: &str) -> Algorithm {
    Algorithm::ALL.into_iter().find(|it| it.as_str() == name).unwrap()
}
