//! The suite's command line.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::chapters;
use crate::compare;
use crate::lab::cgroups::Layout;
use crate::options::{self, find};
use crate::outcome::{Outcome, Verdict, count};
use crate::runner::{self, Place, Plan};

const USAGE: &str = "\
usage: oci-tests [--runtime PATH] [--filter WORDS] [--jobs N] [--cgroups host|v1|v2]
                 [--format tap|summary] [--list]
       oci-tests compare [--filter WORDS] [--jobs N] RUNTIME RUNTIME...

Asks a runtime what the OCI runtime specification 1.3 for Linux demands. Needs root.
The runtime is --runtime, else $RUNTIME, else this workspace's own binary.
A filter's words must all occur in a test's title; the exit code is 0 only without a `not ok`.
";

/// The options.
struct Options {
    common: options::Options,
    layout: Option<Layout>,
    summary: bool,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self, String> {
        let (mut layout, mut summary) = (None, false);
        let common = options::Options::parse(words, |word, value| {
            match word {
                "--cgroups" => {
                    layout =
                        Some(Layout::parse(&value()?).ok_or("--cgroups needs host, v1 or v2")?);
                }
                "--format" => match value()?.as_str() {
                    "tap" => summary = false,
                    "summary" => summary = true,
                    other => return Err(format!("--format {other} is not tap or summary")),
                },
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self { common, layout, summary })
    }

    /// The plan for one runtime.
    fn plan(&self, runtime: PathBuf) -> Plan {
        let tests = chapters::all();
        let chosen = (0..tests.len()).filter(|index| self.common.wants(&tests[*index].title()));
        let jobs = self.common.jobs.unwrap_or(2);
        Plan { runtime, indices: chosen.collect(), jobs, layout: self.layout }
    }
}

/// Runs the command line; answers the exit code.
pub fn main(words: &[String]) -> i32 {
    let options = match Options::parse(words) {
        Ok(options) => options,
        Err(reason) => {
            let (text, code) = options::refusal(&reason, USAGE);
            eprint!("{text}");
            return code;
        }
    };
    if options.common.list {
        let titles = chapters::all().into_iter().map(|test| test.title()).enumerate();
        for (number, title) in titles.filter(|(_, title)| options.common.wants(title)) {
            println!("{:4} {title}", number + 1);
        }
        return 0;
    }
    let result = if options.common.compare { compare_all(&options) } else { run_one(&options) };
    result.unwrap_or_else(|reason| {
        eprintln!("oci-tests: {reason}");
        2
    })
}

fn run_one(options: &Options) -> Result<i32, String> {
    let runtime = options.common.one()?;
    let plan = options.plan(runtime.clone());
    let place = Place::new(&[runtime])
        .map_err(|error| format!("prepare a place for tests (root is needed): {error}"))?;
    let started = std::time::Instant::now();
    if !options.summary {
        println!("TAP version 13\n1..{}", plan.indices.len());
    }
    let outcomes = runner::run(&place, &plan, |number, outcome| {
        if !options.summary {
            print_tap(number + 1, outcome);
        }
    });
    drop(place);
    let name = plan.runtime.display().to_string();
    let failed = count(&outcomes, Verdict::NotOk);
    let closing = format!(
        "# {name}: {} ok, {failed} not ok, {} skipped in {:.1} s",
        count(&outcomes, Verdict::Ok),
        count(&outcomes, Verdict::Skip),
        started.elapsed().as_secs_f32()
    );
    if options.summary {
        print!("{}", compare::table(&[(name, outcomes)]));
    }
    println!("{closing}");
    Ok(i32::from(failed > 0))
}

fn compare_all(options: &Options) -> Result<i32, String> {
    let names = &options.common.others;
    let runtimes = names.iter().map(|name| find(Path::new(name))).collect::<Result<Vec<_>, _>>()?;
    let place = Place::new(&runtimes)
        .map_err(|error| format!("prepare a place for tests (root is needed): {error}"))?;
    let mut columns = Vec::new();
    for (name, runtime) in names.iter().zip(runtimes) {
        let plan = options.plan(runtime);
        eprintln!("# running {name}");
        columns.push((name.clone(), runner::run(&place, &plan, |_, _| {})));
    }
    drop(place);
    print!("{}{}", compare::table(&columns), compare::failed_by_all(&columns));
    Ok(0)
}

fn print_tap(number: usize, outcome: &Outcome) {
    let mut text = match outcome.verdict {
        Verdict::Ok => format!("ok {number} - {}\n", outcome.title),
        Verdict::NotOk => format!("not ok {number} - {}\n  # {}\n", outcome.title, outcome.reason),
        Verdict::Skip => format!("ok {number} - {} # SKIP {}\n", outcome.title, outcome.reason),
    };
    for note in &outcome.notes {
        text.push_str(&format!("  # {note}\n"));
    }
    print!("{text}");
    let _ = std::io::stdout().flush();
}
