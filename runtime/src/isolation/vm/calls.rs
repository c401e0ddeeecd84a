//! What is asked of the agent about a container that exists.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use wire::{Answer, Call, Row};

use super::session::{self, ANSWER, ask, out_of_turn};
use crate::cgroup::stats::Stats;
use crate::error::{Error, ErrorKind, Result};

/// How long a guest may take to kill.
const KILL: Duration = Duration::from_secs(5);

/// Signals the container's first process, or all. A guest that is to be killed is not waited for as long as others.
pub(crate) fn signal(dir: BorrowedFd<'_>, container: &str, signal: i32, all: bool) -> Result<()> {
    let within = if signal == libc::SIGKILL { KILL } else { ANSWER };
    let question = Call::Signal { container: container.to_owned(), signal, all };
    done(ask(dir, question, within)?).map(drop)
}

/// The container's figures in the guest.
pub(crate) fn stats(dir: BorrowedFd<'_>, container: &str) -> Result<Stats> {
    let answer = ask(dir, Call::Stats { container: container.to_owned() }, ANSWER)?;
    let Answer::Stats(figures) = answer else { return Err(out_of_turn(&answer)) };
    let stats: Stats = serde_json::from_value(figures).map_err(|error| {
        Error::new(ErrorKind::System, "read", "the guest's figures", error.to_string())
    })?;
    Ok(Stats { unified: true, ..stats })
}

/// The container's processes.
pub(crate) fn processes(dir: BorrowedFd<'_>, container: &str) -> Result<Vec<Row>> {
    match ask(dir, Call::Processes { container: container.to_owned() }, ANSWER)? {
        Answer::Processes(rows) => Ok(rows),
        other => Err(out_of_turn(&other)),
    }
}

/// Changes the container's limits in the guest.
pub(crate) fn update(
    dir: BorrowedFd<'_>,
    container: &str,
    resources: &LinuxResources,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let resources = super::guest::inside(resources.clone());
    let resources = serde_json::to_value(resources)
        .map_err(|error| Error::invalid("resources", error.to_string()))?;
    warnings.extend(done(ask(
        dir,
        Call::Update { container: container.to_owned(), resources },
        ANSWER,
    )?)?);
    Ok(())
}

fn done(answer: Answer) -> Result<Vec<String>> {
    match answer {
        Answer::Done { warnings } => Ok(session::warnings(warnings)),
        other => Err(out_of_turn(&other)),
    }
}
