//! The suite's command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::chapters;
use crate::check::Test;
use crate::compare;
use crate::format::{Format, Sink};
use crate::lab::cgroups::Layout;
use crate::options::{self, find};
use crate::outcome::Verdict;
use crate::report;
use crate::requirements;
use crate::runner::{self, Place, Plan};

const USAGE: &str = "\
usage: oci-tests [--runtime PATH] [--filter WORDS] [--listed] [--jobs N] [--cgroups host|v1|v2]
                 [--format text|tap|junit|json|summary] [--output FILE] [--list]
       oci-tests compare [--filter WORDS] [--jobs N] RUNTIME RUNTIME...
       oci-tests report [--format markdown|text] [--output FILE] [--results FILE]...

Asks a runtime what the OCI runtime specification 1.3 for Linux demands. Needs root.
The runtime is --runtime, else $RUNTIME, else this workspace's own binary.
A filter's words must all occur in a test's title; the exit code is 0 only without a `not ok`.
--listed runs only the tests that the list of the specification's requirements names.
report puts that list and the results of runs (--format json) side by side; it fails when the list names
a test that does not exist, that a run did not have, or that was skipped without a reason.
";

/// The options.
struct Options {
    common: options::Options,
    layout: Option<Layout>,
    format: Format,
    output: Option<PathBuf>,
    listed: bool,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self, String> {
        let (mut layout, mut format, mut output, mut listed) =
            (None, Format::default(), None, false);
        let common = options::Options::parse(words, |word, value| {
            match word {
                "--cgroups" => {
                    layout =
                        Some(Layout::parse(&value()?).ok_or("--cgroups needs host, v1 or v2")?);
                }
                "--format" => {
                    let word = value()?;
                    format = Format::parse(&word)
                        .ok_or(format!("--format {word} is not {}", Format::WORDS))?;
                }
                "--output" => output = Some(value()?.into()),
                "--listed" => listed = true,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self { common, layout, format, output, listed })
    }

    fn indices(&self) -> Result<Vec<usize>, String> {
        let list = if self.listed { Some(requirements::list()?) } else { None };
        let titles: Vec<String> = chapters::all().iter().map(Test::title).collect();
        let wanted = |title: &str| {
            self.common.wants(title)
                && list.as_ref().is_none_or(|list| list.iter().any(|entry| entry.names(title)))
        };
        Ok((0..titles.len()).filter(|index| wanted(&titles[*index])).collect())
    }

    /// The plan for one runtime.
    fn plan(&self, runtime: PathBuf) -> Result<Plan, String> {
        let (indices, jobs) = (self.indices()?, self.common.jobs.unwrap_or(2));
        Ok(Plan { runtime, indices, jobs, layout: self.layout })
    }
}

/// Runs the command line; answers the exit code.
pub fn main(words: &[String]) -> i32 {
    if words.first().is_some_and(|word| word == "report") {
        return report::main(&words[1..], USAGE);
    }
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
    let plan = options.plan(runtime.clone())?;
    let name = match options.format {
        Format::Json => version(&runtime),
        _ => runtime.display().to_string(),
    };
    // Before the place, in which the machine's file systems are read-only.
    let mut sink = Sink::open(options.format, options.output.as_deref(), &name, plan.indices.len())
        .map_err(|error| told(options, &error))?;
    let place = Place::new(&[runtime])
        .map_err(|error| format!("prepare a place for tests (root is needed): {error}"))?;
    let started = std::time::Instant::now();
    let mut broken = None;
    let outcomes = runner::run(&place, &plan, |number, outcome| {
        if broken.is_none() {
            broken = sink.each(number + 1, outcome).err();
        }
    });
    drop(place);
    broken
        .map_or_else(|| sink.end(&outcomes, started.elapsed()), Err)
        .map_err(|error| told(options, &error))?;
    Ok(i32::from(outcomes.iter().any(|outcome| outcome.verdict == Verdict::NotOk)))
}

fn told(options: &Options, error: &std::io::Error) -> String {
    let output = options.output.as_ref().map(|path| path.display().to_string());
    format!("write results to {}: {error}", output.as_deref().unwrap_or("standard output"))
}

/// The first line that a runtime prints of its version, or its path.
fn version(runtime: &Path) -> String {
    let output = Command::new(runtime).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    match text.lines().next() {
        Some(line) if !line.is_empty() => line.to_owned(),
        _ => runtime.display().to_string(),
    }
}

fn compare_all(options: &Options) -> Result<i32, String> {
    let names = &options.common.others;
    let runtimes = names.iter().map(|name| find(Path::new(name))).collect::<Result<Vec<_>, _>>()?;
    let place = Place::new(&runtimes)
        .map_err(|error| format!("prepare a place for tests (root is needed): {error}"))?;
    let mut columns = Vec::new();
    for (name, runtime) in names.iter().zip(runtimes) {
        let plan = options.plan(runtime)?;
        eprintln!("# running {name}");
        columns.push((name.clone(), runner::run(&place, &plan, |_, _| {})));
    }
    drop(place);
    print!("{}{}", compare::table(&columns), compare::failed_by_all(&columns));
    Ok(0)
}
