//! What `guard.bpf.c` makes of a packet, on plain values: its twin. For trials of a rule before it is in force, and to be
//! compared with the program.
//!
//! Written from the rules of bpf/README.md, not from the program. It cannot see sockets, flows and cookies: whoever asks
//! it tells of them ([`Surroundings`]).

mod judge;
mod packet;

pub use packet::{Fragment, Seen};

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::access::Net;
use super::{Counts, Hits, Listener, Mode, PrefixSet, Rate, RuleSet, Settings, Verdict};
use crate::flow::PortTable;

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;

/// What is open on this machine.
pub trait Surroundings {
    /// Is there a connection or flow with this far and near end?
    fn is_open(&self, is_tcp: bool, from: SocketAddr, to: SocketAddr) -> bool;
    /// Is there any socket that would get such a packet: a connected, listening or bound one?
    fn is_awaited(&self, is_tcp: bool, from: SocketAddr, to: SocketAddr) -> bool;
    /// Does this acknowledge a cookie that was sent?
    fn is_cookie(&self, from: SocketAddr, to: SocketAddr, sequence: u32, acknowledged: u32) -> bool;
}

/// Where nothing is open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Surroundings for Nothing {
    fn is_open(&self, _: bool, _: SocketAddr, _: SocketAddr) -> bool {
        false
    }

    fn is_awaited(&self, _: bool, _: SocketAddr, _: SocketAddr) -> bool {
        false
    }

    fn is_cookie(&self, _: SocketAddr, _: SocketAddr, _: u32, _: u32) -> bool {
        false
    }
}

#[derive(Debug)]
pub struct Twin<S = Nothing> {
    pub surroundings: S,
    pub settings: Settings,
    pub listeners: HashMap<u16, Listener>,
    /// By protocol and address; the unspecified one stands for all of its family.
    pub ports: HashMap<(u8, IpAddr), PortTable>,
    pub addresses: HashMap<IpAddr, u16>,
    pub sets: HashMap<u16, PrefixSet>,
    pub rules: RuleSet,
    pub rates: HashMap<u16, Rate>,
    counts: HashMap<u16, Counts>,
    hits: HashMap<u16, Hits>,
    /// Until when each has used what it gets, in the units of the rate.
    sources: HashMap<judge::Purse, u64>,
    /// The filter of those who may come back, by line and turn.
    returns: HashMap<(u32, u32), [u32; judge::RETURN_WORDS]>,
    passed_first: HashMap<(IpAddr, IpAddr, u32, u8), bool>,
    primed: HashMap<judge::Slot, u64>,
}

/// Whose packet it is, what became of it, and the tag of what decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub listener: u16,
    pub mode: Mode,
    pub verdict: Verdict,
    pub tag: u16,
    /// Of something that has gone both ways, as far as the surroundings know.
    pub is_two_way: bool,
}

impl Judgement {
    pub fn is_dropped(&self) -> bool {
        self.mode == Mode::Protect && self.verdict.is_drop()
    }

    pub fn is_answered(&self) -> bool {
        self.mode == Mode::Protect && self.verdict == Verdict::CookieSent
    }
}

impl<S: Surroundings> Twin<S> {
    /// With nothing guarded.
    pub fn new(surroundings: S, settings: Settings) -> Twin<S> {
        Twin {
            surroundings,
            settings,
            listeners: HashMap::new(),
            ports: HashMap::new(),
            addresses: HashMap::new(),
            sets: HashMap::new(),
            rules: RuleSet::new(),
            rates: HashMap::new(),
            counts: HashMap::new(),
            hits: HashMap::new(),
            sources: HashMap::new(),
            returns: HashMap::new(),
            passed_first: HashMap::new(),
            primed: HashMap::new(),
        }
    }

    pub fn counts(&self, listener: u16) -> Counts {
        self.counts.get(&listener).copied().unwrap_or_default()
    }

    pub fn hits(&self, tag: u16) -> Hits {
        self.hits.get(&tag).copied().unwrap_or_default()
    }

    /// Judge a frame at `now_ns`, and count it. `None`: it is nobody's, or its listener's mode is off.
    pub fn take(&mut self, frame: &[u8], now_ns: u64) -> Option<Judgement> {
        let seen = Seen::read(frame)?;
        let (index, is_rest) = self.listener_of(&seen)?;
        let listener = self.listeners.get(&index).cloned().unwrap_or_default();
        if listener.mode == Mode::Off {
            self.remember(&seen, true);
            return None;
        }
        let (verdict, tag) = self.judge(frame, &seen, index, &listener, is_rest, now_ns);
        self.remember(&seen, !verdict.is_drop() || listener.mode != Mode::Protect);
        self.hit(tag, verdict == Verdict::Established);
        let counts = self.counts.entry(index).or_default();
        counts.add(verdict, seen.length.into(), listener.mode == Mode::Watch);
        let is_two_way = !seen.is_malformed && !seen.is_illegal && self.is_open(&seen);
        Some(Judgement { listener: index, mode: listener.mode, verdict, tag, is_two_way })
    }

    /// The port's, else the address's (`true`).
    fn listener_of(&self, seen: &Seen) -> Option<(u16, bool)> {
        let any = Net::of(seen.destination, 0).address(seen.destination.is_ipv4());
        if [IPPROTO_TCP, IPPROTO_UDP].contains(&seen.protocol) && seen.fragment != Fragment::Later {
            for address in [seen.destination, any] {
                let table = self.ports.get(&(seen.protocol, address));
                if let Some(index) = table.and_then(|table| table.get(seen.destination_port)) {
                    return Some((index, false));
                }
            }
        }
        self.addresses.get(&seen.destination).map(|index| (*index, true))
    }

    fn remember(&mut self, seen: &Seen, has_passed: bool) {
        if seen.fragment == Fragment::First {
            self.passed_first.insert(datagram(seen), has_passed);
        }
    }

    fn hit(&mut self, tag: u16, is_established: bool) {
        if tag != 0 {
            let hits = self.hits.entry(tag).or_default();
            hits.packets += 1;
            hits.established += u64::from(is_established);
        }
    }
}

fn datagram(seen: &Seen) -> (IpAddr, IpAddr, u32, u8) {
    (seen.source, seen.destination, seen.fragment_id, seen.protocol)
}
