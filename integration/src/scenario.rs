//! What a scenario is, and what a client is.

use std::time::Duration;

use oci_tests::check::Res;

use crate::known::Difference;
use crate::stage::Stage;

/// One thing that a user of a client does, and what must come of it.
pub struct Scenario {
    /// What is asked, in a few words.
    pub name: &'static str,
    /// Rows of the feature list, as `F150`.
    pub rows: &'static str,
    /// How long it may take.
    pub deadline: Duration,
    /// The scenario itself.
    pub run: fn(&Stage) -> Res,
    /// Why it is not run on this machine, if it is not.
    pub skipped: Option<&'static str>,
    /// What crun is known to do otherwise here.
    pub crun: Option<Difference>,
}

/// How long a scenario may take unless it says something else: a second or two, and a shared machine.
const DEADLINE: Duration = Duration::from_secs(45);

/// A scenario with the usual deadline.
pub const fn scenario(name: &'static str, rows: &'static str, run: fn(&Stage) -> Res) -> Scenario {
    Scenario { name, rows, deadline: DEADLINE, run, skipped: None, crun: None }
}

/// A scenario that is reported, and not run.
pub const fn skipped(name: &'static str, rows: &'static str, reason: &'static str) -> Scenario {
    Scenario {
        name,
        rows,
        deadline: Duration::ZERO,
        run: |_| Ok(()),
        skipped: Some(reason),
        crun: None,
    }
}

impl Scenario {
    /// The same with a deadline of its own.
    pub const fn within(self, seconds: u64) -> Self {
        Self { deadline: Duration::from_secs(seconds), ..self }
    }

    /// The same, which crun is known to fail.
    pub const fn but_crun(self, difference: Difference) -> Self {
        Self { crun: Some(difference), ..self }
    }
}

/// A program that calls runtimes.
pub struct Client {
    /// Its name in titles and filters.
    pub name: &'static str,
    /// Programs that it needs.
    pub programs: &'static [&'static str],
    /// What it is asked.
    pub scenarios: fn() -> Vec<Scenario>,
    /// Starts its daemons, which the stage keeps, and loads its images.
    pub open: fn(&Stage) -> Res,
    /// Directories below which nothing may be left, when all containers are gone.
    pub emptied: fn(&Stage) -> Vec<String>,
}

impl Client {
    /// Whether it is, or drives, this program.
    pub fn needs(&self, program: &str) -> bool {
        self.programs.contains(&program)
    }

    /// The line that names a scenario in lists and results.
    pub fn title(&self, scenario: &Scenario) -> String {
        format!("{}: {} [{}]", self.name, scenario.name, scenario.rows)
    }
}
