//! The requirements of the specification beside the results of runs: docs/conformance.md.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use crate::chapters;
use crate::check::Test;
use crate::outcome::Verdict;
use crate::requirements::{self, Requirement, fits};
use crate::results::{Run, Told};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Markdown,
    Text,
}

/// Runs the command; answers the exit code: 1 when there are holes, 2 when the words are wrong.
pub fn main(words: &[String], usage: &str) -> i32 {
    match write(words) {
        Ok(holes) => {
            for hole in &holes {
                eprintln!("hole: {hole}");
            }
            i32::from(!holes.is_empty())
        }
        Err(reason) if reason.is_empty() => {
            eprint!("{usage}");
            0
        }
        Err(reason) => {
            eprintln!("oci-tests report: {reason}");
            2
        }
    }
}

fn write(words: &[String]) -> Result<Vec<String>, String> {
    let (mut form, mut output, mut runs) = (Form::Markdown, None, Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--results" => {
                let file = value()?;
                let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
                runs.push(Run::parse(&text).map_err(|reason| format!("{file}: {reason}"))?);
            }
            "--output" => output = Some(value()?),
            "--format" => {
                form = match value()?.as_str() {
                    "markdown" => Form::Markdown,
                    "text" => Form::Text,
                    other => return Err(format!("--format {other} is not markdown or text")),
                }
            }
            "--help" | "-h" => return Err(String::new()),
            other => return Err(format!("{other} is not an option of report")),
        }
    }
    let list = requirements::list()?;
    let mut holes = requirements::holes(&list);
    let report = Report::new(&list, &runs);
    holes.extend(report.holes());
    let text = match form {
        Form::Markdown => report.markdown(),
        Form::Text => report.text(),
    };
    match output {
        Some(file) => fs::write(file, text).map_err(|error| format!("{file}: {error}"))?,
        None => print!("{text}"),
    }
    Ok(holes)
}

/// A demand with the titles of its tests.
struct Row<'r> {
    entry: &'r Requirement,
    titles: Vec<String>,
}

struct Report<'r> {
    rows: Vec<Row<'r>>,
    runs: &'r [Run],
    tests: usize,
}

/// How the tests of one demand ended with one runtime.
#[derive(Default)]
struct Tally {
    ok: usize,
    not_ok: usize,
    skip: usize,
    absent: usize,
}

impl Tally {
    fn cell(&self) -> String {
        let Self { ok, not_ok, skip, absent } = self;
        let asked = ok + not_ok;
        let mut words = Vec::new();
        match (asked, not_ok) {
            (0, _) => {}
            (_, 0) => words.push(format!("ok {asked}")),
            _ => words.push(format!("**{not_ok} of {asked} fail**")),
        }
        if *skip > 0 {
            words.push(format!("{skip} skipped"));
        }
        if *absent > 0 {
            words.push(format!("{absent} not run"));
        }
        if words.is_empty() { "–".to_owned() } else { words.join(", ") }
    }
}

/// Counts over all demands for one runtime.
#[derive(Default)]
struct Totals {
    kept: usize,
    broken: usize,
    not_asked: usize,
}

impl<'r> Report<'r> {
    fn new(list: &'r [Requirement], runs: &'r [Run]) -> Self {
        let all: Vec<String> = chapters::all().iter().map(Test::title).collect();
        let rows = list.iter().map(|entry| Row {
            entry,
            titles: all.iter().filter(|title| entry.names(title)).cloned().collect(),
        });
        Self { rows: rows.collect(), runs, tests: all.len() }
    }

    fn tally(run: &Run, row: &Row<'_>) -> Tally {
        let mut tally = Tally::default();
        for title in &row.titles {
            *match run.tests.get(title).map(|told| told.verdict) {
                Some(Verdict::Ok) => &mut tally.ok,
                Some(Verdict::NotOk) => &mut tally.not_ok,
                Some(Verdict::Skip) => &mut tally.skip,
                None => &mut tally.absent,
            } += 1;
        }
        tally
    }

    /// Tests that a run did not have, or skipped without saying why.
    fn holes(&self) -> Vec<String> {
        let mut holes = Vec::new();
        for run in self.runs {
            for title in self.rows.iter().flat_map(|row| &row.titles) {
                match run.tests.get(title) {
                    None => holes.push(format!("{}: not run: {title}", run.runtime)),
                    Some(Told { verdict: Verdict::Skip, reason }) if reason.trim().is_empty() => {
                        holes.push(format!("{}: skipped without a reason: {title}", run.runtime));
                    }
                    Some(_) => {}
                }
            }
        }
        holes.sort();
        holes.dedup();
        holes
    }

    fn totals(&self, run: &Run) -> Totals {
        let mut totals = Totals::default();
        for row in self.rows.iter().filter(|row| !row.titles.is_empty()) {
            match Self::tally(run, row) {
                Tally { not_ok, .. } if not_ok > 0 => totals.broken += 1,
                Tally { ok: 0, .. } => totals.not_asked += 1,
                _ => totals.kept += 1,
            }
        }
        totals
    }

    /// Title, verdict and reason of the listed tests that are not ok.
    fn others(&self, run: &'r Run, verdict: Verdict) -> BTreeMap<&'r str, &'r str> {
        let listed = |title: &str| self.rows.iter().any(|row| row.entry.names(title));
        let tests =
            run.tests.iter().filter(|(title, told)| told.verdict == verdict && listed(title));
        tests.map(|(title, told)| (title.as_str(), told.reason.as_str())).collect()
    }

