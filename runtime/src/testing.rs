//! Running a test's body in a forked child, for what would change the test process itself.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};

use crate::sys::testing::fork;

/// Runs `body` in a forked child and fails when it panics. The tests run in many threads, so the body
/// must not take locks that another one may hold: no printing, except by the panic that ends it.
pub(crate) fn in_child(body: impl FnOnce()) {
    match fork() {
        None => {
            let passed = catch_unwind(AssertUnwindSafe(body)).is_ok();
            crate::sys::testing::exit(i32::from(!passed));
        }
        Some(child) => {
            let status = waitpid(child, None).unwrap();
            assert!(matches!(status, WaitStatus::Exited(_, 0)), "the child: {status:?}");
        }
    }
}
