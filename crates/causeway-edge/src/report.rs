//! What the engine answers: which listeners a snapshot brought up, and what the edge has seen.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::carry::why_refused;
use crate::count::Totals;
use crate::detect::Detection;
use crate::error::Side;
use crate::event::Record;
use crate::memory::MemoryReport;
use crate::overlay::OverlayReport;
use crate::pressure::PortPressure;
use crate::snapshot::{Application, Ports, Protocol};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerState {
    Running,
    Unchanged,
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    pub code: &'static str,
    pub side: Side,
    pub message: String,
}

/// Neighbouring ports of one application with the same fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerReport {
    pub application: String,
    pub protocol: Protocol,
    pub address: IpAddr,
    pub ports: Ports,
    pub state: ListenerState,
    pub reason: Option<Reason>,
    pub carrier: CarriedBy,
    /// Why not by the kernel.
    pub not_carried: Option<Reason>,
}

/// Who moves the bytes of new flows. The engine serves what the kernel passes on, in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CarriedBy {
    Kernel,
    #[default]
    Engine,
}

/// Who carries an application on one of its edge addresses, and why not the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CarrierReport {
    pub application: String,
    pub address: IpAddr,
    pub carrier: CarriedBy,
    pub reason: Option<Reason>,
    /// None: it has no rules or limits.
    pub judged: Option<Judged>,
}

/// Who says which clients of an application come in: the kernel before everything else, or the engine, and why it. What
/// the kernel surely refuses it does in any case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    pub by: CarriedBy,
    pub reason: Option<Reason>,
}

impl CarrierReport {
    pub fn new(spec: &Application, address: IpAddr, reason: Option<Reason>) -> CarrierReport {
        let is_by_kernel = reason.is_none() || spec.transparent; // then by nobody else
        let carrier = if is_by_kernel { CarriedBy::Kernel } else { CarriedBy::Engine };
        let reason = if spec.transparent { reason.map(why_refused) } else { reason };
        CarrierReport { application: spec.id.clone(), address, carrier, reason, judged: None }
    }
}

/// The fast path: is it at work, why not if it could be wanted, and what became of the packets that it saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowPathReport {
    pub is_on: bool,
    pub missing: Option<String>,
    pub flows: u64,
    /// One-way so far.
    pub opening: u64,
    pub capacity: u64,
    pub interfaces: usize,
    /// How packets come to it: `tcx`, or `clsact` on older kernels.
    pub hook: Option<&'static str>,
    pub verdicts: BTreeMap<&'static str, u64>,
}

/// The guard: what it stands on, why there is none, and what became of packets to ports that it watches over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuardReport {
    pub is_on: bool,
    /// Why it is not at work, or what the kernel refused at the last change.
    pub missing: Option<String>,
    /// Why the plan of automatic mitigation that was left on disk was not taken up, if so.
    pub not_believed: Option<String>,
    pub interfaces: Vec<GuardedInterface>,
    /// Listeners for which the kernel's tables have no room.
    pub left_out: usize,
    /// Two-way sessions of the engine that the kernel knows now, and those for which it had no room.
    pub sessions: usize,
    pub sessions_left_out: u64,
    pub verdicts: BTreeMap<&'static str, u64>,
    pub applications: Vec<GuardedApplication>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuardedInterface {
    pub name: String,
    /// `native`: in the driver. `generic`: behind it, slower. None: not guarded, with a reason.
    pub mode: Option<&'static str>,
    /// Who answers SYNs while cookies are held: `guard`, or `stack` where the driver would lose the guard's answers.
    pub cookies_by: Option<&'static str>,
    pub reason: Option<String>,
}

/// Packets by verdict; those that never occurred are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuardedApplication {
    pub application: String,
    pub verdicts: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Applied,
    Unchanged,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApplyReport {
    pub version: u64,
    pub outcome: Outcome,
    pub listeners: Vec<ListenerReport>,
    /// Why the snapshot could not be kept on disk, if so: it runs, but a restart would not find it.
    pub not_kept: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct ApplicationReport {
    pub id: String,
    #[serde(flatten)]
    pub totals: Totals,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OpenFiles {
    pub used: u64,
    pub limit: u64,
}

/// Dispatch in the kernel: is it at work, why not if it was wanted, and what became of the lookups it saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DispatchReport {
    pub is_on: bool,
    pub missing: Option<String>,
    /// Went the kernel's usual way: not claimed.
    pub passed: u64,
    pub assigned: u64,
    /// Claimed, but no socket could be had.
    pub failed: u64,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub version: u64,
    pub is_draining: bool,
    pub uptime_ms: u64,
    pub workers: usize,
    /// Workers that hung or failed and were replaced, since the start.
    pub workers_replaced_total: u64,
    pub open_files: OpenFiles,
    pub dispatch: DispatchReport,
    pub flow_path: FlowPathReport,
    pub guard: GuardReport,
    /// Of the cgroup, where it has a limit.
    pub memory: Option<MemoryReport>,
    /// Origins towards which half of the source ports or more are in use, the worst first.
    pub port_pressure: Vec<PortPressure>,
    /// None: this edge speaks to no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlayReport>,
    pub totals: Totals,
    pub applications: Vec<ApplicationReport>,
    pub carriers: Vec<CarrierReport>,
    pub refused: Vec<ListenerReport>,
    /// Attacks of sources that were found lately, the newest last.
    pub detections: Vec<Detection>,
    pub events: Vec<Record>,
    pub events_lost: u64,
    /// Snapshots on disk that were not taken at start, and why.
    pub rejected_snapshots: Vec<String>,
    /// Why bans that were left on disk were not taken up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bans_not_believed: Option<String>,
}
