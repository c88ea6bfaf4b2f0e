//! How near the source ports towards each origin are to their end: asked of the kernel, never on the data path.
//!
//! The kernel alone knows: a connection that we closed first holds its port in TIME_WAIT for a minute. While the
//! machine has too few sockets for any origin to be near the end, that is one small file to read; beyond, the
//! sockets are listed (sock_diag(7)) and counted, at most every second and for a small share of one core.

mod diag;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::snapshot::Protocol;

/// From this share on an origin is reported.
const TOLD_FROM: f64 = 0.5;
const MOST_TOLD: usize = 16;
const EVERY_MS: u64 = 1_000;
/// Listing takes at most one part of this many of the time.
const LISTING_PART: u64 = 100;

/// Source ports in use towards one origin, all of our source addresses together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortPressure {
    pub protocol: Protocol,
    /// UDP ports are one pool for all origins: none.
    pub origin: Option<SocketAddr>,
    pub used: usize,
    pub available: usize,
    pub share: f64,
}

/// What one look at the kernel's small files says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Machine {
    first_port: u16,
    last_port: u16,
    reserved: usize,
    tcp: usize,
    udp: [usize; 2],
}

impl Machine {
    fn ports(&self) -> usize {
        (usize::from(self.last_port) + 1).saturating_sub(usize::from(self.first_port) + self.reserved)
    }
}

/// The last answer, and when the next is due.
#[derive(Debug, Default)]
pub struct PressureGauge {
    due_ms: u64,
    last: Vec<PortPressure>,
}

impl PressureGauge {
    /// `sources` are the configured source addresses; none stands for one of the kernel's choice.
    pub fn look(&mut self, sources: &[IpAddr], now_ms: u64, clock: impl Fn() -> u64) -> &[PortPressure] {
        if now_ms >= self.due_ms {
            let machine = read_machine();
            let of = |is_v4: bool| sources.iter().filter(|source| source.is_ipv4() == is_v4).count().max(1);
            self.last = udp(&machine, [of(true), of(false)]);
            if machine.ports() > 0 && machine.tcp as f64 >= TOLD_FROM * machine.ports() as f64 {
                let ports = (machine.first_port, machine.last_port);
                let sockets = diag::tcp_sockets(ports).unwrap_or_default();
                self.last.extend(tcp(&machine, sockets, sources, [of(true), of(false)]));
            }
            self.last.sort_by(|a, b| b.share.total_cmp(&a.share));
            self.last.truncate(MOST_TOLD);
            let took_ms = clock().saturating_sub(now_ms);
            self.due_ms = now_ms + EVERY_MS.max(took_ms * LISTING_PART);
        }
        &self.last
    }
}

fn pressure(protocol: Protocol, origin: Option<SocketAddr>, used: usize, available: usize) -> Option<PortPressure> {
    let share = used as f64 / available.max(1) as f64;
    (share >= TOLD_FROM).then(|| PortPressure { protocol, origin, used, available, share: (share * 1e3).round() / 1e3 })
}

fn udp(machine: &Machine, sources: [usize; 2]) -> Vec<PortPressure> {
    let ports = machine.ports();
    let families = machine.udp.into_iter().zip(sources);
    families.filter_map(|(used, sources)| pressure(Protocol::Udp, None, used, ports * sources)).collect()
}

/// `sockets`: our end's address and the peer of each.
fn tcp(
    machine: &Machine,
    sockets: Vec<(IpAddr, SocketAddr)>,
    sources: &[IpAddr],
    count: [usize; 2],
) -> Vec<PortPressure> {
    let mut used: HashMap<SocketAddr, usize> = HashMap::new();
    for (ours, peer) in sockets {
        let is_of_family = |source: &IpAddr| source.is_ipv4() == peer.is_ipv4();
        if !sources.iter().any(is_of_family) || sources.contains(&ours) {
            *used.entry(peer).or_default() += 1;
        }
    }
    let available = |peer: &SocketAddr| machine.ports() * count[usize::from(peer.is_ipv6())];
    used.into_iter().filter_map(|(peer, n)| pressure(Protocol::Tcp, Some(peer), n, available(&peer))).collect()
}

fn read_machine() -> Machine {
    // Of the calling thread's network, which is that of all threads of this process.
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    parse(
        &read("/proc/sys/net/ipv4/ip_local_port_range"),
        &read("/proc/sys/net/ipv4/ip_local_reserved_ports"),
        &read("/proc/thread-self/net/sockstat"),
        &read("/proc/thread-self/net/sockstat6"),
    )
}

fn parse(range: &str, reserved: &str, sockstat: &str, sockstat6: &str) -> Machine {
    let mut bounds = range.split_whitespace().map(|word| word.parse().unwrap_or(0));
    let (first_port, last_port) = (bounds.next().unwrap_or(0), bounds.next().unwrap_or(0));
    let reserved = reserved.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        (usize::from(last.min(last_port)) + 1).checked_sub(first.max(first_port).into())
    });
    // "TCP: inuse 5 orphan 0 tw 2 alloc 7 mem 1"
    let value = |text: &str, line: &str, name: &str| -> usize {
        let words = text.lines().find_map(|found| found.strip_prefix(line)).unwrap_or_default();
        let mut words = words.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let tcp = value(sockstat, "TCP:", "inuse") + value(sockstat, "TCP:", "tw") + value(sockstat6, "TCP6:", "inuse");
    let udp = [value(sockstat, "UDP:", "inuse"), value(sockstat6, "UDP6:", "inuse")];
    Machine { first_port, last_port, reserved: reserved.sum(), tcp, udp }
}

#[cfg(test)]
mod tests;
