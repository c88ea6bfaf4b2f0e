//! An edge that begins where another one ends, and the sign of life that a supervisor wants to hear.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use super::{Config, Edge, State};
use crate::detect::DetectWatch;
use crate::dispatch::Dispatching;
use crate::error::EdgeError;
use crate::handover::{self, Holdings, Link};
use crate::snapshot::Snapshot;
use crate::sys;
use crate::watch::Patient;
use crate::worker::Step;

const BEAT_EVERY: Duration = Duration::from_millis(300);

impl Edge {
    /// Take over from the edge that answers at the other end of `link` with [`Edge::hand_over`]: its sockets, its
    /// snapshot, its counts and its UDP sessions. It has as many workers as that one, since clients are spread over
    /// their sockets already.
    ///
    /// # Errors
    /// `HandOver`, `Config`, `Resources` or what [`Edge::apply`] has: the other edge goes on as if nothing had been.
    pub fn take_over(config: Config, link: OwnedFd, within: Duration) -> Result<Edge, EdgeError> {
        let link = Link::new(link, within).map_err(EdgeError::resources("the link of the hand-over"))?;
        let offer = handover::ask_offer(&link)?;
        let mut edge = Edge::idle(config, Some(offer.workers), offer.now_ms)?;
        let estate = handover::receive_estate(&link, &offer, edge.max_snapshot_bytes)?;
        edge.watch_sources()?;
        {
            let mut state = edge.state();
            state.everywhere(|| vec![Step::Hold]);
            state.running.inherit(handover::weakly(&estate.sockets), offer.retired, estate.counted);
            if let Some(dispatch) = estate.dispatch {
                let adopted = state.running.dispatching.adopt(dispatch, estate.bases);
                adopted.map_err(EdgeError::resources("what is claimed in the kernel"))?;
            }
            if !estate.snapshot.is_empty() {
                let snapshot = Snapshot::parse(&estate.snapshot, edge.max_snapshot_bytes)?;
                let State { workers, running, .. } = &mut *state;
                running.apply(snapshot, workers, edge.open_files as usize)?;
                state.json = estate.snapshot;
            }
            handover::receive_sessions(&link, &state.workers)?;
        }
        handover::ask_to_go(&link)?;
        {
            let mut state = edge.state();
            state.everywhere(|| vec![Step::GoOn]);
            state.running.carry.go_on();
        }
        handover::say_serving(&link)?;
        Ok(edge)
    }

    /// Give everything but TCP connections to the edge that asks at the other end of `link` with
    /// [`Edge::take_over`]; answers how many UDP sessions went. What stays is to be drained.
    ///
    /// # Errors
    /// `HandOver` or `Stopped`: the other edge does not serve, this one goes on as if nothing had been.
    pub fn hand_over(&self, link: OwnedFd, within: Duration) -> Result<usize, EdgeError> {
        let link = Link::new(link, within).map_err(EdgeError::resources("the link of the hand-over"))?;
        let mut state = self.state();
        if state.is_draining {
            return Err(EdgeError::Stopped);
        }
        state.running.carry.hold();
        // Nobody waits for the lock in there.
        self.detect_watch.iter().for_each(DetectWatch::keep);
        let holdings = Holdings {
            running: &state.running,
            snapshot: &state.json,
            workers: &state.workers,
            now_ms: self.clock.now_ms(),
        };
        let given = holdings.give(&link);
        drop(link); // before we go on: the other side must not begin to serve any more
        match &given {
            Ok(_) => {
                state.is_draining = true;
                state.everywhere(|| vec![Step::LetGo]);
                // The other edge's now: what this one thinks of it must not be written there any more.
                state.running.dispatching = Dispatching::default();
                state.running.carry.let_go();
                state.running.guarding.let_go();
                self.detect.leave();
            }
            Err(_) => {
                state.everywhere(|| vec![Step::GoOn]);
                state.running.carry.go_on();
            }
        }
        given
    }

    /// Write a byte to `beat` again and again for as long as a worker takes its turns; ends with the last worker or
    /// when nobody reads any more.
    pub fn pulse(&self, beat: &OwnedFd) {
        let mut workers: Vec<Patient> = Vec::new();
        loop {
            // A hand-over or a change may have it for seconds, and workers are rarely replaced.
            if let Ok(state) = self.state.try_lock() {
                workers = state.workers.iter().map(Patient::of).collect();
            }
            let before: Vec<u64> = workers.iter().map(Patient::ping).collect();
            std::thread::sleep(BEAT_EVERY);
            let is_alive = workers.iter().zip(before).any(|(worker, beats)| worker.pulse.beats() != beats);
            if is_alive && sys::send(beat.as_raw_fd(), &[0]).is_err_and(|error| error.kind() != ErrorKind::WouldBlock) {
                return;
            }
            if !workers.is_empty() && workers.iter().all(|worker| worker.pulse.has_ended()) {
                return;
            }
        }
    }
}
