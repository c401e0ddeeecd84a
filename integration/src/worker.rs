//! One client's scenarios, one after the other, in the sandbox.

use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use oci_tests::check::{Res, Stop, skip};
use serde_json::json;

use crate::clients;
use crate::job::Job;
use crate::left::Left;
use crate::sandbox;
use crate::stage::Stage;

/// How long a daemon may take to start and load images, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the job and prints one line of JSON for each scenario; answers the exit code.
pub fn main(words: &[String]) -> i32 {
    let Some(job) = Job::parse(words) else {
        return 2;
    };
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        eprintln!("integration: {error}");
        return 1;
    }
    oci_tests::sys::set_umask(0o022);
    let shield = match sandbox::prepare(&job) {
        Ok(shield) => shield,
        Err(error) => {
            report(&job, &Err(Stop::Fail(format!("prepare the sandbox: {error}"))));
            return 1;
        }
    };
    let result = run(&job);
    // The read-only mounts go with the namespace.
    std::mem::forget(shield);
    match result {
        Ok(()) => 0,
        Err(stop) => {
            report(&job, &Err(stop));
            1
        }
    }
}

/// The same result for all scenarios: the client could not be started.
fn report(job: &Job, result: &Res) {
    for index in &job.scenarios {
        print(Some(*index), "", result, &[]);
    }
}

fn run(job: &Job) -> Res {
    let client = clients::ALL[job.client];
    let stage = Stage::new(job)?;
    let all = Left::now(&stage, client);
    stage.allow(PATIENCE);
    (client.open)(&stage)?;
    let mut before = Left::now(&stage, client);
    let scenarios = (client.scenarios)();
    for index in &job.scenarios {
        let scenario = &scenarios[*index];
        stage.allow(scenario.deadline);
        let started = Instant::now();
        let mut result = match scenario.skipped {
            Some(reason) => skip(reason),
            None => (scenario.run)(&stage),
        };
        if let Some(difference) = scenario.crun {
            result = difference.excuse(stage.kind, result, |text| stage.note(text));
        }
        stage.allow(Duration::from_secs(20));
        let left = stage.clean().and_then(|()| before.check(&stage, client));
        if left.is_err() {
            // It is this scenario's, and no later one's.
            before = Left::now(&stage, client);
        }
        match left {
            Err(Stop::Fail(reason)) if matches!(result, Err(Stop::Fail(_))) => stage.note(reason),
            Err(stop) => result = Err(stop),
            Ok(()) => {}
        }
        let mut notes = stage.take_notes();
        let took = started.elapsed();
        if took > Duration::from_secs(10) {
            notes.push(format!("took {:.1} s", took.as_secs_f32()));
        }
        print(Some(*index), "", &result, &notes);
    }
    stage.allow(PATIENCE);
    let mut result = Ok(());
    while let Some(daemon) = stage.take_daemon() {
        result = result.and(daemon.stop());
    }
    let left = all.check_processes(&stage);
    print(None, "nothing is left when the daemon has ended", &result.and(left), &[]);
    Ok(())
}

fn print(index: Option<usize>, title: &str, result: &Res, notes: &[String]) {
    let (word, reason): (&str, &str) = match result {
        Ok(()) => ("ok", ""),
        Err(Stop::Skip(reason)) => ("skip", reason),
        Err(Stop::Fail(reason)) => ("not ok", reason),
    };
    println!(
        "{}",
        json!({ "index": index, "title": title, "result": word, "reason": reason, "notes": notes })
    );
}
