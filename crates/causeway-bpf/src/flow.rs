//! `flow.bpf.c` at work in this network namespace: plain flows that never leave the kernel.
//!
//! Everything lives in pinned maps and links, so a process that goes leaves its flows, and the opening of new ones,
//! going on; the next process adopts them. Knows addresses, ports and counts; which applications are carried, and
//! what becomes of idle flows, is decided by the edge.

mod application;
mod counts;
mod events;
mod ports;
mod table;

pub use application::{CHOICES, Carried, CarriedOrigin, HeaderKind, MAX_APPLICATIONS, MAX_ORIGINS, MAX_SOURCES};
pub use counts::{FlowTotals, FlowVerdicts, Verdict};
pub use events::{FlowEvent, FlowEventKind, FlowEvents};
pub use ports::PortTable;
pub use table::{Cursor, Family, Flow, FlowKey, Leg, Side, Table};

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::{Spot, Unavailable};

#[derive(Clone, Debug)]
pub struct Options {
    /// A directory of a mounted bpffs, made if it is missing. `None`: everything goes with the process (tests).
    pub pins: Option<PathBuf>,
    /// Flows, not entries.
    pub capacity_v4: u32,
    pub capacity_v6: u32,
    /// What flows are translated to; outside of `net.ipv4.ip_local_port_range`, so that no socket has the same.
    pub source_ports: RangeInclusive<u16>,
}

impl Default for Options {
    fn default() -> Options {
        Options { pins: None, capacity_v4: 131_072, capacity_v6: 32_768, source_ports: 1024..=32_767 }
    }
}

/// All maps and the program.
#[derive(Debug)]
pub struct FlowPath {}

impl FlowPath {
    /// Adopt what is pinned, of the same layout version, and put this build's program in place of the one there
    /// without a gap; else make it all anew. Carries nothing before `attach`.
    ///
    /// # Errors
    /// Why this build or this machine cannot.
    pub fn open(_options: &Options) -> Result<FlowPath, Unavailable> {
        Err(Unavailable::Refused { what: "the flow program", reason: "not built yet".to_string() })
    }

    /// Let packets that come in by `interface` be carried. Attached already: fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(&self, _interface: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn attached(&self) -> Vec<u32> {
        Vec::new()
    }

    /// # Errors
    /// The kernel's. Not attached: fine.
    pub fn detach(&self, _interface: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Make `application` what flows of `index` are opened by, in one step; flows that are open stay as they are.
    ///
    /// # Errors
    /// `InvalidInput` if it has no origin or too many; else the kernel's.
    pub fn set_application(&self, _index: u16, _application: &Carried) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// # Errors
    /// The kernel's.
    pub fn application(&self, _index: u16) -> io::Result<Option<Carried>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// # Errors
    /// The kernel's.
    pub fn applications(&self) -> io::Result<Vec<(u16, Carried)>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Its open flows stay; ports that still name it open none. Not there: fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_application(&self, _index: u16) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Make `table` all that is carried of `spot`, in one step; an empty one removes the spot.
    ///
    /// # Errors
    /// `InvalidInput` for an unspecified address; else the kernel's.
    pub fn set_ports(&self, _spot: Spot, _table: &PortTable) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// # Errors
    /// The kernel's.
    pub fn ports(&self, _spot: Spot) -> io::Result<PortTable> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// # Errors
    /// The kernel's.
    pub fn spots(&self) -> io::Result<Vec<Spot>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// # Errors
    /// The kernel's.
    pub fn totals(&self, _index: u16) -> io::Result<FlowTotals> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// # Errors
    /// The kernel's.
    pub fn verdicts(&self) -> io::Result<FlowVerdicts> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Visit a bounded number of legs from `cursor` on (`Cursor::default()` begins a round). An entry may be seen
    /// twice, or not, while others come and go; one that stays is seen.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sweep(
        &self,
        _family: Family,
        _table: Table,
        _cursor: Cursor,
        _visit: &mut dyn FnMut(Leg),
    ) -> io::Result<Cursor> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Both legs of a flow, wherever it is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn flow(&self, _client_key: &FlowKey) -> io::Result<Option<Flow>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Take both legs out; answers the last counts. Packets that come later find no flow and go to the stack.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, _client_key: &FlowKey) -> io::Result<Option<Flow>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// End a flow: RST to both sides of a TCP connection, and out of the table.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut(&self, _flow: &Flow) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What happened, as it happens. One reader at a time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn events(&self) -> io::Result<FlowEvents> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Detach from every interface and unpin everything of `options.pins`: flows end. Answers how many pins went.
    ///
    /// # Errors
    /// The kernel's.
    pub fn flush(_options: &Options) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