    fn markdown(&self) -> String {
        let mut text = String::from(HEAD);
        self.summary(&mut text);
        let mut section = "";
        for row in &self.rows {
            if row.entry.section != section {
                section = &row.entry.section;
                let _ = write!(text, "\n## {section}\n\n| | requirement | tests |");
                for run in self.runs {
                    let _ = write!(text, " {} |", short(&run.runtime));
                }
                let _ = writeln!(text, "\n|---|---|---|{}", "---|".repeat(self.runs.len()));
            }
            let Requirement { level, text: demand, .. } = row.entry;
            let _ = write!(text, "| {level} | {} | {} |", cell(demand), cell(&row.asked(", ")));
            for run in self.runs {
                let _ = write!(text, " {} |", Self::tally(run, row).cell());
            }
            text.push('\n');
        }
        for (name, verdict) in [("fail", Verdict::NotOk), ("are skipped", Verdict::Skip)] {
            for run in self.runs {
                let others = self.others(run, verdict);
                if others.is_empty() {
                    continue;
                }
                let _ = writeln!(text, "\n## Tests that {name} with {}\n", short(&run.runtime));
                for (title, reason) in others {
                    let _ = writeln!(text, "- {}: {}", cell(title), cell(&brief(reason)));
                }
            }
        }
        text
    }

    fn summary(&self, text: &mut String) {
        let with = self.rows.iter().filter(|row| !row.titles.is_empty()).count();
        let listed: std::collections::BTreeSet<&String> =
            self.rows.iter().flat_map(|row| &row.titles).collect();
        let _ = writeln!(
            text,
            "{} requirements: {with} have tests, {} a reason why none asks them. {} of the {} tests are \
             named here; the others ask what engines rely on, robustness, and hostile images.\n",
            self.rows.len(),
            self.rows.len() - with,
            listed.len(),
            self.tests
        );
        if self.runs.is_empty() {
            return;
        }
        text.push_str("| runtime | kept | a test fails | only skipped |\n|---|---|---|---|\n");
        for run in self.runs {
            let Totals { kept, broken, not_asked } = self.totals(run);
            let _ = writeln!(text, "| {} | {kept} | {broken} | {not_asked} |", cell(&run.runtime));
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let Requirement { section, level, text: demand, .. } = row.entry;
            let _ = writeln!(text, "{section}: {level}: {demand}");
            let _ = writeln!(text, "    {}", row.asked("\n    "));
            for run in self.runs {
                let told = Self::tally(run, row).cell().replace("**", "");
                let _ = writeln!(text, "    {}: {told}", short(&run.runtime));
            }
        }
        text.push('\n');
        self.summary(&mut text);
        text
    }
}

impl Row<'_> {
    /// The tests as the list writes them, and how many a pattern stands for; then the reason.
    fn asked(&self, between: &str) -> String {
        let own = format!("{}: ", self.entry.section);
        let mut words: Vec<String> = Vec::new();
        for pattern in &self.entry.tests {
            let count = self.titles.iter().filter(|title| fits(pattern, title)).count();
            let name = pattern.strip_prefix(&own).unwrap_or(pattern);
            let many = if count > 1 { format!(" ({count})") } else { String::new() };
            words.push(format!("“{name}”{many}"));
        }
        let before = if words.is_empty() { "no test: " } else { "note: " };
        words.extend(self.entry.reason.iter().map(|reason| format!("{before}{reason}")));
        words.join(between)
    }
}

/// The program's name in the first line of its version.
fn short(runtime: &str) -> &str {
    runtime.split_whitespace().next().unwrap_or(runtime)
}

/// The beginning of a reason, without what differs from run to run: times, process ids.
fn brief(reason: &str) -> String {
    let mut text = crate::check::cut(reason);
    while let Some(from) = text.find("time=\"") {
        let rest = &text[from + 6..];
        let end = rest.find("\" ").map_or(text.len(), |end| from + 6 + end + 2);
        text.replace_range(from..end, "");
    }
    let mut brief = String::new();
    for word in text.split_inclusive(|letter: char| !letter.is_ascii_digit()).take(160) {
        let digits = word.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        let number = digits.len() > 4 || digits.is_empty();
        brief.push_str(if number { &word[digits.len()..] } else { word });
    }
    brief.chars().take(160).collect()
}

/// Text that stays in a cell and in no markup.
fn cell(text: &str) -> String {
    let mut safe = String::new();
    for letter in crate::format::flat(text).chars() {
        if matches!(letter, '|' | '<' | '>' | '*' | '_' | '`' | '\\') {
            safe.push('\\');
        }
        safe.push(letter);
    }
    safe
}

const HEAD: &str = "\
# Conformance

What the OCI runtime specification 1.3.0 demands of runtimes on Linux, in our words, which tests of
`oci-tests` ask it, and how they end. Written by `scripts/conformance`; do not edit. The list is
`oci-tests/requirements.txt`; a requirement without a test has the reason in the table.

A test's name stands for several where it has a `*`; their number follows. “ok 3” means that three tests
ran and passed. A fail is measured by these tests alone: other runtimes leave some demands out on purpose.

";
