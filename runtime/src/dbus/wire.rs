//! D-Bus values and messages as bytes: the types that systemd's calls use.
//!
//! See the [specification](https://dbus.freedesktop.org/doc/dbus-specification.html#message-protocol).
//! Messages are written and read in this machine's byte order, which is that of every peer on it.

/// What a message is.
pub(crate) const METHOD_CALL: u8 = 1;
/// See [`METHOD_CALL`].
pub(crate) const METHOD_RETURN: u8 = 2;
/// See [`METHOD_CALL`].
pub(crate) const ERROR: u8 = 3;
/// See [`METHOD_CALL`].
pub(crate) const SIGNAL: u8 = 4;

/// Longest message that is taken: the specification's limit.
pub(crate) const LONGEST: usize = 128 << 20;

const ORDER: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };
const VERSION: u8 = 1;
/// The fixed part of a header, up to the length of its fields.
const FIXED: usize = 16;

/// A value of D-Bus's type system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Text(String),
    Path(String),
    Signature(String),
    /// The elements' signature, for an array may be empty.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    /// A string.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// An array of strings.
    #[cfg(test)]
    pub(crate) fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Array("s".to_owned(), texts.into_iter().map(Self::text).collect())
    }

    /// An array of bytes.
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        Self::Array("y".to_owned(), bytes.iter().map(|&byte| Self::Byte(byte)).collect())
    }

    /// The type in D-Bus's notation.
    pub(crate) fn signature(&self) -> String {
        let word = match self {
            Self::Byte(_) => "y",
            Self::Bool(_) => "b",
            Self::I16(_) => "n",
            Self::U16(_) => "q",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Text(_) => "s",
            Self::Path(_) => "o",
            Self::Signature(_) => "g",
            Self::Variant(_) => "v",
            Self::Array(element, _) => return format!("a{element}"),
            Self::Struct(parts) => {
                return format!("({})", parts.iter().map(Self::signature).collect::<String>());
            }
        };
        word.to_owned()
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Byte(value) => out.push(*value),
            Self::Bool(value) => put(out, &u32::from(*value).to_ne_bytes()),
            Self::I16(value) => put(out, &value.to_ne_bytes()),
            Self::U16(value) => put(out, &value.to_ne_bytes()),
            Self::I32(value) => put(out, &value.to_ne_bytes()),
            Self::U32(value) => put(out, &value.to_ne_bytes()),
            Self::I64(value) => put(out, &value.to_ne_bytes()),
            Self::U64(value) => put(out, &value.to_ne_bytes()),
            Self::Text(text) | Self::Path(text) => {
                put(out, &length(text.len()));
                out.extend(text.as_bytes());
                out.push(0);
            }
            Self::Signature(text) => {
                out.push(text.len() as u8);
                out.extend(text.as_bytes());
                out.push(0);
            }
            Self::Array(element, items) => {
                put(out, &length(0));
                let at = out.len();
                pad(out, alignment(element));
                let start = out.len();
                items.iter().for_each(|item| item.write(out));
                let bytes = length(out.len() - start);
                out[at - 4..at].copy_from_slice(&bytes);
            }
            Self::Struct(parts) => {
                pad(out, 8);
                parts.iter().for_each(|part| part.write(out));
            }
            Self::Variant(value) => {
                Self::Signature(value.signature()).write(out);
                value.write(out);
            }
        }
    }
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("what we send is short").to_ne_bytes()
}

/// A number at its natural alignment.
fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    pad(out, bytes.len());
    out.extend(bytes);
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// A method call.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    /// The peer's name on a bus; `None` where there is only one peer.
    pub destination: Option<&'a str>,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub body: &'a [Value],
}

impl Call<'_> {
    /// The message's bytes, numbered `serial`.
    pub(crate) fn write(&self, serial: u32) -> Vec<u8> {
        let mut fields = vec![
            (1, Value::Path(self.path.to_owned())),
            (2, Value::text(self.interface)),
            (3, Value::text(self.member)),
        ];
        fields.extend(self.destination.map(|name| (6, Value::text(name))));
        message(METHOD_CALL, serial, fields, self.body)
    }
}

/// A message's bytes. `fields` are those of its header, by code, without the body's signature.
pub(crate) fn message(
    kind: u8,
    serial: u32,
    mut fields: Vec<(u8, Value)>,
    values: &[Value],
) -> Vec<u8> {
    let mut body = Vec::new();
    values.iter().for_each(|value| value.write(&mut body));
    if !values.is_empty() {
        let signature = values.iter().map(Value::signature).collect();
        fields.push((8, Value::Signature(signature)));
    }
    let field =
        |(code, value)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
    let mut out = vec![ORDER, kind, 0, VERSION];
    put(&mut out, &length(body.len()));
    put(&mut out, &serial.to_ne_bytes());
    Value::Array("(yv)".to_owned(), fields.into_iter().map(field).collect()).write(&mut out);
    pad(&mut out, 8);
    out.extend(body);
    out
}

/// A message that came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// [`METHOD_RETURN`], [`ERROR`], [`SIGNAL`] ...
    pub kind: u8,
    /// The serial of the call that this answers.
    pub reply_to: u32,
    pub interface: String,
    pub member: String,
    /// Of an error.
    pub error: String,
    /// The name that a bus knows the sender by; empty where there is no bus.
    pub sender: String,
    pub signature: String,
    body: Vec<u8>,
}

