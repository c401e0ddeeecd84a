//! Runs the chosen scenarios, one client beside another, and hands on their results.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oci_tests::cgroups;
use oci_tests::outcome::{Outcome, Verdict};
use oci_tests::process::ends_within;
use serde_json::Value;

use crate::clients;
use crate::images;
use crate::job::Job;
use crate::scenario::Client;

/// What to run and how.
pub struct Plan {
    /// The program under test.
    pub runtime: PathBuf,
    /// The shim under test.
    pub shim: Option<PathBuf>,
    /// Where other containerd programs are.
    pub containerd: Option<PathBuf>,
    /// An archive of Debian's image.
    pub debian: Option<PathBuf>,
    /// Where another Docker's programs are.
    pub docker: Option<PathBuf>,
    /// Client and place in its list.
    pub chosen: Vec<(usize, usize)>,
    /// How many clients run at once.
    pub jobs: usize,
    /// How many times as slow as usual the machine is.
    pub slow: u32,
}

impl Plan {
    /// The daemons and clients that go before the machine's.
    fn programs_of(&self, client: &Client) -> Option<PathBuf> {
        match (client.needs("dockerd"), client.needs("containerd")) {
            (true, _) => self.docker.clone(),
            (_, true) => self.containerd.clone(),
            _ => None,
        }
    }

    /// The shim that a client's daemon can use.
    pub fn shim_of(&self, client: &Client) -> Option<PathBuf> {
        let can = client.needs("containerd") || client.needs("dockerd") && self.docker.is_some();
        self.shim.clone().filter(|_| can)
    }
}

/// How long starting and stopping a client's daemons may take, beside its scenarios.
const OVERHEAD: Duration = Duration::from_secs(120);

/// What this run has on the machine's own file system: an empty directory for mounts, and images.
struct Place {
    base: PathBuf,
    word: String,
}

impl Place {
    fn new() -> io::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let word = format!("bhint{}n{number}", std::process::id());
        let base = std::env::temp_dir().join(&word);
        fs::create_dir(&base)?;
        Ok(Self { base, word })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

/// Runs a plan; `each` hears of every result when it is there.
pub fn run(plan: &Plan, each: impl Fn(&Outcome) + Sync) -> io::Result<Vec<Outcome>> {
    let place = Place::new()?;
    let images = place.base.join("images");
    images::build(&images)?;
    if let Some(archive) = &plan.debian {
        let place = images.join("debian.tar");
        fs::hard_link(archive, &place).or_else(|_| fs::copy(archive, &place).map(|_| ()))?;
    }
    let queue = Mutex::new(jobs(plan, &place, &images));
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no holder of this lock panics").pop_front();
                    let Some(job) = next else { break };
                    let found = run_job(&job, &each);
                    outcomes.lock().expect("no holder of this lock panics").extend(found);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no holder of this lock panics");
    outcomes.sort_by_key(|(client, _)| *client);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// One job for each client; those with the most scenarios first, so that none is waited for at the end.
fn jobs(plan: &Plan, place: &Place, images: &Path) -> VecDeque<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for (client, index) in &plan.chosen {
        if let Some(job) = jobs.iter_mut().find(|job| job.client == *client) {
            job.scenarios.push(*index);
            continue;
        }
        let name = clients::ALL[*client].name;
        let word = format!("{}{}", place.word, name.replace(['-', ' '], ""));
        jobs.push(Job {
            client: *client,
            scenarios: vec![*index],
            runtime: plan.runtime.clone(),
            shim: plan.shim_of(clients::ALL[*client]),
            programs: plan.programs_of(clients::ALL[*client]),
            dir: place.base.join(name.replace(' ', "-")),
            images: images.to_owned(),
            word,
            slow: plan.slow,
        });
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(job.scenarios.len()));
    jobs.into()
}

fn run_job(job: &Job, each: &impl Fn(&Outcome)) -> Vec<(usize, Outcome)> {
    let entry = clients::ALL[job.client];
    let mut outcomes = Vec::new();
    let mut add = |outcome: Outcome| {
        each(&outcome);
        outcomes.push((job.client, outcome));
    };
    let all = |verdict, reason: &str, from: usize, add: &mut dyn FnMut(Outcome)| {
        for index in &job.scenarios[from..] {
            add(outcome(
                entry.name,
                clients::title(job.client, *index),
                verdict,
                reason.to_owned(),
            ));
        }
    };
    if let Some(program) = entry.programs.iter().find(|program| !in_path(program)) {
        all(Verdict::Skip, &format!("{program} is not installed"), 0, &mut add);
        return outcomes;
    }
    let mut done = 0;
    let mut since = Instant::now();
    let reason = match supervise(job, |line| {
        let Ok(value) = serde_json::from_str::<Value>(line) else { return };
        let title = match value["index"].as_u64() {
            Some(index) => clients::title(job.client, index as usize),
            None => format!("{}: {}", entry.name, value["title"].as_str().unwrap_or_default()),
        };
        done += usize::from(value["index"].is_u64());
        let outcome = Outcome::read(entry.name, title, &value, since.elapsed());
        since = Instant::now();
        add(outcome);
    }) {
        Ok(()) => "the worker ended before this scenario".to_owned(),
        Err(error) => format!("the worker: {error}"),
    };
    all(Verdict::NotOk, &reason, done, &mut add);
    cgroups::remove(&job.word);
    outcomes
}

fn outcome(section: &'static str, title: String, verdict: Verdict, reason: String) -> Outcome {
    Outcome { section, title, verdict, reason, notes: Vec::new(), took: Duration::ZERO }
}

/// Starts the job's own process and reads its lines until it ends, or its time is over.
fn supervise(job: &Job, mut line: impl FnMut(&str)) -> io::Result<()> {
    fs::create_dir_all(&job.dir)?;
    let scenarios = (clients::ALL[job.client].scenarios)();
    let limit = job.scenarios.iter().map(|index| scenarios[*index].deadline).sum::<Duration>();
    let mut child = Command::new(std::env::current_exe()?)
        .arg("outer")
        .args(job.words())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or(io::Error::other("no pipe"))?;
    let pid = child.id() as i32;
    let result = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch(&mut child, pid, (limit + OVERHEAD) * job.slow));
        for text in BufReader::new(stdout).lines().map_while(Result::ok) {
            line(&text);
        }
        watch.join().unwrap_or_else(|_| Err(io::Error::other("the watchdog crashed")))
    });
    child.wait()?;
    result
}

fn watch(child: &mut Child, pid: i32, limit: Duration) -> io::Result<()> {
    if !ends_within(pid, limit).unwrap_or(false) {
        child.kill()?;
        return Err(io::Error::other(format!("did not end within {limit:?}")));
    }
    Ok(())
}

fn in_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|dir| Path::new(dir).join(program).is_file())
}
