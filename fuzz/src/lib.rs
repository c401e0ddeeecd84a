//! Mutations that know the form of the input.
//!
//! Random bytes hardly ever make another JSON text out of one, and a reader that stops at the first
//! wrong byte hides all that comes after it. Three of four mutations therefore change the value; the
//! rest are libFuzzer's own, for the reader.

use libfuzzer_sys::fuzzer_mutate;
use runtime::fuzzing::{self, Document};
use serde_json::{Value, json};

/// Numbers at the edges of the types that they are read into.
const NUMBERS: [i128; 20] = [
    0,
    1,
    -1,
    2,
    5,
    7,
    22,
    100,
    127,
    4095,
    4096,
    65535,
    65536,
    2147483647,
    2147483648,
    4294967295,
    4294967296,
    9223372036854775807,
    -9223372036854775808,
    18446744073709551615,
];

/// Longest text that one mutation makes of a string.
const LONGEST: usize = 64;

struct Random(u64);

impl Random {
    fn new(seed: u32) -> Self {
        Self((u64::from(seed) << 32 | u64::from(seed)) ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) as usize % end
    }

    fn word(&mut self) -> String {
        let words = fuzzing::words();
        words[self.below(words.len())].clone()
    }
}

/// Mutates the JSON text in `data[..size]`; returns the new size.
pub fn json(document: Document, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = Random::new(seed);
    let value: Option<Value> = serde_json::from_slice(&data[..size]).ok();
    let Some(mut value) = value.filter(|_| random.below(4) > 0) else {
        return fuzzer_mutate(data, size, max_size);
    };
    for _ in 0..=random.below(3) {
        if random.below(3) == 0 {
            fuzzing::grow(document, &mut value, &mut |end| random.below(end));
        } else {
            change(&mut value, &mut random);
        }
    }
    let text = value.to_string();
    if text.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..text.len()].copy_from_slice(text.as_bytes());
    text.len()
}

/// Changes one value of the tree.
fn change(root: &mut Value, random: &mut Random) {
    let count = count(root);
    let from = random.below(count);
    let to = random.below(count);
    let copied = nth(root, &mut { from }).map(|value| value.clone());
    let Some(value) = nth(root, &mut { to }) else { return };
    match value {
        Value::Object(members) if !members.is_empty() => {
            let key = members.keys().nth(random.below(members.len())).cloned().unwrap_or_default();
            match random.below(4) {
                0 | 1 => drop(members.remove(&key)),
                2 => {
                    let value = members.remove(&key).unwrap_or_default();
                    members.insert(text(&key, random), value);
                }
                _ => drop(members.insert(key, copied.unwrap_or_default())),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let at = random.below(items.len());
            match random.below(4) {
                0 => drop(items.remove(at)),
                1 => items.insert(at, items[at].clone()),
                2 => items.push(copied.unwrap_or_default()),
                _ => items.swap(0, at),
            }
        }
        Value::String(old) => {
            let new = text(old, random);
            *old = new;
        }
        other => {
            *other = match random.below(8) {
                0 => json!(random.word()),
                1 => json!(random.below(2) == 0),
                2 => copied.unwrap_or_default(),
                _ => number(other, random),
            }
        }
    }
}

fn number(old: &Value, random: &mut Random) -> Value {
    let near = random.below(5) as i128 - 2;
    let base = match old.as_i64() {
        Some(old) if random.below(2) == 0 => i128::from(old),
        _ => NUMBERS[random.below(NUMBERS.len())],
    };
    match (u64::try_from(base + near), i64::try_from(base + near)) {
        (Ok(number), _) => json!(number),
        (_, Ok(number)) => json!(number),
        _ => json!(0),
    }
}

fn text(old: &str, random: &mut Random) -> String {
    match random.below(4) {
        0 | 1 => random.word(),
        2 => format!("{old}{}", random.word()),
        _ => {
            let mut bytes = old.as_bytes()[..old.len().min(LONGEST)].to_vec();
            let size = bytes.len();
            bytes.resize(LONGEST, 0);
            let size = fuzzer_mutate(&mut bytes, size, LONGEST);
            String::from_utf8_lossy(&bytes[..size]).into_owned()
        }
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Object(members) => members.values().map(count).sum(),
        Value::Array(items) => items.iter().map(count).sum(),
        _ => 0,
    }
}

fn nth<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Object(members) => members.values_mut().find_map(|value| nth(value, left)),
        Value::Array(items) => items.iter_mut().find_map(|value| nth(value, left)),
        _ => None,
    }
}

/// Mutates a text of fields.
pub fn fields(separator: char, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = Random::new(seed);
    let old = std::str::from_utf8(&data[..size]).ok().filter(|_| random.below(3) > 0);
    let Some(old) = old else { return fuzzer_mutate(data, size, max_size) };
    let mut fields: Vec<String> = old.split(separator).map(str::to_owned).collect();
    for _ in 0..=random.below(3) {
        let at = random.below(fields.len());
        match random.below(4) {
            0 if fields.len() > 1 => drop(fields.remove(at)),
            1 => {
                let word = random.word();
                let prefix = ["", "r", "no", "/", "../"][random.below(5)];
                fields.insert(at, format!("{prefix}{word}"));
            }
            2 => fields.swap(0, at),
            _ => fields[at] = text(&fields[at], &mut random),
        }
    }
    let text = fields.join(&separator.to_string());
    if text.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..text.len()].copy_from_slice(text.as_bytes());
    text.len()
}
