//! Writing JSON (RFC 8259). A report needs six kinds of value and no reader: less code than a
//! dependency, in a program whose worth is that it can be read.

use std::fmt;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Number(u64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object, in the order given.
    Object(Vec<(&'static str, Value)>),
}

impl Value {
    /// A string.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// An address in hexadecimal: a string, since readers may round numbers above 2^53.
    pub fn address(address: u64) -> Self {
        Self::Text(format!("{address:#x}"))
    }

    /// An array of what `each` makes of the items.
    pub fn list<T>(items: impl IntoIterator<Item = T>, each: impl FnMut(T) -> Self) -> Self {
        Self::List(items.into_iter().map(each).collect())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) => write_text(f, text),
            Self::List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", separator(index))?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    f.write_str(separator(index))?;
                    write_text(f, name)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

const fn separator(index: usize) -> &'static str {
    if index == 0 { "" } else { "," }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for letter in text.chars() {
        match letter {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            // C0 controls must be escaped; DEL and C1 would do as they are, but not on a terminal.
            control if control.is_control() => write!(f, "\\u{:04x}", u32::from(control))?,
            other => write!(f, "{other}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::Value;

    #[track_caller]
    fn check(value: &Value, expected: &str) {
        assert_eq!(value.to_string(), expected);
    }

    #[test]
    fn values_are_written_as_the_rfc_says() {
        check(&Value::Null, "null");
        check(&Value::Bool(true), "true");
        check(&Value::Number(u64::MAX), "18446744073709551615");
        check(&Value::address(0xffff_ffff_ffc0_2000), "\"0xffffffffffc02000\"");
        check(&Value::List(vec![]), "[]");
        check(&Value::list([1, 2], Value::Number), "[1,2]");
        let object = Value::Object(vec![("a", Value::Null), ("b", Value::List(vec![]))]);
        check(&object, r#"{"a":null,"b":[]}"#);
    }

    #[test]
    fn no_text_breaks_out_of_its_quotes() {
        check(&Value::text("a\"b\\c"), r#""a\"b\\c""#);
        check(&Value::text("\n\0\u{1b}[31m"), r#""\u000a\u0000\u001b[31m""#);
        check(&Value::text("\u{7f}\u{9b}ü"), r#""\u007f\u009bü""#);
    }
}
