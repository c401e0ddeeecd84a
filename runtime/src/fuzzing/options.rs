//! Mount options: lines of a text, one option each.

use std::ffi::CString;

use crate::error::ErrorKind;
use crate::mount::options::{self, Attributes, Options};
use crate::sys::mount::{
    MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
};

/// The words that set and clear each attribute of one bit.
const PAIRS: [(&str, &str, u64); 6] = [
    ("ro", "rw", MOUNT_ATTR_RDONLY),
    ("nosuid", "suid", MOUNT_ATTR_NOSUID),
    ("nodev", "dev", MOUNT_ATTR_NODEV),
    ("noexec", "exec", MOUNT_ATTR_NOEXEC),
    ("nodiratime", "diratime", MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", "symfollow", MOUNT_ATTR_NOSYMFOLLOW),
];

/// The words that choose a mode of access times.
const ATIMES: [(&str, u64); 3] =
    [("noatime", MOUNT_ATTR_NOATIME), ("strictatime", MOUNT_ATTR_STRICTATIME), ("relatime", 0)];

/// The words that give one up.
const NOT_ATIMES: [&str; 3] = ["atime", "nostrictatime", "norelatime"];

/// Asserts that the last word counts, that data comes out as it went in, and that a refusal names
/// its option.
pub fn options(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let words: Vec<String> = text.split('\n').map(str::to_owned).collect();
    match options::parse("mounts[7]", &words) {
        Ok(parsed) => {
            check(&parsed, &words);
            round_trip(&parsed);
        }
        Err(error) => {
            super::assert_bounded([&error.to_string()], input);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let place = error.subject().strip_prefix("mounts[7].options[");
            let index = place.and_then(|rest| rest.strip_suffix(']')?.parse::<usize>().ok());
            assert!(index.is_some_and(|index| index < words.len()), "{error}");
        }
    }
}

fn check(options: &Options, words: &[String]) {
    for Attributes { set, clear } in [options.attributes, options.recursive] {
        assert_eq!(set & clear & !MOUNT_ATTR_ATIME, 0, "set and cleared");
        let atime = set & MOUNT_ATTR_ATIME;
        assert!(ATIMES.iter().any(|(_, value)| *value == atime), "{atime:#x} is no mode");
        assert!(atime == 0 || clear & MOUNT_ATTR_ATIME == MOUNT_ATTR_ATIME, "field not cleared");
    }
    for (set, clear, bit) in PAIRS {
        let last = |plain: bool| {
            words.iter().rev().find_map(|word| match word.strip_prefix('r').unwrap_or(word) {
                _ if word == set && plain => Some(true),
                _ if word == clear && plain => Some(false),
                rest if rest == set && word != set => Some(true),
                rest if rest == clear && word != clear => Some(false),
                _ => None,
            })
        };
        assert_eq!(options.initial() & bit != 0, last(true) == Some(true), "{set}: new mount");
        let below = (options.recursive.set & bit != 0, options.recursive.clear & bit != 0);
        let expected = last(false).map_or((false, false), |on| (on, !on));
        assert_eq!(below, expected, "{set}: mounts below");
    }
    let bare = |word: &String| word.strip_prefix('r').unwrap_or(word).to_owned();
    let is_atime = |word: &&String| {
        let named = |name: &str| name == **word || *name == *bare(word) && *name != ***word;
        ATIMES.iter().any(|(name, _)| named(name)) || NOT_ATIMES.into_iter().any(named)
    };
    // `relatime` is the one mode whose name begins with the mark of recursive words.
    let mode = |word: &String| {
        let named = |name: &str| name == word || word.strip_prefix('r') == Some(name);
        ATIMES.iter().find(|(name, _)| named(name)).map(|(_, value)| *value)
    };
    if let Some(value) = words.iter().rev().find(is_atime).and_then(mode) {
        assert_eq!(options.initial() & MOUNT_ATTR_ATIME, value, "the last mode counts");
    }
    let recursive = options.idmap.is_some() || options.bind.is_some();
    let words_that_bind = ["bind", "rbind", "idmap", "ridmap"];
    assert_eq!(recursive, words.iter().any(|word| words_that_bind.contains(&&**word)));
}

/// What is written from the parameters is read as the same parameters.
fn round_trip(options: &Options) {
    for parameter in &options.data {
        let text = |string: &CString| string.to_str().expect("was text").to_owned();
        let key = text(&parameter.key);
        assert!(!key.is_empty());
        let written = match parameter.value.as_ref().map(text) {
            None => vec![key],
            // Quotes keep the commas of a value together, and are not part of it.
            Some(value) => vec![format!("{key}={value}"), format!("{key}=\"{value}\"")],
        };
        // A comma in front keeps a parameter from being read as an option of its own.
        let same = written.iter().any(|text| {
            let read = options::parse("mounts[0]", &[format!(",{text}")]);
            let read = read.map(|options| options.data).unwrap_or_default();
            matches!(&read[..], [one] if (&one.key, &one.value) == (&parameter.key, &parameter.value))
        });
        assert!(same, "{parameter:?} is not read back from {written:?}");
    }
}
