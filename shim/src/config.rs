//! The shim's configuration text: one flat object of JSON, or the part of TOML that is flat.
//!
//! containerd's CRI hands a runtime that is not runc its `options` section as TOML
//! (`runtimeoptions.v1.Options.ConfigBody`), or the path of a file that an administrator wrote. Both
//! are lists of keys with a string, an integer or a boolean; tables, arrays and dates would have no
//! meaning here and are errors.

use runtime::{Error, ErrorKind, Result};
use serde_json::{Map, Value};

/// Parses a configuration text; `origin` says in errors where it is from.
///
/// # Errors
/// `Invalid` with the line or the reason.
pub fn parse(text: &str, origin: &str) -> Result<Map<String, Value>> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| invalid(origin, error.to_string()));
    }
    let mut map = Map::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |reason: &str| invalid(origin, format!("line {}: {reason}", index + 1));
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            return Err(wrong("tables are not known here"));
        }
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("is not `key = value`"))?;
        let key = key.trim().trim_matches('"');
        let value = toml_value(value.trim()).ok_or_else(|| {
            wrong(&format!("{key}: is not a string, an integer or a boolean in one line"))
        })?;
        if map.insert(key.to_owned(), value).is_some() {
            return Err(wrong(&format!("{key}: is there twice")));
        }
    }
    Ok(map)
}

/// One value and the comment behind it.
fn toml_value(text: &str) -> Option<Value> {
    let (value, rest) = match text.as_bytes().first()? {
        b'\'' => {
            let (inside, rest) = text[1..].split_once('\'')?;
            (Value::from(inside), rest)
        }
        b'"' => {
            let end = closing_quote(text)?;
            // Of TOML's escapes, JSON lacks those that nobody needs in a path.
            (serde_json::from_str(&text[..=end]).ok()?, &text[end + 1..])
        }
        _ => {
            let end = text.find('#').unwrap_or(text.len());
            let value = match text[..end].trim() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                number => Value::from(number.replace('_', "").parse::<i64>().ok()?),
            };
            (value, &text[end..])
        }
    };
    let rest = rest.trim_start();
    (rest.is_empty() || rest.starts_with('#')).then_some(value)
}

/// Where the string ends that begins `text`.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return Some(index),
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

fn invalid(origin: &str, reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, "read configuration", origin, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        let expected = r#"{"SystemdCgroup":true,"Root":"/a \"b\"","IoUid":1000,"Name":"c#d"}"#;
        let toml = "# written by CRI\nSystemdCgroup = true # on\nRoot = \"/a \\\"b\\\"\"\n\n\"IoUid\" = 1_000\nName = 'c#d'\n";
        let expected: Map<String, Value> = serde_json::from_str(expected).unwrap();
        assert_eq!(parse(toml, "x").unwrap(), expected);
        assert_eq!(parse(&serde_json::to_string(&expected).unwrap(), "x").unwrap(), expected);
        assert!(parse("", "x").unwrap().is_empty());
    }

    #[test]
    fn what_is_refused() {
        for (text, reason) in [
            ("[options]\nA = 1", "line 1: tables are not known here"),
            ("A", "line 1: is not `key = value`"),
            ("A = 1\nA = 2", "line 2: A: is there twice"),
            ("A = [1]", "line 1: A: is not a string, an integer or a boolean in one line"),
            ("A = \"x", "line 1: A: is not a string, an integer or a boolean in one line"),
            ("A = \"x\" y", "line 1: A: is not a string, an integer or a boolean in one line"),
            ("A = 1.5", "line 1: A: is not a string, an integer or a boolean in one line"),
        ] {
            let error = parse(text, "\"/c\"").unwrap_err().to_string();
            assert_eq!(error, format!("read configuration \"/c\": {reason}"));
        }
        assert!(parse("{\"A\":", "x").is_err());
    }
}
