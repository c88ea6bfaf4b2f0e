//! Records of flows that the kernel carried, in the words of the engine's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use causeway_bpf::flow::{Flow, Glance};

use super::book::Entry;
use crate::detect::{Sighting, What};
use crate::event::{Cause, Event};
use crate::firewall::{Firewall, Matched, Verdict};
use crate::snapshot::Protocol;

/// Workers number their flows below this (see `Desk::next_flow`): 256 of them at most.
const CARRIED: u64 = 256 << 48;

/// The two clocks, read together.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    pub monotonic_ms: u64,
    pub unix_ms: u64,
}

impl Clocks {
    pub fn now() -> Clocks {
        let (mut before_us, mut unix_ms, mut after_us) = read();
        for _ in 0..3 {
            if after_us - before_us < TOGETHER_US {
                break;
            }
            (before_us, unix_ms, after_us) = read(); // something else had the processor in between
        }
        let monotonic_ms = before_us / 1000;
        Clocks { monotonic_ms, unix_ms: monotonic_ms + ahead_ms(unix_ms.saturating_sub(monotonic_ms)) }
    }

    fn wall(self, monotonic_ms: u64) -> u64 {
        self.unix_ms.saturating_sub(self.monotonic_ms.saturating_sub(monotonic_ms))
    }
}

const TOGETHER_US: u64 = 200;

/// The wall clock between two looks at the other.
fn read() -> (u64, u64, u64) {
    let monotonic_us = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a writable timespec; the clock exists.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
    };
    (monotonic_us(), crate::clock::unix_ms(), monotonic_us())
}

/// How far the wall clock is ahead. The two count their milliseconds from different moments, so the difference sways;
/// the records of one flow's beginning and end have to name the same time.
fn ahead_ms(now: u64) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let last = LAST.load(Ordering::Relaxed);
    if now.abs_diff(last) <= 2 {
        return last;
    }
    LAST.store(now, Ordering::Relaxed);
    now
}

/// What those hear who judge sources, of a TCP connection that has opened or closed and no record is made of. As
/// `Sighting::of`.
pub fn sighting(application: u128, glance: &Glance, is_closed: bool) -> Option<Sighting> {
    let Glance { client, edge_port: port, client_bytes, origin_bytes, lasted_ms, .. } = *glance;
    let what = if is_closed { What::Closed { client_bytes, origin_bytes, lasted_ms } } else { What::Opened };
    glance.is_tcp.then_some(Sighting { application, client, port, what })
}

/// Whose flows they are, and what its rules say of clients.
#[derive(Clone, Debug, Default)]
pub struct Of {
    application: u128,
    firewall: Option<Arc<Firewall>>,
}

impl Of {
    pub fn entry(entry: &Entry) -> Of {
        Of { application: entry.id, firewall: entry.firewall.clone() }
    }

    pub fn allows(&self, flow: &Flow) -> bool {
        let judge = |firewall: &Arc<Firewall>| firewall.judge(flow.client.ip(), self.application, flow.edge.port());
        self.firewall.as_ref().is_some_and(|firewall| judge(firewall).verdict == Verdict::Allow)
    }

    /// The rules that let it in, or would not have, count it.
    pub fn opened(&self, flow: &Flow, clocks: Clocks) -> Event {
        // Nothing was said when it opened; what came since is in the record of its end.
        let event = record(flow, self.application, Cause::Opened, flow.started_ms, clocks);
        let admit = |firewall: &Arc<Firewall>| firewall.admit(flow.client.ip(), self.application, flow.edge.port());
        let firewall = self.firewall.as_ref().map_or(Matched::Unknown, |firewall| admit(firewall).into());
        Event { client_bytes: 0, origin_bytes: 0, firewall, ..event }
    }

    /// `cause` ended it at `at_ms` of the monotonic clock.
    pub fn ended(&self, flow: &Flow, cause: Cause, at_ms: u64, clocks: Clocks) -> Event {
        let judge = |firewall: &Arc<Firewall>| firewall.judge(flow.client.ip(), self.application, flow.edge.port());
        let firewall = self.firewall.as_ref().map_or(Matched::Unknown, |firewall| judge(firewall).into());
        Event { firewall, ..record(flow, self.application, cause, at_ms, clocks) }
    }
}

fn record(flow: &Flow, application: u128, cause: Cause, at_ms: u64, clocks: Clocks) -> Event {
    let was_up = flow.is_established || !flow.is_tcp;
    let is_known = !flow.origin.ip().is_unspecified();
    Event {
        cause,
        protocol: if flow.is_tcp { Protocol::Tcp } else { Protocol::Udp },
        time_ms: clocks.wall(at_ms),
        application,
        flow: number(flow),
        client: flow.client,
        edge: flow.edge,
        origin: is_known.then_some(flow.origin),
        connect_time_ms: if was_up { clocks.wall(flow.started_ms) } else { 0 },
        client_bytes: flow.client_bytes,
        origin_bytes: flow.origin_bytes,
        client_rtt_ns: u64::from(flow.client_rtt_us.unwrap_or(0)) * 1000,
        origin_rtt_ns: u64::from(flow.origin_rtt_us.unwrap_or(0)) * 1000,
        firewall: Matched::Unknown,
        trace: 0,
        path: None,
    }
}

/// The same in every process that sees the flow; another one when the same addresses and ports come again.
fn number(flow: &Flow) -> u64 {
    // A multiplication for eight bytes, as in wyhash: a number is made twice for each flow, of tens of thousands a second.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |word: u64| {
        let product = u128::from(hash ^ word) * 0x9e37_79b9_7f4a_7c15_u128;
        hash = product as u64 ^ (product >> 64) as u64;
    };
    for end in [flow.client, flow.edge, flow.source] {
        match end {
            SocketAddr::V4(v4) => add(u64::from(v4.ip().to_bits()) << 16 | u64::from(v4.port())),
            SocketAddr::V6(v6) => {
                let bits = v6.ip().to_bits();
                add((bits >> 64) as u64);
                add(bits as u64);
                add(v6.port().into());
            }
        }
    }
    add(flow.started_ms << 1 | u64::from(flow.is_tcp));
    add(if flow.is_tcp { flow.first_seq() } else { 0 }.into());
    CARRIED | (hash ^ hash >> 48) & ((1 << 48) - 1)
}
