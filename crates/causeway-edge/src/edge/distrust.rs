//! A snapshot that processes have died of, one after the other, is not served by the next one.

use super::Edge;
use crate::snapshot::Snapshot;

impl Edge {
    /// What was served last stays out of this process, under whatever version it comes: who began with it is gone, and
    /// so is the one before.
    pub(super) fn distrust_last(&self) {
        let mut state = self.state();
        let last = state.keep.as_ref().and_then(|keep| keep.set_last_aside(self.max_snapshot_bytes));
        let read = last.and_then(|(_, json)| Snapshot::parse(&json, self.max_snapshot_bytes).ok());
        state.distrusted = read.map(Box::new);
    }
}

/// Why it is refused.
pub(super) fn why(version: u64) -> String {
    format!(
        "two processes in a row died within seconds of serving what snapshot {version} says: this one does not serve \
         it. Undo what changed, or look for the reason in the log and in the file aside-* of the edge's directory"
    )
}
