//! How the guard hears of the engine's two-way sessions: from the worker that has them, as they become so and as they end.
//!
//! They are told while packets are judged, or are about to be. What a worker that is lost, or a process that is gone, has
//! left in the kernel is nobody's, and is swept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use causeway_bpf::guard::Sessions;

use super::{Guarding, Kernel};
use crate::sys;

/// Of one worker, which alone calls it.
#[derive(Debug)]
pub struct Teller {
    sessions: Arc<Sessions>,
    id: u64,
    known: AtomicUsize,
    left_out: AtomicU64,
}

impl Teller {
    /// Its id is no other's for as long as this machine is up, since what is pinned outlives processes.
    fn new(sessions: Arc<Sessions>, worker: usize) -> Teller {
        let id = sys::monotonic_ms() << 16 | worker as u64;
        Teller { sessions, id, known: AtomicUsize::new(0), left_out: AtomicU64::new(0) }
    }

    /// It has gone both ways. False: there is no room, so its datagrams look like a stranger's.
    pub fn tell(&self, client: SocketAddr, edge: SocketAddr) -> bool {
        let is_known = self.sessions.add(client, edge, self.id).is_ok();
        match is_known {
            true => self.known.fetch_add(1, Ordering::Relaxed),
            false => self.left_out.fetch_add(1, Ordering::Relaxed) as usize,
        };
        is_known
    }

    /// One that was told has ended.
    pub fn take_back(&self, client: SocketAddr, edge: SocketAddr) {
        let _ = self.sessions.remove(client, edge); // nothing but a lack of it could be wrong
        self.known.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which workers tell what they have.
#[derive(Debug, Default)]
pub(super) struct Telling {
    sessions: Option<Arc<Sessions>>,
    /// By worker; empty while nobody tells.
    tellers: Vec<Arc<Teller>>,
    /// There is nothing in the kernel but what these have told.
    is_swept: bool,
}

impl Telling {
    pub fn over(sessions: io::Result<Sessions>) -> Telling {
        Telling { sessions: sessions.ok().map(Arc::new), ..Telling::default() }
    }

    pub fn known(&self) -> usize {
        self.tellers.iter().map(|teller| teller.known.load(Ordering::Relaxed)).sum()
    }

    pub fn left_out(&self) -> u64 {
        self.tellers.iter().map(|teller| teller.left_out.load(Ordering::Relaxed)).sum()
    }
}

impl Guarding {
    /// By whom each worker tells its sessions from now on, if that has changed.
    pub fn change_tellers(&mut self, workers: usize) -> Option<Vec<Option<Arc<Teller>>>> {
        let is_wanted = matches!(self.kernel, Kernel::Has(_)) && (self.is_wanting() || self.is_attached());
        let telling = &mut self.telling;
        match &telling.sessions {
            Some(sessions) if is_wanted && telling.tellers.is_empty() => {
                telling.tellers = (0..workers).map(|worker| Arc::new(Teller::new(sessions.clone(), worker))).collect();
                Some(telling.tellers.iter().cloned().map(Some).collect())
            }
            _ if !is_wanted && !telling.tellers.is_empty() => {
                telling.tellers.clear();
                telling.is_swept = false;
                Some(vec![None; workers])
            }
            _ => None,
        }
    }

    /// For the worker that takes the place of another, whose sessions are nobody's any more.
    pub fn teller_again(&mut self, worker: usize) -> Option<Arc<Teller>> {
        let telling = &mut self.telling;
        let (sessions, former) = (telling.sessions.as_ref()?, telling.tellers.get_mut(worker)?);
        *former = Arc::new(Teller::new(sessions.clone(), worker));
        telling.is_swept = false;
        Some(former.clone())
    }

    /// Take out what nobody tells any more. Not before this process alone serves: another one's sessions are not left.
    pub fn sweep_sessions(&mut self) {
        let Telling { sessions: Some(sessions), tellers, is_swept } = &mut self.telling else { return };
        if !*is_swept {
            *is_swept = sessions.sweep(|id| tellers.iter().all(|teller| teller.id != id)).is_ok();
        }
    }
}
