//! `bulkhead`: runc's commands and flags over the `runtime` library.

mod default_seccomp;

fn main() {}
