//! features

/// The features document of this build on this host.
pub fn features() -> oci_spec::runtime::Features {
    oci_spec::runtime::Features::default()
}
