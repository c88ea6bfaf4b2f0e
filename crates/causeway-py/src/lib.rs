//! The Python surface of the engine: an export list and conversions, nothing else.
#[pyo3::pymodule]
mod _core {}
