//! What is decided about a listener's packets, as values.

use std::io;

use super::shared::{MAX_RATES, MAX_SETS, RawGuarded, RawRate};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Its packets pass untouched and uncounted.
    #[default]
    Off = 0,
    /// They pass, and what would have become of them is counted.
    Watch = 1,
    Protect = 2,
}

impl Mode {
    pub(super) fn of(number: u8) -> Option<Mode> {
        [Mode::Off, Mode::Watch, Mode::Protect].get(usize::from(number)).copied()
    }
}

/// What is asked of packets beyond prefixes, rules and rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// SYNs are answered with cookies; implies `state`. See [`super::CookieConditions`].
    pub cookies: bool,
    /// TCP that is of no connection and opens none is dropped.
    pub state: bool,
    /// Fragments are dropped.
    pub no_fragments: bool,
    /// A later fragment passes only if its datagram's first one has.
    pub whole_datagrams: bool,
    /// Of an address: what no socket waits for is dropped in silence.
    pub open_ports: bool,
    /// Of an address: only TCP, UDP, ICMP and the protocols of the settings pass.
    pub known_protocols: bool,
}

impl Wants {
    fn bits(self) -> u16 {
        let all =
            [self.cookies, self.state, self.no_fragments, self.whole_datagrams, self.open_ports, self.known_protocols];
        all.into_iter().enumerate().map(|(at, is)| u16::from(is) << at).sum()
    }

    fn of(bits: u16) -> Wants {
        let has = |at: u16| bits >> at & 1 == 1;
        Wants {
            cookies: has(0),
            state: has(1),
            no_fragments: has(2),
            whole_datagrams: has(3),
            open_ports: has(4),
            known_protocols: has(5),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    pub mode: Mode,
    pub wants: Wants,
    /// Up to two prefix sets: the longer prefix of both decides; of equals, allow.
    pub sets: Vec<u16>,
    /// Up to four rates, in order.
    pub rates: Vec<u16>,
    /// A set: SYNs of whom it blocks are dropped, those of whom it allows are judged by the rest.
    pub bans: Option<u16>,
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

fn slots<const N: usize>(what: &str, wanted: &[u16], bound: u16) -> io::Result<[u16; N]> {
    let mut slots = [0; N];
    if wanted.len() > N {
        return Err(refused(format!("{} {what}s, a listener has at most {N}", wanted.len())));
    }
    if let Some(wrong) = wanted.iter().find(|slot| !(1..bound).contains(slot)) {
        return Err(refused(format!("{what} {wrong}: an index is 1 to {}", bound - 1)));
    }
    slots[..wanted.len()].copy_from_slice(wanted);
    Ok(slots)
}

impl Listener {
    pub(super) fn raw(&self) -> io::Result<RawGuarded> {
        Ok(RawGuarded {
            mode: self.mode as u8,
            unused: 0,
            wants: self.wants.bits(),
            sets: slots("set", &self.sets, MAX_SETS)?,
            rates: slots("rate", &self.rates, MAX_RATES)?,
            bans: slots::<1>("set", self.bans.as_slice(), MAX_SETS)?[0],
            more: 0,
        })
    }

    pub(super) fn of(raw: &RawGuarded) -> Listener {
        let taken = |slots: &[u16]| slots.iter().copied().filter(|slot| *slot != 0).collect::<Vec<u16>>();
        Listener {
            mode: Mode::of(raw.mode).unwrap_or_default(),
            wants: Wants::of(raw.wants),
            sets: taken(&raw.sets),
            rates: taken(&raw.rates),
            bans: taken(&[raw.bans]).first().copied(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RateOf {
    /// TCP connections asked for.
    Syns = 0,
    /// Packets of no open connection.
    Packets = 1,
    /// Their bytes, from the IP header on.
    Bytes = 2,
}

/// How much a source may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub of: RateOf,
    /// A source is a prefix of that length: 32 or 24, say, and 64 or 56.
    pub length_v4: u8,
    pub length_v6: u8,
    pub per_second: u64,
    /// Units at once, after a time of silence.
    pub burst: u64,
    /// Of all together (lengths of 0): who comes back within seconds, as clients do that hear nothing, has as much again.
    pub spares_returning: bool,
}

/// The program counts in 2^-6 ns.
const UNITS_OF_SECOND: u64 = 1_000_000_000 << 6;

impl Rate {
    /// # Errors
    /// Why it makes no sense.
    pub fn check(&self) -> io::Result<()> {
        self.raw().map(drop)
    }

    pub(super) fn raw(&self) -> io::Result<RawRate> {
        if self.length_v4 > 32 || self.length_v6 > 128 {
            return Err(refused(format!(
                "a source of /{} or /{} is longer than an address",
                self.length_v4, self.length_v6
            )));
        }
        if self.spares_returning && (self.length_v4 > 0 || self.length_v6 > 0) {
            return Err(refused("only a rate of all together (/0) spares those who come back".to_owned()));
        }
        if self.per_second == 0 || self.per_second > UNITS_OF_SECOND || self.burst == 0 {
            return Err(refused(format!(
                "a rate of {} in a second, {} at once: nothing would pass",
                self.per_second, self.burst
            )));
        }
        let interval = UNITS_OF_SECOND / self.per_second;
        let depth = interval.checked_mul(self.burst).filter(|depth| *depth < 1 << 60);
        let depth = depth.ok_or_else(|| refused(format!("a burst of {} takes years to come back", self.burst)))?;
        let (length4, length6) = (self.length_v4, self.length_v6);
        let spares_returning = self.spares_returning.into();
        Ok(RawRate { of: self.of as u8, length4, length6, spares_returning, unused: [0; 4], interval, depth })
    }
}
