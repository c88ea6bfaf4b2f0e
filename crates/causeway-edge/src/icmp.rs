//! ICMP port-unreachable towards UDP clients.
