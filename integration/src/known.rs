//! What other runtimes are known to do otherwise, so that the suite can tell it from what is new.

use oci_tests::check::{Res, Stop};
use oci_tests::kind::Kind;

/// A known difference of crun's.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// What crun does.
    does: &'static str,
    /// Words that the scenario's failure must have to be this one.
    seen: &'static str,
}

/// Callers look for runc's words to tell a missing program from other failures.
pub const MISSING: Difference = Difference {
    does: "does not say that a program is missing in runc's words",
    seen: "` not found in $PATH: No such file or directory",
};

/// The same for what is there.
pub const NOT_EXECUTABLE: Difference = Difference {
    does: "does not say that a program cannot be executed in runc's words",
    seen: "open executable: Permission denied",
};

/// Go writes errors in lower case, the C library does not.
pub const NO_SOURCE: Difference = Difference {
    does: "does not say that a mount's source is missing in runc's words",
    seen: "error stat'ing file `/no/such/source`: No such file or directory",
};

/// runc names it as the configuration does.
pub const SYSCTL: Difference = Difference {
    does: "names a sysctl by its file",
    seen: "open /proc/sys/net/no/such: No such file or directory",
};

/// The device belongs to the host, and everybody writes to it.
pub const DEV_NULL: Difference = Difference {
    does: "gives the host's /dev/null to the root of a user namespace",
    seen: "owner of the host's /dev/null: wanted 0, saw",
};

impl Difference {
    /// Turns this very failure of crun's into a skip; notes a crun which does not have it any more.
    pub fn excuse(self, kind: Kind, result: Res, note: impl FnOnce(String)) -> Res {
        match result {
            Err(Stop::Fail(reason)) if kind == Kind::Crun && reason.contains(self.seen) => {
                Err(Stop::Skip(format!("crun {}", self.does)))
            }
            Ok(()) if kind == Kind::Crun => {
                note(format!("out of date: it is known that crun {}", self.does));
                Ok(())
            }
            other => other,
        }
    }
}
