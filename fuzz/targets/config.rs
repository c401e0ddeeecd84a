#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use runtime::fuzzing::{self, Document};

fuzz_target!(|data: &[u8]| fuzzing::config(data));
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    bulkhead_fuzz::json(Document::Config, data, size, max_size, seed)
});
