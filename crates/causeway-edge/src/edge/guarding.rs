//! What the outside asks of the guard: a look at what it sees, and a plan for it to hold.

use super::{Edge, State};
use crate::error::EdgeError;
use crate::guard::wire::{Look, MOST_PLAN_BYTES, Plan, PlanReport};

impl Edge {
    /// What guard, engine and fast path have seen, with up to `max_samples` packets that were sampled since the last look.
    pub fn guard_look(&self, max_samples: usize) -> Look {
        let mut state = self.state();
        let State { workers, running, .. } = &mut *state;
        running.guard_look(max_samples, workers)
    }

    /// Make `json`, a plan, all that automatic mitigation asks for. An empty one ends everything automatic. Rules that
    /// cannot be had are named in the answer, and the others hold.
    ///
    /// # Errors
    /// `Refused` if it is no plan, or `Stopped`: the plan before stays in force.
    pub fn mitigate(&self, json: &[u8]) -> Result<PlanReport, EdgeError> {
        if json.len() > MOST_PLAN_BYTES {
            let reason = format!("a plan of {} bytes: at most {MOST_PLAN_BYTES} are read", json.len());
            return Err(EdgeError::Refused(reason));
        }
        let plan: Plan =
            serde_json::from_slice(json).map_err(|error| EdgeError::Refused(format!("this is no plan: {error}")))?;
        let mut state = self.state();
        if state.is_draining {
            return Err(EdgeError::Stopped);
        }
        let State { workers, running, .. } = &mut *state;
        Ok(running.mitigate(plan, workers))
    }

    /// The plan in force; of an earlier process, if that has left one and none came since.
    pub fn mitigation(&self) -> Plan {
        self.state().running.guarding.plan().clone()
    }
}
