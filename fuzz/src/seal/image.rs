//! Image files of any contents. A real image has long runs of zeros, so they are written short.

use seal::{Name, audit};

/// The largest file that is tried: real ones are larger, but say nothing that this does not.
const MAX_BYTES: usize = 512 << 10;

/// How a run of zeros is written: a zero, and how many more follow, in two bytes.
pub(crate) fn shorten(image: &[u8]) -> Vec<u8> {
    let mut short = Vec::new();
    let mut rest = image;
    while let [first, after @ ..] = rest {
        short.push(*first);
        rest = after;
        if *first == 0 {
            let more = rest.iter().take(0xffff).take_while(|byte| **byte == 0).count();
            short.extend_from_slice(&(more as u16).to_le_bytes());
            rest = &rest[more..];
        }
    }
    short
}

/// The image that was shortened.
fn lengthen(short: &[u8]) -> Vec<u8> {
    let mut image = Vec::new();
    let mut rest = short;
    while let [first, after @ ..] = rest {
        image.push(*first);
        rest = after;
        if let (0, [low, high, after @ ..]) = (*first, rest) {
            let more = usize::from(u16::from_le_bytes([*low, *high]));
            image.resize((image.len() + more).min(MAX_BYTES), 0);
            rest = after;
        }
        if image.len() >= MAX_BYTES {
            break;
        }
    }
    image
}

/// The CLI's audit, and both ways in which it is shown.
pub fn image(data: &[u8]) {
    let image = lengthen(data);
    let report = match audit(&image) {
        Ok(report) => report,
        Err(unreadable) => return assert!(!unreadable.to_string().is_empty()),
    };
    let text = report.to_text("image.elf");
    let is_plain = |c: char| c == '\n' || (!c.is_control() && c != '\u{7f}');
    assert!(text.chars().all(is_plain), "what a file says must not reach the terminal");
    assert!(!report.to_json("image.elf").to_string().is_empty());
    for name in Name::ALL {
        let count = report.properties.iter().filter(|property| property.name == name).count();
        assert_eq!(count, 1, "every property once");
    }
    if report.is_sealed() {
        assert!(!has_writable_code(&image), "a writable and executable segment");
    }
}

/// Whether a program header says writable and executable, by its place in the format alone.
fn has_writable_code(image: &[u8]) -> bool {
    let word = |at: usize| image.get(at..at + 2).map_or(0, |w| u16::from_le_bytes([w[0], w[1]]));
    let start = image.get(32..40).and_then(|w| <[u8; 8]>::try_from(w).ok());
    let start = start.map_or(0, u64::from_le_bytes) as usize;
    let (size, count) = (usize::from(word(54)), usize::from(word(56)));
    (0..count).any(|index| {
        let flags = start.checked_add(index * size + 4).map_or(0, &word);
        flags & 3 == 3
    })
}
