//! What requests do, one file for each subject.

pub(crate) mod attributes;
pub(crate) mod content;
pub(crate) mod create;
pub(crate) mod directory;
pub(crate) mod init;
pub(crate) mod names;
pub(crate) mod xattr;
