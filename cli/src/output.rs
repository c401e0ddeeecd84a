//! Standard output, and JSON as Go's encoder writes it.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::program::Failure;

/// Writes to standard output. A reader that has gone away wants no more: that is no failure. Podman
/// closes the streams of `state` early and must still see its exit code.
pub fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::message(format!("write standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// JSON on one line.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map(|text| escaped(&text)).map_err(Failure::from_json)
}

/// JSON on lines with an indent.
pub fn pretty_json(value: &impl Serialize, indent: &str) -> Result<String, Failure> {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(indent.as_bytes());
    value
        .serialize(&mut Serializer::with_formatter(&mut text, formatter))
        .map_err(Failure::from_json)?;
    Ok(escaped(&String::from_utf8_lossy(&text)))
}

/// Go escapes what a browser could take for markup, and the line separators of JavaScript. None of
/// these characters occurs in JSON outside of a string.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => text.push(c),
        }
    }
    text
}

/// Text of somebody else's with control characters escaped, which a terminal would obey.
pub fn printable(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(json(&"<a&b>\u{2028}ü\"").unwrap(), r#""\u003ca\u0026b\u003e\u2028ü\"""#);
    }

    #[test]
    fn indents() {
        let value = serde_json::json!({"a": [1], "b": {}});
        let text = pretty_json(&value, "  ").unwrap();
        assert_eq!(text, "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}");
    }
}
