//! The program inside the container: does the steps it is given and prints one JSON object.
//!
//! Each argument is a step, `verb word word ...`; the object's key is the step as written, its value
//! what came of it. A system call that fails gives `{"errno": "EROFS"}`: that is an observation, not
//! a failure of the probe. `exit`, `kill` and `pause` print what was gathered before they act.

mod act;
mod attack;
mod report;
mod steps;

use std::io::Write;

use serde_json::{Map, Value};

/// Runs the steps; the exit code is 0 unless a step asks for another.
pub fn main(words: &[String]) -> i32 {
    let mut seen = Map::new();
    for step in words {
        let parts: Vec<&str> = step.split(' ').collect();
        let (verb, args) = (parts[0], &parts[1..]);
        match verb {
            "exit" => {
                print(&seen);
                return number(args, 0) as i32;
            }
            "kill" => {
                print(&seen);
                act::kill_self(number(args, 0) as i32);
            }
            "pause" => {
                print(&seen);
                return act::pause();
            }
            "die" => {
                print(&seen);
                return act::wait_to_be_killed();
            }
            "count" => {
                print(&seen);
                return act::count(args.first().copied().unwrap_or_default());
            }
            "talk" => {
                print(&seen);
                return act::talk(number(args, 0) as u16, args.get(1).copied().unwrap_or_default());
            }
            "quiet-exit" => return number(args, 0) as i32,
            "append-stdin" => {
                act::append_stdin(args.first().copied().unwrap_or_default());
                continue;
            }
            _ => {}
        }
        seen.insert(step.clone(), steps::step(verb, args));
    }
    print(&seen);
    0
}

/// The numeric argument at `index`; decimal, `0x` or negative; 0 when absent.
fn number(args: &[&str], index: usize) -> u64 {
    let Some(text) = args.get(index) else {
        return 0;
    };
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).unwrap_or(0);
    }
    match text.strip_prefix('-') {
        Some(digits) => digits.parse::<u64>().map_or(0, |value| value.wrapping_neg()),
        None => text.parse().unwrap_or(0),
    }
}

/// One line of JSON on stdout; nobody is there to hear of a failure.
fn print(seen: &Map<String, Value>) {
    let mut line = serde_json::to_string(seen).unwrap_or_default();
    line.push('\n');
    let _ = std::io::stdout().write_all(line.as_bytes());
    let _ = std::io::stdout().flush();
}
