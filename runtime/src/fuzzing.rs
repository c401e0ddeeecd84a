//! The door for fuzz/: one function per target, which takes the text that a stranger may have
//! written and asserts what must hold whatever it says.
//!
//! It exists under `cfg(fuzzing)` alone, and in unit tests, which run every target over its seeds.
//! Nothing in here makes, mounts or changes anything: plans are made and looked at.

mod cgroup;
mod config;
mod options;
mod paths;
mod seccomp;
mod state;
#[cfg(test)]
mod tests;
mod words;

use std::sync::OnceLock;

use serde_json::Value;

use crate::spec::grow;

pub use cgroup::cgroup;
pub use config::{config, process};
pub use options::options;
pub use seccomp::seccomp;
pub use state::state;
pub use words::words;

/// The documents that grow by the specification's properties.
#[derive(Clone, Copy, Debug)]
pub enum Document {
    /// `config.json`.
    Config,
    /// `process.json`.
    Process,
    /// `linux.seccomp` alone.
    Seccomp,
    /// `state.json`, whose properties are in its seeds.
    State,
}

/// Adds a property or an item that the specification knows, somewhere in the document. `pick` chooses
/// a number below its argument.
pub fn grow(document: Document, value: &mut Value, pick: &mut dyn FnMut(usize) -> usize) {
    let shape = match document {
        Document::Config => &grow::CONFIG,
        Document::Process => &grow::PROCESS,
        Document::Seccomp => grow::at(&grow::CONFIG, &["linux", "seccomp"]),
        Document::State => return,
    };
    grow::grow(value, shape, words(), pick);
}

/// Asserts that what a caller is shown stays in proportion to what was asked.
fn assert_bounded<'a>(texts: impl IntoIterator<Item = &'a String>, input: &[u8]) {
    let shown: usize = texts.into_iter().map(String::len).sum();
    let limit = 4096 + 16 * input.len();
    assert!(shown <= limit, "{shown} bytes of messages for an input of {}", input.len());
}

/// A deterministic stream of numbers that depends on the whole input.
fn numbers(input: &[u8]) -> impl FnMut() -> u64 {
    let mut state = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    }) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A value that is made once.
type Once<T> = OnceLock<T>;