/// What is not a message of this protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Message {
    /// Takes the first message off `bytes`, or nothing while it is not complete.
    pub(crate) fn take(bytes: &mut Vec<u8>) -> Result<Option<Self>, Malformed> {
        if bytes.len() < FIXED {
            return Ok(None);
        }
        let number = |at: usize| {
            let four = bytes[at..at + 4].try_into().expect("four bytes");
            u32::from_ne_bytes(four) as usize
        };
        if bytes[0] != ORDER || bytes[3] != VERSION {
            return Err(Malformed);
        }
        let (body, fields) = (number(4), number(12));
        let start = (FIXED + fields).next_multiple_of(8);
        if start + body > LONGEST {
            return Err(Malformed);
        }
        if bytes.len() < start + body {
            return Ok(None);
        }
        let mut message = Self { kind: bytes[1], ..Self::default() };
        message.fields(&bytes[..FIXED + fields])?;
        message.body = bytes[start..start + body].to_vec();
        bytes.drain(..start + body);
        Ok(Some(message))
    }

    fn fields(&mut self, header: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader { bytes: header, at: FIXED };
        while reader.at < header.len() {
            reader.pad(8)?;
            let code = reader.byte()?;
            let signature = reader.signature()?;
            match signature.as_str() {
                "s" | "o" => {
                    let text = reader.text()?;
                    match code {
                        2 => self.interface = text,
                        3 => self.member = text,
                        4 => self.error = text,
                        7 => self.sender = text,
                        _ => {}
                    }
                }
                "u" => {
                    let number = reader.number()?;
                    if code == 5 {
                        self.reply_to = number;
                    }
                }
                "g" => {
                    let text = reader.signature()?;
                    if code == 8 {
                        self.signature = text;
                    }
                }
                _ => return Err(Malformed),
            }
        }
        Ok(())
    }

    /// The body's leading strings and 32-bit numbers, as text.
    pub(crate) fn words(&self) -> Result<Vec<String>, Malformed> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        let mut words = Vec::new();
        for kind in self.signature.bytes() {
            words.push(match kind {
                b's' | b'o' => reader.text()?,
                b'u' => reader.number()?.to_string(),
                _ => break,
            });
        }
        Ok(words)
    }
}

/// Reads values at their alignment.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn pad(&mut self, to: usize) -> Result<(), Malformed> {
        self.at = self.at.next_multiple_of(to);
        if self.at > self.bytes.len() { Err(Malformed) } else { Ok(()) }
    }

    fn take(&mut self, count: usize) -> Result<&[u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        self.pad(4)?;
        Ok(u32::from_ne_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = self.number()? as usize;
        self.string(length)
    }

    fn signature(&mut self) -> Result<String, Malformed> {
        let length = self.byte()?;
        self.string(length.into())
    }

    /// Text with a NUL byte behind it.
    fn string(&mut self, length: usize) -> Result<String, Malformed> {
        let text = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(text).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &[Value]) -> Vec<u8> {
        let call =
            Call { destination: Some("a.b"), path: "/p", interface: "i.f", member: "M", body };
        call.write(7)
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn values_have_their_alignment() {
        let bytes = |value: &Value| {
            let mut out = vec![0xee];
            value.write(&mut out);
            out
        };
        for (value, signature, expected) in [
            (Value::U32(1), "u", &[0xee, 0, 0, 0, 1, 0, 0, 0][..]),
            (Value::Bool(true), "b", &[0xee, 0, 0, 0, 1, 0, 0, 0]),
            (Value::text("ab"), "s", &[0xee, 0, 0, 0, 2, 0, 0, 0, b'a', b'b', 0]),
            (Value::bytes(&[9]), "ay", &[0xee, 0, 0, 0, 1, 0, 0, 0, 9]),
            (
                Value::Array("t".into(), vec![Value::U64(5)]),
                "at",
                // The padding before the first element is no part of the array's length.
                &[0xee, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            ),
            (Value::Array("(sv)".into(), vec![]), "a(sv)", &[0xee, 0, 0, 0, 0, 0, 0, 0]),
            (
                Value::Struct(vec![Value::Byte(3), Value::Variant(Box::new(Value::U16(4)))]),
                "(yv)",
                &[0xee, 0, 0, 0, 0, 0, 0, 0, 3, 1, b'q', 0, 4, 0],
            ),
        ] {
            assert_eq!(
                (value.signature().as_str(), bytes(&value).as_slice()),
                (signature, expected)
            );
        }
    }

    #[test]
    fn a_message_is_read_back() {
        let body = [Value::U32(42), Value::Path("/job/1".into()), Value::text("x.scope")];
        let mut bytes = call(&body);
        bytes.extend(call(&[]));
        let whole = bytes.clone();
        let first = Message::take(&mut bytes).unwrap().unwrap();
        assert_eq!((first.kind, first.interface.as_str(), first.member.as_str()), (1, "i.f", "M"));
        assert_eq!(first.signature, "uos");
        assert_eq!(first.words().unwrap(), ["42", "/job/1", "x.scope"]);
        let second = Message::take(&mut bytes).unwrap().unwrap();
        assert_eq!((second.signature.as_str(), bytes.len()), ("", 0));
        for length in 0..whole.len() / 2 {
            assert_eq!(Message::take(&mut whole[..length].to_vec()), Ok(None), "{length}");
        }
    }

    #[test]
    fn what_is_malformed_is_an_error_and_no_panic() {
        let good = call(&[Value::U32(1), Value::text("text")]);
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                if let Ok(Some(message)) = Message::take(&mut bytes) {
                    let _ = message.words();
                }
            }
        }
        let mut other_order = good.clone();
        other_order[0] = if ORDER == b'l' { b'B' } else { b'l' };
        assert_eq!(Message::take(&mut other_order), Err(Malformed));
        let mut huge = good;
        huge[4..8].fill(0xff);
        assert_eq!(Message::take(&mut huge), Err(Malformed));
    }
}
