//! An application as the data path borrows it: compiled once per change, immutable, shared by `Arc`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::count::{Counters, Totals};
use crate::event::Cause;
use crate::firewall::blobs::Blob;
use crate::firewall::{Firewall, Matched, Verdict};
use crate::limits::{Limiter, Permit, Refusal};
use crate::minecraft::Gate;
use crate::origin::{OriginSet, Policy};
use crate::overlay;
use crate::snapshot::{Application, Of, Ports, ProxyProtocol, UdpHeader};
use crate::steering::Steered;
use crate::ways::Ways;

#[derive(Debug)]
pub struct Active {
    pub id: u128,
    pub spec: Application,
    pub origins: OriginSet,
    pub policy: Arc<Policy>,
    pub counters: Arc<[Counters]>,
    pub firewall: Option<Arc<Firewall>>,
    pub limiter: Option<Limiter>,
    /// Of a Minecraft server that the edge speaks for.
    pub gate: Option<Arc<Gate>>,
    /// As somebody has said them. None: this edge connects to the origins.
    fixed: Arc<Ways>,
    /// Where control may say which ways its flows take.
    pub steered: Option<Arc<Steered>>,
    pub proxy_header_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    /// `u64::MAX` where the timeout is off, so that `min` and `saturating_add` need no branch.
    pub idle_timeout_ms: u64,
    pub half_close_timeout_ms: u64,
    pub no_progress_timeout_ms: u64,
    pub udp_idle_timeout_ms: u64,
}

impl Active {
    pub fn new(spec: Application, origins: OriginSet, policy: Arc<Policy>, counters: Arc<[Counters]>) -> Active {
        let or_never = |ms: u64| if ms == 0 { u64::MAX } else { ms };
        Active {
            id: u128::from_str_radix(&spec.id, 16).unwrap_or_default(), // 32 hex digits, checked on arrival
            origins,
            policy,
            counters,
            firewall: None,
            limiter: Limiter::new(&spec.limits, None, None),
            gate: spec.minecraft.map(|minecraft| Arc::new(Gate::new(minecraft, None))),
            fixed: Arc::new(Ways::fixed(overlay::paths(&spec))),
            steered: None,
            proxy_header_timeout_ms: spec.proxy_header_timeout_ms,
            connect_timeout_ms: spec.connect_timeout_ms,
            idle_timeout_ms: or_never(spec.idle_timeout_ms),
            half_close_timeout_ms: or_never(spec.half_close_timeout_ms),
            no_progress_timeout_ms: or_never(spec.no_progress_timeout_ms),
            udp_idle_timeout_ms: spec.udp_idle_timeout_ms,
            spec,
        }
    }

    pub fn steered_by(self, steered: Option<Arc<Steered>>) -> Active {
        Active { steered, ..self }
    }

    pub fn with_firewall(self, firewall: Option<Arc<Firewall>>) -> Active {
        Active { firewall, ..self }
    }

    /// What `earlier` counts goes on. `asn` tells AS numbers.
    pub fn counting_as(self, earlier: Option<&Active>, asn: Option<&Arc<Blob>>) -> Active {
        let before = earlier.and_then(|earlier| earlier.limiter.as_ref());
        let gate_before = earlier.and_then(|earlier| earlier.gate.as_deref());
        let gate = self.spec.minecraft.map(|minecraft| Arc::new(Gate::new(minecraft, gate_before)));
        Active { limiter: Limiter::new(&self.spec.limits, asn, before), gate, ..self }
    }

    /// Room within the limits for a flow of this client; none where there are no limits.
    ///
    /// # Errors
    /// Which limit refuses it; that is counted.
    pub fn permit(&self, client: IpAddr, now_ms: u64, counters: &Counters) -> Result<Option<Box<Permit>>, Cause> {
        let Some(limiter) = &self.limiter else { return Ok(None) };
        match limiter.admit(client, now_ms) {
            Ok(permit) => Ok(Some(Box::new(permit))),
            Err(refusal) => Err(count_refusal(refusal, counters)),
        }
    }

    /// May a flow of this client to this port of the edge begin? The rules that decide count it.
    pub fn admits(&self, client: IpAddr, port: u16) -> bool {
        self.firewall.as_ref().is_none_or(|firewall| !firewall.admit(client, self.id, port).verdict.is_refusal())
    }

