//! Runs the chosen tests on a few workers and prints their results in order.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::chapters;
use crate::devices;
use crate::lab::Kind;
use crate::lab::cgroups::{self, Layout};
use crate::outcome::Outcome;
use crate::shield::Shield;
use crate::worker::{self, Job};

/// What to run and how.
pub struct Plan {
    /// The program under test.
    pub runtime: PathBuf,
    /// Places in `chapters::all`.
    pub indices: Vec<usize>,
    /// How many tests run at once.
    pub jobs: usize,
    /// What the runtime sees at /sys/fs/cgroup; by default what the machine has, or v1 for crun.
    pub layout: Option<Layout>,
}

/// The run's own mount namespace and directory.
pub struct Place {
    shield: Option<Shield>,
    base: PathBuf,
    word: String,
}

impl Place {
    /// Leaves the machine's mount namespace and prepares a tmpfs with the probe and a private /dev.
    ///
    /// The private /dev is for the machine's sake: a runtime that gives the standard streams to the
    /// container's root would otherwise change the owner of the machine's /dev/null.
    /// Everything else of the machine is read-only, see [`crate::shield`].
    pub fn new(runtimes: &[PathBuf]) -> io::Result<Self> {
        let word = format!("ocitests{}", std::process::id());
        let base = PathBuf::from("/tmp").join(&word);
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        fs::create_dir(&base)?;
        mount(Some("tmpfs"), &base, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        fs::copy(std::env::current_exe()?, base.join("probe"))?;
        fs::set_permissions(base.join("probe"), fs::Permissions::from_mode(0o755))?;
        devices::private(&base.join("dev"))?;
        for hierarchy in cgroups::hierarchies() {
            fs::create_dir(hierarchy.point.join(&word))?;
        }
        let shield = Some(Shield::raise(&base, runtimes)?);
        Ok(Self { shield, base, word })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        cgroups::remove(&self.word);
        drop(self.shield.take());
        let _ = umount2(&self.base, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.base);
    }
}

/// Runs a plan; `each` hears of every result in the plan's order.
pub fn run(
    place: &Place,
    plan: &Plan,
    mut each: impl FnMut(usize, &Outcome) + Send,
) -> Vec<Outcome> {
    let tests = chapters::all();
    let crun = Kind::of(&plan.runtime) == Kind::Crun;
    let hybrid = {
        let all = cgroups::hierarchies();
        all.iter().any(|h| h.v2) && all.iter().any(|h| !h.v2)
    };
    let layout = plan.layout.unwrap_or(if crun && hybrid { Layout::V1 } else { Layout::Host });
    let next = AtomicUsize::new(0);
    let done = Mutex::new((BTreeMap::<usize, Outcome>::new(), 0usize));
    let each = Mutex::new(&mut each);
    // The results cross the threads as data; the tests themselves stay where they were made.
    let titles: Vec<(&'static str, String)> =
        tests.iter().map(|t| (t.section, t.title())).collect();
    drop(tests);
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::SeqCst);
                    let Some(&index) = plan.indices.get(turn) else {
                        break;
                    };
                    let started = Instant::now();
                    let answer = worker::spawn(&Job {
                        runtime: plan.runtime.clone(),
                        index,
                        base: place.base.clone(),
                        word: place.word.clone(),
                        layout,
                    });
                    let (section, title) = &titles[index];
                    let outcome = Outcome::read(section, title.clone(), &answer, started.elapsed());
                    let mut done = done.lock().expect("no holder of this lock panics");
                    done.0.insert(turn, outcome);
                    while let Some(outcome) = done.0.get(&done.1) {
                        (each.lock().expect("no holder of this lock panics"))(done.1, outcome);
                        done.1 += 1;
                    }
                }
            });
        }
    });
    done.into_inner().expect("no holder of this lock panics").0.into_values().collect()
}
