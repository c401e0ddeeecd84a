//! The agent at work without a machine: it is the first process of namespaces of its own, the host is the test,
//! and Unix sockets stand in vsock's place. Containers are real.
#![allow(clippy::unwrap_used)]

mod containers;
mod ground;
mod hostile;
mod processes;
mod streams;
