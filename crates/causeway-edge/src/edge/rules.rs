//! What the detectors ask of the rest of the edge.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::State;
use crate::detect::{Banned, Outside, Source};
use crate::guard::Ban;

/// One at a time; the next may come when this is dropped, also by a panic, or because no thread could be had for it.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(is_taken: &Arc<AtomicBool>) -> Option<Turn> {
        (!is_taken.swap(true, Ordering::AcqRel)).then(|| Turn(is_taken.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Whom no detection may ban, and who refuses the banned before a worker does.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    state: Arc<Mutex<State>>,
    /// What the kernel's clock shows more than ours.
    boot_ms: u64,
    is_holding: Arc<AtomicBool>,
}

impl Rules {
    pub(super) fn new(state: Arc<Mutex<State>>, boot_ms: u64) -> Rules {
        Rules { state, boot_ms, is_holding: Arc::default() }
    }

    pub(super) fn hold_now(&self, bans: &[Banned]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.is_draining {
            let ban = |ban: &Banned| Ban { source: ban.source, until_ms: ban.until_ms.wrapping_add(self.boot_ms) };
            state.running.hold_bans(bans.iter().map(ban).collect());
        }
    }
}

impl Outside for Rules {
    /// None: a change is under way, or the application is gone.
    fn is_exempt(&self, application: u128, client: IpAddr, port: u16) -> Option<bool> {
        let state = self.state.try_lock().ok()?;
        let active = state.running.active(&format!("{application:032x}"))?;
        Some(active.trusts(client.to_canonical()) || active.allows(client, port))
    }

    /// Beside whoever judges: to attach the guard may take the kernel a while, and attacks go on meanwhile.
    fn hold(&self, bans: Vec<Banned>) -> bool {
        let Some(turn) = Turn::take(&self.is_holding) else { return false };
        let it = self.clone();
        let act = move || {
            let _turn = turn;
            it.hold_now(&bans);
        };
        std::thread::Builder::new().name("edge-bans".into()).spawn(act).is_ok()
    }

    fn take_refused(&self) -> Vec<(Source, u64)> {
        self.state.try_lock().map(|mut state| state.running.take_banned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_ends_by_a_panic_leaves_room_for_the_next() {
        let is_taken = Arc::default();
        let turn = Turn::take(&is_taken).expect("nobody has it");
        assert!(Turn::take(&is_taken).is_none());
        let ended = std::thread::spawn(move || {
            let _turn = turn;
            panic!("as a change might");
        })
        .join();
        assert!(ended.is_err() && Turn::take(&is_taken).is_some());
    }
}
