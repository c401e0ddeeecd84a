//! Each system call of a command made to fail, and each made the last of its caller.
//!
//! A command is recorded once; then it is repeated, each time with one of its calls, or of a process
//! that it forked, going wrong. A failed command says why in one line and leaves nothing; whatever a
//! killed one leaves, `delete --force` removes. The same container id serves all repetitions, so that
//! each also shows that the id can be used again.
//!
//! By default the first and the last call of each kind in each process are tried, with EIO; with
//! `INJECT=all` in the environment all calls, with EIO, EPERM and ENOMEM. That takes minutes. With any
//! value of `INJECT`, each repetition is told on standard error.
//!
//! Exit code 0 in spite of a failed call counts as tolerated: then only the end of the container is
//! checked, not what is in it.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::syscalls;
use crate::check::{Res, Test, cut, ensure, fail, skip, test};
use crate::lab::agent::Agent;
use crate::lab::bundle::{Bundle, joined_pids, mount, namespace, user_namespace};
use crate::lab::call::Output;
use crate::lab::{Lab, cgroups, reap_orphans};
use crate::ptrace::{self, Blow, Site, Trace};

/// How long one repetition may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long the kernel may take to let killed processes and their cgroups go.
const GRACE: Duration = Duration::from_secs(3);

/// Calls that are not made to fail. Memory that cannot be had ends a program; `close` closes whatever
/// it answers; the others cannot fail, or only in the C library's own start.
const SPARED: [i64; 27] = [
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_arch_prctl,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_getrandom,
    libc::SYS_sched_getaffinity,
    // A system call where the clock is not one that the vDSO can read.
    libc::SYS_clock_gettime,
    libc::SYS_umask,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
];

/// The command that is disturbed, and what comes before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    Run,
    Start,
    Exec,
    Delete,
    DeleteForce,
}

struct Scenario {
    name: &'static str,
    verb: Verb,
    edit: fn(&mut Value),
}

static SCENARIOS: [Scenario; 11] = [
    Scenario { name: "create", verb: Verb::Create, edit: rich },
    Scenario { name: "create with a user namespace", verb: Verb::Create, edit: in_user_namespace },
    Scenario { name: "create with a terminal", verb: Verb::Create, edit: with_terminal },
    Scenario { name: "create in a joined pid namespace", verb: Verb::Create, edit: in_joined_pids },
    Scenario {
        name: "create in a new user namespace and a joined pid namespace",
        verb: Verb::Create,
        edit: in_both,
    },
    Scenario { name: "run", verb: Verb::Run, edit: rich },
    Scenario { name: "start", verb: Verb::Start, edit: with_hooks },
    Scenario { name: "exec", verb: Verb::Exec, edit: rich },
    Scenario { name: "exec in a user namespace", verb: Verb::Exec, edit: in_user_namespace },
    Scenario { name: "delete", verb: Verb::Delete, edit: with_hooks },
    Scenario { name: "delete --force", verb: Verb::DeleteForce, edit: |_| {} },
];

/// What goes wrong in a test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Errors,
    Kills,
}

fn rich(spec: &mut Value) {
    with_hooks(spec);
    namespace(spec, "network");
    namespace(spec, "cgroup");
    spec["hostname"] = json!("injected");
    mount(spec, "/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777"]);
    mount(spec, "/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
    mount(spec, "/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]);
    mount(spec, "/data/new/deep", "bind", "/tmp", &["rbind", "ro"]);
    spec["linux"]["devices"] =
        json!([{ "path": "/dev/extra", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600 }]);
    spec["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys", "/etc"]);
    spec["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/bus"]);
    spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    spec["linux"]["resources"] = json!({
        "devices": [{ "allow": false, "access": "rwm" }],
        "memory": { "limit": 256 << 20 },
        "pids": { "limit": 100 },
        "cpu": { "shares": 512 },
    });
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["swapon", "reboot"], "action": "SCMP_ACT_ERRNO" }],
    });
    spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024 }]);
    spec["process"]["oomScoreAdj"] = json!(500);
    spec["process"]["noNewPrivileges"] = json!(true);
}

