#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use runtime::fuzzing;

fuzz_target!(|data: &[u8]| fuzzing::options(data));
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    bulkhead_fuzz::fields('\n', data, size, max_size, seed)
});
