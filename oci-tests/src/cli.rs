//! The suite's command line.

use std::path::PathBuf;
use std::process::Command;

use crate::chapters;
use crate::check::Test;
use crate::compare;
use crate::format::{Format, Sink};
use crate::lab::cgroups::Layout;
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

/// The options of all commands.
#[derive(Default)]
pub struct Options {
    runtime: Option<PathBuf>,
    filter: Vec<String>,
    jobs: Option<usize>,
    layout: Option<Layout>,
    format: Format,
    output: Option<PathBuf>,
    listed: bool,
    list: bool,
    others: Vec<String>,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--runtime" => options.runtime = Some(value()?.into()),
                "--filter" => options.filter.extend(value()?.split_whitespace().map(str::to_owned)),
                "--jobs" => {
                    options.jobs = Some(value()?.parse().map_err(|_| "--jobs needs a number")?)
                }
                "--cgroups" => {
                    options.layout =
                        Some(Layout::parse(&value()?).ok_or("--cgroups needs host, v1 or v2")?);
                }
                "--format" => {
                    let word = value()?;
                    options.format = Format::parse(&word)
                        .ok_or(format!("--format {word} is not {}", Format::WORDS))?;
                }
                "--output" => options.output = Some(value()?.into()),
                "--listed" => options.listed = true,
                "--list" => options.list = true,
                "--help" | "-h" => return Err(String::new()),
                other if other.starts_with('-') => return Err(format!("{other} is not an option")),
                other => options.others.push(other.to_owned()),
            }
        }
        Ok(options)
    }

    fn indices(&self) -> Result<Vec<usize>, String> {
        let list = if self.listed { Some(requirements::list()?) } else { None };
        let titles: Vec<String> = chapters::all().iter().map(Test::title).collect();
        let wanted = |title: &str| {
            self.filter.iter().all(|word| title.contains(word.as_str()))
                && list.as_ref().is_none_or(|list| list.iter().any(|entry| entry.names(title)))
        };
        Ok((0..titles.len()).filter(|index| wanted(&titles[*index])).collect())
    }

    /// The plan for one runtime.
    pub fn plan(&self, runtime: PathBuf) -> Result<Plan, String> {
        let (indices, jobs) = (self.indices()?, self.jobs.unwrap_or(2));
        Ok(Plan { runtime, indices, jobs, layout: self.layout })
    }
}

/// Runs the command line; answers the exit code.
pub fn main(words: &[String]) -> i32 {
    if words.first().is_some_and(|word| word == "report") {
        return report::main(&words[1..], USAGE);
    }
    let compare = words.first().is_some_and(|word| word == "compare");
    let options = match Options::parse(&words[usize::from(compare)..]) {
        Ok(options) => options,
        Err(reason) => {
            eprint!("{reason}{}{USAGE}", if reason.is_empty() { "" } else { "\n" });
            return if reason.is_empty() { 0 } else { 2 };
        }
    };
    if options.list {
        for (number, test) in chapters::all().iter().enumerate() {
            println!("{:4} {}", number + 1, test.title());
        }
        return 0;
    }
    let result = if compare { compare_all(&options) } else { run_one(&options) };
    result.unwrap_or_else(|reason| {
        eprintln!("oci-tests: {reason}");
        2
    })
}

fn run_one(options: &Options) -> Result<i32, String> {
    if let Some(word) = options.others.first() {
        return Err(format!("{word} is not a command"));
    }
    let runtime = options.runtime.clone().or_else(|| std::env::var_os("RUNTIME").map(Into::into));
    let runtime = find(&runtime.unwrap_or_else(own_runtime))?;
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
fn version(runtime: &std::path::Path) -> String {
    let output = Command::new(runtime).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    match text.lines().next() {
        Some(line) if !line.is_empty() => line.to_owned(),
        _ => runtime.display().to_string(),
    }
}

fn compare_all(options: &Options) -> Result<i32, String> {
    if options.others.is_empty() {
        return Err("compare needs runtimes".into());
    }
    let found = options.others.iter().map(|name| find(&PathBuf::from(name)));
    let runtimes = found.collect::<Result<Vec<_>, _>>()?;
    let place = Place::new(&runtimes)
        .map_err(|error| format!("prepare a place for tests (root is needed): {error}"))?;
    let mut columns = Vec::new();
    for (name, runtime) in options.others.iter().zip(runtimes) {
        let plan = options.plan(runtime)?;
        eprintln!("# running {name}");
        columns.push((name.clone(), runner::run(&place, &plan, |_, _| {})));
    }
    drop(place);
    print!("{}{}", compare::table(&columns), compare::failed_by_all(&columns));
    Ok(0)
}

/// The absolute path of a runtime given as a path or a name in PATH.
fn find(runtime: &std::path::Path) -> Result<PathBuf, String> {
    if runtime.components().count() > 1 || runtime.exists() {
        return runtime
            .canonicalize()
            .map_err(|error| format!("runtime {}: {error}", runtime.display()));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let found =
        path.split(':').map(|dir| PathBuf::from(dir).join(runtime)).find(|file| file.is_file());
    found.ok_or(format!("runtime {} is not in PATH", runtime.display()))
}

/// `bulkhead` beside this program, else in the release directory, else in the debug one.
fn own_runtime() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let profile = own.parent().map(PathBuf::from).unwrap_or_default();
    let target = profile.parent().map(PathBuf::from).unwrap_or_default();
    let places =
        [target.join("release/bulkhead"), profile.join("bulkhead"), target.join("debug/bulkhead")];
    places.iter().find(|path| path.exists()).unwrap_or(&places[0]).clone()
}
