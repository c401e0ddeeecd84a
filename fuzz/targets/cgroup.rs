#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use runtime::fuzzing;

fuzz_target!(|data: &[u8]| fuzzing::cgroup(data));
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    bulkhead_fuzz::fields('\u{1f}', data, size, max_size, seed)
});
