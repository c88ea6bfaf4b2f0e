use std::net::SocketAddr;
use std::sync::Arc;

use causeway_wire::Endpoints;
use serde_json::json;

use super::*;
use crate::application::Active;
use crate::origin::{OriginSet, Policy};

fn active() -> Arc<Active> {
    let spec = json!({
        "id": "0".repeat(32), "name": "a", "protocol": "udp", "edge_addresses": ["127.0.0.1"],
        "edge_ports": {"first": 1, "last": 1}, "origins": {"kind": "addresses", "addresses": []},
        "proxy_protocol": "off", "udp_header": "first", "proxy_protocol_from": [], "proxy_header_timeout_ms": 1,
        "connect_timeout_ms": 10, "idle_timeout_ms": 0, "half_close_timeout_ms": 0, "no_progress_timeout_ms": 0,
        "udp_idle_timeout_ms": 100, "on_delete": "drain", "drain_ms": 0,
    });
    let spec = serde_json::from_value(spec).unwrap();
    Arc::new(Active::new(spec, OriginSet::addresses(vec![]), Arc::new(Policy::default()), Arc::new([])))
}

fn add(table: &mut Table, active: &Arc<Active>, client: u16) -> usize {
    let source = SocketAddr::from(([192, 0, 2, 1], client));
    let destination = SocketAddr::from(([127, 0, 0, 1], 1));
    let key = Key::new(0, source, destination);
    table.insert(Session::new(key, 0, active.clone(), Endpoints { source, destination }, 0, 0))
}

fn order_of_going(table: &mut Table) -> Vec<u16> {
    std::iter::from_fn(|| {
        let slot = table.first_to_go()?;
        table.close(slot);
        Some(table[slot].client.port())
    })
    .collect()
}

#[test]
fn one_way_sessions_go_first_oldest_first_then_the_least_recently_used() {
    let (mut table, active) = (Table::new(), active());
    let slots: Vec<usize> = (1..=6).map(|client| add(&mut table, &active, client)).collect();
    for client in [1, 2, 4] {
        table.promote(slots[client - 1]);
    }
    table.touch(slots[0]); // 1 is used again
    table.touch(slots[2]); // 3 is one-way: sending more does not make it younger
    assert_eq!(table.oldest_one_way(), Some(slots[2]));
    assert_eq!(order_of_going(&mut table), [3, 5, 6, 2, 4, 1]);
    assert_eq!((table.open(), table.first_to_go()), (0, None));
}

#[test]
fn a_closed_session_is_not_found_and_its_slot_is_free_only_after_the_turn() {
    let (mut table, active) = (Table::new(), active());
    let slot = add(&mut table, &active, 1);
    let key = table[slot].key;
    table.close(slot);
    assert_eq!((table.find(&key), table.open()), (None, 0));
    assert_ne!(add(&mut table, &active, 1), slot);
    table.free_closed();
    assert_eq!(add(&mut table, &active, 2), slot);
}

#[test]
fn an_application_has_two_way_sessions_until_the_last_of_them_ends() {
    let (mut table, active) = (Table::new(), active());
    let slots: Vec<usize> = (1..=3).map(|client| add(&mut table, &active, client)).collect();
    assert!(!table.has_two_way(active.id));
    table.promote(slots[0]);
    table.promote(slots[1]);
    table.close(slots[2]);
    table.close(slots[0]);
    assert!(table.has_two_way(active.id) && !table.has_two_way(active.id + 1));
    table.close(slots[1]);
    assert!(!table.has_two_way(active.id));
}

#[test]
fn a_slot_has_one_timer_however_many_sessions_it_sees() {
    let (mut table, active) = (Table::new(), active());
    let mut set = 0;
    for client in 0..1000 {
        let slot = add(&mut table, &active, client);
        set += usize::from(table.arm(slot).is_some());
        table.close(slot);
        table.free_closed();
    }
    assert_eq!(set, 1);
    let slot = add(&mut table, &active, 1);
    assert!(!table.disarm(slot, 9), "an entry that was overtaken means nothing");
    assert!(table.disarm(slot, 10));
    assert_eq!(table.arm(slot), Some(10));
}

#[test]
fn ten_thousand_random_changes_keep_both_queues_whole() {
    let (mut table, active) = (Table::new(), active());
    let (mut alive, mut dice) = (Vec::<usize>::new(), 1u32);
    for client in 0..10_000u16 {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let pick = (dice >> 8) as usize % alive.len().max(1);
        match (dice >> 28) % 4 {
            0 if !alive.is_empty() => table.close(alive.swap_remove(pick)),
            1 if !alive.is_empty() => table.touch(alive[pick]),
            2 if !alive.is_empty() && !table[alive[pick]].is_two_way => table.promote(alive[pick]),
            _ => alive.push(add(&mut table, &active, client)),
        }
        if client % 16 == 0 {
            table.free_closed();
        }
        assert_eq!(table.open(), alive.len());
    }
    let most = alive.len();
    assert_eq!(order_of_going(&mut table).len(), most);
}
