//! What can go wrong at the border of the relay, each with a stable code.

/// A refused world or change; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("the world is not the JSON that the relay reads: {0}")]
    World(String),
    #[error("the command is not one that the relay knows: {0}")]
    Command(String),
    #[error("no node is called {0:?}")]
    UnknownNode(String),
    #[error("there is no link from {0} to {1}")]
    UnknownLink(String, String),
    #[error("{field} is {value}: {wanted}")]
    Shape { field: &'static str, value: String, wanted: &'static str },
    #[error("{what}: {source}")]
    Resources { what: String, source: std::io::Error },
}

impl LabError {
    /// The stable name of this error on the socket and in Python.
    pub fn code(&self) -> &'static str {
        match self {
            LabError::World(_) => "lab_world",
            LabError::Command(_) => "lab_command",
            LabError::UnknownNode(_) => "lab_unknown_node",
            LabError::UnknownLink(..) => "lab_unknown_link",
            LabError::Shape { .. } => "lab_link_value",
            LabError::Resources { .. } => "lab_resources",
        }
    }
}
