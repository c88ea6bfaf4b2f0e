//! Limits of an application: flows open, new flows, datagrams and bytes in a second, of all clients and of each source.
//!
//! Shared by the workers, in shards with a lock each; only applications that have limits pay for it. The table outlives
//! changes of the limits. Pure but for the locks: the caller brings the time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::Cause;
use crate::firewall::blobs::Blob;
use crate::snapshot::{Limit, Of};

const SHARDS: usize = 16;
/// Sources that are known at once. Of more, those without flows, debts and bans are forgotten; if there are none, new
/// sources pass uncounted: a flood from everywhere must not lock everybody out.
const MOST_SOURCES: usize = 262_144;
const FORGET_EVERY_MS: u64 = 1_000;
/// A rate is what passes in a second; as much may come at once.
const BURST_US: u64 = 1_000_000;

/// A source: the first bits of its address. An AS number has length 254, all clients together have 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    bits: u128,
    length: u8,
}

#[derive(Debug, Default)]
struct Entry {
    open: u32,
    /// When what was taken is paid for, for new flows, for datagrams and for bytes.
    flows_us: u64,
    datagrams_us: u64,
    bytes_us: u64,
    banned_until_ms: u64,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Key, Entry>,
    forgot_ms: u64,
}

#[derive(Debug, Default)]
struct Table([Mutex<Shard>; SHARDS]);

/// Why a flow or datagram is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub cause: Cause,
    /// It has brought its source a ban.
    pub is_new_ban: bool,
}

#[derive(Debug)]
pub struct Limiter {
    /// Those of sources first: who is refused by them takes nothing from all.
    limits: Vec<Limit>,
    table: Arc<Table>,
    /// Tells AS numbers, where a limit is by them.
    asn: Option<Arc<Blob>>,
}

/// A flow that was let in. It counts as open until this is dropped.
#[derive(Debug)]
pub struct Permit {
    table: Arc<Table>,
    held: Vec<(Key, Limit)>,
    /// Nothing is moved before: more bytes were than are paid for.
    pub paused_until_ms: u64,
}

impl Limiter {
    /// None: there are no limits. Counts and bans of `before` go on.
    pub fn new(limits: &[Limit], asn: Option<&Arc<Blob>>, before: Option<&Limiter>) -> Option<Limiter> {
        let mut limits = limits.to_vec();
        let breadth = |of| match of {
            Of::Source => 0,
            Of::Asn => 1,
            Of::Application => 2,
        };
        limits.sort_by_key(|limit| (breadth(limit.of), u8::MAX - limit.ipv4));
        let asn = asn.filter(|_| limits.iter().any(|limit| limit.of == Of::Asn)).cloned();
        let table = before.map_or_else(Arc::default, |before| before.table.clone());
        (!limits.is_empty()).then_some(Limiter { limits, table, asn })
    }

    /// None: nobody has told.
    pub fn asn_of(&self, client: IpAddr) -> Option<u32> {
        self.asn.as_ref()?.geo()?.find(client)
    }

    /// None: it is not known whose client this is, so the limit is not about it.
    fn key(&self, client: IpAddr, limit: &Limit) -> Option<Key> {
        match limit.of {
            Of::Asn => Some(Key { bits: self.asn_of(client)?.into(), length: u8::MAX - 1 }),
            Of::Application | Of::Source => Some(Key::of(client, limit)),
        }
    }

    /// May a flow of this client begin?
    ///
    /// # Errors
    /// Why not; nothing is held then.
    pub fn admit(&self, client: IpAddr, now_ms: u64) -> Result<Permit, Refusal> {
        let mut permit =
            Permit { table: self.table.clone(), held: Vec::with_capacity(self.limits.len()), paused_until_ms: 0 };
        for limit in &self.limits {
            let Some(key) = self.key(client, limit) else { continue };
            let mut shard = self.table.shard(key);
            let Some(entry) = shard.entry(key, now_ms) else { continue };
            entry.check_ban(now_ms)?;
            let is_full = limit.open > 0 && entry.open >= limit.open;
            if is_full || !take(&mut entry.flows_us, limit.new_per_s, now_ms) {
                let cause = if is_full { Cause::LimitOpen } else { Cause::LimitRate };
                return Err(entry.refuse(cause, limit.ban_ms, now_ms));
            }
            entry.open += 1;
            drop(shard);
            permit.held.push((key, *limit));
        }
        Ok(permit)
    }

