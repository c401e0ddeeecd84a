#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::{Answer, Frames, Hello, LONGEST, Notice, Opening, Welcome, Word};

/// A frame's header.
const HEADER: usize = 4;

/// The messages in `bytes` that come in pieces of at most `piece`, and whether the stream broke.
fn messages<T: DeserializeOwned>(bytes: &[u8], piece: usize) -> (Vec<T>, bool) {
    let mut frames = Frames::default();
    let mut rest = bytes;
    let mut held = 0;
    let mut messages = Vec::new();
    loop {
        match frames.take() {
            Ok(Some(message)) => {
                messages.push(message);
                assert!(frames.wanted() == HEADER, "it holds what comes after the frame");
                held = 0;
                continue;
            }
            Ok(None) => {}
            Err(_) => return (messages, true),
        }
        let wanted = frames.wanted();
        assert!(wanted > 0 && held + wanted <= HEADER + LONGEST);
        let length = wanted.min(piece).min(rest.len());
        if length == 0 {
            return (messages, false);
        }
        frames.push(&rest[..length]);
        rest = &rest[length..];
        held += length;
    }
}

fn check<T: DeserializeOwned + Serialize + PartialEq + Debug>(
    bytes: &[u8],
    piece: usize,
) -> Vec<T> {
    let (read, broken) = messages::<T>(bytes, piece);
    assert_eq!((&read, broken), (&messages::<T>(bytes, usize::MAX).0, broken));
    for message in &read {
        let written = wire::frame(message).expect("it came in a frame");
        assert_eq!(&messages::<T>(&written, usize::MAX).0[..], std::slice::from_ref(message));
    }
    read
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let piece = usize::from(piece).max(1);
    check::<Opening>(bytes, piece);
    check::<Word>(bytes, piece);
    check::<Hello>(bytes, piece);
    check::<Welcome>(bytes, piece);
    check::<Notice>(bytes, piece);
    for answer in check::<Answer>(bytes, piece) {
        match answer {
            Answer::Failed(error) => {
                let text = runtime::Error::from(error).to_string();
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
            Answer::Stats(figures) => drop(runtime::Stats::from_whole(figures)),
            _ => {}
        }
    }
});
