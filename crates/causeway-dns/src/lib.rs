//! Authoritative DNS for the names of applications: near and fit edges first, small answers, nothing recursive.
//!
//! `answer` is a pure function of a table, a map of places and a query; `serve` moves bytes; who makes the table is
//! control.

mod answer;
mod error;
mod pace;
mod places;
mod serve;
mod subnet;
mod table;

pub use answer::{Kind, Reply, Transport, answer};
pub use error::DnsError;
pub use places::{Places, Point};
pub use serve::{Counters, Server};
pub use table::{Facts, Table};
