//! The suite's command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use oci_tests::compare;
use oci_tests::outcome::{Outcome, Verdict};

use crate::clients;
use crate::runner::{self, Plan};

const USAGE: &str = "\
usage: integration [OPTIONS] [--runtime PATH] [--list]
       integration compare [OPTIONS] RUNTIME RUNTIME...
options: --shim PATH, --containerd DIR, --filter WORDS, --except WORDS, --jobs N, --slow N

Runs a runtime under containerd, Docker, Podman, Buildah and CRI. Needs root, and the clients.
The runtime is --runtime, else $RUNTIME, else this workspace's own binary.
With --shim, containerd uses that shim; else its own one calls the runtime.
With --containerd, containerd, ctr and its shim come from that directory.
A filter's words must all occur in a scenario's title, and none of --except; --slow N makes deadlines N
times as long. The exit code is 0 only without a failure.
";

#[derive(Default)]
struct Options {
    runtime: Option<PathBuf>,
    shim: Option<PathBuf>,
    containerd: Option<PathBuf>,
    filter: Vec<String>,
    except: Vec<String>,
    jobs: Option<usize>,
    slow: Option<u32>,
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
                "--shim" => options.shim = Some(value()?.into()),
                "--containerd" => options.containerd = Some(value()?.into()),
                "--filter" => options.filter.extend(value()?.split_whitespace().map(str::to_owned)),
                "--except" => options.except.extend(value()?.split_whitespace().map(str::to_owned)),
                "--jobs" => {
                    options.jobs = Some(value()?.parse().map_err(|_| "--jobs needs a number")?)
                }
                "--slow" => {
                    options.slow = Some(value()?.parse().map_err(|_| "--slow needs a number")?)
                }
                "--list" => options.list = true,
                "--help" | "-h" => return Err(String::new()),
                other if other.starts_with('-') => return Err(format!("{other} is not an option")),
                other => options.others.push(other.to_owned()),
            }
        }
        Ok(options)
    }

    /// The scenarios that the filter lets through: client and place in its list.
    fn chosen(&self) -> Vec<(usize, usize)> {
        let mut chosen = Vec::new();
        for (client, entry) in clients::ALL.iter().enumerate() {
            for (index, scenario) in (entry.scenarios)().iter().enumerate() {
                let title = entry.title(scenario);
                let has = |word: &String| title.contains(word.as_str());
                if self.filter.iter().all(has) && !self.except.iter().any(has) {
                    chosen.push((client, index));
                }
            }
        }
        chosen
    }

    fn plan(&self, runtime: PathBuf) -> Result<Plan, String> {
        let absolute = |path: &Option<PathBuf>| match path {
            Some(path) => path
                .canonicalize()
                .map(Some)
                .map_err(|error| format!("{}: {error}", path.display())),
            None => Ok(None),
        };
        let chosen = self.chosen();
        if chosen.is_empty() {
            return Err("no scenario's title has these words".into());
        }
        Ok(Plan {
            runtime,
            shim: absolute(&self.shim)?,
            containerd: absolute(&self.containerd)?,
            chosen,
            jobs: self.jobs.unwrap_or(2),
            slow: self.slow.unwrap_or(1).max(1),
        })
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
        for (client, index) in options.chosen() {
            println!("{}", clients::title(client, index));
        }
        return 0;
    }
    let result = if compare { compare_all(&options) } else { run_one(&options) };
    result.unwrap_or_else(|reason| {
        eprintln!("integration: {reason}");
        2
    })
}

fn run_one(options: &Options) -> Result<i32, String> {
    if let Some(word) = options.others.first() {
        return Err(format!("{word} is not a command"));
    }
    let runtime = options.runtime.clone().or_else(|| std::env::var_os("RUNTIME").map(Into::into));
    let runtime = find(&runtime.unwrap_or_else(own_runtime))?;
    let plan = options.plan(runtime)?;
    let started = Instant::now();
    let outcomes =
        runner::run(&plan, print).map_err(|error| format!("prepare the run: {error}"))?;
    println!("# {} took {:.0} s", plan.runtime.display(), started.elapsed().as_secs_f32());
    Ok(closing_line(&outcomes))
}

fn compare_all(options: &Options) -> Result<i32, String> {
    if options.others.is_empty() {
        return Err("compare needs runtimes".into());
    }
    let mut columns = Vec::new();
    for name in &options.others {
        let plan = options.plan(find(Path::new(name))?)?;
        println!("# {name}");
        let outcomes =
            runner::run(&plan, print).map_err(|error| format!("prepare the run: {error}"))?;
        columns.push((name.clone(), outcomes));
    }
    print!("\n{}{}\n", compare::table(&columns), compare::failed_by_all(&columns));
    let all: Vec<Outcome> = columns.into_iter().flat_map(|(_, outcomes)| outcomes).collect();
    Ok(closing_line(&all))
}

/// Prints the counts as the last line; answers the exit code.
fn closing_line(outcomes: &[Outcome]) -> i32 {
    let count = |verdict| outcomes.iter().filter(|outcome| outcome.verdict == verdict).count();
    let failed = count(Verdict::NotOk);
    println!("{} passed, {failed} failed, {} skipped", count(Verdict::Ok), count(Verdict::Skip));
    i32::from(failed > 0)
}

fn print(outcome: &Outcome) {
    let mut text = match outcome.verdict {
        Verdict::Ok => format!("ok   {}", outcome.title),
        Verdict::NotOk => format!("FAIL {}\n       {}", outcome.title, outcome.reason),
        Verdict::Skip => format!("skip {}: {}", outcome.title, outcome.reason),
    };
    for note in &outcome.notes {
        text.push_str(&format!("\n       {note}"));
    }
    println!("{text}");
    let _ = std::io::stdout().flush();
}

/// The absolute path of a runtime given as a path or a name in PATH.
fn find(runtime: &Path) -> Result<PathBuf, String> {
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
