//! From a plan to a running process: the fork and what the two sides say to each other.
//!
//! ```text
//!            creator                                    child
//!
//!   Prepared ── clone3 ───────────────────────────────▶ born
//!                  │                                     │ join namespaces
//!                  │ ◀───────────────── Reborn(pidfd) ── │ (a second fork, in rare cases)
//!                  │ ── Go ────────────────────────────▶ │
//!     write maps   │ ◀───────────────────────── Maps ─── │ (only with a new user namespace that the
//!                  │ ── Done ──────────────────────────▶ │  child makes itself)
//!     write maps   │                                     │
//!     start scope  │ ── Go ────────────────────────────▶ │ (only with any other new user namespace, or a scope)
//!     move devices │ ◀─────────────── NetDevices(socket)─│ (only with network devices)
//!                  │ ── Done ──────────────────────────▶ │
//!                  │                                     │ cgroup, host name, sysctl, mounts
//!     answer       │ ◀── Rootfs, BindSource, Idmap ───── │ (only what the child may not do itself)
//!                  │ ── Descriptor, Done ──────────────▶ │
//!     run hooks    │ ◀───────────────────── HooksDue ─── │ (only with hooks)
//!                  │ ── Done ──────────────────────────▶ │
//!                  │                                     │ pivot_root, masks, limits, credentials
//!     answer       │ ◀── OomScoreAdj, Rlimits ────────── │ (only what the child may not do itself)
//!                  │ ── Done ──────────────────────────▶ │
//!                  │ ◀──────────────── Terminal(master) ─│
//!                  │ ◀───────────────── Reborn(pidfd) ── │ (into a joined pid namespace: exec, or by path)
//!                  │ ── Go ────────────────────────────▶ │
//!                  │ ◀────────────────────────── Ready ──│
//!     record       │ ── Go ────────────────────────────▶ │ (create and run)
//!   Waiting        │                                     │ wait: start socket, or this channel
//!                  │                                     │
//!    start         │ ── Start ─────────────────────────▶ │ startContainer hooks
//!                  │ ◀────────────────── Listener(n) ─── │ (only when the filter notifies)
//!                  │ ── Done, Show ────────────────────▶ │
//!                  │                                     │ filter, execve
//!   Running        │ ◀─────── end of file, or Failed ─── │
//! ```
//!
//! The process that a hook of the runtime's namespaces is told of (`HooksDue`) builds the container; in a
//! joined pid namespace another one goes on from it, and is the container's.
//!
//! At any point the child may say `Failed`. `exec` is the same picture without the parts that build the
//! container; `Reborn` is its `Ready`, because the process that goes on is visible to the tenants and
//! waits for nothing but `Start`. The channel is close-on-exec, so end of file after `Start` means that
//! the program runs.

pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod exec;
pub(crate) mod join;
pub(crate) mod parent;
pub(crate) mod program;
pub(crate) mod start;
pub(crate) mod stripped;
