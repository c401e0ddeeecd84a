//! Frames: a length of four bytes, least significant first, and that many bytes of JSON.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame, in bytes: a configuration with a large seccomp profile fits several times.
pub const LONGEST: usize = 4 << 20;

const HEADER: usize = 4;

/// The other side sent what is no message. There is no way to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

/// The message as a frame.
///
/// # Errors
///
/// It is longer than [`LONGEST`].
pub fn frame(message: &impl Serialize) -> Result<Vec<u8>, Broken> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, message).map_err(|error| Broken(error.to_string()))?;
    let length = bytes.len() - HEADER;
    if length > LONGEST {
        return Err(Broken(format!("a message of {length} bytes is longer than {LONGEST}")));
    }
    let length = u32::try_from(length).expect("LONGEST is less");
    bytes[..HEADER].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Takes frames out of bytes as they come. Holds at most one frame and what was read with it.
#[derive(Debug, Default)]
pub struct Frames(Vec<u8>);

impl Frames {
    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// How many bytes are to be read next, at most: whoever reads no more than this holds no byte that comes after
    /// the frame, which on a stream is not ours.
    pub fn wanted(&self) -> usize {
        let whole = self.length().map_or(HEADER, |length| HEADER + length.min(LONGEST));
        whole.saturating_sub(self.0.len())
    }

    /// The next message, once it is complete.
    ///
    /// # Errors
    ///
    /// The frame is longer than [`LONGEST`], or no such message.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Broken> {
        let Some(length) = self.length() else { return Ok(None) };
        if length > LONGEST {
            return Err(Broken(format!("a frame of {length} bytes is longer than {LONGEST}")));
        }
        let Some(json) = self.0.get(HEADER..HEADER + length) else { return Ok(None) };
        let message =
            serde_json::from_slice(json).map_err(|error| Broken(format!("no message: {error}")))?;
        self.0.drain(..HEADER + length);
        Ok(Some(message))
    }

    fn length(&self) -> Option<usize> {
        let header = self.0.first_chunk::<HEADER>()?;
        Some(u32::from_le_bytes(*header) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_of_pieces() {
        let bytes = [frame(&"one").unwrap(), frame(&"two").unwrap()].concat();
        let mut frames = Frames::default();
        let mut seen = Vec::new();
        for byte in bytes {
            frames.push(&[byte]);
            seen.extend(frames.take::<String>().unwrap());
        }
        assert_eq!(seen, ["one", "two"]);
        assert_eq!(frames.wanted(), HEADER);
    }

    #[test]
    fn no_more_is_wanted_than_the_frame() {
        let bytes = frame(&"one").unwrap();
        let mut frames = Frames::default();
        let mut read = 0;
        while frames.wanted() > 0 {
            let end = read + frames.wanted();
            frames.push(&bytes[read..end]);
            read = end;
        }
        assert_eq!((read, frames.take::<String>().unwrap().as_deref()), (bytes.len(), Some("one")));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut frames = Frames::default();
        frames.push(&u32::MAX.to_le_bytes());
        assert!(frames.wanted() <= LONGEST);
        assert!(frames.take::<String>().unwrap_err().0.contains("longer than"));
        let mut frames = Frames::default();
        frames.push(&[&3u32.to_le_bytes()[..], b"[1]"].concat());
        assert!(frames.take::<String>().unwrap_err().0.starts_with("no message"));
        assert!(frame(&"x".repeat(LONGEST)).is_err());
    }
}
