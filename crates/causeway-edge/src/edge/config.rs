//! How an edge is started, as whoever starts it says.

use std::path::PathBuf;

use serde::Deserialize;

use crate::dispatch::Mode;
use crate::overlay::identity::Told;
use crate::{carry, guard};

/// How an edge is started.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// 0: one per core.
    pub workers: usize,
    /// Where the last good snapshots are kept; none: nowhere.
    pub state_dir: Option<PathBuf>,
    /// UDP sessions of the whole edge; each costs one file descriptor.
    pub max_udp_sessions: usize,
    /// Records held per worker until somebody observes them.
    pub event_capacity: usize,
    pub max_snapshot_bytes: usize,
    /// Let the messages of one turn leave together, through io_uring, where the kernel has it.
    pub gather_sends: bool,
    /// Serve ports by dispatch in the kernel?
    pub dispatch: Mode,
    /// Have plain flows carried by the kernel?
    pub fast_path: carry::Mode,
    /// Two-way flows over IPv4 that the kernel has room for; a quarter of it over IPv6. Flows that an earlier process
    /// has left stay in the room that they have.
    pub fast_path_flows: u32,
    /// Judge packets before the stack sees them?
    pub guard: guard::Mode,
    /// For how long it stays attached when nothing wants that any more: attacks come back.
    pub guard_idle_ms: u64,
    /// What this edge is to others from its first flow on; see [`super::Edge::identify`].
    pub identity: Option<Told>,
    /// Processes have died one after the other, soon after they began to serve what they served last: serve what was
    /// before it, and refuse that one for as long as this process lives.
    pub distrusts_last: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            workers: 0,
            state_dir: None,
            max_udp_sessions: 65_536,
            event_capacity: 32_768,
            max_snapshot_bytes: 64 * 1024 * 1024,
            gather_sends: true,
            dispatch: Mode::Auto,
            fast_path: carry::Mode::Auto,
            fast_path_flows: 131_072,
            guard: guard::Mode::Auto,
            guard_idle_ms: 60_000,
            identity: None,
            distrusts_last: false,
        }
    }
}
