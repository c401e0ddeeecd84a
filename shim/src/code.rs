//! Errors of the library as the codes and texts that containerd and its clients act on.
//!
//! containerd turns a code into an error of its own (`errdefs`), and its clients ask for those: not
//! found after a kill means that the process has ended, and is not found after a delete success. The
//! text goes with it. Clients match it in one place: Docker looks for "no such file or directory" and
//! "permission denied" to choose the exit codes 127 and 126 of a program that cannot be executed.
//! The library's texts have the words of the errno.

use containerd_shim_protos::ttrpc::{self, Code};
use nix::errno::Errno;
use runtime::{Error, ErrorKind};

/// The answer to a request that failed with `error`.
pub fn answer(error: &Error) -> ttrpc::Error {
    status(code(error), error.to_string())
}

/// The answer to a `Kill` that failed with `error`.
pub fn answer_to_kill(error: &Error) -> ttrpc::Error {
    match error.kind() {
        // The words are those of Go's os package, and runc's shim has them.
        ErrorKind::NotRunning => status(Code::NOT_FOUND, "process already finished: not found"),
        _ => answer(error),
    }
}

/// An answer of the shim's own.
pub fn status(code: Code, text: impl Into<String>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, text.into()))
}

/// The answer about a container or process that this shim does not have.
pub fn not_found(what: &str, id: &str) -> ttrpc::Error {
    status(Code::NOT_FOUND, format!("{what} {id:?}: not found"))
}

/// The answer to a request for what is there already.
pub fn exists(what: &str, id: &str) -> ttrpc::Error {
    status(Code::ALREADY_EXISTS, format!("{what} {id:?}: already exists"))
}

fn code(error: &Error) -> Code {
    match error.kind() {
        ErrorKind::NotFound => Code::NOT_FOUND,
        ErrorKind::Exists => Code::ALREADY_EXISTS,
        ErrorKind::WrongState | ErrorKind::NotRunning => Code::FAILED_PRECONDITION,
        // A program that is not in the image is the caller's mistake. It must not be "not found": that
        // would be the task.
        ErrorKind::Invalid | ErrorKind::Exec => Code::INVALID_ARGUMENT,
        ErrorKind::Unsupported => Code::UNIMPLEMENTED,
        ErrorKind::System => error.errno().map_or(Code::UNKNOWN, of_errno),
    }
}

/// Only errnos that mean the same whatever failed with them.
fn of_errno(errno: Errno) -> Code {
    match errno {
        Errno::ETIMEDOUT | Errno::ETIME => Code::DEADLINE_EXCEEDED,
        Errno::EAGAIN => Code::UNAVAILABLE,
        Errno::EPERM | Errno::EACCES => Code::PERMISSION_DENIED,
        Errno::ENOMEM | Errno::ENOSPC | Errno::EMFILE | Errno::ENFILE | Errno::EDQUOT => {
            Code::RESOURCE_EXHAUSTED
        }
        Errno::ENOSYS | Errno::EOPNOTSUPP => Code::UNIMPLEMENTED,
        _ => Code::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::Failure;

    fn parts(error: ttrpc::Error) -> (Code, String) {
        match error {
            ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn kinds() {
        for (kind, code) in [
            (ErrorKind::NotFound, Code::NOT_FOUND),
            (ErrorKind::Exists, Code::ALREADY_EXISTS),
            (ErrorKind::WrongState, Code::FAILED_PRECONDITION),
            (ErrorKind::NotRunning, Code::FAILED_PRECONDITION),
            (ErrorKind::Invalid, Code::INVALID_ARGUMENT),
            (ErrorKind::Exec, Code::INVALID_ARGUMENT),
            (ErrorKind::Unsupported, Code::UNIMPLEMENTED),
            (ErrorKind::System, Code::UNKNOWN),
        ] {
            let error = Error::new(kind, "do", "\"x\"", "why");
            assert_eq!(parts(answer(&error)), (code, "do \"x\": why".to_owned()));
        }
    }

    #[test]
    fn errnos_and_kills() {
        let system = |errno| Error::system("do", "x", Failure { call: "call", errno });
        for (errno, code) in [
            (Errno::ETIMEDOUT, Code::DEADLINE_EXCEEDED),
            (Errno::EAGAIN, Code::UNAVAILABLE),
            (Errno::EACCES, Code::PERMISSION_DENIED),
            (Errno::ENOSPC, Code::RESOURCE_EXHAUSTED),
            (Errno::ENOENT, Code::UNKNOWN),
        ] {
            assert_eq!(parts(answer(&system(errno))).0, code);
        }
        let gone = Error::new(ErrorKind::NotRunning, "signal container", "x", "not running");
        let expected = (Code::NOT_FOUND, "process already finished: not found".to_owned());
        assert_eq!(parts(answer_to_kill(&gone)), expected);
        let exec = system(Errno::ENOENT).with_kind(ErrorKind::Exec);
        assert!(parts(answer(&exec)).1.contains("no such file or directory"));
    }
}
