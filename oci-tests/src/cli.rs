//! The suite's command line.

use std::io::Write;
use std::path::PathBuf;

use crate::chapters;
use crate::compare;
use crate::lab::cgroups::Layout;
use crate::outcome::{Outcome, Verdict};
use crate::runner::{self, Place, Plan};

const USAGE: &str = "\
usage: oci-tests [--runtime PATH] [--filter WORDS] [--jobs N] [--cgroups host|v1|v2]
                 [--format tap|summary] [--list]
       oci-tests compare [--filter WORDS] [--jobs N] RUNTIME RUNTIME...

Asks a runtime what the OCI runtime specification 1.3 for Linux demands. Needs root.
The runtime is --runtime, else $RUNTIME, else this workspace's own binary.
A filter's words must all occur in a test's title; the exit code is 0 only without a `not ok`.
";

/// The options of all commands.
#[derive(Default)]
pub struct Options {
    runtime: Option<PathBuf>,
    filter: Vec<String>,
    jobs: Option<usize>,
    layout: Option<Layout>,
    summary: bool,
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
                "--format" => match value()?.as_str() {
                    "tap" => options.summary = false,
                    "summary" => options.summary = true,
                    other => return Err(format!("--format {other} is not tap or summary")),
                },
                "--list" => options.list = true,
                "--help" | "-h" => return Err(String::new()),
                other if other.starts_with('-') => return Err(format!("{other} is not an option")),
                other => options.others.push(other.to_owned()),
            }
        }
        Ok(options)
    }

    fn indices(&self) -> Vec<usize> {
        let tests = chapters::all();
        let wanted = |title: &str| self.filter.iter().all(|word| title.contains(word.as_str()));
        (0..tests.len()).filter(|index| wanted(&tests[*index].title())).collect()
    }

    /// The plan for one runtime.
    pub fn plan(&self, runtime: PathBuf) -> Plan {
        Plan { runtime, indices: self.indices(), jobs: self.jobs.unwrap_or(2), layout: self.layout }
    }
}

/// Runs the command line; answers the exit code.
pub fn main(words: &[String]) -> i32 {
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
    if options.summary {
        print!("{}", compare::table(&[(plan.runtime.display().to_string(), outcomes.clone())]));
    }
    let count = |verdict| outcomes.iter().filter(|outcome| outcome.verdict == verdict).count();
    println!(
        "# {}: {} ok, {} not ok, {} skipped in {:.1} s",
        plan.runtime.display(),
        count(Verdict::Ok),
        count(Verdict::NotOk),
        count(Verdict::Skip),
        started.elapsed().as_secs_f32()
    );
    Ok(i32::from(count(Verdict::NotOk) > 0))
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