    /// For how long this client is banned, in ms.
    pub fn banned_ms(&self, client: IpAddr, now_ms: u64) -> u64 {
        let keys = self.limits.iter().filter_map(|limit| self.key(client, limit));
        let left = keys.map(|key| {
            let shard = self.table.shard(key);
            shard.entries.get(&key).map_or(0, |entry| entry.banned_until_ms.saturating_sub(now_ms))
        });
        left.max().unwrap_or(0)
    }
}

impl Permit {
    /// Are bytes counted?
    pub fn is_paced(&self) -> bool {
        self.held.iter().any(|(_, limit)| limit.bytes_per_s > 0)
    }

    /// So many bytes were moved.
    pub fn pay(&self, bytes: u64, now_ms: u64) {
        for (key, limit) in self.held.iter().filter(|(_, limit)| limit.bytes_per_s > 0) {
            if let Some(entry) = self.table.shard(*key).entries.get_mut(key) {
                let price_us = bytes.saturating_mul(1_000_000) / limit.bytes_per_s;
                entry.bytes_us = entry.bytes_us.max(now_ms * 1000).saturating_add(price_us);
            }
        }
    }

    /// For how long no bytes should be moved, until all but a burst is paid for.
    pub fn wait_ms(&self, now_ms: u64) -> u64 {
        let waits = self.held.iter().filter(|(_, limit)| limit.bytes_per_s > 0).map(|(key, _)| {
            let paid_us = self.table.shard(*key).entries.get(key).map_or(0, |entry| entry.bytes_us);
            paid_us.saturating_sub(now_ms * 1000 + BURST_US).div_ceil(1000)
        });
        waits.max().unwrap_or(0)
    }

    /// May one more datagram of the client pass, of so many bytes?
    ///
    /// # Errors
    /// Why not.
    pub fn take_datagram(&self, bytes: u64, now_ms: u64) -> Result<(), Refusal> {
        for (key, limit) in self.held.iter().filter(|(_, limit)| limit.bytes_per_s > 0) {
            let mut shard = self.table.shard(*key);
            let Some(entry) = shard.entries.get_mut(key) else { continue };
            entry.check_ban(now_ms)?;
            if entry.bytes_us > now_ms * 1000 + BURST_US {
                return Err(entry.refuse(Cause::LimitRate, limit.ban_ms, now_ms));
            }
        }
        for (key, limit) in self.held.iter().filter(|(_, limit)| limit.datagrams_per_s > 0) {
            let mut shard = self.table.shard(*key);
            let Some(entry) = shard.entries.get_mut(key) else { continue };
            entry.check_ban(now_ms)?;
            if !take(&mut entry.datagrams_us, limit.datagrams_per_s, now_ms) {
                return Err(entry.refuse(Cause::LimitRate, limit.ban_ms, now_ms));
            }
        }
        self.pay(bytes, now_ms);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        for (key, _) in &self.held {
            if let Some(entry) = self.table.shard(*key).entries.get_mut(key) {
                entry.open = entry.open.saturating_sub(1);
            }
        }
    }
}

impl Key {
    fn of(client: IpAddr, limit: &Limit) -> Key {
        if limit.of == Of::Application {
            return Key { bits: 0, length: u8::MAX };
        }
        // IPv4 in the space of IPv6: prefixes of the two never meet, since those of IPv4 are longer than 96 bits.
        let (bits, length) = match client.to_canonical() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), 96 + limit.ipv4),
            IpAddr::V6(v6) => (v6.to_bits(), limit.ipv6),
        };
        Key { bits: bits & !u128::MAX.checked_shr(length.into()).unwrap_or(0), length }
    }
}

impl Entry {
    fn check_ban(&self, now_ms: u64) -> Result<(), Refusal> {
        if self.banned_until_ms > now_ms {
            return Err(Refusal { cause: Cause::LimitBanned, is_new_ban: false });
        }
        Ok(())
    }

    fn refuse(&mut self, cause: Cause, ban_ms: u64, now_ms: u64) -> Refusal {
        if ban_ms > 0 {
            self.banned_until_ms = now_ms + ban_ms;
        }
        Refusal { cause, is_new_ban: ban_ms > 0 }
    }

    fn is_idle(&self, now_ms: u64) -> bool {
        self.open == 0
            && self.banned_until_ms <= now_ms
            && self.flows_us.max(self.datagrams_us).max(self.bytes_us) <= now_ms * 1000
    }
}

