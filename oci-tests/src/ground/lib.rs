//! What black-box suites of container runtimes share: the ground that tests stand on.
//!
//! `oci-tests` asks a runtime directly, `integration` by way of the programs that call runtimes. Both
//! judge with [`check`], protect the machine with [`shield`] and [`devices`], find and remove cgroups
//! with [`cgroups`], read their command lines with [`options`], tell results in any [`mod@format`], and show them
//! side by side with [`compare`].

pub mod cgroups;
pub mod check;
pub mod compare;
pub mod devices;
pub mod format;
pub mod junit;
pub mod kind;
pub mod options;
pub mod outcome;
pub mod process;
pub mod results;
pub mod shield;
pub mod sys;
pub mod tap;
