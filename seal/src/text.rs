//! A report for people, and the same report for machines.

use crate::audit::{Predicted, Report};
use crate::configuration::on_stop;
use crate::gate::{Decoding, Gate, Listed};
use crate::json::Value;
use crate::layout::{self, Doorbell, Place, Row};
use crate::property::Property;
use crate::scan::Family;
use crate::service_text::{Count, ServiceText};
use crate::units::{date, hex, size, spaced_hex};

/// The width of the first column.
const NAME: usize = 22;

impl Report {
    /// The report as text. Every line of it ends in a line feed, the last begins with `verdict: `.
    pub fn to_text(&self, image: &str) -> String {
        text_of(image, self)
    }

    /// The report as a JSON object, whose last member is `verdict`.
    pub fn to_json(&self, image: &str) -> Value {
        json_of(image, self)
    }
}

fn text_of(image: &str, report: &Report) -> String {
    let mut text = String::new();
    let mut line = |line: String| push_line(&mut text, &line);
    line(format!("image   {}", plain(image)));
    line(format!("sha256  {}", hex(&report.sha256)));
    line(String::new());
    line("what is loaded".to_owned());
    for part in &report.parts {
        let name = plain(&part.name);
        let (address, bytes) = (part.address, size(part.memory_bytes));
        line(format!("  {name:NAME$} {address:#010x}  {}  {bytes}", part.rights));
    }
    if let Some(gate) = &report.gate {
        gate_lines(gate, &mut line);
    }
    if let Some(service) = &report.service_text {
        service_lines(service, &mut line);
    }
    layout_lines(&report.layouts, &mut line);
    line(String::new());
    for Property { name, holds, detail } in &report.properties {
        let mark = if *holds { "ok  " } else { "FAIL" };
        line(format!("{mark}  {:NAME$}  {}", name.as_str(), plain(detail)));
    }
    line(String::new());
    line(format!("verdict: {}", report.verdict()));
    text
}

/// Text from a file, without what a terminal might take for an order.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn gate_lines(gate: &Gate, line: &mut impl FnMut(String)) {
    line(String::new());
    line(format!(
        "the gate: {} bytes, {} of them code: {} instructions, {} branches, {} bytes of padding",
        gate.bytes, gate.code_bytes, gate.instructions, gate.branches, gate.padding_bytes
    ));
    line(format!("  sha256 {}", hex(&gate.sha256)));
    line("  privileged instructions and stores, by offset in the gate".to_owned());
    let mut listed: Vec<_> = gate.allowed.iter().chain(&gate.stores).collect();
    listed.sort_by_key(|it| it.offset);
    for Listed { offset, text, reason, .. } in listed {
        line(format!("    +{offset:#05x}  {text:40}  {reason}"));
    }
    if !gate.forbidden.is_empty() {
        line("  FORBIDDEN".to_owned());
        gate.forbidden.iter().for_each(|found| line(decoding_line(found)));
    }
    line(format!(
        "  decodings that nobody meant: {}. Each begins inside an instruction or a text; no branch \
         leads there,",
        gate.unintended.len()
    ));
    line("  and ring 3 enters ring 0 only at the addresses in the IDT".to_owned());
    gate.unintended.iter().for_each(|found| line(decoding_line(found)));
}

fn decoding_line(found: &Decoding) -> String {
    format!("    +{:#05x}  {:24}  {}", found.offset, spaced_hex(&found.bytes), found.text)
}

fn service_lines(service: &ServiceText, line: &mut impl FnMut(String)) {
    line(String::new());
    let agreement = match service.differences {
        0 => "the two scanners agree".to_owned(),
        count => format!("the two scanners differ at {count} offsets"),
    };
    line(format!(
        "the service's text: {} bytes, for information: ring 3 can do none of this; {agreement}",
        service.bytes
    ));
    line(format!("    {:30} {:>10} {:>10}", "", "intended", "unintended"));
    for (family, by_decoder, by_patterns) in &service.families {
        // What only the patterns know is counted by them.
        let count = if family.is_known_to_decoder() { by_decoder } else { by_patterns };
        let Count { intended, unintended } = count;
        line(format!("    {:30} {intended:>10} {unintended:>10}", family.name()));
    }
}

fn layout_lines(layouts: &[Predicted], line: &mut impl FnMut(String)) {
    line(String::new());
    line("the address space that boot will build (`seal explain` draws it)".to_owned());
    for layout in layouts {
        let digest = match &layout.refused {
            None => hex(&layout.digest),
            Some(refused) => format!("refused: {refused}"),
        };
        line(format!("  {:32} {:2} regions  {digest}", layout.name, layout.rows.len()));
    }
}

fn json_of(image: &str, report: &Report) -> Value {
    let property = |property: &Property| {
        Value::Object(vec![
            ("name", Value::text(property.name.as_str())),
            ("holds", Value::Bool(property.holds)),
            ("detail", Value::text(&*property.detail)),
        ])
    };
    let usual = report.layout();
    Value::Object(vec![
        ("image", Value::text(image)),
        ("sha256", Value::Text(hex(&report.sha256))),
        ("properties", Value::list(&report.properties, property)),
        ("segments", segments(report)),
        ("gate", report.gate.as_ref().map_or(Value::Null, gate)),
        ("configuration", configuration(report)),
        ("layout", usual.map_or(Value::List(Vec::new()), |it| Value::list(&it.rows, row))),
        ("layout_digest", usual.map_or(Value::Null, |it| Value::Text(hex(&it.digest)))),
        ("layout_variants", Value::list(&report.layouts, variant)),
        ("service_text", report.service_text.as_ref().map_or(Value::Null, service)),
        ("verdict", Value::text(report.verdict())),
    ])
}

