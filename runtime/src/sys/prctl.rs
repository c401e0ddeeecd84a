//! prctl
