//! The suite's command line.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use oci_tests::options::{self, find, own_runtime};
use oci_tests::outcome::{Outcome, Verdict, count};
use oci_tests::{cgroups, compare};

use crate::clients;
use crate::runner::{self, Plan};

const USAGE: &str = "\
usage: integration [OPTIONS] [--runtime PATH] [--shim PATH] [--list]
       integration compare [OPTIONS] PROGRAM...
options: --containerd DIR, --docker DIR, --debian FILE, --filter WORDS, --except WORDS, --jobs N, --slow N

Runs a runtime under containerd, Docker, Podman, Buildah and CRI. Needs root, and the clients.
The runtime is --runtime, else $RUNTIME, else this workspace's own binary.
With --shim, containerd uses that shim; else its own one calls the runtime.
With --containerd, containerd, ctr and its shim come from that directory; with --docker, all that Docker
is. The machine's own Docker is taken to be 20.10, which knows no shim but its own: there --shim says nothing.
With --debian, scenarios use the image in that archive, which integration/debian/build makes.
A program to compare is a runtime, or a shim if its name begins with containerd-shim.
A filter's words must all occur in a scenario's title, and none of --except; --slow N makes deadlines N
times as long. The exit code is 0 only without a failure.
";

struct Options {
    common: options::Options,
    shim: Option<PathBuf>,
    containerd: Option<PathBuf>,
    docker: Option<PathBuf>,
    debian: Option<PathBuf>,
    except: Vec<String>,
    slow: Option<u32>,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self, String> {
        let (mut shim, mut containerd, mut docker, mut debian) = (None, None, None, None);
        let (mut except, mut slow) = (Vec::new(), None);
        let common = options::Options::parse(words, |word, value| {
            let place = match word {
                "--shim" => &mut shim,
                "--containerd" => &mut containerd,
                "--docker" => &mut docker,
                "--debian" => &mut debian,
                "--except" => {
                    except.extend(value()?.split_whitespace().map(str::to_owned));
                    return Ok(true);
                }
                "--slow" => {
                    slow = Some(value()?.parse().map_err(|_| "--slow needs a number")?);
                    return Ok(true);
                }
                _ => return Ok(false),
            };
            let path = value()?;
            let absolute = Path::new(&path).canonicalize();
            *place = Some(absolute.map_err(|error| format!("{word} {path}: {error}"))?);
            Ok(true)
        })?;
        if common.compare && shim.is_some() {
            return Err("a shim to compare is one of the programs".into());
        }
        Ok(Self { common, shim, containerd, docker, debian, except, slow })
    }

    /// The scenarios that the filter lets through: client and place in its list.
    fn chosen(&self) -> Vec<(usize, usize)> {
        let mut chosen = Vec::new();
        for (client, entry) in clients::ALL.iter().enumerate() {
            // The pages are about one runtime.
            if self.common.compare && clients::is_page(client) {
                continue;
            }
            for (index, scenario) in (entry.scenarios)().iter().enumerate() {
                let title = entry.title(scenario);
                let excepted = self.except.iter().any(|word| title.contains(word.as_str()));
                if self.common.wants(&title) && !excepted {
                    chosen.push((client, index));
                }
            }
        }
        chosen
    }

    fn plan(&self, runtime: PathBuf, shim: Option<PathBuf>) -> Result<Plan, String> {
        let chosen = self.chosen();
        if chosen.is_empty() {
            return Err("no scenario's title has these words".into());
        }
        Ok(Plan {
            runtime,
            shim,
            containerd: self.containerd.clone(),
            docker: self.docker.clone(),
            debian: self.debian.clone(),
            chosen,
            jobs: self.common.jobs.unwrap_or(2),
            slow: self.slow.unwrap_or(1).max(1),
        })
    }

    /// The plan for a program to compare.
    fn column(&self, name: &str) -> Result<Plan, String> {
        let program = find(Path::new(name))?;
        let file = program.file_name().unwrap_or_default();
        if !file.as_bytes().starts_with(b"containerd-shim") {
            return self.plan(program, None);
        }
        let mut plan = self.plan(own_runtime()?, Some(program))?;
        let with_shim = |client: usize| plan.shim_of(clients::ALL[client]).is_some();
        plan.chosen =
            plan.chosen.iter().copied().filter(|(client, _)| with_shim(*client)).collect();
        Ok(plan)
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
        for (client, index) in options.chosen() {
            println!("{}", clients::title(client, index));
        }
        return 0;
    }
    let result = if options.common.compare { compare_all(&options) } else { run_one(&options) };
    result.unwrap_or_else(|reason| {
        eprintln!("integration: {reason}");
        2
    })
}

fn run_one(options: &Options) -> Result<i32, String> {
    let plan = options.plan(options.common.one()?, options.shim.clone())?;
    let started = Instant::now();
    let outcomes = run(&plan)?;
    println!("# {} took {:.0} s", plan.runtime.display(), started.elapsed().as_secs_f32());
    Ok(closing_line(&outcomes))
}

fn compare_all(options: &Options) -> Result<i32, String> {
    let mut columns = Vec::new();
    for name in &options.common.others {
        let plan = options.column(name)?;
        println!("# {name}");
        columns.push((name.clone(), run(&plan)?));
    }
    print!(
        "\n{}{}{}\n",
        compare::table(&columns),
        compare::differing(&columns),
        compare::failed_by_all(&columns)
    );
    let all: Vec<Outcome> = columns.into_iter().flat_map(|(_, outcomes)| outcomes).collect();
    Ok(closing_line(&all))
}

fn run(plan: &Plan) -> Result<Vec<Outcome>, String> {
    if let Some(names) = unmounted() {
        println!(
            "# {names}: a cgroup hierarchy without a mount, which leaves containerd's own shim without figures"
        );
    }
    runner::run(plan, print).map_err(|error| format!("prepare the run: {error}"))
}

/// The controllers of a v1 hierarchy that exists and is mounted nowhere, such as a test may leave.
fn unmounted() -> Option<String> {
    let mounted = cgroups::hierarchies();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let lists = own.lines().filter_map(|line| line.split(':').nth(1));
    let has = |name: &str| mounted.iter().any(|h| h.controllers.iter().any(|c| c == name));
    let missing = |list: &&str| !list.is_empty() && !list.split(',').all(has);
    lists.into_iter().find(missing).map(str::to_owned)
}

/// Prints the counts as the last line; answers the exit code.
fn closing_line(outcomes: &[Outcome]) -> i32 {
    let failed = count(outcomes, Verdict::NotOk);
    let (passed, skipped) = (count(outcomes, Verdict::Ok), count(outcomes, Verdict::Skip));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
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
