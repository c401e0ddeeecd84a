//! The forms in which a run is told, to standard output or to a file.
//!
//! What a runtime and its containers print ends up in reasons and notes, so every form treats them as
//! hostile: no byte of theirs can end a line, an element or a result.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use crate::outcome::{Outcome, Verdict};
use crate::{compare, junit, results, tap};

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A line per test, and the reason below those that are not ok.
    Text,
    /// The Test Anything Protocol, version 13.
    #[default]
    Tap,
    /// JUnit's XML, written at the end.
    Junit,
    /// A JSON object per line, for `report`.
    Json,
    /// A table of sections, written at the end.
    Summary,
}

impl Format {
    /// The words of all formats.
    pub const WORDS: &'static str = "text, tap, junit, json or summary";

    /// The format that a word names.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "text" => Some(Self::Text),
            "tap" => Some(Self::Tap),
            "junit" => Some(Self::Junit),
            "json" => Some(Self::Json),
            "summary" => Some(Self::Summary),
            _ => None,
        }
    }
}

/// Where the results of one run go.
pub struct Sink {
    format: Format,
    out: Box<dyn Write + Send>,
    runtime: String,
}

impl Sink {
    /// Opens the file, or standard output without one, and writes the head for `count` tests.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub fn open(
        format: Format,
        output: Option<&Path>,
        runtime: &str,
        count: usize,
    ) -> io::Result<Self> {
        let out: Box<dyn Write + Send> = match output {
            Some(path) => Box::new(File::create(path)?),
            None => Box::new(io::stdout()),
        };
        let mut sink = Self { format, out, runtime: runtime.to_owned() };
        let head = match format {
            Format::Tap => tap::head(count),
            Format::Json => results::head(runtime, count),
            Format::Text | Format::Junit | Format::Summary => String::new(),
        };
        sink.write(&head)?;
        Ok(sink)
    }

    /// Writes one result in the formats that stream; `number` counts from 1.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn each(&mut self, number: usize, outcome: &Outcome) -> io::Result<()> {
        let text = match self.format {
            Format::Text => line(outcome),
            Format::Tap => tap::result(number, outcome),
            Format::Json => results::line(outcome),
            Format::Junit | Format::Summary => return Ok(()),
        };
        self.write(&text)
    }

    /// Writes what comes when all tests have ended.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn end(mut self, outcomes: &[Outcome], took: Duration) -> io::Result<()> {
        let closing = closing(&self.runtime, outcomes, took);
        let text = match self.format {
            Format::Text => format!("{closing}\n"),
            Format::Tap => format!("# {closing}\n"),
            Format::Summary => {
                let column = (self.runtime.clone(), outcomes.to_vec());
                format!("{}# {closing}\n", compare::table(&[column]))
            }
            Format::Junit => junit::document(&self.runtime, outcomes, took),
            Format::Json => String::new(),
        };
        self.write(&text)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

fn closing(runtime: &str, outcomes: &[Outcome], took: Duration) -> String {
    let count = |verdict| outcomes.iter().filter(|outcome| outcome.verdict == verdict).count();
    format!(
        "{}: {} ok, {} not ok, {} skipped in {:.1} s",
        flat(runtime),
        count(Verdict::Ok),
        count(Verdict::NotOk),
        count(Verdict::Skip),
        took.as_secs_f32()
    )
}

fn line(outcome: &Outcome) -> String {
    let mut text = format!(
        "{:<6} {:>7.2} s  {}\n",
        outcome.verdict.word(),
        outcome.took.as_secs_f32(),
        flat(&outcome.title)
    );
    if outcome.verdict != Verdict::Ok {
        text.push_str(&format!("                  {}\n", flat(&outcome.reason)));
    }
    for note in &outcome.notes {
        text.push_str(&format!("                  # {}\n", flat(note)));
    }
    text
}

/// The text on one line, with escapes in the place of control characters.
pub fn flat(text: &str) -> String {
    let mut flat = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') {
            flat.extend(letter.escape_default());
        } else {
            flat.push(letter);
        }
    }
    flat
}
