//! `bulkhead`: runc's commands and flags over the `runtime` library.

fn main() {}