fn in_user_namespace(spec: &mut Value) {
    rich(spec);
    user_namespace(spec);
}

fn in_joined_pids(spec: &mut Value) {
    rich(spec);
    joined_pids(spec);
}

/// Without a procfs, which takes power over the pid namespace.
fn in_both(spec: &mut Value) {
    in_user_namespace(spec);
    joined_pids(spec);
    spec["mounts"][0] = json!({
        "destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"],
    });
}

fn with_terminal(spec: &mut Value) {
    spec["process"]["terminal"] = json!(true);
    spec["process"]["consoleSize"] = json!({ "height": 24, "width": 80 });
}

fn with_hooks(spec: &mut Value) {
    let hook = json!([{ "path": "/bin/true" }]);
    spec["hooks"] = json!({
        "createRuntime": hook, "createContainer": hook, "poststart": hook, "poststop": hook,
    });
}

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    SCENARIOS
        .iter()
        .flat_map(|scenario| {
            [Trouble::Errors, Trouble::Kills].into_iter().map(move |trouble| {
                let text = match trouble {
                    Trouble::Errors => "each system call fails: one line says why, nothing is left",
                    Trouble::Kills => "SIGKILL before each system call: delete --force cleans",
                };
                test(
                    "robustness#injection",
                    "F147 F160 F175",
                    format!("{}: {text}", scenario.name),
                    move |lab| Stage::new(lab, scenario)?.all(trouble),
                )
            })
        })
        .collect()
}

/// Whether each repetition is told on standard error, and no test is stopped for taking long.
pub fn verbose() -> bool {
    std::env::var_os("INJECT").is_some()
}

/// Whether everything is tried.
fn thorough() -> bool {
    std::env::var_os("INJECT").is_some_and(|value| value == "all")
}

/// One scenario being repeated.
struct Stage<'l> {
    lab: &'l Lab,
    scenario: &'l Scenario,
    bundle: Bundle,
    console: Option<Agent>,
}

impl<'l> Stage<'l> {
    fn new(lab: &'l Lab, scenario: &'l Scenario) -> Res<Self> {
        let ends = matches!(scenario.verb, Verb::Run);
        let steps: &[&str] = if ends { &["quiet-exit"] } else { &["pause"] };
        let mut bundle = lab.bundle(steps, scenario.edit)?;
        if !bundle.spec["linux"]["uidMappings"].is_null() {
            bundle.spec["linux"]["devices"] = json!([]);
            bundle.save()?;
            bundle.chown(100_000, 100_000)?;
        }
        let terminal = bundle.spec["process"]["terminal"] == true;
        let console = terminal.then(|| Agent::listen(&lab.dir.join("console.sock"))).transpose()?;
        Ok(Self { lab, scenario, bundle, console })
    }

    fn pid_file(&self) -> String {
        self.lab.dir.join("pid").display().to_string()
    }

