//! Which origin addresses a flow may try, in which order, and which it must never touch.
//!
//! The policy is asked at connect time, after name resolution, so a name that starts to point at a
//! forbidden address gains nothing. Bytes of names and answers are hostile input.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::application::mapped_port;
use crate::event::Cause;
use crate::maglev;
use crate::resolve::{Answer, ResolveCause, Watched};
use crate::snapshot::{OriginAddress, Ports, Settings};
use crate::source::Sources;

/// A timed-out origin is tried last for this long, so that not every client waits for it.
const PENALTY_MS: u64 = 10_000;
/// So many late handshakes in a row are no lost SYNs.
const MOST_LATE: u32 = 3;

/// One bit each in a flow's record of what it tried.
pub const MOST_ORIGINS: usize = 64;

#[derive(Debug)]
pub enum OriginSet {
    Addresses {
        addresses: Vec<OriginAddress>,
        shunned_until_ms: Vec<AtomicU64>,
        /// Handshakes in a row that nobody has waited for as long as may be.
        late: Vec<AtomicU32>,
        /// Who has which clients (see `maglev`); empty: the first that answers has all.
        slots: Vec<u8>,
    },
    Name {
        watched: Arc<Watched>,
        ports: Ports,
    },
}

/// What a flow can do about its origin right now.
#[derive(Debug)]
pub enum Choice {
    Try(SocketAddr),
    /// The name has no answer yet: wait for the resolver's wake-up.
    Wait(Arc<Watched>),
    /// Nothing (more) to try; the cause when no attempt was made at all.
    Exhausted(Cause),
}

impl OriginSet {
    pub fn addresses(addresses: Vec<OriginAddress>) -> OriginSet {
        let shunned_until_ms = addresses.iter().map(|_| AtomicU64::new(0)).collect();
        let late = addresses.iter().map(|_| AtomicU32::new(0)).collect();
        OriginSet::Addresses { addresses, shunned_until_ms, late, slots: Vec::new() }
    }

    /// By the client's address; `weights` are parallel to `addresses`, or empty: all the same.
    pub fn balanced(addresses: Vec<OriginAddress>, weights: &[u32]) -> OriginSet {
        let names: Vec<SocketAddr> = addresses.iter().map(|o| SocketAddr::new(o.address, o.ports.first)).collect();
        let same = vec![1; names.len()];
        let table = maglev::table(&names, if weights.is_empty() { &same } else { weights });
        match OriginSet::addresses(addresses) {
            OriginSet::Addresses { addresses, shunned_until_ms, late, .. } => {
                OriginSet::Addresses { addresses, shunned_until_ms, late, slots: table }
            }
            other => other,
        }
    }

    /// The next address to try for a client and a port `offset` into the range; `tried` has a bit for each that was.
    pub fn choose(&self, tried: &mut u64, client: IpAddr, offset: u16, now_ms: u64) -> Choice {
        let mut first_untried = |mut indices: &mut dyn Iterator<Item = usize>| {
            let index = (&mut indices).find(|index| *tried & (1 << index) == 0)?;
            *tried |= 1 << index;
            Some(index)
        };
        match self {
            OriginSet::Addresses { addresses, shunned_until_ms, slots, .. } if !slots.is_empty() => {
                let shunned = |index: usize| shunned_until_ms[index].load(Ordering::Relaxed) > now_ms;
                let was_tried = *tried;
                let has_tried = |index: usize| was_tried & (1 << index) != 0;
                let slot = maglev::slot_of(client);
                let welcome = maglev::owner(slots, slot, |index| has_tried(index) || shunned(index));
                let Some(index) = welcome.or_else(|| maglev::owner(slots, slot, has_tried)) else {
                    return Choice::Exhausted(Cause::ConnectFailed);
                };
                *tried |= 1 << index;
                Choice::Try(SocketAddr::new(addresses[index].address, mapped_port(addresses[index].ports, offset)))
            }
            OriginSet::Addresses { addresses, shunned_until_ms, .. } => {
                let shunned = |index: &usize| shunned_until_ms[*index].load(Ordering::Relaxed) > now_ms;
                let indices = 0..addresses.len();
                let ordered = indices.clone().filter(|i| !shunned(i)).chain(indices.filter(shunned));
                match first_untried(&mut { ordered }).map(|index| &addresses[index]) {
                    Some(origin) => Choice::Try(SocketAddr::new(origin.address, mapped_port(origin.ports, offset))),
                    None => Choice::Exhausted(Cause::ConnectFailed),
                }
            }
            OriginSet::Name { watched, ports } => match &*watched.current() {
                Answer::Pending => Choice::Wait(watched.clone()),
                Answer::Addresses(addresses) => {
                    match first_untried(&mut (0..addresses.len().min(MOST_ORIGINS))).map(|index| addresses[index]) {
                        Some(address) => Choice::Try(SocketAddr::new(address, mapped_port(*ports, offset))),
                        None => Choice::Exhausted(Cause::ConnectFailed),
                    }
                }
                Answer::Failed { cause: ResolveCause::NotFound, .. } => Choice::Exhausted(Cause::NameNotFound),
                Answer::Failed { cause: ResolveCause::Failure, .. } => Choice::Exhausted(Cause::NameFailed),
            },
        }
    }

