//! Who gets which index, without a kernel.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use super::*;
use crate::report::{CarriedBy, ListenerState};
use crate::snapshot::{Ports, Protocol};

fn listener(application: &str, address: &str, first: u16, last: u16) -> ListenerReport {
    ListenerReport {
        application: application.into(),
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
        ports: Ports { first, last },
        state: ListenerState::Running,
        reason: None,
        carrier: CarriedBy::Engine,
        not_carried: None,
    }
}

const LOCAL: [&str; 3] = ["127.0.0.1", "198.18.1.1", "2001:db8::1"];

fn wanted(listeners: &[ListenerReport]) -> Wanted {
    tables::wanted(listeners, &LOCAL.map(|text| text.parse::<IpAddr>().unwrap()))
}

fn given(wanted: &Wanted, before: &HashMap<String, Entry>, left: &BTreeMap<Spot, PortTable>) -> HashMap<String, Entry> {
    indices(wanted, before, left, &BTreeSet::new(), |_| Ok(Counts::default())).unwrap()
}

#[test]
fn loopback_and_what_was_refused_are_not_guarded_and_a_wildcard_is_our_own_addresses() {
    let refused = ListenerReport { state: ListenerState::Refused, ..listener("r", "198.18.1.1", 1, 1) };
    let of = [listener("a", "127.0.0.1", 22, 22), listener("b", "0.0.0.0", 80, 81), refused];
    let wanted = wanted(&of);
    let spot = Spot::tcp("198.18.1.1".parse().unwrap());
    let ports = Ports { first: 80, last: 81 };
    assert_eq!(wanted.ports, [tables::Claim { spot, ports, application: "b".into() }]);
}

#[test]
fn an_address_of_its_own_wins_over_a_wildcard() {
    let of = [listener("own", "198.18.1.1", 80, 80), listener("any", "0.0.0.0", 79, 81)];
    let tables = wanted(&of).tables(|application| if application == "own" { 1 } else { 2 });
    let table = &tables[&Spot::tcp("198.18.1.1".parse().unwrap())];
    assert_eq!(table.runs(), [(79..=79, 2), (80..=80, 1), (81..=81, 2)]);
}

#[test]
fn applications_keep_their_index_and_a_new_one_gets_one_that_nobody_has_had() {
    let none = HashMap::new();
    let first = wanted(&[listener("a", "198.18.1.1", 1, 1), listener("b", "198.18.1.1", 2, 2)]);
    let entries = given(&first, &none, &BTreeMap::new());
    assert_eq!((entries["a"].index, entries["b"].index, entries[REST].index), (1, 2, 3));
    let left = first.tables(|application| entries[application].index);
    let second = wanted(&[listener("b", "198.18.1.1", 2, 2), listener("c", "198.18.1.1", 1, 1)]);
    let entries = given(&second, &entries, &left);
    assert_eq!(
        (entries["b"].index, entries["c"].index, entries[REST].index),
        (2, 4, 3),
        "packets on their way still mean 1"
    );
}

#[test]
fn after_a_restart_an_application_has_the_index_of_its_ports() {
    let none = HashMap::new();
    let spot = Spot::tcp("198.18.1.1".parse().unwrap());
    let mut table = PortTable::default();
    table.set(2..=2, 7);
    let left = BTreeMap::from([(spot, table)]);
    let wanted = wanted(&[listener("a", "198.18.1.1", 1, 1), listener("b", "198.18.1.1", 2, 2)]);
    let entries = given(&wanted, &none, &left);
    assert_eq!((entries["a"].index, entries["b"].index), (1, 7));
}
