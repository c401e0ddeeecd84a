//! A strict reader of JSON text along a [`Shape`].
//!
//! One pass over the text gives a value without nulls and unknown properties. What it refuses, and
//! `serde_json` on its own does not: a key given twice (two parsers may disagree on which one counts,
//! and a policy check may have seen the other), a required property that is missing, a NUL byte in a
//! string (a C string would end there, so the kernel would see another path than a check did), and
//! any value of another JSON type than the specification's. Every error names the JSON path.
//!
//! Depth is limited by `serde_json` (128 levels), so that deep nesting is an error and not a crash.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::{self, Write};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde_json::{Map, Number, Value};

use super::schema::{Field, Need, Shape};
use crate::error::{Error, ErrorKind, Result};

/// The longest reason that an error quotes: values can be megabytes.
const REASON: usize = 400;

/// Where the reader is, as a chain of stack frames: it costs nothing until an error needs it.
#[derive(Clone, Copy)]
enum Place<'a> {
    Root,
    Member(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Member(parent, key) => {
                parent.fmt(f)?;
                f.write_str(&member(matches!(parent, Place::Root), key))
            }
            Place::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A key as a step of a JSON path: `.limit`, or `["net.ipv4.ip_forward"]` for other than names.
pub(crate) fn member(first: bool, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match (plain, first) {
        (true, true) => key.to_owned(),
        (true, false) => format!(".{key}"),
        (false, _) => format!("[{}]", brief(&format!("{key:?}"))),
    }
}

/// A path of `serde_path_to_error` in the notation of [`Place`].
pub(crate) fn path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                write!(text, "[{index}]").expect("a string takes any text");
            }
            Segment::Map { key } => text.push_str(&member(text.is_empty(), key)),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

/// The start of a text that may be huge.
pub(crate) fn brief(text: &str) -> String {
    if text.len() <= REASON {
        return text.to_owned();
    }
    let mut end = REASON;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}... ({} bytes)", &text[..end], text.len())
}

/// What the walk collects beside the value.
struct Notes<'w> {
    /// The place of the first error: the innermost frame writes it, those around find it written.
    failed: RefCell<Option<String>>,
    warnings: RefCell<&'w mut Vec<String>>,
}

impl Notes<'_> {
    fn fail<E>(&self, place: Place<'_>, error: E) -> E {
        self.failed.borrow_mut().get_or_insert_with(|| place.to_string());
        error
    }
}

/// Reads `json` along `shape`. `subject` names the text in errors that have no path.
pub(crate) fn read(
    json: &[u8],
    shape: &'static Shape,
    subject: &str,
    warnings: &mut Vec<String>,
) -> Result<Value> {
    let notes = Notes { failed: RefCell::new(None), warnings: RefCell::new(warnings) };
    let mut text = serde_json::Deserializer::from_slice(json);
    let node = Node { shape, place: Place::Root, notes: &notes };
    let value = node.deserialize(&mut text).and_then(|value| text.end().map(|()| value));
    let value = value.and_then(|value| match value {
        Value::Null => Err(wrong(Unexpected::Unit, shape)),
        other => Ok(other),
    });
    value.map_err(|error| {
        let place = notes.failed.take().filter(|place| !place.is_empty());
        refuse(place.as_deref().unwrap_or(subject), error)
    })
}

/// The error for a value at `place`.
pub(crate) fn refuse(place: &str, reason: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, "parse", place, brief(&reason.to_string()))
}

struct Node<'a, 'w> {
    shape: &'static Shape,
    place: Place<'a>,
    notes: &'a Notes<'w>,
}

