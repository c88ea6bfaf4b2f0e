//! What became of each port that was wanted, neighbours merged: the listeners of a report.

use std::io;

use causeway_bpf::PortSet;

use crate::listen;
use crate::report::{CarriedBy, ListenerReport, ListenerState, Reason};
use crate::snapshot::Ports;
use crate::worker::Place;

#[derive(Debug, Default)]
pub struct Fates {
    pub reports: Vec<ListenerReport>,
}

impl Fates {
    /// `ports` on the address of `place`, whose own port does not matter.
    pub fn push(&mut self, place: Place, ports: Ports, id: &str, state: ListenerState, reason: Option<Reason>) {
        if let Some(last) = self.reports.last_mut() {
            let is_neighbour = last.application == id
                && last.protocol == place.protocol
                && last.address == place.address.ip()
                && last.ports.last.checked_add(1) == Some(ports.first)
                && last.state == state
                && last.reason.as_ref().map(|r| r.code) == reason.as_ref().map(|r| r.code);
            if is_neighbour {
                last.ports.last = ports.last;
                return;
            }
        }
        self.reports.push(ListenerReport {
            application: id.to_string(),
            protocol: place.protocol,
            address: place.address.ip(),
            ports,
            state,
            reason,
            carrier: CarriedBy::default(),
            not_carried: None,
        });
    }

    /// The kernel has refused `ports` on the address of `place` after all.
    pub fn refuse(&mut self, place: Place, ports: &PortSet, error: &io::Error) {
        for report in &mut self.reports {
            let Ports { first, last } = report.ports;
            let is_concerned = report.protocol == place.protocol
                && report.address == place.address.ip()
                && report.state != ListenerState::Refused
                && (first..=last).any(|port| ports.contains(port));
            if is_concerned {
                report.state = ListenerState::Refused;
                report.reason = Some(listen::reason(place.at_port(first), error));
            }
        }
    }
}
