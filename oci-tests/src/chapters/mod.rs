//! The tests, one file per chapter.

mod process;

use crate::check::Test;

/// All tests in their fixed order.
pub fn all() -> Vec<Test> {
    let chapters: [fn() -> Vec<Test>; 1] = [process::tests];
    chapters.iter().flat_map(|chapter| chapter()).collect()
}