    /// Pid files under their temporary names.
    fn pid_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.lab.dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path().display().to_string());
        paths.filter(|path| path.contains("/.pid")).collect()
    }

    fn remove_pid_files(&self) {
        for file in self.pid_files() {
            let _ = std::fs::remove_file(file);
        }
    }

    fn plain(&self, words: &[&str]) -> Res<Output> {
        self.lab.call(words).output()
    }

    fn plainly(&self, words: &[&str]) -> Res {
        let output = self.plain(words)?;
        output.excuse()?;
        ensure(output.code == Some(0), format!("{}: {}", words.join(" "), output.brief()))
    }

    fn create(&self) -> Vec<String> {
        let mut words = vec!["create".into(), "--bundle".into(), self.bundle.path().into()];
        if let Some(console) = &self.console {
            words.extend(["--console-socket".into(), console.path().into()]);
        }
        words.extend(["--pid-file".into(), self.pid_file(), self.bundle.id.clone()]);
        words
    }

    fn words(&self) -> Vec<String> {
        let id = self.bundle.id.clone();
        let of = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match self.scenario.verb {
            Verb::Create => self.create(),
            Verb::Run => of(&["run", "--bundle", self.bundle.path(), &id]),
            Verb::Start => of(&["start", &id]),
            Verb::Exec => of(&["exec", &id, "/bin/probe", "quiet-exit"]),
            Verb::Delete => of(&["delete", &id]),
            Verb::DeleteForce => of(&["delete", "--force", &id]),
        }
    }

    /// What must be there before the command.
    fn prepare(&self) -> Res {
        let id = self.bundle.id.as_str();
        let exists = || self.lab.state.join(id).exists();
        match self.scenario.verb {
            Verb::Create | Verb::Run => return Ok(()),
            Verb::Exec if exists() => return Ok(()),
            _ => {}
        }
        let words = self.create();
        self.plainly(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        if matches!(self.scenario.verb, Verb::Exec | Verb::DeleteForce) {
            self.plainly(&["start", id])?;
        }
        Ok(())
    }

    /// Runs the command, with one call going wrong.
    fn disturbed(&self, chosen: Option<(Site, Blow)>) -> Res<(Trace, Output)> {
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let started = self.lab.call(&words).traced().spawn()?;
        let trace = ptrace::drive(started.child.id() as i32, chosen, DEADLINE)?;
        let output = started.collected(ExitStatus::from_raw(trace.status));
        if let Some(console) = &self.console {
            while console.called()? {
                console.receive()?;
            }
        }
        Ok((trace, output))
    }

    fn all(&self, trouble: Trouble) -> Res {
        if !ptrace::available()? {
            return skip("ptrace is not permitted here");
        }
        // The first repetition makes what stays, like the state root; the second is the model.
        self.prepare()?;
        self.disturbed(None)?;
        let _ = self.plain(&["delete", "--force", &self.bundle.id]);
        self.prepare()?;
        let (trace, output) = self.disturbed(None)?;
        let model = trace.sites.clone();
        output.excuse()?;
        ensure(output.code == Some(0), format!("undisturbed: {}", output.brief()))?;
        ensure(trace.stuck.is_empty(), format!("undisturbed: stuck in {:?}", trace.stuck))?;
        self.judge(None, &output).inspect_err(|_| self.sweep())?;
        let mut tally = Tally::default();
        let first = std::ptr::eq(self.scenario, &SCENARIOS[0]);
        let whole = if first || thorough() { Whole::Yes } else { Whole::No };
        for (site, blow) in choose(&model, trouble, whole) {
            tally.tried += 1;
            let name = title(site, blow);
            self.prepare()?;
            // A killed creator leaves its pid file under the temporary name; nobody knows of it.
            self.remove_pid_files();
            let (trace, output) = self.disturbed(Some((site, blow)))?;
            if !trace.hit {
                tally.missed += 1;
            } else if output.code == Some(0) {
                tally.tolerated += 1;
            }
            let verdict = match trace.stuck.first() {
                Some(stuck) => fail(format!(
                    "process {} hangs in {}",
                    stuck.process,
                    syscalls::name(stuck.number)
                )),
                None => self.judge(Some((blow, is_late(&model, site))), &output),
            };
            if let Err(reason) = verdict {
                if verbose() {
                    eprintln!("{}: {name}: {}", self.scenario.name, text(&reason));
                }
                self.sweep();
                tally.failures.push(format!("{name}: {}", text(&reason)));
            } else if verbose() {
                eprintln!("{}: {name}: good: {}", self.scenario.name, output.brief());
            }
        }
        let _ = self.plain(&["delete", "--force", &self.bundle.id]);
        tally.report(self.lab)
    }

    /// What must be true after the command.
    fn judge(&self, done: Option<(Blow, Late)>, output: &Output) -> Res {
        let blow = done.map(|(blow, _)| blow);
        let id = self.bundle.id.as_str();
        let killed = output.signal == Some(libc::SIGKILL) && blow == Some(Blow::Kill);
        if !killed {
            informative(output, done)?;
        }
        let files = self.pid_files();
        ensure(killed || files.is_empty(), format!("left behind: {}", files.join(", ")))?;
        let failed = output.code != Some(0);
        if killed && matches!(self.scenario.verb, Verb::Create | Verb::Run) {
            self.no_stray(id)?;
        }
        match self.scenario.verb {
            // A failure that was told has been undone.
            Verb::Create | Verb::Run if failed && !killed => {}
            Verb::Exec => return self.undisturbed(),
            Verb::Start if failed => {
                let state = self.plain(&["state", id])?;
                ensure(state.code == Some(0), format!("then state: {}", state.brief()))?;
                self.delete()?;
            }
            _ => self.delete()?,
        }
        self.until_clean(|| self.lab.left())
    }

    /// A process whose pid was never recorded ends by itself: no later command knows of it, and not
    /// every container has a cgroup to be found by.
    fn no_stray(&self, id: &str) -> Res {
        let state = self.plain(&["state", id])?;
        if state.out.contains("\"created\"") || state.out.contains("\"running\"") {
            return Ok(());
        }
        self.until_clean(|| {
            self.lab.left().into_iter().filter(|left| left.starts_with("process")).collect()
        })
    }

    fn delete(&self) -> Res {
        let output = self.plain(&["delete", "--force", &self.bundle.id])?;
        ensure(
            output.code == Some(0) && output.err.is_empty(),
            format!("then delete --force: {}", output.brief()),
        )
    }

    /// An exec that failed leaves the container as it was.
    fn undisturbed(&self) -> Res {
        let state = self.plain(&["state", &self.bundle.id])?;
        ensure(state.out.contains("\"running\""), format!("then state: {}", state.brief()))?;
        self.until_clean(|| {
            let all = self.lab.left();
            let process = all.iter().filter(|left| left.starts_with("process")).skip(1);
            let mounts = all.iter().filter(|left| left.starts_with("mount"));
            process.chain(mounts).cloned().collect()
        })
    }

    fn until_clean(&self, left: impl Fn() -> Vec<String>) -> Res {
        let until = Instant::now() + GRACE;
        loop {
            let left = left();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return fail(format!("left behind: {}", cut(&left.join(", "))));
            }
            std::thread::yield_now();
        }
    }

    /// Removes what a failed repetition left: it must not fail the next one.
    fn sweep(&self) {
        let _ = self.plain(&["delete", "--force", &self.bundle.id]);
        cgroups::remove(&self.bundle.id);
        self.lab.end_processes();
        let _ = std::fs::remove_dir_all(self.lab.state.join(&self.bundle.id));
        self.remove_pid_files();
        reap_orphans();
    }
}

