//! `containerd-shim-bulkhead-v2`: containerd's runtime shim over the `runtime` library.
fn main() {}
