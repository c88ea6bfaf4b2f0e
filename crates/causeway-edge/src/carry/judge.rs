//! What is to become of a flow: pure, the caller brings the time and the flow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_bpf::flow::{Flow, Side};

use crate::event::Cause;
use crate::firewall::{Firewall, Verdict};

/// A closed flow stays this long, so that a last segment that was lost is sent again through it.
pub const LINGER_MS: u64 = 1_000;
/// A handshake that the client never finished is forgotten after this.
const HALF_OPEN_MS: u64 = 60_000;

/// What holds for the flows of an application; `u64::MAX` where a timeout is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connect_ms: u64,
    pub idle_ms: u64,
    pub half_close_ms: u64,
    pub udp_idle_ms: u64,
    /// From then on its flows are cut.
    pub cut_at_ms: u64,
}

impl Default for Limits {
    /// The API's defaults, for flows of an application that is not known any more.
    fn default() -> Limits {
        Limits {
            connect_ms: 3_000,
            idle_ms: 3_600_000,
            half_close_ms: u64::MAX,
            udp_idle_ms: 60_000,
            cut_at_ms: u64::MAX,
        }
    }
}

/// What holds for the flows of each index, as one round goes by it.
#[derive(Debug, Default)]
pub struct Terms {
    pub limits: HashMap<u16, Limits>,
    /// Only those with a rule that ends what is established.
    pub rules: HashMap<u16, (u128, Arc<Firewall>)>,
}

impl Terms {
    pub fn of(&self, index: u16) -> Limits {
        self.limits.get(&index).copied().unwrap_or_default()
    }

    /// Must the flows of this client to this port of the edge end?
    pub fn bars(&self, index: u16, client: IpAddr, port: u16) -> bool {
        let rules = self.rules.get(&index);
        rules.is_some_and(|(id, rules)| rules.judge(client, *id, port).verdict == Verdict::Cut)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    GoesOn,
    /// It is over: take it out and say so.
    Ended(Cause),
    /// End it for both sides, and say so.
    Cut(Cause),
    /// Its origin does not answer.
    Unanswered,
    /// It never was a connection: nothing to say.
    Forget,
}

impl Limits {
    /// Could a flow whose client was last heard at `seen_ms` have a fate other than going on?
    pub fn is_due(&self, is_tcp: bool, is_established: bool, seen_ms: u64, now_ms: u64) -> bool {
        let silent_ms = now_ms.saturating_sub(seen_ms);
        let least_ms = match (is_tcp, is_established) {
            (true, true) => self.idle_ms.min(if self.half_close_ms == u64::MAX { u64::MAX } else { 0 }),
            // The client asks again and again: when it began is not to be seen here.
            (true, false) => 0,
            (false, _) => self.udp_idle_ms,
        };
        now_ms >= self.cut_at_ms || silent_ms >= least_ms
    }

    /// `half_closed_ms`: for how long only one side has finished, as far as that is known.
    pub fn judge(&self, flow: &Flow, half_closed_ms: u64, now_ms: u64) -> Fate {
        let silent_ms = now_ms.saturating_sub(flow.seen_ms());
        if flow.is_closed {
            return if silent_ms >= LINGER_MS { Fate::Ended(end(flow)) } else { Fate::GoesOn };
        }
        if now_ms >= self.cut_at_ms {
            return Fate::Cut(Cause::Drained);
        }
        if !flow.is_tcp {
            return if silent_ms >= self.udp_idle_ms { Fate::Ended(Cause::Idle) } else { Fate::GoesOn };
        }
        if !flow.is_established {
            let age_ms = now_ms.saturating_sub(flow.started_ms);
            return match flow.seen_origin_ms {
                0 if age_ms >= self.connect_ms => Fate::Unanswered,
                _ if silent_ms >= HALF_OPEN_MS => Fate::Forget,
                _ => Fate::GoesOn,
            };
        }
        if silent_ms >= self.idle_ms {
            return Fate::Cut(Cause::Idle);
        }
        if half_closed_ms >= self.half_close_ms {
            return Fate::Cut(Cause::HalfCloseTimeout);
        }
        Fate::GoesOn
    }
}

/// Has exactly one side said that it will send no more?
pub fn is_half_closed(flow: &Flow) -> bool {
    flow.is_tcp && !flow.is_closed && flow.has_finished_client != flow.has_finished_origin
}

/// Why a closed flow is closed.
pub fn end(flow: &Flow) -> Cause {
    match (flow.was_reset_by, flow.is_established) {
        (Some(Side::Client), true) => Cause::ClientReset,
        (Some(Side::Client), false) => Cause::ClientGone,
        (Some(Side::Origin), true) if flow.is_tcp => Cause::OriginReset,
        (Some(Side::Origin), false) if flow.is_tcp => Cause::ConnectRefused,
        (Some(Side::Origin), _) => Cause::OriginPortUnreachable,
        (None, _) => Cause::Closed,
    }
}