fn segments(report: &Report) -> Value {
    Value::list(&report.parts, |part| {
        Value::Object(vec![
            ("name", Value::text(&*part.name)),
            ("address", Value::address(part.address)),
            ("file_bytes", Value::Number(part.file_bytes)),
            ("memory_bytes", Value::Number(part.memory_bytes)),
            ("rights", Value::Text(part.rights.to_string())),
        ])
    })
}

fn gate(gate: &Gate) -> Value {
    let listed = |listed: &Listed| {
        Value::Object(vec![
            ("offset", Value::Number(listed.offset)),
            ("address", Value::address(layout::GATE_TEXT.saturating_add(listed.offset))),
            ("bytes", Value::Text(spaced_hex(&listed.bytes))),
            ("instruction", Value::text(&*listed.text)),
            ("reason", Value::text(listed.reason)),
        ])
    };
    let decoding = |found: &Decoding| {
        Value::Object(vec![
            ("offset", Value::Number(found.offset)),
            ("family", Value::text(found.family.name())),
            ("bytes", Value::Text(spaced_hex(&found.bytes))),
            ("instruction", Value::text(&*found.text)),
        ])
    };
    Value::Object(vec![
        ("bytes", Value::Number(gate.bytes)),
        ("sha256", Value::Text(hex(&gate.sha256))),
        ("tail_bytes", Value::Number(gate.tail_bytes)),
        ("code_bytes", Value::Number(gate.code_bytes)),
        ("instructions", Value::Number(gate.instructions)),
        ("padding_bytes", Value::Number(gate.padding_bytes)),
        ("branches", Value::Number(gate.branches)),
        ("allowed", Value::list(&gate.allowed, listed)),
        ("stores", Value::list(&gate.stores, listed)),
        ("unintended", Value::list(&gate.unintended, decoding)),
        ("forbidden", Value::list(&gate.forbidden, decoding)),
        ("decoder_findings", Value::Number(gate.decoder_findings)),
        ("pattern_findings", Value::Number(gate.pattern_findings)),
        ("differences", Value::list(gate.differences.iter().copied(), Value::Number)),
    ])
}

fn configuration(report: &Report) -> Value {
    let Some(header) = &report.header else { return Value::Null };
    Value::Object(vec![
        ("heap_bytes", Value::Number(header.heap_bytes)),
        ("stack_bytes", Value::Number(header.stack_bytes)),
        ("on_stop", Value::text(on_stop(header.on_stop))),
        ("needs_nic", Value::Bool(header.needs_nic)),
        ("build_unix_s", Value::Number(header.build_unix_s)),
        ("built", Value::Text(date(header.build_unix_s))),
        ("payload_bytes", Value::Number(header.payload_bytes)),
    ])
}

fn row(row: &Row) -> Value {
    let (base, offset) = match row.place {
        Place::Service(offset) => ("service", offset),
        Place::Gate(address) => ("none", address),
    };
    Value::Object(vec![
        ("kind", Value::text(row.kind.name())),
        ("relative_to", Value::text(base)),
        ("address", Value::address(offset)),
        ("bytes", Value::Number(row.length)),
        ("rights", Value::Text(layout::rights(row.kind))),
    ])
}

fn variant(predicted: &Predicted) -> Value {
    let refused = predicted.refused.as_deref().map_or(Value::Null, Value::text);
    let machine = predicted.machine;
    Value::Object(vec![
        ("name", Value::text(predicted.name)),
        ("nic", Value::Bool(machine.has_nic)),
        ("tpm", Value::Bool(machine.has_tpm)),
        ("generation_id", Value::Bool(machine.has_generation_id)),
        ("shared_doorbell", Value::Bool(machine.doorbell == Doorbell::Shared)),
        ("doorbell_by_gate", Value::Bool(machine.doorbell == Doorbell::ByGate)),
        ("large_pages", Value::Bool(machine.has_large_pages)),
        ("layout_digest", Value::Text(hex(&predicted.digest))),
        ("refused", refused),
        ("layout", Value::list(&predicted.rows, row)),
    ])
}

fn service(service: &ServiceText) -> Value {
    let count = |count: &Count| {
        Value::Object(vec![
            ("intended", Value::Number(count.intended)),
            ("unintended", Value::Number(count.unintended)),
        ])
    };
    let family = |(family, by_decoder, by_patterns): &(Family, Count, Count)| {
        Value::Object(vec![
            ("name", Value::text(family.name())),
            ("forbidden_in_the_gate", Value::Bool(family.is_forbidden())),
            ("decoder", count(by_decoder)),
            ("patterns", count(by_patterns)),
        ])
    };
    Value::Object(vec![
        ("bytes", Value::Number(service.bytes)),
        ("families", Value::list(&service.families, family)),
        ("differences", Value::Number(service.differences)),
    ])
}

/// Appends a line.
pub(crate) fn push_line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}
