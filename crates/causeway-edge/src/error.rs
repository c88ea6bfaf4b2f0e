//! What can go wrong at the border of the engine, each with a stable code and the side at fault.

use std::fmt;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Operator,
    Edge,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Operator => "operator",
            Side::Edge => "edge",
        })
    }
}

/// A refused call. Nothing was changed: the last good snapshot keeps serving.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("the snapshot is not the JSON this engine reads: {0}")]
    Malformed(String),
    #[error("the snapshot has {bytes} bytes, the limit is {limit_bytes}: split the applications over more edges")]
    TooLarge { bytes: usize, limit_bytes: usize },
    #[error("the snapshot is of format {found}, this engine reads format {known}: upgrade the engine first")]
    Format { found: u64, known: u64 },
    #[error("the snapshot has version {offered}, version {running} is running: send a newer one")]
    Stale { offered: u64, running: u64 },
    #[error("the snapshot is invalid at {field}: {reason}")]
    Invalid { field: String, reason: String },
    #[error("{0}")]
    Refused(String),
    #[error("the configuration of the engine is invalid: {0}")]
    Config(String),
    #[error("the edge has stopped")]
    Stopped,
    #[error("the hand-over failed: {0}")]
    HandOver(String),
    #[error("{what}: {source}")]
    Resources { what: String, source: std::io::Error },
}

impl EdgeError {
    /// The stable name of this error in API, logs and Python.
    pub fn code(&self) -> &'static str {
        match self {
            EdgeError::Malformed(_) => "snapshot_malformed",
            EdgeError::TooLarge { .. } => "snapshot_too_large",
            EdgeError::Format { .. } => "snapshot_format",
            EdgeError::Stale { .. } => "snapshot_stale",
            EdgeError::Invalid { .. } => "snapshot_invalid",
            EdgeError::Refused(_) => "refused",
            EdgeError::Config(_) => "edge_config",
            EdgeError::Stopped => "edge_stopped",
            EdgeError::HandOver(_) => "hand_over_failed",
            EdgeError::Resources { .. } => "edge_resources",
        }
    }

    pub fn side(&self) -> Side {
        match self {
            EdgeError::Stopped | EdgeError::HandOver(_) | EdgeError::Resources { .. } => Side::Edge,
            _ => Side::Operator,
        }
    }

    pub(crate) fn resources(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> EdgeError {
        let what = what.into();
        move |source| EdgeError::Resources { what, source }
    }
}
