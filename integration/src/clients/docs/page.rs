//! A page of docs/ as a list of commands.
//!
//! A fence says what its block is: `sh` is run, `text` behind it is what it prints, `console` with a reason
//! is not run here. Other blocks are files or parts of them. A fence without a label is an error, so
//! that no command escapes by a slip.

use oci_tests::check::{Res, fail};

/// A page.
#[derive(Clone, Copy)]
pub struct Page {
    /// The file's name below docs/.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// A block of shell commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its fence.
    pub line: usize,
    /// The heading that it is under.
    pub heading: &'static str,
    /// The commands.
    pub commands: &'static str,
    /// What they print.
    pub output: Option<&'static str>,
    /// Why they are not run here.
    pub reason: Option<&'static str>,
}

/// Labels of blocks that are no commands.
const DATA: [&str; 3] = ["json", "toml", "yaml"];

impl Page {
    /// Its blocks of commands.
    ///
    /// # Errors
    /// A block that is none of the known kinds.
    pub fn blocks(&self) -> Res<Vec<Block>> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut heading = "";
        let mut rest = self.text;
        let mut line = 0;
        // Whether nothing but prose may have been between the last block of commands and here.
        let mut open = false;
        while let Some((text, behind)) = rest.split_once('\n') {
            rest = behind;
            line += 1;
            if let Some(title) = text.strip_prefix('#') {
                heading = title.trim_matches(['#', ' ']);
            }
            let Some(info) = text.strip_prefix("```") else { continue };
            let wrong = |reason: &str| fail(format!("docs/{}:{line}: {reason}", self.file));
            let Some((inside, behind)) = rest.split_once("\n```\n") else {
                return wrong("the block has no end");
            };
            let (label, reason) = info.split_once(' ').unwrap_or((info, ""));
            let block = Block { line, heading, commands: inside, output: None, reason: None };
            match (label, reason) {
                ("sh", "") => blocks.push(block),
                ("console", "") => return wrong("commands that are not run need a reason"),
                ("console", reason) => blocks.push(Block { reason: Some(reason), ..block }),
                ("text", "") => match blocks.last_mut() {
                    Some(last) if open && last.reason.is_none() => last.output = Some(inside),
                    _ => return wrong("output without commands before it"),
                },
                (label, "") if DATA.contains(&label) => {}
                _ => return wrong(&format!("the label {info:?} is not known")),
            }
            open = label == "sh";
            line += inside.lines().count() + 1;
            rest = behind;
        }
        Ok(blocks)
    }
}

/// The first line of `wanted` that has no line in `printed`, in this order. `...` stands for anything, and a
/// run of blanks for any other.
pub fn missing<'w>(wanted: &'w str, printed: &str) -> Option<&'w str> {
    let mut lines = printed.lines();
    wanted.lines().find(|wanted| !lines.any(|line| matches(wanted, line)))
}

fn matches(wanted: &str, line: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (wanted, line) = (squeeze(wanted), squeeze(line));
    let mut parts = wanted.split("...").map(str::trim);
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    // The last part is at the end of the line, wherever else it is.
    last.map_or(rest.is_empty(), |last| last.is_empty() || line.ends_with(last))
}
