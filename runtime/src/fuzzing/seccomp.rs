//! A seccomp profile (`linux.seccomp`): the compiled filter does what the profile says.

use crate::error::ErrorKind;
use crate::seccomp::compare;
use crate::spec;

/// Asserts that the filter of an accepted profile agrees with the profile on every kind of machine.
pub fn seccomp(input: &[u8]) {
    // Read as the part of a configuration that it is, by the strict reader.
    let mut json = br#"{"ociVersion":"1.3.0","root":{"path":"r"},"linux":{"seccomp":"#.to_vec();
    json.extend_from_slice(input);
    json.extend_from_slice(b"}}");
    let mut warnings = Vec::new();
    let Ok(config) = spec::parse_config(&json, &mut warnings) else { return };
    let linux = config.spec.linux().as_ref();
    let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else { return };
    let compiled = compare::compile(profile, &mut super::numbers(input), &mut warnings);
    super::assert_bounded(&warnings, input);
    if let Err(error) = compiled {
        super::assert_bounded([&error.to_string()], input);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.subject().starts_with("linux.seccomp."), "{error}");
    }
}
