//! A worker that hangs or has ended gives its place to another: same index, same sockets, flows of its own.
//!
//! The new one takes all that runs and finds in the sockets what waited there. The flows of the old one are cut from
//! outside, so that their clients can come again; should its thread ever go on, it ends them and touches nothing else.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Sight, State, cut};
use crate::watch::{Heirs, Patient};
use crate::worker::{Step, Terms, Worker};

/// How the place of a worker that is lost goes to another one.
#[derive(Debug)]
pub struct Succession {
    pub state: Arc<Mutex<State>>,
    pub sight: Arc<Mutex<Sight>>,
    pub terms: Terms,
    /// Workers that were given up and have not ended, with their places.
    pub former: Vec<(usize, Patient)>,
}

impl Heirs for Succession {
    fn replace(&mut self, index: usize) -> Option<Patient> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // No threads or descriptors: the next look tries again.
        let (worker, reader) = Worker::start(index, state.workers_replaced + 1, self.terms.clone()).ok()?;
        self.sight.lock().unwrap_or_else(PoisonError::into_inner).readers.push(reader);
        let count = state.workers.len();
        if !state.is_draining {
            let mut steps = state.running.takeover(count);
            steps.push(Step::Tell(state.running.guarding.teller_again(index)));
            drop(worker.submit(steps).wait());
        }
        let patient = Patient::of(&worker);
        let former = std::mem::replace(&mut state.workers[index], worker);
        self.former.push((index, Patient::of(&former)));
        state.workers_replaced += 1;
        drop(state);
        cut::connections_of(former.pulse.epoll());
        Some(patient)
    }

    fn look(&mut self) {
        self.former.retain(|(index, former)| {
            if former.pulse.has_ended() {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                drop(state.workers[*index].submit(vec![Step::Settle(former.pulse.take_left())]));
            }
            !former.pulse.has_ended()
        });
    }
}
