//! A prediction for people, and the same for machines.

use seal::json::Value;

use super::{Foretold, Prediction, When};
use crate::image::Kind;
use crate::units::{hex, plain};

impl Prediction {
    /// The prediction as text.
    pub fn to_text(&self, image: &str) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(line.trim_end());
            text.push('\n');
        };
        line(format!("image          {}", plain(image)));
        line(format!("sha256         {}", hex(&self.sha256)));
        if let Some(digest) = &self.authenticode {
            line(format!("authenticode   {}", hex(digest)));
            line(format!("signatures     {}", self.signatures));
        }
        line(format!("service        {}", hex(&self.service)));
        line(format!("configuration  {}", hex(&self.configuration)));
        line(String::new());
        line("PCRs of the SHA-256 bank".to_owned());
        for Foretold { pcr, when, value, of } in &self.pcrs {
            line(format!("  {pcr:2}  {}  {:12}  {of}", hex(value), words(*when)));
        }
        line(String::new());
        line("the seal record, extended into PCR 12 behind the configuration".to_owned());
        let gate = self.gate.as_ref().map_or("cannot be found".to_owned(), |it| hex(it));
        line(format!("  gate    {gate}"));
        for layout in &self.layouts {
            line(format!("  layout  {}  {}", hex(&layout.digest), layout.machine));
        }
        line("  and the control registers, which depend on the CPU".to_owned());
        if !self.is_sealed {
            line(String::new());
            line("note: `seal audit` finds fault with this image".to_owned());
        }
        if self.kind == Kind::Direct {
            line(String::new());
            line(
                "note: on the direct path nobody measures boot, so PCR 11 and 12 prove nothing"
                    .to_owned(),
            );
        }
        text
    }

    /// The prediction as a JSON object of schema `bulla-predict/1`.
    pub fn to_json(&self, image: &str) -> Value {
        let digest = |digest: &[u8; 32]| Value::Text(hex(digest));
        let pcr = |it: &Foretold| {
            Value::Object(vec![
                ("pcr", Value::Number(u64::from(it.pcr))),
                ("when", Value::text(words(it.when))),
                ("sha256", digest(&it.value)),
                ("of", Value::text(it.of)),
            ])
        };
        let layouts = Value::list(&self.layouts, |it| {
            Value::Object(vec![
                ("machine", Value::text(it.machine)),
                ("sha256", digest(&it.digest)),
            ])
        });
        Value::Object(vec![
            ("schema", Value::text("bulla-predict/1")),
            ("image", Value::text(image)),
            ("sha256", digest(&self.sha256)),
            ("authenticode_sha256", self.authenticode.as_ref().map_or(Value::Null, digest)),
            ("service_sha256", digest(&self.service)),
            ("configuration_sha256", digest(&self.configuration)),
            ("gate_sha256", self.gate.as_ref().map_or(Value::Null, digest)),
            ("layouts", layouts),
            ("audited", Value::Bool(self.is_sealed)),
            ("pcrs", Value::list(&self.pcrs, pcr)),
        ])
    }
}

const fn words(when: When) -> &'static str {
    match when {
        When::Booting => "booting",
        When::Sealed => "sealed",
        When::Always => "always",
    }
}
