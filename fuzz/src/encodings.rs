//! Encodings: what parses must mean the same when it is encoded again.

use abi::configuration::{HEADER_BYTES, Header};
use abi::image::{BYTES, Manifest};
use edge_config::Config;
use edge_config::budget::Budget;
use libos::log::Escaped;

/// The header of a configuration section, which boot reads.
pub fn configuration_header(data: &[u8]) {
    let header = match Header::parse(data) {
        Ok(header) => header,
        Err(malformed) => return assert!(!malformed.to_string().is_empty()),
    };
    assert_eq!(header.encode()[..], data[..HEADER_BYTES], "every bit was understood");
    assert_eq!(Header::parse(data), Ok(header));
    let end = header.payload().end().and_then(|end| usize::try_from(end).ok());
    assert!(end.is_some_and(|end| end <= data.len()), "the payload is in the section");
}

/// The manifest of an image, which boot reads.
pub fn manifest(data: &[u8]) {
    let mut bytes = [0; BYTES];
    let count = data.len().min(BYTES);
    bytes[..count].copy_from_slice(&data[..count]);
    let manifest = match Manifest::parse(&bytes) {
        Ok(manifest) => manifest,
        Err(malformed) => return assert!(!malformed.to_string().is_empty()),
    };
    assert_eq!(Manifest::parse(&manifest.encode()), Ok(manifest));
    let mut above = 0;
    for segment in manifest.segments.iter().flatten() {
        assert!(segment.address >= above && segment.file_bytes <= segment.memory_bytes);
        above = segment.address + segment.memory_bytes;
    }
}

/// The edge proxy's configuration, which the service decodes.
pub fn edge_config(data: &[u8]) {
    let config = match Config::decode(data) {
        Ok(config) => config,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let encoded = config.encode().expect("what was decoded has passed the checks");
    assert!(encoded.len() <= data.len(), "ours is the shortest encoding");
    let budget = Budget::of(&config);
    assert!(budget.heap() >= budget.in_use());
    assert_eq!(Config::decode(&encoded), Ok(config));
}

/// How many bytes of a peer's a line of the log shows.
const SHOWN_BYTES: usize = 64;

/// A peer's bytes in a line of the log.
pub fn log_escape(data: &[u8]) {
    let text = Escaped(data).to_string();
    assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{text}");
    let mut decoded = decode_string(&text).expect("a string of RFC 8259");
    if data.len() > SHOWN_BYTES {
        assert!(decoded.ends_with(&['.'; 3]));
        decoded.truncate(decoded.len() - 3);
    }
    let shown = data.iter().take(SHOWN_BYTES).map(|byte| char::from(*byte));
    assert!(shown.eq(decoded.iter().copied()), "{text} is not {data:?}");
}

/// Decodes a string by the grammar of RFC 8259 section 7.
fn decode_string(text: &str) -> Option<Vec<char>> {
    let mut inner = text.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut decoded = Vec::new();
    while let Some(next) = inner.next() {
        decoded.push(match next {
            '"' | '\0'..='\x1f' => return None,
            '\\' => match inner.next()? {
                same @ ('"' | '\\' | '/') => same,
                'b' => '\x08',
                'f' => '\x0c',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits: String = inner.by_ref().take(4).collect();
                    let is_hex = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    char::from_u32(u32::from_str_radix(&digits, 16).ok().filter(|_| is_hex)?)?
                }
                _ => return None,
            },
            other => other,
        });
    }
    Some(decoded)
}
