//! What a server is called.

use alloc::string::String;
use core::fmt;
use core::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes (RFC 1035 section 2.3.4, as text).
const MAX_BYTES: usize = 253;

/// The longest part between two dots.
const MAX_LABEL_BYTES: usize = 63;

/// A DNS name or an IPv4 address, as text. What was decoded may be anything until it was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name(String);

impl Name {
    /// A name with that text.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The address that it is, if it is one.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.0.parse().ok()
    }

    /// Whether a server can be called that: an address, or a whole host name without a wildcard.
    pub fn is_sound(&self) -> bool {
        self.address().is_some() || (self.0.len() <= MAX_BYTES && is_host_name(&self.0))
    }
}

fn is_host_name(text: &str) -> bool {
    // RFC 1123 section 2.1; what ends in a number is no name but a wrong address.
    let ends_in_number =
        text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    !ends_in_number && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let is_edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && is_edge(label.bytes().next())
        && is_edge(label.bytes().last())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[track_caller]
    fn check(text: &str, is_sound: bool) {
        assert_eq!(Name::new(text.into()).is_sound(), is_sound, "{text:?}");
    }

    #[test]
    fn names_are_host_names_or_addresses() {
        for text in ["a", "sealed.test", "EDGE-1.example.org", "192.0.2.1", "xn--bcher-kva.example"]
        {
            check(text, true);
        }
        for text in ["", ".", "a.", ".a", "a..b", "-a.test", "a-.test", "*.test", "a_b.test", "a b"]
        {
            check(text, false);
        }
        for text in ["192.0.2.256", "192.0.2", "1", "a.1", "\u{e9}.test", "a\0.test"] {
            check(text, false);
        }
        check(&["a"; 64].concat(), false);
        check(&["a"; 63].concat(), true);
        check(&[["b"; 63].concat().as_str(); 4].join("."), false);
    }
}