    /// Remember that `origin` did not answer in time.
    pub fn shun(&self, origin: SocketAddr, now_ms: u64) {
        if let OriginSet::Addresses { addresses, shunned_until_ms, .. } = self {
            for (known, until) in addresses.iter().zip(shunned_until_ms) {
                if known.is(origin) {
                    until.store(now_ms + PENALTY_MS, Ordering::Relaxed);
                }
            }
        }
    }

    /// It has not answered as soon as usual: its SYN is lost, or, after some of them, nobody is there.
    pub fn is_late(&self, origin: SocketAddr, now_ms: u64) {
        if let OriginSet::Addresses { addresses, late, .. } = self
            && let Some(at) = addresses.iter().position(|known| known.is(origin))
            && late[at].fetch_add(1, Ordering::Relaxed) + 1 >= MOST_LATE
        {
            self.shun(origin, now_ms);
        }
    }

    pub fn welcome(&self, origin: SocketAddr) {
        if let OriginSet::Addresses { addresses, shunned_until_ms, late, .. } = self {
            for ((known, until), late) in addresses.iter().zip(shunned_until_ms).zip(late) {
                if known.is(origin) && until.load(Ordering::Relaxed) != 0 {
                    until.store(0, Ordering::Relaxed);
                }
                if known.is(origin) && late.load(Ordering::Relaxed) != 0 {
                    late.store(0, Ordering::Relaxed);
                }
            }
        }
    }
}

impl OriginAddress {
    fn is(&self, origin: SocketAddr) -> bool {
        self.address == origin.ip() && (self.ports.first..=self.ports.last).contains(&origin.port())
    }
}

/// Where this edge may connect to.
#[derive(Debug, Default)]
pub struct Policy {
    settings: Settings,
    local: Vec<IpAddr>,
    sources: Sources,
}

impl Policy {
    /// `local` are the addresses of this machine, for denied sockets on "any address".
    pub fn new(settings: Settings, local: Vec<IpAddr>) -> Policy {
        Policy { sources: Sources::new(&settings.source_addresses), settings, local }
    }

    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    pub fn allows(&self, origin: SocketAddr) -> bool {
        let address = embedded_v4(origin.ip().to_canonical());
        if address.is_unspecified() || address.is_multicast() || origin.port() == 0 {
            return false;
        }
        if matches!(address, IpAddr::V4(v4) if v4.is_broadcast() || v4.is_link_local()) {
            return false;
        }
        if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return false;
        }
        if address.is_loopback() && !self.settings.allow_loopback_origins {
            return false;
        }
        !self.settings.origin_deny.iter().any(|prefix| prefix.contains(address))
            && !self.settings.origin_deny_sockets.iter().any(|denied| self.is_denied(*denied, address, origin.port()))
    }

    /// Is this an address of this machine?
    pub fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.local.contains(&address)
    }

    fn is_denied(&self, denied: SocketAddr, address: IpAddr, port: u16) -> bool {
        let denied_address = denied.ip().to_canonical();
        denied.port() == port
            && (denied_address == address || denied_address.is_unspecified() && self.is_local(address))
    }
}

