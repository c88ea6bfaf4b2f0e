//! Kernel programs: compiled from `bpf/` when this crate is built, loaded here, handled by type.
//!
//! Nothing needs them: where they cannot be had, [`Unavailable`] says why in words for the operator.

mod call;
mod dispatch;
pub mod flow;
pub mod guard;
mod netlink;
mod ports;
mod shared;

pub use dispatch::{Dispatch, Packet, Parts, Verdicts};
pub use ports::PortSet;
pub use shared::{Slot, Spot, mix};

use std::io;

/// Why a kernel program cannot be had here, ready to stand in brackets.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("{}", env!("CAUSEWAY_BPF_MISSING"))]
    NotBuilt,
    #[error("{what}: {reason}")]
    Refused { what: &'static str, reason: String },
}

impl Unavailable {
    fn refused(what: &'static str, error: impl std::error::Error + 'static) -> Unavailable {
        // The sentence at the bottom is the kernel's; those above it tell our own steps.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let reason = match cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            Some(libc::EPERM | libc::EACCES) => "not permitted: CAP_BPF and CAP_NET_ADMIN are needed".to_string(),
            _ => cause.to_string(),
        };
        Unavailable::Refused { what, reason }
    }
}

/// Were the programs compiled into this build?
///
/// # Errors
/// Why not.
pub fn built() -> Result<(), Unavailable> {
    if env!("CAUSEWAY_BPF_MISSING").is_empty() { Ok(()) } else { Err(Unavailable::NotBuilt) }
}

/// What a verifier said last, without how much work it was.
fn last_words(log: &str) -> Option<&str> {
    let is_work = |line: &str| ["processed", "verification time", "stack depth"].iter().any(|at| line.starts_with(at));
    log.lines().rev().find(|line| !line.trim().is_empty() && !is_work(line))
}
