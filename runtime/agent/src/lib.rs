//! The first process of a guest: it makes and keeps containers by the library, and answers the host.
//!
//! ```text
//!   boot ──▶ hello ──▶ serve ──┬── keeper   one for each process, its parent
//!                              └── call     one for each question
//! ```
//!
//! The agent itself is one thread that waits for no one and allocates little; what it forks is on its own. The
//! messages are those of the crate `wire`.

mod arrivals;
mod boot;
mod bundle;
mod call;
mod connection;
mod disks;
mod hello;
mod keeper;
mod log;
mod modules;
mod processes;
mod relay;
mod server;
mod stdio;
mod sys;
mod vsock;

use std::os::fd::OwnedFd;

use nix::sys::reboot::{RebootMode, reboot};
use runtime::{Error, ErrorKind, Result};
use wire::Notice;

pub use connection::Connection;
pub use server::serve;

/// The state root of the guest's containers.
pub const STATE: &str = "/run/bulkhead/state";
/// The bundles of the guest's containers, by id.
pub const BUNDLES: &str = "/run/bulkhead/bundles";

/// The whole life of the guest's first process. It does not return: the machine is switched off.
pub fn run() -> ! {
    let (faults, prepared) = boot::prepare();
    if let Err(error) = serve_host(&faults, prepared) {
        log::say(&error.to_string());
    }
    switch_off()
}

fn serve_host(faults: &[String], prepared: Result<()>) -> Result<()> {
    let explain = |error| explain(error, faults);
    let host = vsock::connect_to_host(wire::HELLO).map_err(explain)?;
    let mut host = Connection::new(host)?;
    let welcome = hello::greet(&mut host)?;
    let ready = prepared.and_then(|()| hello::settle(&welcome)).map_err(explain);
    match ready.and_then(|()| vsock::listen_on(wire::AGENT)) {
        Ok(listener) => serve(host, listener),
        Err(error) => {
            host.send(&Notice::Failed((&error).into()))?;
            // Read before the machine is gone.
            host.linger(std::time::Duration::from_secs(2));
            Err(error)
        }
    }
}

/// The error with what went wrong with modules before: perhaps because of one of these.
fn explain(error: Error, faults: &[String]) -> Error {
    if faults.is_empty() {
        return error;
    }
    let reason = format!("{error}; {}", faults.join("; "));
    Error::new(ErrorKind::System, "make", "the guest ready", reason)
}

/// Writes everything to the disks and switches the machine off.
fn switch_off() -> ! {
    nix::unistd::sync();
    let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
    // The kernel panics when its first process ends, which ends the machine too.
    log::say(&format!("switch off the machine: reboot: {errno:?}"));
    std::process::exit(1)
}

/// Takes a listening socket and the connection with a host, for tests without a machine.
#[doc(hidden)]
pub fn serve_on(hello: OwnedFd, listener: OwnedFd) -> Result<()> {
    serve(Connection::new(hello)?, listener)
}
