//! The mirror of `bpf/flow.h`: sizes are asserted on both sides, offsets here.

use std::net::{IpAddr, SocketAddr};

use crate::mix;

pub(super) const INDEX: u32 = 0x7fff;
pub(super) const IS_ORIGIN_LEG: u32 = 1 << 16;
pub(super) const ESTABLISHED: u32 = 1 << 17;
pub(super) const FIN_SEEN: u32 = 1 << 18;
pub(super) const RST_SEEN: u32 = 1 << 20;
pub(super) const CLOSED: u32 = 1 << 21;
pub(super) const TOLD: u32 = 1 << 22;
const HEADER_SHIFT: u32 = 24;
const HEADER_BYTES: u32 = 0x7f;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Tally {
    pub bytes: u64,
    pub packets: u32,
    pub seen: u32,
    pub next_seq: u32,
    pub state: u32,
}

impl Tally {
    pub fn has(&self, bits: u32) -> bool {
        self.state & bits == bits
    }

    pub fn application(&self) -> u16 {
        (self.state & INDEX) as u16
    }

    pub fn header_bytes(&self) -> u8 {
        (self.state >> HEADER_SHIFT & HEADER_BYTES) as u8
    }
}

/// `N` is 4 or 16: the bytes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct Ends<const N: usize> {
    pub saddr: [u8; N],
    pub daddr: [u8; N],
    pub sport: [u8; 2],
    pub dport: [u8; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct Key<const N: usize> {
    pub ends: Ends<N>,
    pub protocol: u8,
    pub unused: [u8; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RawLeg<const N: usize> {
    pub ends: Ends<N>,
    pub extra: u32,
    pub tally: Tally,
}

/// A leg of a flow that is over.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct RawEnded<const N: usize> {
    pub key: Key<N>,
    pub leg: RawLeg<N>,
    pub turn: u32,
}

const ENDED: u32 = 32_768;

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RawEvent<const N: usize> {
    pub kind: u8,
    pub is_ipv6: u8,
    pub application: u16,
    pub at: u32,
    pub client_key: Key<N>,
    pub client: RawLeg<N>,
    pub origin: RawLeg<N>,
}

const _: () = assert!(size_of::<Tally>() == 24);
const _: () = assert!(size_of::<Key<4>>() == 16 && size_of::<Key<16>>() == 40);
const _: () = assert!(size_of::<RawLeg<4>>() == 40 && size_of::<RawLeg<16>>() == 64);
const _: () = assert!(size_of::<RawEnded<4>>() == 64 && size_of::<RawEnded<16>>() == 128);
const _: () = assert!(size_of::<RawEvent<4>>() == 104 && size_of::<RawEvent<16>>() == 176);
const _: () = assert!(std::mem::offset_of!(RawLeg<4>, tally) == 16 && std::mem::offset_of!(RawLeg<16>, tally) == 40);

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RawOrigin {
    pub is_ipv6: u8,
    pub source_count: u8,
    pub first_port: u16,
    pub address: [u8; 16],
    pub sources: [[u8; 16]; super::MAX_SOURCES],
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RawApplication {
    pub id: [u8; 16],
    pub protocol: u8,
    pub header: u8,
    pub edge_first_port: u16,
    pub origin_count: u32,
    pub choices: [u8; super::CHOICES],
    pub origins: [RawOrigin; super::MAX_ORIGINS],
}

const _: () = assert!(size_of::<RawOrigin>() == 148 && size_of::<RawApplication>() == 2456);

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct RawTotals {
    pub connections: u64,
    pub bytes: [u64; 2],
    pub packets: [u64; 2],
    pub drops: u64,
    pub exhausted: u64,
    pub table_full: u64,
}

const _: () = assert!(size_of::<RawTotals>() == 64);

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct RawOpenings {
    pub opened: u64,
    pub two_way: u64,
    pub pressed: u64,
}

const _: () = assert!(size_of::<RawOpenings>() == 24);

pub(super) fn address_of(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("an address has 4 or 16 bytes")),
    }
}

/// An address as the first bytes of 16.
pub(super) fn bytes_of(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl<const N: usize> Ends<N> {
    pub fn new(from: SocketAddr, to: SocketAddr) -> Ends<N> {
        let half = |address: SocketAddr| {
            let mut bytes = [0; N];
            bytes.copy_from_slice(&bytes_of(address.ip())[..N]);
            bytes
        };
        let port = |address: SocketAddr| address.port().to_be_bytes();
        Ends { saddr: half(from), daddr: half(to), sport: port(from), dport: port(to) }
    }

    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(address_of(&self.saddr), u16::from_be_bytes(self.sport))
    }

    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(address_of(&self.daddr), u16::from_be_bytes(self.dport))
    }

    pub fn swapped(&self) -> Ends<N> {
        Ends { saddr: self.daddr, daddr: self.saddr, sport: self.dport, dport: self.sport }
    }
}

impl<const N: usize> Key<N> {
    pub fn new(ends: Ends<N>, is_tcp: bool) -> Key<N> {
        let protocol = if is_tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP } as u8;
        Key { ends, protocol, unused: [0; 3] }
    }

    pub fn is_tcp(&self) -> bool {
        i32::from(self.protocol) == libc::IPPROTO_TCP
    }

    /// Where it is among those that are over: `place4` and `place6` of `bpf/flow_table.h`.
    pub fn place(&self) -> u32 {
        let word = |bytes: &[u8]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let Ends { saddr, daddr, sport, dport } = &self.ends;
        let ports = word(&[sport[0], sport[1], dport[0], dport[1]]);
        let words = saddr.chunks(4).zip(daddr.chunks(4));
        let from = mix(ports, self.protocol.into());
        words.fold(from, |at, (from, to)| mix(mix(at, word(from)), word(to))) & (ENDED - 1)
    }
}

/// Now, to read the kernel's ticks by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    ns: u64,
}

const TICK_NS: u64 = 1 << 20;
const FINE_NS: u32 = 1 << 14;

impl Clock {
    pub fn now() -> Clock {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a writable timespec; the clock exists.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        Clock { ns: time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 }
    }

    pub fn ms(self) -> u64 {
        self.ns / 1_000_000
    }

    /// When a tick was, in milliseconds. Ticks wrap after 52 days; later than now is now.
    pub fn ms_of(self, tick: u32) -> u64 {
        let now = self.ns / TICK_NS;
        let age = (now as u32).wrapping_sub(tick);
        if age > u32::MAX / 2 {
            return self.ms();
        }
        // Whenever it is asked for, the answer is the same.
        now.saturating_sub(age.into()) * TICK_NS / 1_000_000
    }
}

/// Microseconds of an RTT; 0 was not measured, or is too short to tell.
pub(super) fn rtt_us(units: u32) -> u32 {
    (units & 0xffff) * (FINE_NS / 1000) + (units & 0xffff) * (FINE_NS % 1000) / 1000
}
