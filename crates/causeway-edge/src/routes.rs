//! Whose a flow is that came through a socket of dispatch: local address and port to application.
//!
//! Made once for each change and shared by all workers; borrowed for each new flow, never locked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::application::Active;
use crate::snapshot::{Ports, Protocol};

#[derive(Debug, Default)]
pub struct Routes {
    tcp: HashMap<IpAddr, Ranges>,
    udp: HashMap<IpAddr, Ranges>,
}

/// Who has which ports of one address, sorted and without overlaps.
#[derive(Debug)]
struct Ranges {
    owners: Vec<(Ports, Arc<Active>)>,
    uses: Arc<Uses>,
}

impl Routes {
    pub fn add(&mut self, protocol: Protocol, address: IpAddr, owners: Vec<(Ports, Arc<Active>)>, uses: Arc<Uses>) {
        debug_assert!(owners.windows(2).all(|pair| pair[0].0.last < pair[1].0.first));
        let table = if protocol == Protocol::Tcp { &mut self.tcp } else { &mut self.udp };
        table.insert(address, Ranges { owners, uses });
    }

    pub fn uses(&self, protocol: Protocol, address: IpAddr) -> Option<Arc<Uses>> {
        let table = if protocol == Protocol::Tcp { &self.tcp } else { &self.udp };
        table.get(&address).map(|ranges| ranges.uses.clone())
    }

    /// The application of an edge address: of that address itself or of any of its family.
    pub fn find(&self, protocol: Protocol, edge: SocketAddr) -> Option<(&Arc<Active>, &Arc<Uses>)> {
        let table = if protocol == Protocol::Tcp { &self.tcp } else { &self.udp };
        let any: IpAddr = if edge.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        [edge.ip(), any].iter().find_map(|address| {
            let ranges = table.get(address)?;
            let after = ranges.owners.partition_point(|(ports, _)| ports.first <= edge.port());
            let (ports, active) = ranges.owners.get(after.checked_sub(1)?)?;
            (edge.port() <= ports.last).then_some((active, &ranges.uses))
        })
    }
}

/// How many UDP sessions of all workers there are on each port of one address. A port that is given up stays
/// claimed until its count is zero, because the answers of its clients still come to it.
pub struct Uses(Box<[AtomicU32]>);

impl Uses {
    /// For a protocol whose flows need no count: a connection of TCP keeps its own socket.
    pub fn none() -> Arc<Uses> {
        Arc::new(Uses(Box::default()))
    }

    pub fn of_all_ports() -> Arc<Uses> {
        Arc::new(Uses((0..=u16::MAX).map(|_| AtomicU32::new(0)).collect()))
    }

    pub fn is_used(&self, port: u16) -> bool {
        self.0.get(usize::from(port)).is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }
}

impl std::fmt::Debug for Uses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries((0..=u16::MAX).filter(|port| self.is_used(*port))).finish()
    }
}

/// One session's part in the count of its port, for as long as it lives.
#[derive(Debug)]
pub struct Seat {
    uses: Arc<Uses>,
    port: u16,
}

impl Seat {
    pub fn take(uses: &Arc<Uses>, port: u16) -> Seat {
        if let Some(count) = uses.0.get(usize::from(port)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Seat { uses: uses.clone(), port }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(count) = self.uses.0.get(usize::from(self.port)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{OriginSet, Policy};

    fn active(name: &str) -> Arc<Active> {
        let spec = serde_json::json!({
            "id": "0", "name": name, "protocol": "tcp", "edge_addresses": [], "edge_ports": {"first": 1, "last": 1},
            "origins": {"kind": "addresses", "addresses": []}, "proxy_protocol": "off", "udp_header": "first",
            "proxy_protocol_from": [], "proxy_header_timeout_ms": 1, "connect_timeout_ms": 1, "idle_timeout_ms": 0,
            "half_close_timeout_ms": 0, "no_progress_timeout_ms": 0, "udp_idle_timeout_ms": 1,
            "on_delete": "drain", "drain_ms": 0,
        });
        let spec = serde_json::from_value(spec).unwrap();
        Arc::new(Active::new(spec, OriginSet::addresses(vec![]), Arc::new(Policy::default()), Arc::new([])))
    }

    #[test]
    fn a_flow_goes_to_the_owner_of_its_port_on_its_address_or_on_any() {
        let ports = |first, last| Ports { first, last };
        let mut routes = Routes::default();
        let table =
            vec![(ports(10, 20), active("a")), (ports(21, 21), active("b")), (ports(65_000, 65_535), active("c"))];
        routes.add(Protocol::Tcp, "192.0.2.1".parse().unwrap(), table, Uses::none());
        routes.add(Protocol::Tcp, "0.0.0.0".parse().unwrap(), vec![(ports(5, 9), active("any"))], Uses::none());
        routes.add(Protocol::Udp, "::".parse().unwrap(), vec![(ports(1, 65_535), active("v6"))], Uses::none());
        let cases = [
            ("192.0.2.1:10", Some("a")),
            ("192.0.2.1:20", Some("a")),
            ("192.0.2.1:21", Some("b")),
            ("192.0.2.1:22", None),
            ("192.0.2.1:65535", Some("c")),
            ("192.0.2.1:9", Some("any")),
            ("192.0.2.1:4", None),
            ("192.0.2.2:10", None),
            ("192.0.2.2:5", Some("any")),
            ("[2001:db8::1]:5", None),
        ];
        let find = |protocol, edge: &str| {
            routes.find(protocol, edge.parse().unwrap()).map(|(active, _)| active.spec.name.clone())
        };
        for (edge, owner) in cases {
            assert_eq!(find(Protocol::Tcp, edge).as_deref(), owner, "{edge}");
        }
        assert_eq!(find(Protocol::Udp, "[2001:db8::1]:5").as_deref(), Some("v6"));
        assert_eq!(find(Protocol::Udp, "192.0.2.1:10"), None);
    }

    #[test]
    fn a_port_is_used_while_a_session_sits_on_it() {
        let uses = Uses::of_all_ports();
        let seats = [Seat::take(&uses, 65_535), Seat::take(&uses, 65_535)];
        assert!(uses.is_used(65_535) && !uses.is_used(65_534));
        let [first, last] = seats;
        drop(first);
        assert!(uses.is_used(65_535));
        drop(last);
        assert!(!uses.is_used(65_535));
        drop(Seat::take(&Uses::none(), 1));
    }
}