/// A failure is told in one line that names the cause, and nobody panics.
fn informative(output: &Output, done: Option<(Blow, Late)>) -> Res {
    let Some(code) = output.code else { return fail(format!("died: {}", output.brief())) };
    ensure(!output.err.contains("panicked"), format!("panic: {}", output.brief()))?;
    if code == 0 {
        return Ok(());
    }
    // A process that is killed once it was ready looks like its program being killed.
    let late = done == Some((Blow::Kill, Late::Yes));
    if code == 128 + libc::SIGKILL && late && output.err.is_empty() {
        return Ok(());
    }
    let lines = output.err.lines().filter(|l| !l.contains("level=warning")).count();
    ensure(lines == 1, format!("{lines} error lines: {}", output.brief()))?;
    // Other errnos have other ways behind them, whose errors are told then.
    if done.is_some_and(|(blow, _)| blow == Blow::Errno(libc::EIO)) {
        ensure(output.err.contains("EIO"), format!("EIO is not named: {}", output.brief()))?;
    }
    Ok(())
}

/// Whether a call comes after `Ready`, the last that a process says unless something goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Late {
    Yes,
    No,
}

fn is_late(sites: &[Site], site: Site) -> Late {
    let says = |s: &Site| s.process == site.process && s.number == libc::SYS_sendmsg;
    match (sites.iter().rposition(says), sites.iter().position(|s| *s == site)) {
        (Some(ready), Some(place)) if site.process != 0 && place > ready => Late::Yes,
        // The last process of `exec` waits for nothing but its start.
        (None, Some(_)) if site.process != 0 => Late::Yes,
        _ => Late::No,
    }
}

