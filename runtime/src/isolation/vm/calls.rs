//! What is asked of the agent about a container that exists.

use std::os::fd::BorrowedFd;

use oci_spec::runtime::LinuxResources;
use wire::{Answer, Call, Row};

use super::session::{ask, out_of_turn};
use crate::cgroup::stats::Stats;
use crate::error::{Error, ErrorKind, Result};

/// Signals the container's first process, or all.
pub(crate) fn signal(dir: BorrowedFd<'_>, container: &str, signal: i32, all: bool) -> Result<()> {
    done(ask(dir, Call::Signal { container: container.to_owned(), signal, all })?).map(drop)
}

/// The container's figures in the guest.
pub(crate) fn stats(dir: BorrowedFd<'_>, container: &str) -> Result<Stats> {
    let answer = ask(dir, Call::Stats { container: container.to_owned() })?;
    let Answer::Stats(figures) = answer else { return Err(out_of_turn(&answer)) };
    let stats: Stats = serde_json::from_value(figures).map_err(|error| {
        Error::new(ErrorKind::System, "read", "the guest's figures", error.to_string())
    })?;
    Ok(Stats { unified: true, ..stats })
}

/// The container's processes.
pub(crate) fn processes(dir: BorrowedFd<'_>, container: &str) -> Result<Vec<Row>> {
    match ask(dir, Call::Processes { container: container.to_owned() })? {
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
    warnings.extend(done(ask(dir, Call::Update { container: container.to_owned(), resources })?)?);
    Ok(())
}

fn done(answer: Answer) -> Result<Vec<String>> {
    match answer {
        Answer::Done { warnings } => Ok(warnings),
        other => Err(out_of_turn(&other)),
    }
}
