//! A hundred containers by eight workers, with shims killed at random.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_tests::check::{Res, Stop, eq, fail};

use super::{ctr, exec, id, run, shim_of, task, until_status};
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;

const CONTAINERS: usize = 100;
const WORKERS: usize = 8;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a hundred containers, every sixth with its shim killed", "F160", soak)
            .within(240),
    ]
}

/// A sequence that looks random and is the same in every run: xorshift.
fn dice(turn: usize) -> u64 {
    let mut value = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(turn as u64 + 1);
    value ^= value << 13;
    value ^= value >> 7;
    value ^ value << 17
}

fn soak(stage: &Stage) -> Res {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::SeqCst);
                    if turn >= CONTAINERS || stage.remaining().is_zero() {
                        break;
                    }
                    if let Err(Stop::Fail(reason) | Stop::Skip(reason)) = one(stage, turn) {
                        let mut failed = failed.lock().expect("no holder of this lock panics");
                        failed.push(format!("container {turn}: {reason}"));
                    }
                }
            });
        }
    });
    super::remove_fifos()?;
    let failed = failed.into_inner().expect("no holder of this lock panics");
    match failed.first() {
        Some(first) => fail(format!("{} of {CONTAINERS} went wrong; {first}", failed.len())),
        None => Ok(()),
    }
}

fn one(stage: &Stage, turn: usize) -> Res {
    let id = id(stage);
    run(stage, &id, &["--detach", "--null-io"], &["sleep", "1000"]).must()?;
    let dice = dice(turn);
    if dice.is_multiple_of(6) {
        let shim = Pid::from_raw(shim_of(stage, &id)?);
        if dice & 64 != 0 {
            // While an exec runs.
            let running =
                ctr(stage, &["tasks", "exec", "--exec-id", "x", &id, "sleep", "1"]).spawn()?;
            std::thread::sleep(std::time::Duration::from_millis(dice >> 8 & 63));
            kill(shim, Signal::SIGKILL)?;
            drop(running);
        } else {
            kill(shim, Signal::SIGKILL)?;
        }
        stage.until("the task of a killed shim goes", || Ok(task(stage, &id)?.is_none()))?;
    } else {
        let wanted = (dice >> 8 & 127) as i32;
        let output = exec(stage, &id, &["sh", "-c", &format!("exit {wanted}")])?;
        eq(&format!("exit code of an exec ({})", output.brief()), &output.code, &Some(wanted))?;
        ctr(stage, &["tasks", "kill", "--signal", "KILL", &id]).must()?;
        until_status(stage, &id, "STOPPED")?;
        ctr(stage, &["tasks", "delete", &id]).output()?;
    }
    ctr(stage, &["containers", "delete", &id]).must()?;
    Ok(())
}
