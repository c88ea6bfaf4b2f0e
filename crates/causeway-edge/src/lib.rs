//! The data plane of causeway: listeners, TCP relay, UDP sessions, counters and events.
//!
//! One call in, [`Edge::apply`]: the engine diffs a whole snapshot against what runs. One call out,
//! [`Edge::observe`]. Workers are threads with a loop of their own; nothing on the data path takes a lock.

mod application;
mod apply;
mod carry;
mod clock;
mod count;
mod detect;
mod dispatch;
mod edge;
mod error;
mod event;
mod files;
mod firewall;
mod gains;
mod guard;
mod handover;
mod icmp;
pub mod keep;
mod limits;
mod linger;
mod listen;
mod maglev;
mod memory;
mod minecraft;
mod origin;
mod outbox;
mod overlay;
mod pressure;
pub mod probe;
mod pulse;
mod relay;
mod report;
pub mod resolve;
mod routes;
mod small_file;
pub mod snapshot;
mod sockets;
mod source;
mod steering;
mod sys;
mod taken;
mod tcp;
mod timer;
mod udp;
mod watch;
mod ways;
mod worker;

pub use carry::Mode as FastPathMode;
pub use detect::Banned;
pub use dispatch::Mode as DispatchMode;
pub use edge::{Config, Edge};
pub use error::{EdgeError, Side};
pub use firewall::list::Lenience;
pub use guard::Mode as GuardMode;
pub use report::{ApplyReport, Report};
pub use sys::{die_with, duplicate};

/// Take everything of the edge with this state directory out of the kernel; its flows end, its rules too. Answers how
/// much it was.
///
/// # Errors
/// The kernel's.
pub fn flush(state_dir: &std::path::Path) -> std::io::Result<usize> {
    Ok(carry::flush(state_dir)? + guard::flush(state_dir)?)
}

/// Has an edge with this state directory left anything in the kernel?
pub fn is_left(state_dir: &std::path::Path) -> bool {
    carry::is_left(state_dir) || guard::is_left(state_dir)
}