#[derive(Default)]
struct Tally {
    tried: usize,
    tolerated: usize,
    missed: usize,
    failures: Vec<String>,
}

impl Tally {
    fn report(self, lab: &Lab) -> Res {
        let Self { tried, tolerated, missed, failures } = self;
        lab.note(format!("{tried} tried, {tolerated} tolerated, {missed} not reached"));
        for failure in &failures {
            lab.note(failure);
        }
        match failures.first() {
            None => Ok(()),
            Some(first) => fail(format!("{} of {tried}, the first: {first}", failures.len())),
        }
    }
}

/// Whether the calls before the program has executed its own copy are disturbed too. It reads its words
/// after that, so they are the same for all commands, and one of them is enough.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

/// The calls to disturb, and how.
fn choose(sites: &[Site], trouble: Trouble, whole: Whole) -> Vec<(Site, Blow)> {
    let mut chosen: Vec<Site> = sites.to_vec();
    if !thorough() {
        let mut ends: BTreeMap<(usize, i64), (Site, Site)> = BTreeMap::new();
        for site in sites {
            ends.entry((site.process, site.number)).or_insert((*site, *site)).1 = *site;
        }
        chosen.retain(|site| {
            ends.get(&(site.process, site.number)).is_some_and(|(a, z)| site == a || site == z)
        });
    }
    let errnos: &[i32] =
        if thorough() { &[libc::EIO, libc::EPERM, libc::ENOMEM] } else { &[libc::EIO] };
    let blows: Vec<Blow> = match trouble {
        Trouble::Kills => vec![Blow::Kill],
        Trouble::Errors => errnos.iter().map(|errno| Blow::Errno(*errno)).collect(),
    };
    if whole == Whole::No {
        let enters =
            |s: &Site| s.process == 0 && matches!(s.number, libc::SYS_execve | libc::SYS_execveat);
        let entered = sites.iter().rposition(enters);
        let before = &sites[..entered.unwrap_or(0)];
        chosen.retain(|site| !before.contains(site));
    }
    if trouble == Trouble::Errors {
        // The first poll of a program, which is executed twice, is the standard library's; it aborts.
        let of_std =
            |site: &Site| site.process == 0 && site.number == libc::SYS_poll && site.nth <= 2;
        chosen.retain(|site| !SPARED.contains(&site.number) && !of_std(site));
    }
    chosen.iter().flat_map(|site| blows.iter().map(|blow| (*site, *blow))).collect()
}

/// Names a case: who, which call, the how-manieth of its kind, and what was done to it.
fn title(site: Site, blow: Blow) -> String {
    let what = match blow {
        Blow::Kill => "SIGKILL".to_owned(),
        Blow::Errno(errno) => format!("{:?}", nix::errno::Errno::from_raw(errno)),
    };
    format!("process {} {}#{} {what}", site.process, syscalls::name(site.number), site.nth)
}

fn text(stop: &crate::check::Stop) -> String {
    match stop {
        crate::check::Stop::Fail(reason) | crate::check::Stop::Skip(reason) => reason.clone(),
    }
}
