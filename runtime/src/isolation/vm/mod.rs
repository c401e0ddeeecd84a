//! The wall of a virtual machine.
//!
//! ```text
//! creator --clone--> stand-in ----> share server    in the jail, which is a container of namespaces
//!                       |    \----> monitor ~vsock~ agent    in the guest, which runs this crate
//!                       the process of the host that stands for the container
//! ```
//!
//! [`create`](crate::create) makes the jail as it makes any container, from a plan that is written here; what is
//! different is the program. The stand-in starts the two others, waits until the agent has made the container in
//! the guest, listens on the start socket as a container's own process does, and then copies the standard streams
//! and passes signals on until it ends with the exit code of the container. A further process has a stand-in of
//! its own.

mod attend;
pub(crate) mod calls;
pub(crate) mod exec;
mod guest;
pub(crate) mod inside;
mod jail;
mod machine;
pub(crate) mod prepare;
mod session;
mod streams;

pub(crate) use jail::outside;
pub(crate) use prepare::{Machine, Opened};
pub(crate) use session::SOCKET;

use serde::{Deserialize, Serialize};

/// What later commands must know of a container in a machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// The user that the stand-ins and the monitor are.
    pub user: u32,
    /// Processors of the machine.
    pub processors: u8,
    /// Memory of the machine, in MiB.
    pub memory: u32,
}

/// The jail's root directory, in the state directory: empty, for the jail's mounts.
pub(crate) const JAIL: &str = "jail";