/// NAT64 addresses (64:ff9b::/96, RFC 6052) reach the IPv4 address they embed, so they are judged as that.
fn embedded_v4(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

    fn policy(allow_loopback_origins: bool) -> Policy {
        let settings = Settings {
            origin_deny: serde_json::from_str(r#"["203.0.113.0/24","2001:db8:bad::/48"]"#).unwrap(),
            origin_deny_sockets: vec!["0.0.0.0:8787".parse().unwrap(), "198.51.100.1:22".parse().unwrap()],
            allow_loopback_origins,
            ..Settings::default()
        };
        Policy::new(settings, vec!["192.0.2.7".parse().unwrap()])
    }

    #[test]
    fn forbidden_origins_are_refused_in_every_spelling() {
        let cases = [
            ("192.0.2.1:80", true),
            ("10.0.0.1:22", true),
            ("[2001:db8::1]:22", true),
            ("127.0.0.1:22", false),
            ("[::1]:22", false),
            ("[::ffff:127.0.0.1]:22", false),
            ("[64:ff9b::7f00:1]:22", false),
            ("169.254.169.254:80", false),
            ("[::ffff:169.254.169.254]:80", false),
            ("[64:ff9b::a9fe:a9fe]:80", false),
            ("[fe80::1]:80", false),
            ("0.0.0.0:80", false),
            ("[::]:80", false),
            ("[ff02::1]:80", false),
            ("224.0.0.1:80", false),
            ("255.255.255.255:80", false),
            ("192.0.2.1:0", false),
            ("203.0.113.9:80", false),
            ("[::ffff:203.0.113.9]:80", false),
            ("[2001:db8:bad::9]:80", false),
            ("192.0.2.7:8787", false), // the API listens on every address, this is one of ours
            ("192.0.2.7:8788", true),
            ("192.0.2.8:8787", true),
            ("198.51.100.1:22", false),
        ];
        for (origin, allowed) in cases {
            assert_eq!(policy(false).allows(origin.parse().unwrap()), allowed, "{origin}");
        }
        assert!(policy(true).allows("127.0.0.1:22".parse().unwrap()));
        assert!(!policy(true).allows("127.0.0.1:8787".parse().unwrap()));
    }

    #[test]
    fn a_client_goes_where_its_address_says_and_elsewhere_while_that_one_does_not_answer() {
        let ports = Ports { first: 7000, last: 7009 };
        let origin = |n: u8| OriginAddress { address: [192, 0, 2, n].into(), ports };
        let set = OriginSet::balanced((1..=3).map(origin).collect(), &[1, 1, 0]);
        let first = |client: IpAddr, tried: &mut u64, now_ms| match set.choose(tried, client, 4, now_ms) {
            Choice::Try(address) => address,
            other => panic!("{other:?}"),
        };
        let mut counts = [0; 2];
        for client in (0..2000u32).map(|n| IpAddr::from(Ipv4Addr::from(0xc633_0000 + n))) {
            let mut tried = 0;
            let there = first(client, &mut tried, 0);
            assert_eq!(there, first(client, &mut 0, 0), "always the same");
            assert_eq!(there.port(), 7004);
            let next = first(client, &mut tried, 0);
            assert_ne!(there, next);
            assert!(matches!(set.choose(&mut tried, client, 4, 0), Choice::Exhausted(_)), "weight 0 gets none");
            set.shun(there, 0);
            assert_eq!(first(client, &mut 0, 1), next);
            set.welcome(there);
            counts[usize::from(there.ip() == IpAddr::from([192, 0, 2, 2]))] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }

    #[test]
    fn an_origin_that_timed_out_is_tried_last_for_a_while() {
        let ports = Ports { first: 1, last: 1 };
        let origin = |address: &str| OriginAddress { address: address.parse().unwrap(), ports };
        let set = OriginSet::addresses(vec![origin("192.0.2.1"), origin("192.0.2.2")]);
        let order = |now_ms| {
            let mut tried = 0;
            [0, 1].map(|_| match set.choose(&mut tried, ME, 0, now_ms) {
                Choice::Try(address) => address.ip().to_string(),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(order(0), ["192.0.2.1", "192.0.2.2"]);
        let mut tried = 0b01;
        set.shun("192.0.2.1:1".parse().unwrap(), 0);
        assert!(matches!(set.choose(&mut tried, ME, 0, 1), Choice::Try(next) if next.ip().to_string() == "192.0.2.2"));
        assert_eq!(order(1), ["192.0.2.2", "192.0.2.1"]);
        assert_eq!(order(PENALTY_MS), ["192.0.2.1", "192.0.2.2"]);
        let first: SocketAddr = "192.0.2.1:1".parse().unwrap();
        set.welcome(first);
        (0..2).for_each(|_| set.is_late(first, 0));
        assert_eq!(order(1), ["192.0.2.1", "192.0.2.2"], "SYNs are lost");
        set.is_late(first, 0);
        assert_eq!(order(1), ["192.0.2.2", "192.0.2.1"]);
        set.welcome(first);
        set.is_late(first, 0);
        assert_eq!(order(1), ["192.0.2.1", "192.0.2.2"]);
        assert!(matches!(set.choose(&mut 0b11, ME, 0, 0), Choice::Exhausted(Cause::ConnectFailed)));
    }
}
