//! Rules of `process`, for init and for `exec`.

use oci_spec::runtime::{LinuxSchedulerPolicy as Policy, Process, Scheduler, User};

use super::{absolute, list, no_nul, within};
use crate::caps;
use crate::error::{Error, Result};
use crate::faults::Faults;

/// `NGROUPS_MAX` of the kernel.
const MOST_GROUPS: usize = 65536;

/// Checks a process. `prefix` is `process.`, or empty for a `process.json`.
pub(crate) fn process(process: &Process, prefix: &str, faults: &mut Faults) -> Result<()> {
    let field = |name: &str| format!("{prefix}{name}");
    faults.note(absolute(&field("cwd"), process.cwd()))?;
    if list(process.args()).is_empty() {
        faults.note(Err(Error::invalid(field("args"), "is required and not empty")))?;
    }
    for (index, arg) in list(process.args()).iter().enumerate() {
        faults.note(no_nul(&format!("{prefix}args[{index}]"), arg))?;
    }
    for (index, entry) in list(process.env()).iter().enumerate() {
        let field = format!("{prefix}env[{index}]");
        faults.note(no_nul(&field, entry))?;
        // As runc: an entry without a name is no variable, and programs read it in different ways.
        if entry.find('=').is_none_or(|at| at == 0) {
            faults.note(Err(Error::invalid(field, format!("{entry:?} is not NAME=VALUE"))))?;
        }
    }
    user(&field("user"), process.user(), faults)?;
    if let Some(size) = process.console_size() {
        for (name, number) in [("height", size.height()), ("width", size.width())] {
            let field = format!("{prefix}consoleSize.{name}");
            faults.note(within(field, number, 0..=u64::from(u16::MAX)))?;
        }
    }
    if let Some(adjustment) = process.oom_score_adj() {
        faults.note(within(field("oomScoreAdj"), adjustment, -1000..=1000))?;
    }
    rlimits(process, prefix, faults)?;
    capabilities(process, prefix, faults)?;
    for (name, label) in
        [("apparmorProfile", process.apparmor_profile()), ("selinuxLabel", process.selinux_label())]
    {
        if let Some(label) = label {
            faults.note(no_nul(&field(name), label))?;
        }
    }
    if let Some(io) = process.io_priority() {
        faults.note(within(field("ioPriority.priority"), io.priority(), 0..=7))?;
    }
    match process.scheduler() {
        Some(settings) => faults.note(scheduler(&field("scheduler"), settings)),
        None => Ok(()),
    }
}

fn user(field: &str, user: &User, faults: &mut Faults) -> Result<()> {
    faults.note(id(&format!("{field}.uid"), user.uid()))?;
    faults.note(id(&format!("{field}.gid"), user.gid()))?;
    let groups = list(user.additional_gids());
    if groups.len() > MOST_GROUPS {
        let number = groups.len();
        faults.note(Err(Error::invalid(
            format!("{field}.additionalGids"),
            format!("{number} groups, the kernel takes {MOST_GROUPS}"),
        )))?;
    }
    for (index, group) in groups.iter().enumerate() {
        faults.note(id(&format!("{field}.additionalGids[{index}]"), *group))?;
    }
    match user.umask() {
        Some(umask) => faults.note(within(format!("{field}.umask"), umask, 0..=0o777)),
        None => Ok(()),
    }
}

/// To `setresuid` this number means "leave as it is", which would be root.
fn id(field: &str, id: u32) -> Result<()> {
    if id == u32::MAX {
        return Err(Error::invalid(field, format!("{id} is not an id: it means no change")));
    }
    Ok(())
}

fn rlimits(process: &Process, prefix: &str, faults: &mut Faults) -> Result<()> {
    let limits = list(process.rlimits());
    for (index, limit) in limits.iter().enumerate() {
        let field = format!("{prefix}rlimits[{index}]");
        if limits[..index].iter().any(|earlier| earlier.typ() == limit.typ()) {
            faults.note(Err(Error::invalid(
                format!("{field}.type"),
                format!("\"{}\" is given twice", limit.typ()),
            )))?;
        }
        let (soft, hard) = (limit.soft(), limit.hard());
        if soft > hard {
            faults.note(Err(Error::invalid(
                format!("{field}.soft"),
                format!("{soft} is above the hard limit {hard}"),
            )))?;
        }
    }
    Ok(())
}

/// What the kernel would refuse with a bare EPERM. Ambient bits that cannot be raised are only a
/// warning, and are dropped when the sets are planned.
fn capabilities(process: &Process, prefix: &str, faults: &mut Faults) -> Result<()> {
    let sets = caps::plan(process.capabilities().as_ref());
    for (name, set, limit, within) in [
        ("effective", sets.effective, sets.permitted, "permitted"),
        ("inheritable", sets.inheritable, sets.bounding, "bounding"),
    ] {
        if set & !limit != 0 {
            let names = caps::describe(set & !limit);
            faults.note(Err(Error::invalid(
                format!("{prefix}capabilities.{name}"),
                format!("{names} not in {prefix}capabilities.{within}"),
            )))?;
        }
    }
    Ok(())
}

fn scheduler(field: &str, scheduler: &Scheduler) -> Result<()> {
    let policy = *scheduler.policy();
    if let Some(nice) = *scheduler.nice() {
        within(format!("{field}.nice"), nice, -20..=19)?;
    }
    let priority = scheduler.priority().unwrap_or(0);
    if matches!(policy, Policy::SchedFifo | Policy::SchedRr) {
        within(format!("{field}.priority"), priority, 1..=99)?;
    } else if priority != 0 {
        return Err(Error::invalid(
            format!("{field}.priority"),
            format!("{priority} is only for SCHED_FIFO and SCHED_RR, not {policy}"),
        ));
    }
    let times = [
        ("runtime", *scheduler.runtime()),
        ("deadline", *scheduler.deadline()),
        ("period", *scheduler.period()),
    ];
    for (name, time) in times {
        let time = time.unwrap_or(0);
        if policy != Policy::SchedDeadline && time != 0 {
            return Err(Error::invalid(
                format!("{field}.{name}"),
                format!("{time} is only for SCHED_DEADLINE, not {policy}"),
            ));
        }
    }
    if policy == Policy::SchedDeadline {
        // runtime <= deadline <= period; a period of 0 is the deadline, see sched(7).
        let [runtime, deadline, period] = times.map(|(_, time)| time.unwrap_or(0));
        if runtime == 0 || deadline < runtime || (period != 0 && period < deadline) {
            return Err(Error::invalid(
                field,
                format!("0 < runtime {runtime} <= deadline {deadline} <= period {period} is false"),
            ));
        }
    }
    Ok(())
}
