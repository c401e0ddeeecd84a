//! Running a test's body in a forked child, for what would change the test process itself.

use std::fs::File;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::sys::testing::{exit, fork};

/// Runs `body` in a forked child and fails when it panics, with its message. The tests run in many
/// threads, so the body must not take locks that another one may hold.
pub(crate) fn in_child(body: impl FnOnce()) {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let Some(child) = fork() else {
        let panic = catch_unwind(AssertUnwindSafe(body)).err();
        if let Some(panic) = &panic {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            let _ = File::from(writer).write_all(text.as_bytes());
        }
        exit(i32::from(panic.is_some()));
    };
    drop(writer);
    let mut message = String::new();
    File::from(reader).read_to_string(&mut message).unwrap();
    let status = nix::sys::wait::waitpid(child, None).unwrap();
    let fine = matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0));
    assert!(fine, "the child: {status:?}: {message}");
}
