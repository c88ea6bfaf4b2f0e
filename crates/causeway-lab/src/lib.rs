//! The WAN of a lab: one process that carries Ethernet frames between the namespaces of nodes, late and with losses as asked.
//!
//! What a link does is decided in `direction` and `wan`, which never ask for the time; `run` has the clock, the devices
//! and the socket. Knows nothing of worlds, cities or programs: those are Python's.
mod command;
mod direction;
mod error;
mod frame;
mod random;
mod run;
mod shape;
mod sys;
mod wan;
mod world;

pub use command::{Command, LINE_BYTES, Late, answer};
pub use direction::{Counts, Direction, Frame, Offer, Step};
pub use error::LabError;
pub use frame::Mac;
pub use run::run;
pub use shape::{Change, Shape};
pub use sys::now_ns;
pub use wan::{Delivery, Outside, Wan};
pub use world::{NodeConfig, World, read_world};