    /// Do the rules name it as one that may always come in?
    pub fn allows(&self, client: IpAddr, port: u16) -> bool {
        self.firewall.as_ref().is_some_and(|firewall| firewall.judge(client, self.id, port).verdict == Verdict::Allow)
    }

    /// Must what this client has end?
    pub fn cuts(&self, client: IpAddr, port: u16) -> bool {
        self.firewall.as_ref().is_some_and(|firewall| firewall.judge(client, self.id, port).verdict == Verdict::Cut)
    }

    /// Is there a limit by AS number?
    pub fn limits_by_asn(&self) -> bool {
        self.spec.limits.iter().any(|limit| limit.of == Of::Asn)
    }

    /// The ways of a flow that begins now; no way at all: this edge connects to the origins, and to nothing else.
    pub fn ways(&self, now_ms: u64) -> Option<Arc<Ways>> {
        let steered = self.steered.as_ref().and_then(|steered| steered.ways(now_ms));
        steered.or_else(|| (!self.fixed.paths().is_empty()).then(|| self.fixed.clone()))
    }

    /// What the firewall says of a client, as the flow log names it.
    pub fn matched(&self, client: IpAddr, port: u16) -> Matched {
        self.firewall.as_ref().map_or(Matched::Unknown, |firewall| firewall.judge(client, self.id, port).into())
    }

    /// Must this client send a PROXY header, which is then believed?
    pub fn trusts(&self, client: IpAddr) -> bool {
        self.spec.proxy_protocol_from.iter().any(|prefix| prefix.contains(client))
    }

    /// May this application connect there? Never to what is forbidden, and never to itself, which would not end.
    pub fn may_connect(&self, origin: SocketAddr) -> bool {
        self.policy.allows(origin) && !self.is_itself(origin)
    }

    fn is_itself(&self, origin: SocketAddr) -> bool {
        let (ip, ports) = (origin.ip().to_canonical(), self.spec.edge_ports);
        let is_own = |edge: &IpAddr| *edge == ip || (edge.is_unspecified() && self.policy.is_local(ip));
        (ports.first..=ports.last).contains(&origin.port()) && self.spec.edge_addresses.iter().any(is_own)
    }

    pub fn proxy_protocol(&self) -> ProxyProtocol {
        self.spec.proxy_protocol
    }

    pub fn udp_header(&self) -> UdpHeader {
        self.spec.udp_header
    }

    /// How far into the range an edge port lies; the origin's port lies as far into its own.
    pub fn offset(&self, edge: SocketAddr) -> u16 {
        edge.port().wrapping_sub(self.spec.edge_ports.first)
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.counters.iter().for_each(|counters| totals.add(counters));
        totals
    }

    /// What the engine has served itself.
    pub fn engine_totals(&self) -> Totals {
        let mut totals = Totals::default();
        let workers = self.counters.split_last().map_or(&[][..], |(_, workers)| workers);
        workers.iter().for_each(|counters| totals.add(counters));
        totals
    }

    /// Without what the kernel has carried and counts itself.
    pub fn own_totals(&self) -> Totals {
        let mut totals = Totals::default();
        if let Some((carried, workers)) = self.counters.split_last() {
            workers.iter().for_each(|counters| totals.add(counters));
            // Refusals and silence of origins: only this process has counted those.
            let failed = carried.connect_errors_total.get().saturating_sub(carried.ports_exhausted_total.get());
            totals.connections_total += failed;
            totals.connect_errors_total += failed;
        }
        totals
    }

    /// `TCP_USER_TIMEOUT`: a dead peer with unacknowledged bytes goes when a stalled one would.
    pub fn user_timeout(&self) -> Option<Duration> {
        Application::duration(self.spec.no_progress_timeout_ms)
    }
}

pub fn count_refusal(refusal: Refusal, counters: &Counters) -> Cause {
    counters.limits_refused_total.add(1);
    counters.limits_bans_total.add(u64::from(refusal.is_new_ban));
    refusal.cause
}

pub fn mapped_port(ports: Ports, offset: u16) -> u16 {
    ports.first.wrapping_add(offset)
}
