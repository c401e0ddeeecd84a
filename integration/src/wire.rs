//! Protocol Buffers, as far as the requests of the tests need them: fields by number.
//!
//! <https://protobuf.dev/programming-guides/encoding/>. Generated code for CRI would need `protoc` and
//! a hundred crates; the tests use some twenty messages.

/// A message being put together.
#[derive(Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// An integer, boolean or enumeration.
    pub fn number(mut self, field: u32, value: i64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value as u64);
        self
    }

    /// A string, or bytes.
    pub fn text(mut self, field: u32, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Each of the strings as an element of a repeated field.
    pub fn texts(self, field: u32, values: &[&str]) -> Self {
        values.iter().fold(self, |message, value| message.text(field, value))
    }

    /// A message inside.
    pub fn message(self, field: u32, value: Self) -> Self {
        self.text(field, value.0)
    }

    /// An entry of a map of strings.
    pub fn entry(self, field: u32, key: &str, value: &str) -> Self {
        self.message(field, Self::new().text(1, key).text(2, value))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A received message.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<(u32, Value)>);

#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Fields {
    /// Reads a message; what cannot be read ends it.
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while let Some(field) = next(&mut bytes) {
            fields.push(field);
        }
        Self(fields)
    }

    /// The number in a field, 0 if it is not there.
    pub fn number(&self, field: u32) -> i64 {
        let last = self.0.iter().rev().find_map(|(number, value)| match value {
            Value::Number(value) if *number == field => Some(*value as i64),
            _ => None,
        });
        last.unwrap_or(0)
    }

    /// The string in a field, empty if it is not there.
    pub fn text(&self, field: u32) -> String {
        self.each(field)
            .next_back()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .unwrap_or_default()
    }

    /// The message in a field, empty if it is not there.
    pub fn message(&self, field: u32) -> Self {
        self.each(field).next_back().map(Self::parse).unwrap_or_default()
    }

    /// All messages of a repeated field.
    pub fn messages(&self, field: u32) -> Vec<Self> {
        self.each(field).map(Self::parse).collect()
    }

    /// A repeated field as it came, to be sent on.
    pub fn copy(&self, field: u32, to: Message, as_field: u32) -> Message {
        self.each(field).fold(to, |message, bytes| message.text(as_field, bytes))
    }

    fn each(&self, field: u32) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.iter().filter_map(move |(number, value)| match value {
            Value::Bytes(bytes) if *number == field => Some(bytes.as_slice()),
            _ => None,
        })
    }
}

fn next(bytes: &mut &[u8]) -> Option<(u32, Value)> {
    let tag = varint(bytes)?;
    let field = u32::try_from(tag >> 3).ok()?;
    let value = match tag & 7 {
        0 => Value::Number(varint(bytes)?),
        1 => Value::Number(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?)),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Value::Bytes(take(bytes, length)?.to_vec())
        }
        5 => Value::Number(u64::from(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?))),
        _ => return None,
    };
    Some((field, value))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'b>(bytes: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}
