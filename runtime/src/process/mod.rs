//! From a plan to a running process: the fork and what the two sides say to each other.
//!
//! ```text
//!            creator                                    child
//!
//!   Prepared ── clone3 ───────────────────────────────▶ born
//!                  │                                     │ join namespaces
//!                  │ ◀───────────────── Reborn(pidfd) ── │ (a second fork: exec, two rare cases)
//!                  │ ── Go ────────────────────────────▶ │
//!     write maps   │                                     │
//!                  │ ── Go ────────────────────────────▶ │ (only with a new user namespace)
//!                  │                                     │ cgroup, host name, sysctl, mounts
//!     answer       │ ◀── Rootfs, BindSource, Idmap ───── │ (only what the child may not do itself)
//!                  │ ── Descriptor, Done ──────────────▶ │
//!     run hooks    │ ◀───────────────────── HooksDue ─── │ (only with hooks)
//!                  │ ── Done ──────────────────────────▶ │
//!                  │                                     │ pivot_root, masks, limits, credentials
//!     answer       │ ◀── OomScoreAdj, Rlimits ────────── │ (only what the child may not do itself)
//!                  │ ── Done ──────────────────────────▶ │
//!                  │ ◀───────── Terminal(master), Ready ─│
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
//! At any point the child may say `Failed`. `exec` is the same picture without the parts
//! that build the container. The channel is close-on-exec, so end of file after `Start` means that
//! the program runs.

pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod exec;
pub(crate) mod join;
pub(crate) mod parent;
pub(crate) mod program;
pub(crate) mod start;
