//! Values in GVariant's text format, as annotations have them: `true`, `uint64 5`, `'text'`, `['a', 'b']`,
//! `@as []`.
//!
//! See [the format](https://docs.gtk.org/glib/gvariant-text-format.html). A number without a type is an
//! `int32`. Dictionaries, maybes and floating-point numbers are not read: no property of a unit has them.

use super::wire::Value;

/// How deep values may lie in each other.
const DEEPEST: usize = 16;

/// Types by their keyword.
const KEYWORDS: [(&str, &str); 11] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

/// Reads a value.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text, depth: 0 };
    let value = parser.value(None)?;
    match parser.peek() {
        // The length of a signature is one byte.
        None if value.signature().len() > 255 => Err("too many parts".to_owned()),
        None => Ok(value),
        Some(_) => Err(format!("{:?} is left behind the value", parser.rest)),
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn next_is(&mut self, wanted: char) -> bool {
        let is = self.peek() == Some(wanted);
        if is {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        is
    }

    /// Takes what `wanted` accepts off the front.
    fn word(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn value(&mut self, of: Option<&str>) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("values lie too deep in each other".to_owned());
        }
        let value = match self.peek() {
            None => Err("a value is missing".to_owned()),
            Some('@') => {
                self.rest = &self.rest[1..];
                let signature = self.word(|c| !c.is_whitespace());
                self.value(Some(signature))
            }
            Some('\'' | '"') => self.quoted().and_then(|text| string(of, text)),
            Some('[') => self.array(of),
            Some('(') => self.tuple(of),
            Some('<') => self.variant(),
            Some(_) => self.bare(of),
        };
        self.depth -= 1;
        value
    }

    /// A number, a boolean, or a type's keyword and its value.
    fn bare(&mut self, of: Option<&str>) -> Result<Value, String> {
        let word = self.word(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
        if let Some((_, signature)) = KEYWORDS.iter().find(|(keyword, _)| *keyword == word) {
            return self.value(Some(signature));
        }
        match word {
            "true" | "false" if of.is_none_or(|of| of == "b") => Ok(Value::Bool(word == "true")),
            _ => number(word, of.unwrap_or("i")),
        }
    }

    fn quoted(&mut self) -> Result<String, String> {
        let mut chars = self.rest.chars();
        let quote = chars.next();
        let mut text = String::new();
        loop {
            match chars.next() {
                None => return Err("a quote is not closed".to_owned()),
                Some(c) if Some(c) == quote => break,
                Some('\\') => text.push(match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some(c @ ('\\' | '\'' | '"')) => c,
                    _ => return Err("an unknown escape sequence".to_owned()),
                }),
                Some('\0') => return Err("a NUL character".to_owned()),
                Some(c) => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(text)
    }

    fn array(&mut self, of: Option<&str>) -> Result<Value, String> {
        let mut element = match of.map(|of| of.strip_prefix('a')) {
            Some(None) => return Err("an array where none is wanted".to_owned()),
            given => given.flatten().map(str::to_owned),
        };
        let items = self.list(']', |parser| {
            let value = parser.value(element.as_deref())?;
            if *element.get_or_insert_with(|| value.signature()) != value.signature() {
                return Err("elements of different types".to_owned());
            }
            Ok(value)
        })?;
        let element = element.ok_or("an empty array needs its type, as in \"@as []\"")?;
        // The element type of an empty array is the caller's word.
        let plain = |c: char| "ybnqiuxtsogv".contains(c);
        if items.is_empty() && !(element.len() == 1 && element.chars().all(plain)) {
            return Err(format!("an empty array of {element:?}"));
        }
        Ok(Value::Array(element, items))
    }

    fn tuple(&mut self, of: Option<&str>) -> Result<Value, String> {
        let parts = self.list(')', |parser| parser.value(None))?;
        let value = Value::Struct(parts);
        match of {
            Some(of) if of != value.signature() => Err(format!("a tuple that is no {of:?}")),
            _ => Ok(value),
        }
    }

    fn variant(&mut self) -> Result<Value, String> {
        self.rest = &self.rest[1..];
        let value = self.value(None)?;
        if !self.next_is('>') {
            return Err("\">\" is missing".to_owned());
        }
        Ok(Value::Variant(Box::new(value)))
    }

    /// What stands between brackets, divided by commas.
    fn list(
        &mut self,
        end: char,
        mut item: impl FnMut(&mut Self) -> Result<Value, String>,
    ) -> Result<Vec<Value>, String> {
        self.rest = &self.rest[1..];
        let mut items = Vec::new();
        while !self.next_is(end) {
            if !items.is_empty() && !self.next_is(',') {
                return Err(format!("\",\" or {end:?} is missing"));
            }
            // A tuple of one has a comma behind it.
            if self.next_is(end) {
                break;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }
}

fn string(of: Option<&str>, text: String) -> Result<Value, String> {
    match of {
        None | Some("s") => Ok(Value::Text(text)),
        Some("o") => Ok(Value::Path(text)),
        Some("g") if text.len() < 256 => Ok(Value::Signature(text)),
        Some(of) => Err(format!("a string where {of:?} is wanted")),
    }
}

fn number(word: &str, of: &str) -> Result<Value, String> {
    let wrong = || format!("{word:?} is no value of type {of:?}");
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let magnitude = match digits.strip_prefix("0x") {
        Some(hexadecimal) => i128::from_str_radix(hexadecimal, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i128::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    // A second sign is none of the format's.
    let magnitude = magnitude.ok().filter(|_| !digits.starts_with(['-', '+'])).ok_or_else(wrong)?;
    let value = if negative { -magnitude } else { magnitude };
    let typed = match of {
        "y" => u8::try_from(value).map(Value::Byte),
        "n" => i16::try_from(value).map(Value::I16),
        "q" => u16::try_from(value).map(Value::U16),
        "i" => i32::try_from(value).map(Value::I32),
        "u" => u32::try_from(value).map(Value::U32),
        "x" => i64::try_from(value).map(Value::I64),
        "t" => u64::try_from(value).map(Value::U64),
        _ => return Err(wrong()),
    };
    typed.map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let texts = |texts: &[&str]| Value::texts(texts.iter().copied());
        for (text, expected) in [
            ("true", Value::Bool(true)),
            (" 5 ", Value::I32(5)),
            ("-0x10", Value::I32(-16)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("@t 5", Value::U64(5)),
            ("byte 7", Value::Byte(7)),
            ("int16 -3", Value::I16(-3)),
            ("'a\\'b'", Value::text("a'b")),
            ("\"inactive-or-failed\"", Value::text("inactive-or-failed")),
            ("objectpath '/a'", Value::Path("/a".into())),
            ("['a', 'b']", texts(&["a", "b"])),
            ("['a',]", texts(&["a"])),
            ("@as []", texts(&[])),
            ("@at [1, 2]", Value::Array("t".into(), vec![Value::U64(1), Value::U64(2)])),
            ("(1, 'x')", Value::Struct(vec![Value::I32(1), Value::text("x")])),
            ("<true>", Value::Variant(Box::new(Value::Bool(true)))),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refused() {
        let deep = "[".repeat(10_000);
        let wide = format!("({})", "1,".repeat(300));
        for (text, part) in [
            ("", "missing"),
            ("5 5", "left behind"),
            ("'open", "not closed"),
            ("[]", "needs its type"),
            ("@a [", "missing"),
            ("@a(sv) []", "empty array"),
            ("[1, 'a']", "wanted"),
            ("[(1, 2), (1, 'a')]", "no \"(ii)\""),
            ("uint32 -1", "no value"),
            ("5.5", "no value"),
            ("--5", "no value"),
            ("word", "no value"),
            ("'\\x'", "escape"),
            ("@s 5", "no value"),
            ("@t 'x'", "wanted"),
            (deep.as_str(), "deep"),
            (wide.as_str(), "too many"),
            ("[1, @s 'a']", "different types"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