fn wrong<E: serde::de::Error>(found: Unexpected<'_>, shape: &Shape) -> E {
    let expected = match shape {
        Shape::Text => "a string",
        Shape::Bool => "true or false",
        Shape::Number => "an integer",
        Shape::List(_) => "an array",
        Shape::Map(_) | Shape::Object(_) => "an object",
    };
    E::invalid_type(found, &expected)
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Value, D::Error> {
        text.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        match self.shape {
            Shape::Bool => Ok(Value::Bool(value)),
            other => Err(wrong(Unexpected::Bool(value), other)),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        match self.shape {
            Shape::Number => Ok(Value::Number(value.into())),
            other => Err(wrong(Unexpected::Unsigned(value), other)),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        match self.shape {
            Shape::Number => Ok(Value::Number(value.into())),
            other => Err(wrong(Unexpected::Signed(value), other)),
        }
    }

    // No property has a fraction; an integer beyond 64 bits arrives here too.
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let shown = Number::from_f64(value).map(|n| n.to_string()).unwrap_or_default();
        match self.shape {
            Shape::Number => {
                Err(E::custom(format_args!("{shown} is not an integer of at most 64 bits")))
            }
            other => Err(wrong(Unexpected::Float(value), other)),
        }
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        match self.shape {
            Shape::Text if value.contains('\0') => {
                Err(E::custom(format_args!("{} contains a NUL byte", brief(&format!("{value:?}")))))
            }
            Shape::Text => Ok(Value::String(value)),
            other => Err(wrong(Unexpected::Str(&brief(&value)), other)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let Shape::List(shape) = self.shape else {
            return Err(wrong(Unexpected::Seq, self.shape));
        };
        let mut list = Vec::new();
        loop {
            let place = Place::Item(&self.place, list.len());
            let node = Node { shape, place, notes: self.notes };
            match items.next_element_seed(node) {
                Ok(Some(Value::Null)) => {
                    return Err(self.notes.fail(place, wrong(Unexpected::Unit, shape)));
                }
                Ok(Some(item)) => list.push(item),
                Ok(None) => return Ok(Value::Array(list)),
                Err(error) => return Err(self.notes.fail(place, error)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        match self.shape {
            Shape::Map(shape) => self.data(map, shape),
            Shape::Object(fields) => self.properties(map, fields),
            other => Err(wrong(Unexpected::Map, other)),
        }
    }
}

impl Node<'_, '_> {
    fn data<'de, A: MapAccess<'de>>(
        self,
        mut map: A,
        shape: &'static Shape,
    ) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let place = Place::Member(&self.place, &key);
            let node = Node { shape, place, notes: self.notes };
            let error = |reason: A::Error| self.notes.fail(place, reason);
            let value = map.next_value_seed(node).map_err(error)?;
            // Here null is not "absent": Go reads it as the zero value, and dropping the entry would
            // ignore a setting.
            if value.is_null() {
                return Err(error(wrong(Unexpected::Unit, shape)));
            }
            if key.contains('\0') {
                return Err(error(A::Error::custom("the key contains a NUL byte")));
            }
            if members.contains_key(&key) {
                return Err(error(A::Error::custom("is given twice")));
            }
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }

    fn properties<'de, A: MapAccess<'de>>(
        self,
        mut map: A,
        fields: &'static [Field],
    ) -> Result<Value, A::Error> {
        let mut members = Map::new();
        let mut seen = 0_u64;
        let mut unknown = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let place = Place::Member(&self.place, &key);
            let error = |reason: A::Error| self.notes.fail(place, reason);
            let Some(index) = fields.iter().position(|field| field.name == key) else {
                map.next_value::<IgnoredAny>().map_err(error)?;
                // A parser that ignores case, as Go's does, would read this as the known property.
                if let Some(field) = fields.iter().find(|f| f.name.eq_ignore_ascii_case(&key)) {
                    self.notes.warnings.borrow_mut().push(format!(
                        "{place}: unknown property is ignored (spelled {:?} in the specification)",
                        field.name
                    ));
                }
                if unknown.contains(&key) {
                    return Err(error(A::Error::custom("is given twice")));
                }
                unknown.insert(key);
                continue;
            };
            if seen & (1 << index) != 0 {
                return Err(error(A::Error::custom("is given twice")));
            }
            seen |= 1 << index;
            let field = &fields[index];
            let node = Node { shape: &field.shape, place, notes: self.notes };
            match map.next_value_seed(node).map_err(error)? {
                Value::Null => {}
                Value::String(text) if text.is_empty() => {
                    if field.need == Need::Required {
                        return Err(error(A::Error::custom("\"\" is empty")));
                    }
                }
                value => {
                    members.insert(key, value);
                }
            }
        }
        for field in fields {
            if field.need == Need::Required && !members.contains_key(field.name) {
                let place = Place::Member(&self.place, field.name);
                return Err(self.notes.fail(place, A::Error::custom("is required")));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::schema;

    fn error(json: &[u8]) -> String {
        read(json, &schema::CONFIG, "config.json", &mut Vec::new()).unwrap_err().to_string()
    }

    #[test]
    fn text_that_is_not_json_is_refused_where_it_stops() {
        let deep = format!("{{\"ociVersion\":{}", "[".repeat(100_000));
        let known = format!("{{\"mounts\":{}", "[".repeat(100_000));
        let ignored = format!("{{\"x\":{}", "[".repeat(100_000));
        let cases: &[(&[u8], &str)] = &[
            (b"", "parse config.json: EOF while parsing a value"),
            (b"  \n", "parse config.json: EOF while"),
            (b"nul", "parse config.json: EOF while"),
            (b"null", "parse config.json: invalid type: null, expected an object"),
            (b"[]", "parse config.json: invalid type: sequence, expected an object"),
            (b"\"x\"", "parse config.json: invalid type: string \"x\", expected an object"),
            (b"{\"ociVersion\":\"1.0.0\",\"root\":{\"path\":\"r\"}} x", "trailing characters"),
            (b"{\"root\":{\"path\":\"r", "parse root.path: EOF while parsing a string"),
            (b"{\"root\":{\"path\":\"r\"", "parse root: EOF while parsing an object"),
            (b"{\"root\":{\"path\":\"\xff\xfe\"", "parse root.path: invalid unicode code point"),
            (b"{\"root\":{\"path\":\"\\ud800\"}}", "parse root.path: "),
            (b"{\"root\":{\"path\":\"a\nb\"}}", "parse root.path: control character"),
            (b"{\"process\":{\"args\":[\"a\",}", "parse process.args[1]: "),
            (b"\xef\xbb\xbf{}", "parse config.json: expected value"),
            (deep.as_bytes(), "parse ociVersion: "),
            (known.as_bytes(), "parse mounts[0]: "),
            (ignored.as_bytes(), "parse x: "),
        ];
        for (json, expected) in cases {
            let error = error(json);
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        let cases: &[(&str, &str)] = &[
            (r#"{"ociVersion":"1.0.0","ociVersion":"1.0.0"}"#, "parse ociVersion: is given twice"),
            (r#"{"root":{"path":"a","path":"b"}}"#, "parse root.path: is given twice"),
            (r#"{"root":null,"root":{"path":"b"}}"#, "parse root: is given twice"),
            (
                r#"{"annotations":{"a.b":"1","a.b":"2"}}"#,
                "parse annotations[\"a.b\"]: is given twice",
            ),
            (r#"{"x":1,"x":2}"#, "parse x: is given twice"),
            (r#"{"linux":{"sysctl":{"a":null}}}"#, "parse linux.sysctl.a: invalid type: null"),
            (r#"{"root":{"path":"a\u0000b"}}"#, "parse root.path: \"a\\0b\" contains a NUL byte"),
            (r#"{"annotations":{"a\u0000b":"1"}}"#, "the key contains a NUL byte"),
            (r#"{"root":["r",true]}"#, "parse root: invalid type: sequence, expected an object"),
            (r#"{"process":{"args":[null]}}"#, "parse process.args[0]: invalid type: null"),
            (
                r#"{"linux":{"seccomp":{"defaultAction":{"SCMP_ACT_ALLOW":null}}}}"#,
                "parse linux.seccomp.defaultAction: invalid type: map, expected a string",
            ),
            (r#"{"linux":{"resources":{"cpu":{"shares":1.5}}}}"#, "1.5 is not an integer"),
            (
                r#"{"linux":{"resources":{"cpu":{"shares":18446744073709551616}}}}"#,
                "parse linux.resources.cpu.shares: 1.8446744073709552e+19 is not an integer",
            ),
            (r#"{"ociVersion":"1.0.0"}"#, "parse root: is required"),
            (r#"{"ociVersion":"1.0.0","root":{}}"#, "parse root.path: is required"),
            (r#"{"ociVersion":"1.0.0","root":{"path":""}}"#, "parse root.path: \"\" is empty"),
        ];
        for (json, expected) in cases {
            let error = error(json.as_bytes());
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn values_that_go_leaves_unset_and_unknown_properties_are_dropped() {
        let mut warnings = Vec::new();
        let json = br#"{"ociVersion":"1.0.0","root":{"path":"r","new":[{"a":1}]},"hostname":"",
            "hooks":null,"Process":{"cwd":3},"linux":{"seccomp":null}}"#;
        let value = read(json, &schema::CONFIG, "config.json", &mut warnings).unwrap();
        assert_eq!(value, serde_json::json!({"ociVersion":"1.0.0","root":{"path":"r"},"linux":{}}));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("Process: unknown property is ignored"));
    }

    #[test]
    fn a_huge_value_is_quoted_in_part() {
        let json = format!("{{\"root\":\"{}\"}}", "é".repeat(1 << 20));
        let error = error(json.as_bytes());
        assert!(error.len() < 1000 && error.starts_with("parse root: invalid type"), "{error}");
    }
}