/// Take one of `per_s` (0: no limit), if what was taken before is paid for but for a burst.
fn take(paid_us: &mut u64, per_s: u32, now_ms: u64) -> bool {
    let Some(price_us) = 1_000_000_u64.checked_div(per_s.into()) else { return true };
    let now_us = now_ms * 1000;
    let due_us = (*paid_us).max(now_us) + price_us;
    let passes = due_us <= now_us + BURST_US.max(price_us);
    if passes {
        *paid_us = due_us;
    }
    passes
}

impl Table {
    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        let mixed = (key.bits ^ key.bits >> 64 ^ u128::from(key.length)) as u64;
        let index = (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize % SHARDS;
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// None: there is no room to count this source.
    fn entry(&mut self, key: Key, now_ms: u64) -> Option<&mut Entry> {
        if self.entries.len() >= MOST_SOURCES / SHARDS && !self.entries.contains_key(&key) {
            if now_ms < self.forgot_ms + FORGET_EVERY_MS {
                return None;
            }
            self.forgot_ms = now_ms;
            self.entries.retain(|_, entry| !entry.is_idle(now_ms));
            if self.entries.len() >= MOST_SOURCES / SHARDS {
                return None;
            }
        }
        Some(self.entries.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::geo;

    fn limit(of: Of, open: u32, new_per_s: u32, datagrams_per_s: u32, ban_ms: u64) -> Limit {
        Limit { of, ipv4: 24, ipv6: 56, open, new_per_s, datagrams_per_s, bytes_per_s: 0, ban_ms }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn cause(of: Result<Permit, Refusal>) -> Option<Cause> {
        of.err().map(|refusal| refusal.cause)
    }

    #[test]
    fn a_source_is_its_prefix_and_an_end_makes_room() {
        let limiter = Limiter::new(&[limit(Of::Source, 2, 0, 0, 0)], None, None).unwrap();
        let first = limiter.admit(ip("198.51.100.1"), 0).unwrap();
        let _second = limiter.admit(ip("::ffff:198.51.100.200"), 0).unwrap();
        assert_eq!(cause(limiter.admit(ip("198.51.100.3"), 0)), Some(Cause::LimitOpen));
        assert!(limiter.admit(ip("198.51.101.3"), 0).is_ok());
        drop(first);
        assert!(limiter.admit(ip("198.51.100.3"), 0).is_ok());
        let _a = limiter.admit(ip("2001:db8:0:1::1"), 0).unwrap();
        let _b = limiter.admit(ip("2001:db8:0:ff::1"), 0).unwrap();
        assert!(limiter.admit(ip("2001:db8:0:2::1"), 0).is_err());
        assert!(limiter.admit(ip("2001:db8:0:100::1"), 0).is_ok());
    }

    #[test]
    fn a_rate_lets_a_second_of_it_through_at_once_and_then_its_share() {
        let limiter = Limiter::new(&[limit(Of::Source, 0, 10, 0, 0)], None, None).unwrap();
        let client = ip("198.51.100.1");
        let passed = |now_ms: u64| (0..100).filter(|_| limiter.admit(client, now_ms).is_ok()).count();
        assert_eq!([passed(1_000), passed(1_500), passed(1_600), passed(9_000)], [10, 5, 1, 10]);
    }

    #[test]
    fn a_ban_lasts_its_time_and_is_new_once() {
        let limiter = Limiter::new(&[limit(Of::Source, 1, 0, 0, 5_000)], None, None).unwrap();
        let client = ip("198.51.100.1");
        let held = limiter.admit(client, 0).unwrap();
        assert_eq!(limiter.admit(client, 0).unwrap_err(), Refusal { cause: Cause::LimitOpen, is_new_ban: true });
        drop(held);
        assert_eq!(limiter.admit(client, 4_999).unwrap_err(), Refusal { cause: Cause::LimitBanned, is_new_ban: false });
        assert_eq!(limiter.banned_ms(client, 4_000), 1_000);
        assert!(limiter.admit(client, 5_000).is_ok());
    }

    #[test]
    fn who_is_refused_takes_nothing_from_all() {
        let limits = [limit(Of::Application, 2, 0, 0, 0), limit(Of::Source, 1, 0, 0, 0)];
        let limiter = Limiter::new(&limits, None, None).unwrap();
        let _first = limiter.admit(ip("198.51.100.1"), 0).unwrap();
        for _ in 0..10 {
            assert!(limiter.admit(ip("198.51.100.1"), 0).is_err());
        }
        let _second = limiter.admit(ip("198.51.101.1"), 0).unwrap();
        assert_eq!(cause(limiter.admit(ip("198.51.102.1"), 0)), Some(Cause::LimitOpen));
        let after = Limiter::new(&limits, None, Some(&limiter)).unwrap();
        assert!(after.admit(ip("198.51.102.1"), 0).is_err(), "counts go on when limits change");
    }

    #[test]
    fn datagrams_have_a_rate_of_their_own() {
        let limiter = Limiter::new(&[limit(Of::Source, 0, 0, 100, 0)], None, None).unwrap();
        let permit = limiter.admit(ip("198.51.100.1"), 0).unwrap();
        assert_eq!((0..1000).filter(|_| permit.take_datagram(1, 0).is_ok()).count(), 100);
        assert_eq!((0..1000).filter(|_| permit.take_datagram(1, 500).is_ok()).count(), 50);
    }

    #[test]
    fn all_clients_of_an_as_number_are_one_source_and_those_of_none_are_not_limited() {
        let table = b"198.51.100.0/24,64500\n203.0.113.0/24,64500\n192.0.2.0/24,64501\n2001:db8::/32,64500\n";
        let asn = Arc::new(Blob::Geo(geo::read(table, geo::Kind::Asn).unwrap().0));
        let limits = [limit(Of::Application, 0, 100, 0, 0), limit(Of::Asn, 2, 0, 10, 5_000)];
        let limiter = Limiter::new(&limits, Some(&asn), None).unwrap();
        let first = limiter.admit(ip("198.51.100.1"), 0).unwrap();
        let _second = limiter.admit(ip("2001:db8::1"), 0).unwrap();
        let refused = limiter.admit(ip("203.0.113.9"), 0).unwrap_err();
        assert_eq!(refused, Refusal { cause: Cause::LimitOpen, is_new_ban: true });
        assert_eq!((limiter.banned_ms(ip("198.51.100.77"), 0), limiter.banned_ms(ip("192.0.2.1"), 0)), (5_000, 0));
        assert_eq!((limiter.asn_of(ip("192.0.2.1")), limiter.asn_of(ip("10.0.0.1"))), (Some(64501), None));
        assert!(first.take_datagram(1, 0).is_err(), "it is banned with the others");
        for n in 0..50 {
            assert!(limiter.admit(ip(&format!("10.0.0.{n}")), 0).is_ok(), "of no AS number that is known");
        }
        let without = Limiter::new(&limits, None, Some(&limiter)).unwrap();
        assert!(without.admit(ip("203.0.113.9"), 0).is_ok(), "nobody tells any more");
    }

    #[test]
    fn bytes_wait_until_all_but_a_second_of_them_is_paid_for_and_flows_of_a_source_share_them() {
        let of = Limit { bytes_per_s: 1_000_000, ..limit(Of::Source, 0, 0, 0, 0) };
        let limiter = Limiter::new(&[of], None, None).unwrap();
        let [one, same, other] =
            ["198.51.100.1", "198.51.100.2", "198.51.101.1"].map(|c| limiter.admit(ip(c), 0).unwrap());
        one.pay(1_000_000, 0);
        assert_eq!((one.wait_ms(0), same.wait_ms(0)), (0, 0), "a second of it at once");
        same.pay(500_000, 0);
        assert_eq!([0, 400, 500].map(|now_ms| one.wait_ms(now_ms)), [500, 100, 0]);
        assert_eq!(other.wait_ms(0), 0);
        assert!(one.take_datagram(1, 0).is_err() && one.take_datagram(1, 500).is_ok());
        assert!(one.is_paced());
    }

    #[test]
    fn more_sources_than_there_is_room_for_pass_uncounted() {
        let limiter = Limiter::new(&[Limit { ipv4: 32, ..limit(Of::Source, 1, 1, 0, 0) }], None, None).unwrap();
        for n in 0..(MOST_SOURCES as u32 + 50_000) {
            assert!(limiter.admit(IpAddr::V4(n.into()), 1).is_ok());
        }
        let known: usize = limiter.table.0.iter().map(|shard| shard.lock().unwrap().entries.len()).sum();
        assert!(known <= MOST_SOURCES);
    }
}
